"""The plan and the tables that a log recorded, if this version can do all that they say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from ...events.codec import json_values
from ...events.folds import Fold
from ..config.bounds import check_bounds
from ..errors import ResumeRefusedError
from ..plan.builder import MAX_IMAGES
from ..plan.plan import StageExecutionPlan

T = TypeVar("T", bound=msgspec.Struct)
_LAST_EPOCH = 2**31
"""No run is resumed so often; beyond 2**53 numbers are not what they seem."""


def recorded_table(config: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """A table of the configuration as it was recorded.

    Raises ResumeRefusedError for one that this version does not understand, or would refuse.
    """
    try:
        table = msgspec.convert(config.get(name, {}), kind)
        check_bounds(table, name)
    except ValueError as error:
        raise _not_understood(f"[{name}]: {error}") from error
    return table


def recorded_plan(fold: Fold) -> StageExecutionPlan:
    """The recorded plan, if this version would do all of it. Raises ResumeRefusedError."""
    try:
        plan = StageExecutionPlan.from_document(fold.plan)
        unknown = _lost_in(fold.plan, json_values(plan), "")
        for stage in plan.stages:
            check_bounds(stage.config, stage.stage_id)
    except (ValueError, OverflowError, RecursionError) as error:
        raise _not_understood(str(error)) from error
    if unknown is not None:
        raise _not_understood(f"{unknown} means nothing to it")
    wrong = next(_contradictions(plan, fold), None)
    if wrong is not None:
        raise _not_understood(wrong)
    return plan


def _contradictions(plan: StageExecutionPlan, fold: Fold) -> Iterator[str]:
    """What no stagewright writes: the log is foreign, and nothing in it can be relied on."""
    assert fold.opened is not None
    opened = fold.opened
    if fold.epoch >= _LAST_EPOCH:
        yield f"its log says epoch {fold.epoch}"
    if not plan.stages:
        yield "it has no stage"
    total = max(1, plan.input_count) * plan.images_per_input
    if not 1 <= plan.total_images == total == len(opened.seeds) <= MAX_IMAGES:
        yield f"total_images is {plan.total_images}, with {len(opened.seeds)} seeds"
    sources = ["prompt", "file"]
    for place, stage in enumerate(plan.stages):
        if stage.stage_id != f"{place:02d}-{stage.stage_type}" or stage.order_index != place:
            yield f"stage {place} is called {stage.stage_id!r}"
        if stage.input_source not in (sources if place == 0 else sources[-1:]):
            yield f"{stage.stage_id} is made from {stage.input_source!r}"
        if stage.input_source == "file" and len(opened.inputs) < plan.input_count:
            yield f"{len(opened.inputs)} of {plan.input_count} inputs are recorded"
        sources.append(stage.stage_id)


def _not_understood(what: str) -> ResumeRefusedError:
    return ResumeRefusedError(
        f"this version cannot carry out the recorded plan: {what}; resume it with the version "
        "that wrote it (`stagewright replay` says which)"
    )


def _lost_in(recorded: Any, understood: Any, path: str) -> str | None:
    """The first place of a recorded document that is not in what was understood of it."""
    if isinstance(recorded, Mapping) and isinstance(understood, Mapping):
        for key, value in recorded.items():
            place = f"{path}.{key}" if path else str(key)
            if key not in understood:
                return place
            if (lost := _lost_in(value, understood[key], place)) is not None:
                return lost
        return None
    if isinstance(recorded, list) and isinstance(understood, list):
        if len(recorded) != len(understood):
            return path
        pairs = enumerate(zip(recorded, understood, strict=True))
        lost_ones = (_lost_in(one, other, f"{path}.{place}") for place, (one, other) in pairs)
        return next((lost for lost in lost_ones if lost is not None), None)
    return None if recorded == understood else path
