"""From a configuration to a plan: the rules, and nothing else.

Pure: no files, no clock, no chance; the same configuration gives an equal plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ...events.log.format import MAX_BODY_BYTES
from ...events.model import InputRecord, StageType
from ..config.bounds import check_bounds
from ..config.document import checked_config, parse_document, refuse_userinfo
from ..config.legacy import Tables, merge_flat_keys
from ..config.schema import RunConfig
from ..config.stage_configs import (
    AdetailerConfig,
    AdetailerPass,
    AdetailerTable,
    HiresConfig,
    Img2ImgConfig,
    Img2ImgTable,
    RefinerConfig,
    StageConfig,
    Txt2ImgConfig,
    Txt2ImgTable,
    UpscaleConfig,
    UpscaleTable,
)
from ..errors import InvalidStagePlanError
from .plan import StageExecution, StageExecutionPlan
from .sizes import SizeTracks

MAX_IMAGES = 1_000_000
"""Images of one run, at most: its first record lists a seed for each."""
_LONGEST_SEED = 10
"""Digits of a seed: drawn ones are below 2^31, given ones below 2^32."""
_OTHER_BYTES = 8192
"""Bytes of a run's first record beside its configuration, plan, seeds and inputs, at most."""
_INHERITED = ("model", "vae", "clip_skip", "sampler", "scheduler", "cfg_scale")


def build_stage_execution_plan(config: RunConfig | Mapping[str, Any]) -> StageExecutionPlan:
    """The plan of ``config`` (or of a document with its keys): stages in canonical order.

    Raises InvalidStagePlanError, naming the key at fault. Flat and nested keys that disagree
    are listed in the plan's ``conflicts`` instead.
    """
    ready = config if isinstance(config, RunConfig) else parse_document(config)
    return _Builder(checked_config(ready)).build()


