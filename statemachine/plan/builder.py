"""From a configuration to a plan: order and combination of the stages, sizes and totals.

Pure: no files, no clock, no chance; the same configuration gives an equal plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from ...events.log.format import MAX_BODY_BYTES
from ...events.model import InputRecord, OriginalFile
from ..config.document import check_config, parse_document, refuse_sweep
from ..config.prompts import draw_prompts, template_warnings
from ..config.resolution import (
    Resolution,
    ResolvedStage,
    count_images,
    has_own_prompts,
    has_own_seeds,
    input_count,
    resolve_stages,
)
from ..config.schema import SWEEP, Conflict, InputImage, RunConfig
from ..errors import InvalidStagePlanError
from .plan import PER_IMAGE, StageExecution, StageExecutionPlan
from .sampler_conflicts import sampler_conflicts

_LONGEST_SEED = 10
"""Digits of a seed: drawn ones are below 2^31, given ones below 2^32."""
_OTHER_BYTES = 8192
"""Bytes of a run's first record beside its configuration, plan, seeds and inputs, at most."""


def build_stage_execution_plan(config: RunConfig | Mapping[str, Any]) -> StageExecutionPlan:
    """The plan of ``config`` (or of a document with its keys): stages in canonical order.

    Raises InvalidStagePlanError with all errors, each naming the key at fault. Flat and nested
    keys that disagree are listed in the plan's ``conflicts`` instead. Raises ConfigurationError for
    a configuration with a sweep, which makes a plan for each variant.
    """
    refuse_sweep(config.sweep if isinstance(config, RunConfig) else config.get(SWEEP))
    parsed = config if isinstance(config, RunConfig) else parse_document(config)
    checked = draw_prompts(check_config(parsed))
    plan = _make_plan(checked, resolve_stages(checked))
    _check_first_record(checked, plan)
    return plan


def _make_plan(config: RunConfig, resolved: Resolution) -> StageExecutionPlan:
    stages = tuple(_executions(resolved.stages))
    inputs, total = max(1, input_count(config) or 0), count_images(config)
    warnings = [*config.input_notes, *resolved.warnings, *template_warnings(config)]
    if not stages[0].requires_input_image and (config.input_image or config.inputs):
        warnings.append(f"input_image is not used, because {stages[0].stage_type} is enabled")
    return StageExecutionPlan(
        run_id=_label(config.metadata.get("run_id")),
        one_click_action=_label(config.metadata.get("one_click_action")),
        stages=stages,
        input_count=inputs,
        images_per_input=total // inputs,
        total_images=total,
        total_steps=total * sum(sum(stage.config.sampling_passes()) for stage in stages),
        summary=" -> ".join(stage.stage_type for stage in stages),
        conflicts=(*config.conflicts, *_sampler_conflicts(stages)),
        warnings=tuple(dict.fromkeys(warnings)),
        prompts=PER_IMAGE if has_own_prompts(config) or has_own_seeds(config) else msgspec.UNSET,
    )


def _executions(stages: Iterable[ResolvedStage]) -> Iterator[StageExecution]:
    before = "file"
    for order, (config, size) in enumerate(stages):
        stage = StageExecution(
            stage_id=f"{order:02d}-{config.stage_type}",
            stage_type=config.stage_type,
            order_index=order,
            config=msgspec.structs.replace(config, farm_hint=None),
            requires_input_image=not config.takes_prompt,
            produces_output_image=True,
            input_source="prompt" if config.takes_prompt else before,
            output_size=size,
            farm_hint=config.farm_hint,
        )
        before = stage.stage_id
        yield stage


def _sampler_conflicts(stages: Iterable[StageExecution]) -> Iterator[Conflict]:
    """The conflicts of samplers with schedulers; inherited pairs are listed once."""
    seen: set[tuple[Any, Any]] = set()
    for stage in stages:
        for conflict in sampler_conflicts(stage.config):
            values = (conflict.flat_value, conflict.nested_value)
            if values not in seen:
                seen.add(values)
                yield conflict


def _label(value: object) -> str | None:
    return None if value is None else str(value)


def _longest_record(image: InputImage) -> InputRecord:
    """What is recorded of an input or a mask at most."""
    digest = "0" * 64
    return InputRecord(
        path="inputs/masks/000000.webp",
        sha256=digest,
        source_sha256=digest,
        parent_run_id=image.parent_run_id,
        original=OriginalFile(name=image.file_name, sha256=digest),
        seed=image.seed,
        refusal=image.refusal or None,
    )


def _check_first_record(config: RunConfig, plan: StageExecutionPlan) -> None:
    """Refuse what the log could not record as RunOpened."""
    encode = msgspec.json.encode
    known = len(encode(config.as_given or config.document())) + len(encode(plan)) + _OTHER_BYTES
    seeds = plan.total_images * (_LONGEST_SEED + 1)
    inputs = sum(len(encode(_longest_record(one))) + 1 for one in (*config.inputs, *config.masks))
    prompts = _prompt_bytes(config)
    size = known + seeds + inputs + prompts
    if size > MAX_BODY_BYTES:
        largest = max((seeds, "images"), (inputs, "input_image"), (prompts, "prompts"))
        raise InvalidStagePlanError(
            f"{plan.input_count} inputs, {plan.total_images} images and their prompts would make "
            f"the run's first record {size} bytes long, and a record holds {MAX_BODY_BYTES}: use "
            "fewer inputs or images, or a smaller configuration",
            key=largest[1],
        )


def _prompt_bytes(config: RunConfig) -> int:
    drawn = config.drawn_prompts
    if drawn is None or not has_own_prompts(config):
        return 0
    sources = config.prompt_source.sources if config.prompt_source else ()
    return len(msgspec.json.encode(drawn.prompts)) + len(msgspec.json.encode(sources))
