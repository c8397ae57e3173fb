"""Compares timelines with files beside the tests."""

from __future__ import annotations

from pathlib import Path

from ...events.testing.recorder import EventRecorder

UPDATE_OPTION = "--stagewright-update"


class SnapshotRecorder(EventRecorder):
    """An EventRecorder that compares with files in ``folder``.

    With ``update`` it rewrites the files instead.
    """

    def __init__(self, folder: Path, *, update: bool) -> None:
        super().__init__()
        self._folder = folder
        self._update = update

    def assert_timeline(self, expected: str | Path) -> None:
        """Like EventRecorder's; a missing file fails the assertion."""
        __tracebackhide__ = True
        if isinstance(expected, Path):
            expected = self._folder / expected
            if self._update:
                expected.parent.mkdir(parents=True, exist_ok=True)
                expected.write_text(self.timeline(), encoding="utf-8", newline="\n")
                return
            if not expected.is_file():
                raise AssertionError(f"{expected} does not exist; {UPDATE_OPTION} writes it")
        super().assert_timeline(expected)
