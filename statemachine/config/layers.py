"""Documents in layers: the file that a configuration extends, and profiles, below it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigurationError, FieldError
from .formats import read_document
from .legacy import EXTENDS, without_overridden

_MOST_FILES = 16


class Layer(NamedTuple):
    """A document, and the file or profile that it comes from; "" for one of a program."""

    source: str
    document: Mapping[str, Any]


def read_layers(path: Path) -> list[Layer]:
    """The document in a file, then those that it extends. Raises ConfigurationError."""
    return extend_document(read_document(path), path.parent, source=path)


def extend_document(
    document: Mapping[str, Any], folder: Path, *, source: Path | None = None
) -> list[Layer]:
    """``document``, then the files that it extends, without the key ``extends``.

    The path in ``extends`` is relative to the file that holds it, and to ``folder`` in
    ``document``, which is the content of ``source``. Raises ConfigurationError.
    """
    layers: list[Layer] = []
    seen = [] if source is None else [source]
    while True:
        rest = dict(document)
        named = rest.pop(EXTENDS, None)
        layers.append(Layer(str(seen[-1]) if seen else "", rest))
        if named in (None, ""):
            return layers
        where = f"{seen[-1]}: {EXTENDS}" if seen else EXTENDS
        if not isinstance(named, str):
            raise ConfigurationError(f"{where} must be the path of a file", key=EXTENDS)
        path = (seen[-1].parent if seen else folder) / named
        if any(path.resolve() == one.resolve() for one in seen):
            raise ConfigurationError(f"{where} = {named}: it extends itself", key=EXTENDS)
        if len(seen) > _MOST_FILES:
            raise ConfigurationError(
                f"{where} = {named}: more than {_MOST_FILES} files", key=EXTENDS
            )
        seen.append(path)
        document = read_document(path)


def merge_layers(layers: Sequence[Layer]) -> dict[str, Any]:
    """One document of all layers, of which the first is the uppermost."""
    merged: dict[str, Any] = {}
    for layer in reversed(layers):
        merged = merge_documents(merged, layer.document)
    return merged


def find_source(error: FieldError, layers: Sequence[Layer], overrides: Iterable[str] = ()) -> str:
    """Where the value of an error was set: ``--set`` or the uppermost layer that holds its key."""
    key = error.key or ""
    typed = [f"{override.partition('=')[0].strip()}." for override in overrides]
    if any(f"{key}.".startswith(one) for one in typed):
        return "--set"
    holding = (one.source for one in layers if key and _holds(one.document, key.split(".")))
    made = "--set" if any(one.startswith(f"{key}.") for one in typed) else layers[0].source
    return next(holding, made)


def _holds(document: Any, path: Sequence[str]) -> bool:
    place = document
    for part in path:
        if isinstance(place, list) and part.isdigit() and int(part) < len(place):
            place = place[int(part)]
        elif isinstance(place, Mapping) and part in place:
            place = place[part]
        else:
            return False
    return True


def merge_documents(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """``upper`` above ``lower``: tables are merged, any other value of ``upper`` replaces.

    A flat key of one replaces the nested key of the other that sets the same thing, so that
    this is no conflict.
    """
    return _merged(without_overridden(lower, upper, _merged(lower, upper)), upper)


def _merged(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            value = _merged(below, value)  # noqa: PLW2901 - the same key
        merged[key] = value
    return merged
