"""What a run came to. Only ``fold`` builds these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from .codec import CODEC
from .log.timeline import FileTimeline, LazySequence, events_at
from .model import (
    Artifact,
    CallCompleted,
    CallReused,
    ErrorDetail,
    Outcome,
    RunState,
    StageEvent,
    StageImageProgress,
)


class FinishedImage(Artifact, frozen=True, kw_only=True):
    """An artifact together with the stage that made it."""

    stage_id: str


class MissingImage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An image that was planned and is not finished: the stage it waits for, and why."""

    stage_id: str
    image_index: int
    error: ErrorDetail | None = None


class FinishedImages(LazySequence[FinishedImage]):
    """Finished images by index, read from the log when asked for.

    ``places`` has the stage id, the image index and the event number of each.
    """

    def __init__(
        self, events: Sequence[StageEvent], places: Sequence[tuple[str, int, int]]
    ) -> None:
        self._events = events
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def select(self, indexes: Iterable[int]) -> Iterator[FinishedImage]:
        chosen = [self._places[index] for index in indexes]
        folder = self._events.folder if isinstance(self._events, FileTimeline) else None
        events = events_at(self._events, [seq for _, _, seq in chosen])
        for (stage_id, index, _), event in zip(chosen, events, strict=True):
            artifact = artifact_in(event, index)
            image = FinishedImage(stage_id=stage_id, **msgspec.structs.asdict(artifact))
            if folder is not None:
                image.locate(folder)
            yield image

    def __repr__(self) -> str:
        return f"<{len(self)} finished images>"


def artifact_in(event: StageEvent, image_index: int) -> Artifact:
    """The image that a CallCompleted, CallReused or StageImageProgress records."""
    if isinstance(event, CallCompleted | CallReused):
        return next(a for a in event.artifacts if a.image_index == image_index)
    assert isinstance(event, StageImageProgress)
    return event.artifact


class StageResult(msgspec.Struct, frozen=True, kw_only=True):
    """One stage over all epochs; ``outcome`` is None while it has not ended.

    ``duration_ms`` sums what each epoch says that the stage took; of one that died in it, or has
    not ended it yet, what its answered requests took. ``metadata`` is what the stage set
    out with, and two counts where they are not 0: ``unchanged_images``, for which the server
    changed nothing, and ``reused_images``, which earlier runs made.
    """

    stage_id: str
    stage_type: str
    outcome: Outcome | None
    image_count: int
    images: Sequence[FinishedImage]
    duration_ms: float
    metadata: Mapping[str, Any]


class PipelineRunResult(msgspec.Struct, frozen=True, kw_only=True):
    """A run as its log tells it.

    ``images`` holds, by index, the image of the furthest stage that finished it; ``missing``
    what was planned and is not finished; ``seeds`` the seed of each index; ``error`` why the
    state is ERROR; ``resumes`` how many processes took the run up again; ``events`` the whole
    timeline. ``images`` and ``events`` read from the log when asked for.
    """

    run_id: str
    state: RunState
    outcome: Outcome | None
    plan: Mapping[str, Any]
    stages: tuple[StageResult, ...]
    images: Sequence[FinishedImage]
    missing: tuple[MissingImage, ...]
    seeds: tuple[int, ...]
    error: ErrorDetail | None
    resumes: int
    events: Sequence[StageEvent]

    def json_parts(self, further: Mapping[str, object] | None = None) -> Iterator[bytes]:
        """The result as one JSON document, in pieces, so that a long run needs no memory.

        ``further`` keys stand before the events.
        """
        names = [name for name in self.__struct_fields__ if name != "events"]
        for name in names:
            lead = "{" if name == names[0] else ","
            yield f'{lead}"{name}":'.encode() + _encode(getattr(self, name))
        for name, value in (further or {}).items():
            yield b"," + _encode(name) + b":" + _encode(value)
        yield b',"events":['
        bodies = (
            self.events.raw(range(len(self.events)))
            if isinstance(self.events, FileTimeline)
            else map(CODEC.encode, self.events)
        )
        for place, body in enumerate(bodies):
            yield (b"," if place else b"") + body
        yield b"]}"


def _plain(value: object) -> object:
    if isinstance(value, FinishedImages):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _encode(value: object) -> bytes:
    return msgspec.json.encode(value, enc_hook=_plain)
