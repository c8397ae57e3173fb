"""The weight of an image in each stage of a recorded plan: its number of sampling steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ....events.folds import recorded_stages
from ....events.model import StageType

UPSCALE_STEPS = 10
"""The weight of an upscale, which has no sampling steps."""
_MOST_STEPS = 100_000


class PlannedStage(NamedTuple):
    """A planned stage with the ``weight`` of one image and the sampling steps of each pass.

    ``passes`` is empty if the stage has no sampling steps or they are unknown.
    """

    stage_id: str
    stage_type: str
    weight: int
    passes: tuple[int, ...]


class Pass(NamedTuple):
    """The pass that a step belongs to; ``total`` is 0 if it is unknown.

    ``fraction`` is the progress of the whole request, from 0 to 1.
    """

    number: int
    total: int
    step: int
    steps: int
    fraction: float


def planned_stages(plan: Mapping[str, Any]) -> tuple[PlannedStage, ...]:
    """The stages of a recorded plan, as far as they can be read.

    If the steps of any stage are unknown, all stages have the same weight.
    """
    stages: dict[str, Mapping[str, Any]] = {}
    for stage in recorded_stages(plan):
        stages.setdefault(stage["stage_id"], stage)
    found = [_planned(stage) for stage in stages.values()]
    if all(stage.weight for stage in found):
        return tuple(found)
    return tuple(stage._replace(weight=1) for stage in found)


def _planned(stage: Mapping[str, Any]) -> PlannedStage:
    """The stage, with weight 0 if its steps are unknown."""
    stage_type, config = stage.get("stage_type"), stage["config"]
    kind = stage_type if isinstance(stage_type, str) else ""
    if kind == StageType.UPSCALE:
        return PlannedStage(stage["stage_id"], kind, UPSCALE_STEPS, ())
    passes = tuple(_passes(kind, config))
    if not all(passes):
        passes = ()
    return PlannedStage(stage["stage_id"], kind, sum(passes), passes)


def _passes(kind: str, config: Mapping[str, Any]) -> Iterator[int]:
    """The steps of each pass, 0 if unknown."""
    if kind == StageType.ADETAILER:
        passes = config.get("passes")
        for one in passes if isinstance(passes, list | tuple) else ():
            yield _steps(one, default=_steps(config))
        return
    yield _steps(config)
    hires = config.get("hires")
    if kind == StageType.TXT2IMG and isinstance(hires, Mapping):
        yield _steps(hires, default=_steps(config))


def _steps(table: object, *, default: int = 0) -> int:
    steps = table.get("steps") if isinstance(table, Mapping) else None
    if steps is None:
        return default
    is_number = isinstance(steps, int) and not isinstance(steps, bool)
    return steps if is_number and 1 <= steps <= _MOST_STEPS else 0


def pass_of(stage: PlannedStage, step: int, steps: int, fraction: float) -> Pass:
    """The pass of a stage that a backend's ``step`` of ``steps`` belongs to, if it can be derived.

    Some backends count the steps of all passes together. WebUI servers count each pass
    separately, and report each pass of txt2img as half of the request; if both passes have the
    same number of steps, only that half tells them apart.
    """
    passes, whole = stage.passes, sum(stage.passes)
    unknown = Pass(0, 0, step, steps, fraction)
    if len(passes) < 2:
        return unknown
    if steps == whole:
        before = 0
        for number, own in enumerate(passes, start=1):
            if step <= before + own:
                return Pass(number, len(passes), step - before, own, fraction)
            before += own
    if stage.stage_type != StageType.TXT2IMG or not steps > 0:
        return unknown
    part = min(1.0, step / steps)
    is_second = steps != passes[0] or fraction > 0.5
    number = 2 if is_second else 1
    done = passes[0] * part if number == 1 else passes[0] + passes[1] * part
    return Pass(number, 2, step, steps, done / whole)
