"""The varied values of a variant as one short line: ``cfg_scale 7.0, model b``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from ...text import one_line

_LONGEST_VALUE = 40
_MODEL_SUFFIXES = (".safetensors", ".ckpt", ".pth", ".pt")


def varied_text(values: Mapping[str, Any]) -> str:
    """The values by key; of each key only the last parts that tell it apart from the others."""
    names = short_keys(values)
    return ", ".join(f"{names[key]} {_value_text(value)}" for key, value in values.items())


def short_keys(keys: Iterable[str]) -> dict[str, str]:
    """Each dotted key with the fewest of its last parts that no other key ends with."""
    parts = {key: key.split(".") for key in keys}
    return {key: _shortest(key, own, parts) for key, own in parts.items()}


def _shortest(key: str, own: list[str], parts: Mapping[str, list[str]]) -> str:
    others = [other for name, other in parts.items() if name != key]
    for size in range(1, len(own)):
        if all(other[-size:] != own[-size:] for other in others):
            return one_line(".".join(own[-size:]))
    return one_line(key)


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
