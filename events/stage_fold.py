"""What the log says of one stage: the part of the fold that its requests change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .model import CallCompleted, CallReused, ErrorDetail, Outcome, StageStart


class StageFold:
    """What the log says of one stage, over all epochs."""

    def __init__(self, start: StageStart) -> None:
        self.stage_id = start.stage_id
        self.stage_type = start.stage_type
        self.metadata: Mapping[str, Any] = start.metadata
        self.outcome: Outcome | None = None
        self.duration_ms = 0.0
        self.open_ms = 0.0
        """What the answered requests took since the stage began, until it is ended."""
        self.finished: dict[int, int] = {}
        """By image index, the number of the event that says it is finished."""
        self.unannounced: set[int] = set()
        """Indexes of finished images without a StageImageProgress since they were made."""
        self.removed: set[int] = set()
        """Indexes of finished images whose files were removed on purpose."""
        self.reused: set[int] = set()
        """Indexes of finished images that were made before, by another run."""
        self.replaced: set[int] = set()
        """Image indexes that were finished more than once."""
        self.attempts: dict[int, int] = {}
        """By first image index of a request, the attempts made so far."""
        self.unchanged: set[int] = set()
        self.first_answers: dict[str | None, tuple[int, Mapping[str, Any]]] = {}
        """By present server, in order, the first image index and ``info`` of its first answer."""
        self.failures: dict[int, ErrorDetail] = {}
        self.unsettled: dict[int, dict[str, str | None]] = {}
        """By first image index, in order, the calls that may still be running, by id their server.

        Those of an image that another server has finished are among them."""
        self.interrupted: set[int] = set()
        """First image indexes of which one of those calls was (possibly) told to stop."""
        self.maybe_interrupted: set[int] = set()
        """First image indexes in progress when a cancel was requested; their ends tell more."""
        self.abandoned: dict[int, str | None] = {}
        """First image indexes whose last call failed, with the server that may still work on it."""

    def finish(self, index: int, seq: int) -> None:
        """Note the event that says an image is finished; it replaces an earlier one."""
        if index in self.finished:
            self.replaced.add(index)
        self.finished[index] = seq
        self.removed.discard(index)
        self.reused.discard(index)

    def finish_all(self, event: CallCompleted | CallReused) -> None:
        """Note the images of an answer, or of an answer that was reused."""
        unchanged = event.info.get("changed") is False
        for artifact in event.artifacts:
            index = artifact.image_index
            self.finish(index, event.seq)
            self.unannounced.add(index)
            self.failures.pop(index, None)
            if unchanged:
                self.unchanged.add(index)
            else:
                self.unchanged.discard(index)

    def settle(self, server: str | None, is_settled: Callable[[str], bool]) -> None:
        """Forget calls to a server that are settled, of images that no request will name again."""
        for first in [*self.unsettled]:
            if first in self.finished:
                calls = self.unsettled[first]
                kept = {it: at for it, at in calls.items() if at != server or not is_settled(it)}
                self.unsettled[first] = kept
                if not kept:
                    del self.unsettled[first]

    def invalidate(self, index: int) -> None:
        """Note that an image which was finished must be made again, so the stage has not ended."""
        self.outcome = None
        self.finished.pop(index, None)
        self.unannounced.discard(index)
        self.unchanged.discard(index)
        self.reused.discard(index)
        self.replaced.add(index)

    def finished_in_order(self) -> list[tuple[int, int]]:
        """Index and event number of each finished image, by index."""
        return sorted(self.finished.items())

    def shown_metadata(self) -> Mapping[str, Any]:
        """The metadata, and how many images came back unchanged or were reused, if any."""
        counts = {"unchanged_images": len(self.unchanged), "reused_images": len(self.reused)}
        found = {name: number for name, number in counts.items() if number}
        return {**self.metadata, **found} if found else self.metadata
