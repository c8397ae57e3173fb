"""The flat keys of older tools: which nested keys they stand for, and how they are merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache
from typing import Annotated, Any

import msgspec

from ..errors import InvalidStagePlanError
from .schema import Conflict, RunTables
from .stage_configs import Factor, Fraction, InnerFraction, Size, Steps

_STAGES = ("txt2img", "img2img", "upscale", "adetailer")
_GENERATION = "generation"
"""In a path: the first enabled generation stage."""
_RIVALS = {"scale": ("resize_x", "resize_y"), "factor": ("width", "height")}
"""Nested keys that set the same thing as another one in a different way."""


def _for(path: str) -> msgspec.Meta:
    """Marks a flat key: it stands for the nested key at ``path``."""
    return msgspec.Meta(extra={"path": path})


class RunDocument(
    RunTables, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """A configuration as it is written: nested tables, and the flat keys of older tools."""

    txt2img_enabled: Annotated[bool | None, _for("txt2img.enabled")] = None
    img2img_enabled: Annotated[bool | None, _for("img2img.enabled")] = None
    upscale_enabled: Annotated[bool | None, _for("upscale.enabled")] = None
    adetailer_enabled: Annotated[bool | None, _for("adetailer.enabled")] = None
    model_name: Annotated[str | None, _for("generation.model")] = None
    sampler: Annotated[str | None, _for("generation.sampler")] = None
    scheduler_name: Annotated[str | None, _for("generation.scheduler")] = None
    steps: Annotated[Steps | None, _for("generation.steps")] = None
    cfg_scale: Annotated[float | None, _for("generation.cfg_scale")] = None
    width: Annotated[Size | None, _for("generation.width")] = None
    height: Annotated[Size | None, _for("generation.height")] = None
    img2img_denoise: Annotated[Fraction | None, _for("img2img.denoise")] = None
    input_image_path: Annotated[str | None, _for("input_image")] = None
    refiner_enabled: Annotated[bool | None, _for("generation.refiner.enabled")] = None
    refiner_model_name: Annotated[str | None, _for("generation.refiner.model")] = None
    refiner_switch_at: Annotated[InnerFraction | None, _for("generation.refiner.switch_at")] = None
    hires_enabled: Annotated[bool | None, _for("txt2img.hires.enabled")] = None
    hires_upscale_factor: Annotated[Factor | None, _for("txt2img.hires.scale")] = None
    hires_upscaler_name: Annotated[str | None, _for("txt2img.hires.upscaler")] = None
    hires_steps: Annotated[Steps | None, _for("txt2img.hires.steps")] = None
    hires_denoise: Annotated[Fraction | None, _for("txt2img.hires.denoise")] = None
    upscale_model: Annotated[str | None, _for("upscale.upscaler")] = None
    upscale_factor: Annotated[Factor | None, _for("upscale.factor")] = None
    adetailer_model: Annotated[str | None, _for("adetailer.passes.0.model")] = None
    adetailer_strength: Annotated[Fraction | None, _for("adetailer.passes.0.denoise")] = None


@cache
def _paths() -> Mapping[str, Sequence[str]]:
    """The path of the nested key that each flat key stands for."""
    found = {}
    for field in msgspec.structs.fields(RunDocument):
        for mark in getattr(field.type, "__metadata__", ()):
            if isinstance(mark, msgspec.Meta) and mark.extra:
                found[field.name] = str(mark.extra["path"]).split(".")
    return found


def merge_flat_keys(document: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[Conflict, ...]]:
    """``document`` with nested keys alone, and where a flat and a nested key differ.

    A nested key goes before a flat one. Tables that are switched off are left out: nothing in
    them is used, so that nothing in them is checked. Raises InvalidStagePlanError for hires
    without txt2img.
    """
    merge = _Merge(document)
    merge.run()
    return merge.merged, tuple(merge.conflicts)


class _Merge:
    """Takes any document: a value of a wrong type stays as it is, to be refused later."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        paths = _paths()
        self.merged: dict[str, Any] = {
            key: deepcopy(value) if key in _STAGES else value
            for key, value in document.items()
            if key not in paths
        }
        self.conflicts: list[Conflict] = []
        self._flat = {key: document[key] for key in paths if document.get(key) is not None}

    def run(self) -> None:
        paths = {key: path for key, path in _paths().items() if key in self._flat}
        switches = {key: path for key, path in paths.items() if path[-1] == "enabled"}
        # Whether a stage is on decides to which stage other keys belong.
        for key, path in switches.items():
            if len(path) == 2:
                self._merge_switch(key, path)
        _drop_disabled(self.merged, _STAGES)
        for key, path in switches.items():
            if len(path) > 2:
                self._merge_switch(key, path)
        for stage in _STAGES:
            if (table := self._table([stage])) is not None:
                _drop_disabled(table, ("refiner", "hires"))
        if self._flat.keys() & {"adetailer_model", "adetailer_strength"}:
            self._add_first_pass()
        for key, path in paths.items():
            if key not in switches:
                self._merge_value(key, path)

    def _merge_switch(self, key: str, path: Sequence[str]) -> None:
        owner, name, flat = self._table(path[:-2]), path[-2], self._flat[key]
        if owner is None:
            if key == "hires_enabled" and flat:
                raise InvalidStagePlanError(
                    f"{key} = {flat} needs txt2img, which is not enabled", key=key
                )
        elif owner.get(name) is None:
            if flat is not False:
                owner[name] = {"enabled": flat}
        elif isinstance(owner[name], dict):
            nested = owner[name].get("enabled", True)
            if nested != flat:
                self._note(key, path, nested)

    def _add_first_pass(self) -> None:
        table = self._table(["adetailer"])
        if table is not None and not table.get("passes"):
            table["passes"] = [{}]

    def _merge_value(self, key: str, path: Sequence[str]) -> None:
        table, name, flat = self._table(path[:-1]), path[-1], self._flat[key]
        if table is None:
            return
        names = (name, *_RIVALS.get(name, ()))
        stated = next((one for one in names if table.get(one) is not None), None)
        if stated is None:
            table[name] = flat
        elif table.get(name) != flat:
            self._note(key, [*path[:-1], stated], table[stated])

    def _table(self, path: Sequence[str]) -> dict[str, Any] | None:
        """The table at ``path``, or None where there is none."""
        place: Any = self.merged
        for part in self._resolved(path):
            if isinstance(place, list):
                place = place[0] if part == "0" and place else None
            else:
                place = place.get(part) if isinstance(place, dict) else None
        return place if isinstance(place, dict) else None

    def _resolved(self, path: Sequence[str]) -> Sequence[str]:
        """``path`` with the name of the first enabled generation stage in it."""
        if path and path[0] == _GENERATION:
            stage = "txt2img" if self.merged.get("txt2img") is not None else "img2img"
            return [stage, *path[1:]]
        return path

    def _note(self, key: str, path: Sequence[str], nested: Any) -> None:
        path = self._resolved(path)
        self.conflicts.append(
            Conflict(
                stage=path[0] if len(path) > 1 else "input",
                flat_key=key,
                flat_value=self._flat[key],
                nested_key=".".join(path),
                nested_value=nested,
            )
        )


def _drop_disabled(table: dict[str, Any], names: Sequence[str]) -> None:
    for name in names:
        part = table.get(name)
        if isinstance(part, dict) and part.get("enabled") is False:
            del table[name]
