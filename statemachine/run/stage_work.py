"""The requests of a stage as work that backends share, and how each of these is doing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from ...events.errors import LogWriteError
from ..ports import ImageBackend


class StageFailedError(Exception):
    """A stage ended early; ``cause`` says why. ``image_index`` is None if it was no image."""

    def __init__(self, stage_id: str, image_index: int | None, cause: Exception) -> None:
        where = stage_id if image_index is None else f"{stage_id}, image {image_index + 1}"
        super().__init__(f"{where}: {type(cause).__name__}: {cause}")
        self.stage_id = stage_id
        self.image_index = image_index
        self.cause = cause


class StageWork(Protocol):
    """What becomes of the requests of a stage; called from the threads of the slots."""

    def reuse(self, span: range) -> bool:
        """Use images that were made before, instead of a request; whether there were any."""
        ...

    def next_attempt(self, span: range) -> int:
        """The number of the next attempt at a request, over all epochs."""
        ...

    def attempt(self, span: range, attempt: int, backend: ImageBackend) -> None:
        """Make one attempt, and record its images. Does nothing if the run is stopping."""
        ...

    def record_failure(
        self, image_index: int, attempt: int, error: Exception, *, will_retry: bool
    ) -> None:
        """Record that the attempt failed."""
        ...


@dataclass(eq=False)
class Member:
    """One of the backends, and how it is doing; guarded by the dispatcher's lock."""

    backend: ImageBackend
    is_present: bool = True
    is_aside: bool = False
    is_reached: bool = True
    failures: int = 0
    """Failures in a row."""


@dataclass(eq=False)
class WorkItem:
    """One request with its tries; ``failed_on`` are the members that failed since the last pause.

    It is in the hand of one thread at a time, or in the queue.
    """

    span: range
    is_new: bool = True
    tried: int = 0
    waits: int = 0
    failed_on: set[Member] = field(default_factory=set)


def severity(failure: BaseException) -> int:
    """Of several failures the smallest is reported: an unwritable disk before failed images."""
    if isinstance(failure, StageFailedError):
        return 1 if isinstance(failure.cause, LogWriteError) else 2
    return 0  # no Exception: it ends the run's thread
