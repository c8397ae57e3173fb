"""The plan and the settings that a log recorded, if this version can carry them out."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ...events.codec import json_values
from ...events.folds import Fold
from ...events.model import RunOpened
from ..config.resolution import MAX_IMAGES
from ..config.schema import RunTables
from ..config.validation import convert_document, list_values
from ..errors import ConfigurationError, ResumeRefusedError
from ..plan.plan import PER_IMAGE, StageExecutionPlan

_LAST_EPOCH = 2**31
"""No run is resumed so often; beyond 2**53 JSON readers do not keep numbers exactly."""


def recorded_settings(opened: RunOpened) -> RunTables:
    """The tables ``run`` and ``server`` of a recorded configuration; nothing else of it is read.

    The path of ``ca_bundle`` is absolute. Raises ResumeRefusedError for one that this version does
    not understand, or would refuse.
    """
    config = opened.config
    tables = {name: config[name] for name in ("run", "server") if name in config}
    try:
        settings = convert_document(tables, RunTables, "its configuration")
    except (ValueError, RecursionError) as error:
        raise _not_understood(str(error)) from error
    if not opened.ca_bundle:
        return settings
    server = msgspec.structs.replace(settings.server, ca_bundle=opened.ca_bundle)
    return msgspec.structs.replace(settings, server=server)


def recorded_plan(fold: Fold) -> StageExecutionPlan:
    """The recorded plan, if this version would do all of it. Raises ResumeRefusedError."""
    try:
        plan = StageExecutionPlan.from_document(fold.plan)
        understood = dict(list_values(json_values(plan)))
        unknown = [
            path
            for path, value in list_values(fold.plan)
            if path not in understood or understood[path] != value
        ]
    except ConfigurationError as error:
        raise ResumeRefusedError(
            f"this version cannot carry out the recorded plan: {error}"
        ) from error
    except (ValueError, OverflowError, RecursionError) as error:
        raise _not_understood(str(error)) from error
    if unknown:
        raise _not_understood(f"it does not know {unknown[0]}")
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
    yield from _prompt_contradictions(plan, opened)
    sources = ["prompt", "file"]
    for place, stage in enumerate(plan.stages):
        if stage.stage_id != f"{place:02d}-{stage.stage_type}" or stage.order_index != place:
            yield f"stage {place} is called {stage.stage_id!r}"
        if stage.input_source not in (sources if place == 0 else sources[-1:]):
            yield f"{stage.stage_id} is made from {stage.input_source!r}"
        if stage.input_source == "file" and len(opened.inputs) < plan.input_count:
            yield f"{len(opened.inputs)} of {plan.input_count} inputs are recorded"
        sources.append(stage.stage_id)


def _prompt_contradictions(plan: StageExecutionPlan, opened: RunOpened) -> Iterator[str]:
    prompts = opened.prompts
    if isinstance(prompts, tuple):
        if plan.prompts != PER_IMAGE or len(prompts) != plan.total_images:
            yield f"{len(prompts)} prompts are recorded for {plan.total_images} images"
        return
    for stage in plan.stages:
        if "prompt" in stage.config.required and getattr(stage.config, "prompt", "") is None:
            yield f"no prompt is recorded for {stage.stage_id}"


def _not_understood(what: str) -> ResumeRefusedError:
    return ResumeRefusedError(
        f"this version cannot carry out the recorded plan: {what}; resume it with the version "
        "that wrote it (`stagewright replay` says which)"
    )
