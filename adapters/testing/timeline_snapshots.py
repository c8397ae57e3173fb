"""Timelines kept as files beside the tests that compare them."""

from __future__ import annotations

from pathlib import Path

from ...events.testing.recorder import EventRecorder

UPDATE_OPTION = "--stagewright-update"


class SnapshotRecorder(EventRecorder):
    """An EventRecorder whose files lie beside a test, and can be written anew.

    A relative path is taken from ``folder``. With ``update`` a file becomes what was recorded.
    """

    def __init__(self, folder: Path, *, update: bool) -> None:
        super().__init__()
        self._folder = folder
        self._update = update

    def assert_timeline(self, expected: str | Path) -> None:
        """As EventRecorder's; a file that is missing is an assertion that fails."""
        __tracebackhide__ = True
        if isinstance(expected, Path):
            expected = self._folder / expected
            if self._update:
                expected.parent.mkdir(parents=True, exist_ok=True)
                expected.write_text(self.timeline(), encoding="utf-8", newline="\n")
                return
            if not expected.is_file():
                raise AssertionError(f"{expected}: there is none yet; {UPDATE_OPTION} writes it")
        super().assert_timeline(expected)