class _Builder:
    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._tables: Tables = merge_flat_keys(config)
        self._size = SizeTracks()
        self._stages: list[StageExecution] = []
        self._generation_size: tuple[int, int] | None = None
        self._steps = 0

    def build(self) -> StageExecutionPlan:
        self._check_top()
        self._check_combination()
        self._size.begin_with(self._config.inputs)
        self._add_generation()
        if self._tables.upscale is not None:
            self._add_upscale(self._tables.upscale)
        if self._tables.adetailer is not None:
            self._add_adetailer(self._tables.adetailer)
        return self._plan()

    def _check_top(self) -> None:
        for name in ("run", "server"):
            check_bounds(getattr(self._config, name), name)
        refuse_userinfo(self._config.server.url)
        top = msgspec.structs.replace(
            RunConfig(), seed=self._config.seed, images=self._config.images
        )
        check_bounds(top, "")

    def _check_combination(self) -> None:
        tables, config = self._tables, self._config
        generates = tables.txt2img or tables.img2img
        if not (generates or tables.upscale or tables.adetailer):
            raise InvalidStagePlanError("No pipeline stages enabled")
        if tables.adetailer and not generates:
            raise InvalidStagePlanError(
                "adetailer needs txt2img or img2img before it; neither is enabled", key="adetailer"
            )
        if tables.txt2img is None and not self._has_input():
            stage = "img2img" if tables.img2img else "upscale"
            raise InvalidStagePlanError(
                f"{stage} without txt2img needs an input image: set input_image", key="input_image"
            )
        if not generates and config.images > 1:
            raise InvalidStagePlanError(
                f"images = {config.images} must be 1 for upscale alone: "
                "it gives one image for each input",
                key="images",
            )

    def _has_input(self) -> bool:
        return bool(self._tables.input_image or self._config.inputs)

    def _add_generation(self) -> None:
        base: Txt2ImgConfig | None = None
        if self._tables.txt2img is not None:
            base = self._txt2img(self._tables.txt2img)
        if self._tables.img2img is not None:
            self._img2img(self._tables.img2img, base)

    def _txt2img(self, table: Txt2ImgTable) -> Txt2ImgConfig:
        refiner = self._refiner(table.refiner, "txt2img")
        hires = self._hires(table.hires, refiner)
        fields = _fields(table) | {"refiner": refiner, "hires": hires}
        config = Txt2ImgConfig(
            prompt=self._prompt("txt2img", self._config.prompt),
            negative_prompt=self._config.negative_prompt,
            seed=self._config.seed,
            **fields,
        )
        _require(config, "txt2img", "model", "sampler", "steps", "cfg_scale", "width", "height")
        check_bounds(config, "txt2img")
        self._size.state(config.width, config.height)
        self._generation_size = self._size.now
        self._steps += config.steps or 0
        if hires is not None:
            self._size.hires(hires)
            self._steps += hires.steps or config.steps or 0
        self._add(StageType.TXT2IMG, config)
        return config

    def _refiner(self, refiner: RefinerConfig | None, stage: str) -> RefinerConfig | None:
        if refiner is None or not refiner.enabled:
            return None
        _require(refiner, f"{stage}.refiner", "model", "switch_at")
        return refiner

    def _hires(
        self, hires: HiresConfig | None, refiner: RefinerConfig | None
    ) -> HiresConfig | None:
        if hires is None or not hires.enabled:
            return None
        _require(hires, "txt2img.hires", "denoise")
        sized = hires.resize_x is not None or hires.resize_y is not None
        if hires.scale is None and not sized:
            raise InvalidStagePlanError(
                "txt2img.hires.scale is missing: set scale, or resize_x and resize_y",
                key="txt2img.hires.scale",
            )
        if hires.scale is not None and sized:
            raise InvalidStagePlanError(
                f"txt2img.hires.scale = {hires.scale} and a target size exclude each other",
                key="txt2img.hires.scale",
            )
        if hires.model is None and refiner is not None:
            hires = msgspec.structs.replace(hires, model=refiner.model)
        return hires

    def _img2img(self, table: Img2ImgTable, base: Txt2ImgConfig | None) -> None:
        fields = _fields(table) | {"refiner": self._refiner(table.refiner, "img2img")}
        for name in _INHERITED if base is not None else ():
            if fields[name] is None:
                fields[name] = getattr(base, name)
        fields["prompt"] = self._prompt("img2img", table.prompt, self._config.prompt)
        if table.negative_prompt is None:
            fields["negative_prompt"] = self._config.negative_prompt
        if table.seed is None:
            fields["seed"] = self._config.seed
        config = Img2ImgConfig(**fields)
        _require(config, "img2img", "denoise", "steps", "model", "sampler", "cfg_scale")
        check_bounds(config, "img2img")
        self._size.state(config.width, config.height)
        if base is None:
            self._generation_size = self._size.now
        self._steps += config.steps or 0
        self._add(StageType.IMG2IMG, config)

    def _add_upscale(self, table: UpscaleTable) -> None:
        _require(table, "upscale", "upscaler")
        sized = table.width is not None or table.height is not None
        if table.factor is not None and sized:
            raise InvalidStagePlanError(
                f"upscale.factor = {table.factor} and a target size exclude each other",
                key="upscale.factor",
            )
        if table.factor is None and not sized:
            raise InvalidStagePlanError(
                "upscale.factor is missing: set factor, or width and height", key="upscale.factor"
            )
        if sized:
            _require(table, "upscale", "width", "height")
        config = UpscaleConfig(**_fields(table))
        check_bounds(config, "upscale")
        self._size.upscale(table)
        self._add(StageType.UPSCALE, config)

    def _add_adetailer(self, table: AdetailerTable) -> None:
        if not table.passes:
            raise InvalidStagePlanError(
                "adetailer.passes is missing: add an [[adetailer.passes]] with a model",
                key="adetailer.passes",
            )
        base: Any = self._stages[-1].config
        if isinstance(base, UpscaleConfig):
            base = self._stages[-2].config
        for place, one in enumerate(table.passes):
            _require(one, f"adetailer.passes.{place}", "model")
        config = AdetailerConfig(
            passes=tuple(self._pass(one) for one in table.passes),
            prompt=base.prompt,
            negative_prompt=base.negative_prompt,
            seed=base.seed,
            steps=base.steps,
            **{name: getattr(base, name) for name in _INHERITED},
        )
        check_bounds(config, "adetailer")
        self._steps += sum(one.steps or config.steps or 0 for one in config.passes)
        self._add(StageType.ADETAILER, config)

    def _pass(self, one: AdetailerPass) -> AdetailerPass:
        """A pass works at the size that the model was made for, not at the upscaled one."""
        if self._generation_size is None:
            return one
        width, height = self._generation_size
        if one.width is not None:
            width = one.width
        if one.height is not None:
            height = one.height
        return msgspec.structs.replace(one, width=width, height=height)

    def _prompt(self, stage: str, *candidates: str | None) -> str:
        for prompt in candidates:
            if prompt is not None and prompt.strip():
                return prompt
        raise InvalidStagePlanError(f"prompt is missing; {stage} needs it", key="prompt")

    def _add(self, kind: StageType, config: StageConfig) -> None:
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
                output_size=self._size.now,
            )
        )

    def _plan(self) -> StageExecutionPlan:
        config = self._config
        warnings = self._size.warnings()
        inputs = 1 if self._tables.txt2img is not None else max(1, len(config.inputs))
        if self._tables.txt2img is not None and self._has_input():
            warnings.append("input_image is not used, because txt2img is enabled")
        total = inputs * config.images
        if total > MAX_IMAGES:
            raise InvalidStagePlanError(
                f"images = {config.images} for {inputs} inputs must make {MAX_IMAGES} at most",
                key="images",
            )
        plan = StageExecutionPlan(
            run_id=_label(config.metadata.get("run_id")),
            one_click_action=_label(config.metadata.get("one_click_action")),
            stages=tuple(self._stages),
            input_count=inputs,
            images_per_input=config.images,
            total_images=total,
            total_steps=self._steps * total,
            summary=" -> ".join(stage.stage_type for stage in self._stages),
            conflicts=self._tables.conflicts,
            warnings=tuple(warnings),
        )
        self._check_first_record(plan)
        return plan

    def _check_first_record(self, plan: StageExecutionPlan) -> None:
        """Refuse what the log could not record as RunOpened."""
        encode, config = msgspec.json.encode, self._config
        known = len(encode(config.document())) + len(encode(plan)) + _OTHER_BYTES
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
            key = "images" if seeds > inputs else "input_image"
            raise InvalidStagePlanError(
                f"{plan.input_count} inputs and {plan.total_images} images would make the run's "
                f"first record {size} bytes long, and a record holds {MAX_BODY_BYTES}: use fewer "
                "inputs or images, or a smaller configuration",
                key=key,
            )


def _fields(table: msgspec.Struct) -> dict[str, Any]:
    return {name: getattr(table, name) for name in table.__struct_fields__ if name != "enabled"}


def _label(value: object) -> str | None:
    return None if value is None else str(value)


def _require(table: msgspec.Struct, key: str, *names: str) -> None:
    for name in names:
        value = getattr(table, name)
        if value is None or (isinstance(value, str) and not value.strip()):
            raise InvalidStagePlanError(
                f"{key}.{name} is missing; an enabled {key.split('.')[0]} needs it",
                key=f"{key}.{name}",
            )
