"""What the log says of one stage of a run."""

from __future__ import annotations

from collections.abc import Mapping
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
        self.first_answer: tuple[int, Mapping[str, Any]] | None = None
        """The first image index and ``info`` of the first answer of the present backend."""
        self.failures: dict[int, ErrorDetail] = {}
        self.unsettled: dict[int, dict[str, None]] = {}
        """By first image index, in order, the calls without an image that may still be running."""
        self.interrupted: set[int] = set()
        """First image indexes of which one of those calls was (possibly) told to stop."""
        self.maybe_interrupted: set[int] = set()
        """First image indexes in progress when a cancel was requested; their ends tell more."""
        self.abandoned: set[int] = set()
        """First image indexes whose last call failed, while the backend may still work on it."""

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
