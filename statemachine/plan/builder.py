"""From a configuration to a plan: order and combination of the stages, sizes and totals.

Pure: no files, no clock, no chance; the same configuration gives an equal plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from ...events.log.format import MAX_BODY_BYTES
from ...events.model import InputRecord, OriginalFile
from ..config.document import check_config, parse_document
from ..config.schema import Conflict, InputImage, RunConfig
from ..config.validation import refuse_userinfo
from ..errors import InvalidStagePlanError
from ..stages.registry import stage_types
from ..stages.sizes import Dimensions, size_refusal
from ..stages.stage import StageConfig
from .plan import StageExecution, StageExecutionPlan
from .sampler_conflicts import sampler_conflicts

MAX_IMAGES = 1_000_000
"""Images of one run, at most: its first record lists a seed for each."""
_LONGEST_SEED = 10
"""Digits of a seed: drawn ones are below 2^31, given ones below 2^32."""
_OTHER_BYTES = 8192
"""Bytes of a run's first record beside its configuration, plan, seeds and inputs, at most."""


def build_stage_execution_plan(config: RunConfig | Mapping[str, Any]) -> StageExecutionPlan:
    """The plan of ``config`` (or of a document with its keys): stages in canonical order.

    Raises InvalidStagePlanError, naming the key at fault. Flat and nested keys that disagree
    are listed in the plan's ``conflicts`` instead.
    """
    parsed = config if isinstance(config, RunConfig) else parse_document(config)
    checked = check_config(parsed)
    refuse_userinfo(checked.server.url)
    _check_combination(checked)
    plan = _Builder(checked).build()
    _check_first_record(checked, plan)
    return plan


def _check_combination(config: RunConfig) -> None:
    stages = config.stages
    if not stages:
        raise InvalidStagePlanError("No pipeline stages enabled")
    generating = _names_of(lambda kind: kind.generates)
    prompted = _names_of(lambda kind: kind.takes_prompt)
    for place, (name, stage) in enumerate(stages.items()):
        before = list(stages.values())[:place]
        if stage.needs_base and not any(one.generates for one in before):
            raise InvalidStagePlanError(
                f"{name} needs {generating} before it, and none of them is enabled", key=name
            )
        if stage.takes_prompt and before:
            raise InvalidStagePlanError(
                f"{name} makes images from the prompt, so no stage can come before it", key=name
            )
    first = next(iter(stages))
    if not stages[first].takes_prompt and not (config.input_image or config.inputs):
        raise InvalidStagePlanError(
            f"{first} without {prompted} needs an input image: set input_image", key="input_image"
        )
    if config.images > 1 and not any(stage.generates for stage in stages.values()):
        raise InvalidStagePlanError(
            f"images = {config.images} must be 1 for {' and '.join(stages)} alone: "
            "it gives one image for each input",
            key="images",
        )


def _names_of(condition: Callable[[type[StageConfig]], bool]) -> str:
    """The registered stages that meet a condition, for a message."""
    return " or ".join(name for name, kind in stage_types().items() if condition(kind))


class _Builder:
    """Adds the stages in canonical order, and follows the sizes of the images through them."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._stages: list[StageExecution] = []
        self._warnings: list[str] = []
        self._sizes: list[Dimensions | None] = [None]
        if config.inputs:
            usable = [image for image in config.inputs if not image.refusal]
            self._sizes = [(image.width, image.height) for image in usable]

    def build(self) -> StageExecutionPlan:
        config = self._config
        inherited = {
            "prompt": config.prompt,
            "negative_prompt": config.negative_prompt,
            "seed": config.seed,
        }
        model_size: Dimensions | None = None
        for table in config.stages.values():
            stage = table.resolve(inherited, model_size)
            self._warnings += stage.warnings(table)
            if stage.generates:
                inherited |= msgspec.structs.asdict(stage)
                model_size = model_size or _common(map(stage.model_size, self._sizes))
            self._add(stage)
        return self._plan()

    def _add(self, config: StageConfig) -> None:
        reached = [config.size_after(size) for size in dict.fromkeys(self._sizes)]
        worked = [config.model_size(size) for size in self._sizes]
        self._sizes = list(dict.fromkeys(one.size for one in reached))
        _check_pixels(config.stage_type, [*worked, *self._sizes])
        self._warnings += [one.warning for one in reached if one.warning]
        if (config.batch_size or 1) > 1 and self._stages:
            self._warnings.append(
                f"{config.stage_type}.batch_size has no effect: each image is made from its own"
            )
        order = len(self._stages)
        before = self._stages[-1].stage_id if self._stages else "file"
        self._stages.append(
            StageExecution(
                stage_id=f"{order:02d}-{config.stage_type}",
                stage_type=config.stage_type,
                order_index=order,
                config=config,
                requires_input_image=not config.takes_prompt,
                produces_output_image=True,
                input_source="prompt" if config.takes_prompt else before,
                output_size=_common(self._sizes),
            )
        )

    def _plan(self) -> StageExecutionPlan:
        config = self._config
        inputs = max(1, len(config.inputs))
        if not self._stages[0].requires_input_image:
            inputs = 1
            if config.input_image or config.inputs:
                first = self._stages[0].stage_type
                self._warnings.append(f"input_image is not used, because {first} is enabled")
        total = inputs * config.images
        if total > MAX_IMAGES:
            raise InvalidStagePlanError(
                f"images = {config.images} for {inputs} inputs must make {MAX_IMAGES} at most",
                key="images",
            )
        return StageExecutionPlan(
            run_id=_label(config.metadata.get("run_id")),
            one_click_action=_label(config.metadata.get("one_click_action")),
            stages=tuple(self._stages),
            input_count=inputs,
            images_per_input=config.images,
            total_images=total,
            total_steps=total * sum(sum(stage.config.sampling_passes()) for stage in self._stages),
            summary=" -> ".join(stage.stage_type for stage in self._stages),
            conflicts=(*config.conflicts, *self._sampler_conflicts()),
            warnings=tuple(dict.fromkeys([*config.input_notes, *self._warnings])),
        )

    def _sampler_conflicts(self) -> Iterator[Conflict]:
        """The conflicts of samplers with schedulers; inherited pairs are listed once."""
        seen: set[tuple[Any, Any]] = set()
        for stage in self._stages:
            for conflict in sampler_conflicts(stage.config):
                values = (conflict.flat_value, conflict.nested_value)
                if values not in seen:
                    seen.add(values)
                    yield conflict


def _check_pixels(name: str, sizes: Iterable[Dimensions | None]) -> None:
    """Refuse images beyond the limit before a server makes them, also those of a first pass."""
    for size in filter(None, sizes):
        if refusal := size_refusal(size):
            raise InvalidStagePlanError(
                f"{name} makes images of {size[0]}x{size[1]}: {refusal}", key=name
            )


def _common(sizes: Iterable[Dimensions | None]) -> Dimensions | None:
    """The size that all images have, or None where it is unknown or they differ."""
    different = set(sizes)
    return different.pop() if len(different) == 1 else None


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
    size = known + seeds + inputs
    if size > MAX_BODY_BYTES:
        raise InvalidStagePlanError(
            f"{plan.input_count} inputs and {plan.total_images} images would make the run's "
            f"first record {size} bytes long, and a record holds {MAX_BODY_BYTES}: use fewer "
            "inputs or images, or a smaller configuration",
            key="images" if seeds > inputs else "input_image",
        )
