"""Flat keys of older tools, moved to the nested keys that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..errors import InvalidStagePlanError
from .schema import RunDocument
from .stage_configs import (
    AdetailerPass,
    AdetailerTable,
    HiresConfig,
    Img2ImgTable,
    RefinerConfig,
    Table,
    Txt2ImgTable,
    UpscaleTable,
)

_STAGES: Mapping[str, type[Table]] = {
    "txt2img": Txt2ImgTable,
    "img2img": Img2ImgTable,
    "upscale": UpscaleTable,
    "adetailer": AdetailerTable,
}
_GENERATION = {
    "model_name": "model",
    "sampler": "sampler",
    "scheduler_name": "scheduler",
    "steps": "steps",
    "cfg_scale": "cfg_scale",
    "width": "width",
    "height": "height",
}
_REFINER = {"refiner_model_name": "model", "refiner_switch_at": "switch_at"}
_HIRES = {
    "hires_upscale_factor": "scale",
    "hires_upscaler_name": "upscaler",
    "hires_steps": "steps",
    "hires_denoise": "denoise",
}
_UPSCALE = {"upscale_model": "upscaler", "upscale_factor": "factor"}
_ADETAILER = {"adetailer_model": "model", "adetailer_strength": "denoise"}
_RIVALS = {"scale": ("resize_x", "resize_y"), "factor": ("width", "height")}
"""Nested keys that say the same thing as another one in other words."""


class Conflict(msgspec.Struct, frozen=True, kw_only=True):
    """A flat and a nested key that say different things; the nested one stands in the plan."""

    stage: str
    flat_key: str
    flat_value: Any
    nested_key: str
    nested_value: Any

    def __str__(self) -> str:
        return (
            f"{self.stage}: {self.flat_key} = {self.flat_value!r} "
            f"but {self.nested_key} = {self.nested_value!r}"
        )


class Tables(msgspec.Struct, frozen=True, kw_only=True):
    """The tables of the enabled stages, flat keys merged in, and where the two disagree."""

    txt2img: Txt2ImgTable | None
    img2img: Img2ImgTable | None
    upscale: UpscaleTable | None
    adetailer: AdetailerTable | None
    input_image: str | None
    conflicts: tuple[Conflict, ...]


def merge_flat_keys(config: RunDocument) -> Tables:
    """The enabled stages' tables. Raises InvalidStagePlanError for hires without txt2img."""
    return _Merge(config).tables()


class _Merge:
    def __init__(self, config: RunDocument) -> None:
        self._config = config
        self._conflicts: list[Conflict] = []

    def tables(self) -> Tables:
        enabled = {stage: self._enabled(stage) for stage in _STAGES}
        for stage in ("txt2img", "img2img"):
            table = enabled[stage]
            if table is not None:
                table = self._fill(table, _GENERATION, stage, stage)
                enabled[stage] = self._with_part(
                    table, "refiner", RefinerConfig, _REFINER, "refiner_enabled", stage
                )
                break
        self._merge_hires(enabled)
        for stage, keys in (("img2img", {"img2img_denoise": "denoise"}), ("upscale", _UPSCALE)):
            table = enabled[stage]
            if table is not None:
                enabled[stage] = self._fill(table, keys, stage, stage)
        if enabled["adetailer"] is not None:
            enabled["adetailer"] = self._with_first_pass(enabled["adetailer"])
        return Tables(
            **enabled,  # type: ignore[arg-type]  # each stage's table is of its own type
            input_image=self._input_image(),
            conflicts=tuple(self._conflicts),
        )

    def _enabled(self, stage: str) -> Table | None:
        """The stage's table where the stage is enabled; the nested word counts first."""
        table: Table | None = getattr(self._config, stage)
        flat: bool | None = getattr(self._config, f"{stage}_enabled")
        if table is None:
            return _STAGES[stage]() if flat else None
        if flat is not None and flat != table.enabled:
            self._note(stage, f"{stage}_enabled", flat, f"{stage}.enabled", table.enabled)
        return table if table.enabled else None

    def _merge_hires(self, enabled: dict[str, Table | None]) -> None:
        table = enabled["txt2img"]
        if table is not None:
            enabled["txt2img"] = self._with_part(
                table, "hires", HiresConfig, _HIRES, "hires_enabled", "txt2img"
            )
        elif self._config.hires_enabled:
            raise InvalidStagePlanError(
                "hires_enabled = True needs txt2img, which is not enabled", key="hires_enabled"
            )

    def _with_part(
        self,
        table: Table,
        part: str,
        kind: type[Table],
        keys: Mapping[str, str],
        switch: str,
        stage: str,
    ) -> Table:
        """``table`` with its refiner or hires part filled, made or dropped."""
        nested: Table | None = getattr(table, part)
        flat: bool | None = getattr(self._config, switch)
        if nested is None:
            nested = kind() if flat else None
        elif flat is not None and flat != nested.enabled:
            self._note(stage, switch, flat, f"{stage}.{part}.enabled", nested.enabled)
        if nested is not None and not nested.enabled:
            nested = None
        if nested is not None:
            nested = self._fill(nested, keys, stage, f"{stage}.{part}")
        return msgspec.structs.replace(table, **{part: nested})

    def _with_first_pass(self, table: Table) -> Table:
        assert isinstance(table, AdetailerTable)
        given = any(getattr(self._config, key) is not None for key in _ADETAILER)
        passes = table.passes or ((AdetailerPass(),) if given else ())
        if passes:
            first = self._fill(passes[0], _ADETAILER, "adetailer", "adetailer.passes.0")
            passes = (first, *passes[1:])
        return msgspec.structs.replace(table, passes=passes)

    def _input_image(self) -> str | None:
        nested, flat = self._config.input_image, self._config.input_image_path
        if nested is not None and flat is not None and nested != flat:
            self._note("input", "input_image_path", flat, "input_image", nested)
        return nested if nested is not None else flat

    def _fill(self, table: Any, keys: Mapping[str, str], stage: str, path: str) -> Any:
        """``table`` with what only the flat keys say; what both say differently is noted."""
        added: dict[str, Any] = {}
        for flat_key, name in keys.items():
            flat = getattr(self._config, flat_key)
            if flat is None:
                continue
            rivals = (rival for rival in _RIVALS.get(name, ()) if _said(table, rival))
            said = name if _said(table, name) else next(rivals, None)
            if said is None:
                added[name] = flat
            elif getattr(table, name) != flat:
                self._note(stage, flat_key, flat, f"{path}.{said}", getattr(table, said))
        return msgspec.structs.replace(table, **added)

    def _note(self, stage: str, flat_key: str, flat: Any, nested_key: str, nested: Any) -> None:
        self._conflicts.append(
            Conflict(
                stage=stage,
                flat_key=flat_key,
                flat_value=flat,
                nested_key=nested_key,
                nested_value=nested,
            )
        )


def _said(table: Table, name: str) -> bool:
    return getattr(table, name) is not None
