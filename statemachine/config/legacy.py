"""The flat keys of older tools: which nested keys they stand for, and how they are merged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cache
from typing import Annotated, Any, NamedTuple, get_args

import msgspec

from ..errors import FieldError, field_error
from ..stages.constraints import Factor, Fraction, InnerFraction, NonNegative, Size, Steps
from ..stages.registry import stage_types
from ..stages.stage import StageConfig, Table
from .schema import Conflict, RunTables

EXTENDS = "extends"

_RIVALS = {"scale": ("resize_x", "resize_y"), "factor": ("width", "height")}
"""Nested keys that set the same thing as another one in a different way."""


def _for(path: str) -> msgspec.Meta:
    """Marks a flat key: it stands for the nested key at ``path``.

    ``generation`` in a path is the first enabled generation stage.
    """
    return msgspec.Meta(extra={"path": path})


class RunDocument(
    RunTables, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """A configuration as it is written: nested tables, and the flat keys of older tools.

    Flat keys are merged in this order: which tables are enabled decides where values go.
    ``extends`` is the path of a file whose values are used where this document has none.
    """

    extends: str | None = None
    txt2img_enabled: Annotated[bool | None, _for("txt2img.enabled")] = None
    img2img_enabled: Annotated[bool | None, _for("img2img.enabled")] = None
    upscale_enabled: Annotated[bool | None, _for("upscale.enabled")] = None
    adetailer_enabled: Annotated[bool | None, _for("adetailer.enabled")] = None
    refiner_enabled: Annotated[bool | None, _for("generation.refiner.enabled")] = None
    hires_enabled: Annotated[bool | None, _for("txt2img.hires.enabled")] = None
    model_name: Annotated[str | None, _for("generation.model")] = None
    sampler: Annotated[str | None, _for("generation.sampler")] = None
    scheduler_name: Annotated[str | None, _for("generation.scheduler")] = None
    steps: Annotated[Steps | None, _for("generation.steps")] = None
    cfg_scale: Annotated[NonNegative | None, _for("generation.cfg_scale")] = None
    width: Annotated[Size | None, _for("generation.width")] = None
    height: Annotated[Size | None, _for("generation.height")] = None
    refiner_model_name: Annotated[str | None, _for("generation.refiner.model")] = None
    refiner_switch_at: Annotated[InnerFraction | None, _for("generation.refiner.switch_at")] = None
    hires_upscale_factor: Annotated[Factor | None, _for("txt2img.hires.scale")] = None
    hires_upscaler_name: Annotated[str | None, _for("txt2img.hires.upscaler")] = None
    hires_steps: Annotated[Steps | None, _for("txt2img.hires.steps")] = None
    hires_denoise: Annotated[Fraction | None, _for("txt2img.hires.denoise")] = None
    img2img_denoise: Annotated[Fraction | None, _for("img2img.denoise")] = None
    upscale_model: Annotated[str | None, _for("upscale.upscaler")] = None
    upscale_factor: Annotated[Factor | None, _for("upscale.factor")] = None
    adetailer_model: Annotated[str | None, _for("adetailer.passes.0.model")] = None
    adetailer_strength: Annotated[Fraction | None, _for("adetailer.passes.0.denoise")] = None
    input_image_path: Annotated[str | None, _for("input_image")] = None


@cache
def _paths() -> Mapping[str, str]:
    """The path of the nested key that each flat key stands for."""
    return {
        field.name: mark.extra["path"]
        for field in msgspec.structs.fields(RunDocument)
        for mark in getattr(field.type, "__metadata__", ())
        if isinstance(mark, msgspec.Meta) and mark.extra
    }


class Merged(NamedTuple):
    """A document with nested keys alone, where flat and nested keys differ, what is wrong."""

    document: dict[str, Any]
    conflicts: tuple[Conflict, ...]
    errors: tuple[FieldError, ...]


def merge_flat_keys(document: Mapping[str, Any]) -> Merged:
    """A checked ``document`` with each flat value in its nested key.

    The nested key of a conflict is kept. Disabled tables are left out: nothing in them is used.
    Hires without txt2img is an error.
    """
    paths = _paths()
    nested = {key: value for key, value in document.items() if key not in paths}
    merged = nested | {name: deepcopy(nested[name]) for name in stage_types() if name in nested}
    for _, _, table in _tables(merged):
        table.setdefault("enabled", True)
    conflicts, errors = [], []
    for key, path in paths.items():
        if (flat := document.get(key)) is None:
            continue
        *tables, name = _resolved_path(path, merged)
        if key == "hires_enabled" and flat and not _is_enabled(merged.get(tables[0])):
            errors.append(field_error(key, f"needs {tables[0]}, which is not enabled", flat))
        elif conflict := _merge(merged, tables, name, key, flat):
            conflicts.append(conflict)
    for owner, name, table in list(_tables(merged)):
        if table["enabled"] is False:
            del owner[name]
    return Merged(merged, tuple(conflicts), tuple(errors))


def is_flat_key_used(key: str | None, merged: Mapping[str, Any]) -> bool:
    """Whether a flat key's table is enabled in a merged document; also true of any other key."""
    path = _paths().get(key or "")
    if path is None or path.endswith("enabled"):
        return True
    tables = [part for part in _resolved_path(path, merged)[:-1] if part not in ("passes", "0")]
    return _existing_table(merged, tables) is not None


