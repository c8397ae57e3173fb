"""Documents in layers: the file that a configuration extends, and profiles, below it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError
from .document import read_document
from .legacy import without_overridden

EXTENDS = "extends"
_MOST_FILES = 16


def read_layers(path: Path) -> dict[str, Any]:
    """The document in a file, above the files that it extends. Raises ConfigurationError."""
    return extend_document(read_document(path), path.parent, source=path)


def extend_document(
    document: Mapping[str, Any], folder: Path, *, source: Path | None = None
) -> dict[str, Any]:
    """``document`` above the files that it extends, without the key ``extends``.

    The path in ``extends`` is relative to the file that holds it, and to ``folder`` in
    ``document``, which is the content of ``source``. Raises ConfigurationError.
    """
    merged = dict(document)
    seen = [] if source is None else [source]
    while (named := merged.pop(EXTENDS, None)) is not None:
        where = seen[-1] if seen else "configuration"
        if not isinstance(named, str) or not named:
            raise ConfigurationError(f"{where}: extends must be the path of a file", key=EXTENDS)
        path = (seen[-1].parent if seen else folder) / named
        if any(path.resolve() == one.resolve() for one in seen):
            raise ConfigurationError(f"{where}: extends = {named}: it extends itself", key=EXTENDS)
        if len(seen) > _MOST_FILES:
            raise ConfigurationError(
                f"{where}: extends = {named}: more than {_MOST_FILES} files", key=EXTENDS
            )
        seen.append(path)
        merged = merge_documents(read_document(path), merged)
    return merged


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
