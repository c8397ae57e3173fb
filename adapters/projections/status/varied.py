"""The varied values of a variant as one short line: ``cfg_scale 7.0, model b``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ...text import one_line
from ..varied_values import short_names

_LONGEST_VALUE = 40
_MODEL_SUFFIXES = (".safetensors", ".ckpt", ".pth", ".pt")


def varied_text(values: Mapping[str, Any]) -> str:
    """The values by key; of each key only the last parts that tell it apart from the others."""
    names = map(one_line, short_names(list(values)))
    texts = map(_value_text, values.values())
    return ", ".join(f"{name} {text}" for name, text in zip(names, texts, strict=True))


def _value_text(value: Any) -> str:
    text = value if isinstance(value, str) else _json(value)
    for suffix in _MODEL_SUFFIXES:
        text = text.removesuffix(suffix)
    return _shortened(one_line(text[: 100 * _LONGEST_VALUE]))


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode(errors="replace")


def _shortened(text: str) -> str:
    """The text, without its middle where it is long: prompts often differ at their ends."""
    if len(text) <= _LONGEST_VALUE:
        return text
    half = (_LONGEST_VALUE - 3) // 2
    return f"{text[:half].rstrip()}...{text[-half:].lstrip()}"
