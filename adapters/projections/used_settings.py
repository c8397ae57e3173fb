"""Reads the used settings that a backend reports, and compares them with the requested ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from typing import Any

import msgspec

from ..backends.registry import WEBUI, find_kind
from ..backends.webui.spellings import (
    NO_VAE,
    SAME_AS_THE_STAGE,
    loosely,
    same_name,
    same_sampler,
    vae_stem,
)
from .flat_values import flattened

MAX_SETTINGS = 1_000
_BETWEEN_WORDS = re.compile(r"[\s_-]+")
_MAX_VALUE = 2_000
_DEEPEST = 6
"""Our configurations nest three tables; deeper values are kept whole."""
_MODELS = ("model", "vae", "checkpoint")
_NAMES = ("scheduler", "upscaler", "upscaler_2", "merge", "mask_filter")
_ALL_NAMES = (*_MODELS, "sampler", *_NAMES)


def settings_asked(config: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's configuration with a dotted key for each value, ``passes.0.model``.

    A refiner or hires table that is switched off is left out. For foreign logs the number of
    values is limited to ``MAX_SETTINGS``, and their dotted keys to 200 characters.
    """
    flat = dict(islice(flattened(config, deepest=_DEEPEST), 10 * MAX_SETTINGS))
    off = tuple(
        key.removesuffix("enabled")
        for key, value in flat.items()
        if key.endswith(".enabled") and value is False
    )
    asked = (
        (key, _bounded(value))
        for key, value in flat.items()
        if key.rpartition(".")[2] != "enabled" and value is not None and not key.startswith(off)
    )
    return dict(islice(asked, MAX_SETTINGS))


def settings_used(stage_type: str, info: Mapping[str, Any], kind: str = WEBUI) -> dict[str, Any]:
    """The settings that an answer's ``info`` reports, under the keys of ``settings_asked``.

    ``kind`` is that of the backend that gave the answer; one that is not installed is read as a
    WebUI's. What it does not tell is not there. Values are numbers, booleans and text, lists as
    JSON, bounded in length; a foreign log's ``info`` may hold anything.
    """
    backend = find_kind(kind) or find_kind(WEBUI)
    assert backend is not None
    used = backend.settings_used(stage_type, info)
    return {key: _bounded(value) for key, value in islice(used.items(), MAX_SETTINGS)}


def agree(key: str, asked: Any, used: Any, *, scheduler: Any = None, schedule: Any = None) -> bool:
    """Whether a used value fits the requested one, in any notation of a backend.

    A value that was left to the backend, such as ``Automatic``, fits any. For a sampler,
    ``scheduler`` was requested and the backend reports ``schedule``.
    """
    last = key.rpartition(".")[2]
    if _left_to_the_backend(last, asked):
        return True
    if last in _MODELS:
        return loosely(vae_stem(asked)) == loosely(vae_stem(used))
    if last == "sampler":
        return same_sampler(str(asked), str(scheduler or ""), str(used), schedule)
    if last.startswith("upscaler"):  # "4x" and "4x+" are different
        one, other = (_BETWEEN_WORDS.sub("", str(name)).casefold() for name in (asked, used))
        return one == other
    if last in _NAMES:
        return same_name(str(asked), str(used))
    return _same_value(asked, used)


def _left_to_the_backend(name: str, asked: Any) -> bool:
    """Whether the value leaves the choice to the backend; an empty name does so as well."""
    if name == "vae" and str(asked) in NO_VAE:
        return True
    return name in _ALL_NAMES and (str(asked) in SAME_AS_THE_STAGE or not str(asked).strip())


def _same_value(asked: Any, used: Any) -> bool:
    if isinstance(asked, bool) or isinstance(used, bool):
        return str(asked).casefold() == str(used).casefold()
    try:
        return abs(float(asked) - float(used)) <= 1e-6 * max(1.0, abs(float(asked)))
    except (TypeError, ValueError, OverflowError):
        return str(asked).strip() == str(used).strip()


def _bounded(value: Any) -> bool | int | float | str:
    if isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text[:_MAX_VALUE]
