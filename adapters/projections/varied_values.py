"""The varied keys and values of a group as short text, for tables, lines and pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...events.groups.model import SweepAxis
from ...statemachine.variants.axes import axis_keys
from ..text import one_line, setting_text

MOST_KEYS = 12
"""Keys that are shown at most; a log that others wrote may have any number."""
LONGEST_VALUE = 60
_MODEL_SUFFIXES = (".safetensors", ".ckpt", ".pth", ".pt")
_MOST_LOOKED_AT = 4096


def varied_keys(axes: Iterable[SweepAxis]) -> list[str]:
    """The keys that the axes vary, each once, in order; the first ``MOST_KEYS``."""
    return list(dict.fromkeys(key for axis in axes for key in axis_keys(axis)))[:MOST_KEYS]


def varies_seed(axes: Iterable[SweepAxis]) -> bool:
    """Whether each variant has a seed of its own, and the group none."""
    return any("seed" in axis_keys(axis) for axis in axes)


def short_names(keys: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    """The last parts of each key, as many as tell it from the other keys and from ``taken``."""
    names = [_short_name(key, [*(one for one in keys if one != key), *taken]) for key in keys]
    return [_cut(one_line(name)) for name in names]


def value_text(value: Any) -> str:
    """A value in one line; of a long one the middle is left out, for prompts differ at their end.

    It has ``LONGEST_VALUE`` characters at most.
    """
    try:
        text = setting_text(value)
    except RecursionError:
        return "(too deeply nested)"
    if len(text) > _MOST_LOOKED_AT:
        text = f"{text[:LONGEST_VALUE]} {text[-LONGEST_VALUE:]}"
    return _cut(one_line(text))


def varied_text(values: Mapping[str, Any], *, without_suffixes: bool = False) -> str:
    """``cfg_scale 7.0, model b.safetensors``: the varied values of one variant.

    ``without_suffixes`` leaves out how the file of a model ends: ``model b``.
    """
    keys = list(values)[:MOST_KEYS]
    texts = [_without_suffix(values[key]) if without_suffixes else values[key] for key in keys]
    named = zip(short_names(keys), texts, strict=True)
    return ", ".join(f"{name} {value_text(value)}" for name, value in named)


def _without_suffix(value: Any) -> Any:
    for suffix in _MODEL_SUFFIXES if isinstance(value, str) else ():
        value = value.removesuffix(suffix)
    return value


def _short_name(key: str, others: Sequence[str]) -> str:
    parts = key.split(".")
    for first in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[first:])
        if not any(f".{other}".endswith(f".{name}") for other in others):
            return name
    return key


def _cut(text: str) -> str:
    if len(text) <= LONGEST_VALUE:
        return text
    left, right = LONGEST_VALUE // 2, (LONGEST_VALUE - 1) // 2
    return f"{text[:left]}…{text[-right:]}"
