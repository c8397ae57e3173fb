"""From a configuration to a plan: order and combination of the stages, sizes and totals.

Pure: no files, no clock, no chance; the same configuration gives an equal plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from ...events.log.format import MAX_BODY_BYTES
from ...events.model import InputRecord, StageType
from ..config.document import check_config, parse_document
from ..config.schema import Conflict, RunConfig
from ..config.stage_configs import Img2ImgConfig, StageConfig, Txt2ImgConfig
from ..config.validation import refuse_userinfo
from ..errors import InvalidStagePlanError
from .plan import StageExecution, StageExecutionPlan
from .sampler_conflicts import sampler_conflicts
from .sizes import Dimensions, size_after_stage
from .stage_rules import (
    resolve_adetailer,
    resolve_img2img,
    resolve_txt2img,
    resolve_upscale,
    sampling_steps,
)

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
    generates = config.txt2img or config.img2img
    if not (generates or config.upscale or config.adetailer):
        raise InvalidStagePlanError("No pipeline stages enabled")
    if config.adetailer and not generates:
        raise InvalidStagePlanError(
            "adetailer needs txt2img or img2img before it; neither is enabled", key="adetailer"
        )
    if config.txt2img is None and not (config.input_image or config.inputs):
        stage = "img2img" if config.img2img else "upscale"
        raise InvalidStagePlanError(
            f"{stage} without txt2img needs an input image: set input_image", key="input_image"
        )
    if not generates and config.images > 1:
        raise InvalidStagePlanError(
            f"images = {config.images} must be 1 for upscale alone: "
            "it gives one image for each input",
            key="images",
        )


class _Builder:
    """Adds the stages in canonical order, and follows the sizes of the images through them."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._stages: list[StageExecution] = []
        self._warnings: list[str] = []
        self._sizes: list[Dimensions | None] = [None]
        if config.inputs:
            self._sizes = [(image.width, image.height) for image in config.inputs]

    def build(self) -> StageExecutionPlan:
        config = self._config
        base: Txt2ImgConfig | Img2ImgConfig | None = None
        generation_size = None
        if config.txt2img is not None:
            base = first = resolve_txt2img(config.txt2img, config)
            self._add(StageType.TXT2IMG, first)
            if first.width and first.height:
                generation_size = (first.width, first.height)
        if config.img2img is not None:
            before = base if isinstance(base, Txt2ImgConfig) else None
            base = resolve_img2img(config.img2img, config, before)
            self._add(StageType.IMG2IMG, base)
            generation_size = generation_size or self._size()
        if config.upscale is not None:
            self._add(StageType.UPSCALE, resolve_upscale(config.upscale))
        if config.adetailer is not None and base is not None:
            detailer = resolve_adetailer(config.adetailer, base, generation_size)
            self._add(StageType.ADETAILER, detailer)
        return self._plan()

    def _size(self) -> Dimensions | None:
        """The size that all images have, or None where it is unknown or they differ."""
        return self._sizes[0] if len(self._sizes) == 1 else None

    def _add(self, kind: StageType, config: StageConfig) -> None:
        reached = [size_after_stage(config, size) for size in dict.fromkeys(self._sizes)]
        self._sizes = list(dict.fromkeys(size for size, _ in reached))
        self._warnings += [warning for _, warning in reached if warning]
        order = len(self._stages)
        before = self._stages[-1].stage_id if self._stages else "file"
        self._stages.append(
            StageExecution(
                stage_id=f"{order:02d}-{kind}",
                stage_type=kind,
                order_index=order,
                config=config,
                requires_input_image=kind != StageType.TXT2IMG,
                produces_output_image=True,
                input_source="prompt" if kind == StageType.TXT2IMG else before,
                output_size=self._size(),
            )
        )

    def _plan(self) -> StageExecutionPlan:
        config = self._config
        inputs = max(1, len(config.inputs))
        if config.txt2img is not None:
            inputs = 1
            if config.input_image or config.inputs:
                self._warnings.append("input_image is not used, because txt2img is enabled")
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
            total_steps=total * sum(sampling_steps(stage.config) for stage in self._stages),
            summary=" -> ".join(stage.stage_type for stage in self._stages),
            conflicts=(*config.conflicts, *self._sampler_conflicts()),
            warnings=tuple(dict.fromkeys(self._warnings)),
        )

    def _sampler_conflicts(self) -> Iterator[Conflict]:
        """The conflicts of samplers with schedulers; inherited pairs are listed once."""
        seen: set[tuple[Any, Any]] = set()
        for stage in self._stages:
            for conflict in sampler_conflicts(str(stage.stage_type), stage.config):
                values = (conflict.flat_value, conflict.nested_value)
                if values not in seen:
                    seen.add(values)
                    yield conflict


def _label(value: object) -> str | None:
    return None if value is None else str(value)


def _check_first_record(config: RunConfig, plan: StageExecutionPlan) -> None:
    """Refuse what the log could not record as RunOpened."""
    encode = msgspec.json.encode
    known = len(encode(config.as_given or config.document())) + len(encode(plan)) + _OTHER_BYTES
    seeds = plan.total_images * (_LONGEST_SEED + 1)
    inputs = 0
    if config.inputs:
        digest = "0" * 64
        longest = InputRecord(
            path=f"inputs/{len(config.inputs):05d}.webp",
            sha256=digest,
            source_sha256=digest,
            parent_run_id=config.inputs[0].parent_run_id,
        )
        inputs = len(config.inputs) * (len(encode(longest)) + 1)
    size = known + seeds + inputs
    if size > MAX_BODY_BYTES:
        raise InvalidStagePlanError(
            f"{plan.input_count} inputs and {plan.total_images} images would make the run's "
            f"first record {size} bytes long, and a record holds {MAX_BODY_BYTES}: use fewer "
            "inputs or images, or a smaller configuration",
            key="images" if seeds > inputs else "input_image",
        )
