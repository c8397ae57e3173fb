"""The weight of an image in each stage of a recorded plan: its number of sampling steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ....events.folds import recorded_stages
from ....statemachine.stages import read_config, stage_types


class PlannedStage(NamedTuple):
    """A planned stage with the ``weight`` of one image and the sampling steps of each pass.

    ``passes`` is empty if the stage has no sampling steps; steps that are not known are 0.
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
    found = [planned_stage(stage) for stage in stages.values()]
    if all(stage.weight for stage in found):
        return tuple(found)
    return tuple(stage._replace(weight=1) for stage in found)


def planned_stage(stage: Mapping[str, Any]) -> PlannedStage:
    """One stage of ``recorded_stages``; its weight is 0 where it is not known."""
    told = stage.get("stage_type")
    name = told if isinstance(told, str) else ""
    try:
        config = read_config(name, stage["config"])
    except (ValueError, RecursionError):
        return PlannedStage(stage["stage_id"], name, 0, ())
    return PlannedStage(stage["stage_id"], name, config.weight(), config.sampling_passes())


def pass_of(stage: PlannedStage, step: int, steps: int, fraction: float) -> Pass:
    """The pass of a stage that a backend's ``step`` of ``steps`` belongs to, if it can be derived.

    Some backends count the steps of all passes together. WebUI servers count each pass
    separately, and report passes that have names as equal shares of the request; only these shares
    tell passes with the same number of steps apart.
    """
    passes, whole = stage.passes, sum(stage.passes)
    unknown = Pass(0, 0, step, steps, fraction)
    if len(passes) < 2 or not all(passes):
        return unknown
    if steps == whole:
        before = 0
        for number, own in enumerate(passes, start=1):
            if step <= before + own:
                return Pass(number, len(passes), step - before, own, fraction)
            before += own
    shares = len(pass_names(stage.stage_type))
    if len(passes) != shares or not steps > 0:
        return unknown
    part = min(1.0, step / steps)
    alike = [place for place, own in enumerate(passes) if own == steps]
    earlier = min(shares - 1, max(0, round(fraction * shares - part)))
    if len(alike) == 1:
        earlier = alike[0]
    done = sum(passes[:earlier]) + passes[earlier] * part
    return Pass(earlier + 1, shares, step, steps, done / whole)


def pass_names(stage_type: str) -> tuple[str, ...]:
    """The names of a stage's passes; empty if they have none."""
    kind = stage_types().get(stage_type)
    return () if kind is None else kind.pass_names
