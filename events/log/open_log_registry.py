"""The logs on disk that this process writes, for those of its threads that read along."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from .file_log import FileEventLog

_paths: dict[str, Path] = {}
"""By run id, the log of each run that this process writes or has written: 300 bytes for each."""
_logs: WeakValueDictionary[str, FileEventLog] = WeakValueDictionary()
"""By its real path, each log that this process writes now."""
# Reentrant: a finalizer may run on the thread that holds it.
_lock = threading.RLock()


def register_log(log: FileEventLog) -> None:
    """Note that this process writes ``log`` from now on, until ``unregister_log``."""
    with _lock:
        _logs[os.path.realpath(log.path)] = log
        _paths[log.run_id] = log.path


def unregister_log(log: FileEventLog) -> None:
    """Note that this process does not write ``log`` any more."""
    with _lock:
        if open_log(log.path) is log:
            del _logs[os.path.realpath(log.path)]


def path_of_run(run_id: str) -> Path | None:
    """The log of a run that this process writes, or has written."""
    with _lock:
        return _paths.get(run_id)


def open_log(path: Path) -> FileEventLog | None:
    """The log in this file, if this process writes it now."""
    with _lock:
        return _logs.get(os.path.realpath(path))


def open_log_of(run_id: str) -> FileEventLog | None:
    """The log of this run, if this process writes it now."""
    path = path_of_run(run_id)
    return None if path is None else open_log(path)
