"""The logs on disk that this process writes, for those of its threads that read along."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from .file_log import FileEventLog

_KEPT = 10_000
"""Of so many runs this process knows where the log is, which takes some 3 MB."""
_paths: dict[str, Path] = {}
"""Where the log of each run is that this process writes or has written, the latest last."""
_logs: WeakValueDictionary[str, FileEventLog] = WeakValueDictionary()
# Reentrant: a finalizer may run on the thread that holds it.
_lock = threading.RLock()


def register_log(log: FileEventLog) -> None:
    """This process writes ``log`` from now on, until ``unregister_log``."""
    with _lock:
        _logs[os.path.realpath(log.path)] = log
        _paths.pop(log.run_id, None)
        _paths[log.run_id] = log.path
        if len(_paths) > _KEPT:
            del _paths[next(iter(_paths))]


def path_of_run(run_id: str) -> Path | None:
    """The log of a run that this process writes, or has written."""
    with _lock:
        return _paths.get(run_id)


def unregister_log(log: FileEventLog) -> None:
    """This process writes ``log`` no more."""
    with _lock:
        if _logs.get(place := os.path.realpath(log.path)) is log:
            del _logs[place]


def written_log(path: Path) -> FileEventLog | None:
    """The log in this file, if this process writes it now."""
    with _lock:
        return _logs.get(os.path.realpath(path))


def written_log_of(run_id: str) -> FileEventLog | None:
    """The log of this run, if this process writes it now."""
    with _lock:
        return next((log for log in _logs.values() if log.run_id == run_id), None)
