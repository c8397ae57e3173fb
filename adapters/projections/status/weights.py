"""What an image counts for in each stage of a recorded plan: the sampling steps that it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ....events.folds import recorded_stages
from ....events.model import StageType

UPSCALE_STEPS = 10
"""What an image's upscale counts for beside sampling steps; it has none of its own."""
_MOST_STEPS = 100_000


class PlannedStage(NamedTuple):
    """A stage of a plan: ``weight`` of one image, and the sampling steps of each of its passes.

    ``passes`` is empty for a stage without sampling steps, and where they are not known.
    """

    stage_id: str
    stage_type: str
    weight: int
    passes: tuple[int, ...]


class Pass(NamedTuple):
    """Which pass of how many a step is of, and where in it; ``total`` is 0 if that is not known.

    ``fraction`` is 0 to 1 over the whole request.
    """

    number: int
    total: int
    step: int
    steps: int
    fraction: float


def planned_stages(plan: Mapping[str, Any]) -> tuple[PlannedStage, ...]:
    """The stages of a plan as a log recorded it; of a foreign one, what can be understood.

    Where the steps of any stage are not known all stages weigh the same.
    """
    stages: dict[str, Mapping[str, Any]] = {}
    for stage in recorded_stages(plan):
        stages.setdefault(stage["stage_id"], stage)
    found = [_planned(stage) for stage in stages.values()]
    if all(stage.weight for stage in found):
        return tuple(found)
    return tuple(stage._replace(weight=1) for stage in found)


def _planned(stage: Mapping[str, Any]) -> PlannedStage:
    """The stage; its weight is 0 where it is not known."""
    told, config = stage.get("stage_type"), stage["config"]
    kind = told if isinstance(told, str) else ""
    if kind == StageType.UPSCALE:
        return PlannedStage(stage["stage_id"], kind, UPSCALE_STEPS, ())
    passes = tuple(_passes(kind, config))
    if not all(passes):
        passes = ()
    return PlannedStage(stage["stage_id"], kind, sum(passes), passes)


def _passes(kind: str, config: Mapping[str, Any]) -> Iterator[int]:
    """The steps of each pass, 0 where they are not known."""
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
    """Which pass of a stage a backend's ``step`` of ``steps`` is of, as far as it can be told.

    Some backends count the steps of all passes; WebUI servers count each pass for itself, and
    take both passes of txt2img for half of the request, whatever their steps.
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
    number = 2 if fraction - part / 2 > 0.25 else 1
    done = passes[0] * part if number == 1 else passes[0] + passes[1] * part
    return Pass(number, 2, step, steps, done / whole)
