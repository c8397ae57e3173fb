"""The log of a run on disk."""

from __future__ import annotations

from array import array
from functools import cached_property
from pathlib import Path
from typing import Any

from ..model import StageEvent
from .kind import RUN_LOG
from .open_log_registry import register_log, unregister_log
from .record_file import RecordFile
from .timeline import FileTimeline, with_files


class FileEventLog(RecordFile[StageEvent]):
    """The log of one run folder, held by ``run.lock`` until ``close``; see ``RecordFile``.

    ``FileEventLog.create(folder, opened)`` begins one, ``FileEventLog.open(folder)`` takes one that
    is there to continue it.
    """

    kind = RUN_LOG

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        register_log(self)

    @property
    def run_id(self) -> str:
        return self.owner

    @cached_property
    def _folder(self) -> Path:
        return self.path.parent.absolute()

    def append(self, event: StageEvent) -> None:
        super().append(event)
        with_files(event, self._folder)

    def event_at(self, seq: int) -> StageEvent:
        return FileTimeline(self.path, self._offsets, self.size)[seq]

    def timeline(self) -> FileTimeline:
        offsets = array("Q", self._offsets)
        return FileTimeline(self.path, offsets, self.size, torn=self.torn)

    def close(self) -> None:
        """Give the descriptor and the lock back; closing twice is fine."""
        unregister_log(self)
        super().close()
