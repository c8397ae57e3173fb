"""Reads the log of a group while another process may be writing it."""

from __future__ import annotations

from pathlib import Path

from ..groups.log import GROUP_LOG_NAME, read_group
from ..groups.model import GroupEvent


class GroupLogTail:
    """A position in the log of a group; ``last`` is the last event that was read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last: GroupEvent | None = None
        self._size = -1

    def read(self) -> list[GroupEvent]:
        """The events since the last reading, in order.

        Cheap while the log does not grow. Raises GroupNotFoundError, LogCorruptError, OSError.
        """
        path = self.folder / GROUP_LOG_NAME
        size = path.stat().st_size if path.exists() else -1
        if size == self._size:
            return []
        after = -1 if self.last is None else self.last.seq
        news = [event for event in read_group(self.folder) if event.seq > after]
        self._size = size
        self.last = news[-1] if news else self.last
        return news