def without_overridden(
    lower: Mapping[str, Any], upper: Mapping[str, Any], both: Mapping[str, Any]
) -> dict[str, Any]:
    """``lower`` without what a key of the other form in ``upper`` sets; ``both`` are merged.

    What it holds may be shared with ``lower``.
    """
    if (lower.keys() | upper.keys()).isdisjoint({*_paths(), "prompts"}):
        return dict(lower)
    left = deepcopy(dict(lower))
    for key, path in _paths().items():
        *tables, name = _resolved_path(path, both)
        names = (name, *_RIVALS.get(name, ()))
        if key in upper and (table := _existing_table(left, tables)) is not None:
            for one in names:
                table.pop(one, None)
        above = _existing_table(upper, tables)
        if key in left and above is not None and any(one in above for one in names):
            del left[key]
    for key, rival in (("prompts", "prompt"), ("prompt", "prompts")):
        rows = upper.get("prompts", lower.get("prompts"))
        if key in upper and rival not in upper and not _lacks_prompt(rows):
            left.pop(rival, None)
    return left


def nested_key(key: str, document: Mapping[str, Any]) -> str:
    """The key itself, or the nested one that a flat key stands for in ``document``."""
    path = _paths().get(key)
    return key if path is None else ".".join(_resolved_path(path, document))


def _lacks_prompt(rows: Any) -> bool:
    """Whether a row of ``prompts`` takes its prompt from the top level."""
    tables = (one for one in rows if isinstance(one, dict)) if isinstance(rows, list) else ()
    return any("prompt" not in one for one in tables)


def _resolved_path(path: str, document: Mapping[str, Any]) -> list[str]:
    """The path of a nested key, with the first enabled generation stage in it."""
    generating = [name for name, kind in stage_types().items() if kind.generates]
    enabled = [
        name
        for name in generating
        if (_is_enabled(document[name]) if name in document else document.get(f"{name}_enabled"))
    ]
    return path.replace("generation", (enabled or generating)[0]).split(".")


def _existing_table(document: Any, path: Sequence[str]) -> Any:
    """The table at a path, enabled or not; None where there is none."""
    place = document
    for part in path:
        if isinstance(place, list):
            place = place[0] if place else None
        else:
            place = place.get(part) if isinstance(place, dict) else None
    return place if isinstance(place, dict) else None


def _tables(document: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, dict[str, Any]]]:
    """Every table that can be switched off, after the table that it is in and its name there."""
    for stage, kind in stage_types().items():
        table = document.get(stage)
        if isinstance(table, dict):
            yield document, stage, table
            for name, part in list(table.items()):
                if isinstance(part, dict) and name in _parts_of(kind):
                    yield table, name, part


@cache
def _parts_of(kind: type[StageConfig]) -> frozenset[str]:
    """The names of the tables within a stage's table that can be switched off."""
    return frozenset(
        field.name
        for field in msgspec.structs.fields(kind)
        for one in get_args(field.type)
        if isinstance(one, type) and issubclass(one, Table)
    )


def _merge(
    merged: dict[str, Any], tables: Sequence[str], name: str, key: str, flat: Any
) -> Conflict | None:
    """Set a flat value where its nested key is not set; or say that the two differ."""
    table = _find_table(merged, tables, is_switch=name == "enabled")
    if table is None:
        return None
    stated = [one for one in (name, *_RIVALS.get(name, ())) if table.get(one) is not None]
    if not stated:
        table[name] = flat
    elif table.get(name) != flat:
        return Conflict(
            stage=tables[0] if tables else "input",
            flat_key=key,
            flat_value=flat,
            nested_key=".".join([*tables, stated[0]]),
            nested_value=table[stated[0]],
        )
    return None


def _find_table(
    merged: dict[str, Any], tables: Sequence[str], *, is_switch: bool
) -> dict[str, Any] | None:
    """The table at a path, if it is enabled; for a switch, a new one where there is none."""
    place: Any = merged
    for depth, part in enumerate(tables):
        if part.isdigit():
            place = place[0] if isinstance(place, list) and place else None
        elif not _is_enabled(place):
            return None
        else:
            if part == "passes" and not place.get(part):
                place[part] = [{}]
            if is_switch and depth == len(tables) - 1 and place.get(part) is None:
                place[part] = {}
            place = place.get(part)
    return place if isinstance(place, dict) and (is_switch or _is_enabled(place)) else None


def _is_enabled(table: Any) -> bool:
    return isinstance(table, dict) and table.get("enabled") is not False
