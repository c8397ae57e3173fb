"""A run's events as lines of text that are the same whenever the same thing happens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import msgspec

from ..folds import recorded_stages
from ..model import Artifact, RunOpened, StageEvent
from .placeholders import Normaliser

_ENVELOPE = frozenset({"v", "run_id", "seq", "ts"})
_MEASURED = frozenset({"duration_ms", "bytes", "offset"})
_FREE = frozenset({"config", "plan", "info", "metadata", "raw"})

_STAND_INS = {
    "call_id": "call",
    "sha256": "file",
    "source_sha256": "source",
    "request_sha256": "request",
    "head": "chain",
    "host": "host",
    "boot_id": "boot",
    "pid": "pid",
    "software": "software",
    "version": "version",
    "parent_run_id": "run",
}


def timeline_lines(events: Iterable[StageEvent]) -> Iterator[str]:
    """One line for each event, and one more for each stage of the plan that a run opens with.

    A line has the run, the sequence number, the event's type, and those of its fields that
    are not at their default, in the order of ``docs/events.md``. Ids, digests, hosts, processes
    and versions have stand-ins (see ``Normaliser``). Left out are times, durations and sizes of
    files, which differ every time, and the free tables ``config``, ``info`` and ``metadata``.
    """
    writer = _Writer()
    for event in events:
        yield writer.line(event)
        if isinstance(event, RunOpened):
            yield from writer.stages(event.plan)


class _Writer:
    def __init__(self) -> None:
        self._normaliser = Normaliser()

    def line(self, event: StageEvent) -> str:
        run = self._normaliser.stand_in("run", event.run_id)
        head = f"{run} #{event.seq:<3} {type(event).__name__}"
        return " ".join([head, *self._fields(event)])

    def stages(self, plan: Mapping[str, Any]) -> Iterator[str]:
        shown = self._normaliser.shown
        for stage in recorded_stages(plan):
            source = shown(stage.get("input_source"))
            yield f"      {shown(stage['stage_id'])} from {source}: {shown(stage['config'])}"

    def _fields(self, part: msgspec.Struct) -> Iterator[str]:
        for name, default in _told_fields(type(part)):
            value = getattr(part, name)
            if value != default:
                yield f"{name}={self._shown(name, value)}"

    def _shown(self, name: str, value: Any) -> str:
        if name in _STAND_INS:
            return self._normaliser.stand_in(_STAND_INS[name], value)
        if isinstance(value, Artifact):
            return self._artifact(value)
        if isinstance(value, msgspec.Struct):
            return "{" + " ".join(self._fields(value)) + "}"
        if isinstance(value, tuple):
            # The inputs of a request are digests, those of a run are records.
            item = "source_sha256" if name == "inputs" and isinstance(value[0], str) else ""
            return "[" + ", ".join(self._shown(item, part) for part in value) + "]"
        return self._normaliser.shown(value)

    def _artifact(self, image: Artifact) -> str:
        """The path says which image it is, and its suffix of which kind."""
        file = self._shown("sha256", image.sha256)
        source = self._shown("source_sha256", image.source_sha256)
        path = self._normaliser.shown(image.path)
        return f"{path}({image.width}x{image.height} seed={image.seed} {file} {source})"


@cache
def _told_fields(kind: type[msgspec.Struct]) -> tuple[tuple[str, object], ...]:
    """The names of the fields that are shown, and their defaults."""
    left_out = _ENVELOPE | _MEASURED | _FREE
    fields = msgspec.structs.fields(kind)
    return tuple((one.name, one.default) for one in fields if one.name not in left_out)
