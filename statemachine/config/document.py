"""Configurations as documents: changed by overrides, and parsed."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from ..errors import ConfigurationError, field_error
from .legacy import EXTENDS, RunDocument, is_flat_key_used, merge_flat_keys, without_overridden
from .resolution import resolve_stages
from .schema import SWEEP, RunConfig, type_with_stages
from .validation import (
    Source,
    as_error,
    check_document,
    copy_document,
    hint_at,
    is_text,
    refuse_userinfo,
)


def apply_overrides(document: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of ``document`` with every ``KEY=VALUE`` set; KEY is a dotted path.

    VALUE is a TOML value, or else the text itself, as it always is for a key that holds text
    unless it is in quotes. A flat key replaces the nested one that it stands for, and the other
    way round. Raises ConfigurationError.
    """
    merged = copy_document(document, "")
    parsed = [_split_override(override) for override in overrides]
    for key, text, override in sorted(parsed, key=lambda one: _set_first(one[0])):
        try:
            merged = _with_key(merged, key, parse_value(key, text))
        except ValueError as error:
            raise ConfigurationError(f"--set {override}: {error}") from error
    return merged


def set_values(
    document: Mapping[str, Any], values: Mapping[str, Any], source: Source = ""
) -> dict[str, Any]:
    """``document`` with each of ``values`` set at its dotted key, as ``apply_overrides`` does.

    What does not change is shared with it. Raises InvalidStagePlanError.
    """
    changed, errors = dict(document), []
    for key in sorted(values, key=_set_first):
        try:
            changed = _with_key(changed, key, values[key])
        except ValueError as error:
            errors.append(field_error(key, f"cannot be set: {error}"))
    if errors:
        raise as_error(errors, source)
    return changed


def without_sweep(document: Mapping[str, Any]) -> dict[str, Any]:
    """What a run records of a configuration with a sweep."""
    return {key: value for key, value in document.items() if key != SWEEP}


def refuse_sweep(table: object) -> None:
    """Raise ConfigurationError for a configuration of one run that has a sweep."""
    if table is not None:
        raise ConfigurationError(
            "a configuration with [sweep] makes a group of runs: start it with start_group, "
            "or remove the table",
            key=SWEEP,
        )


def _split_override(override: str) -> tuple[str, str, str]:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigurationError(f"--set {override}: expected KEY=VALUE")
    return ".".join(part.strip() for part in key.split(".")), text, override


def parse_value(key: str, text: str) -> Any:
    """The value that ``text`` is for the key at this dotted path."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    # Text with a newline could add further keys; it is taken as text then.
    value = parsed["value"] if len(parsed) == 1 else text
    if isinstance(value, str | list | dict):
        return value
    path = key.split(".")
    hint: Any = type_with_stages(RunDocument, path[:1])
    for part in path:
        hint = hint_at(hint, part)
    return text.strip() if hint is not None and is_text(hint) else value


def _set_first(key: str) -> bool:
    """A sort key: which stages are enabled decides what a flat key stands for."""
    return not key.rpartition(".")[2].endswith("enabled")


def _with_key(document: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """``document`` with a value at a dotted key. Raises ValueError, which says what hinders it."""
    path = key.split(".")
    above: Any = value
    for part in reversed(path):
        above = [above] if part == "0" else {part: above}
    if isinstance(above, dict):
        document = without_overridden(document, above, {**document, **above})
    changed: dict[str, Any] = _with_value(document, path, 0, value)
    return changed


def _with_value(place: Any, path: Sequence[str], depth: int, value: Any) -> Any:
    """A copy of the table or list at ``path[:depth]``, with the value at the whole path."""
    if depth == len(path):
        return value
    part = path[depth]
    if isinstance(place, list):
        if not _is_index(part) or int(part) > len(place):
            where = ".".join(path[:depth])
            raise ValueError(f"{where} has {len(place)} entries, counted from 0")
        entries = [*place, *([{}] if int(part) == len(place) else [])]
        entries[int(part)] = _with_value(entries[int(part)], path, depth + 1, value)
        return entries
    if not isinstance(place, dict):
        raise ValueError(f"{'.'.join(path[:depth])} must be a table")  # noqa: TRY004 - of a user
    below: Any = [] if depth + 1 < len(path) and _is_index(path[depth + 1]) else {}
    return {**place, part: _with_value(place.get(part, below), path, depth + 1, value)}


def _is_index(part: str) -> bool:
    return part.isascii() and part.isdigit() and len(part) < 10


def parse_document(
    document: Mapping[str, Any],
    *,
    source: Source = "",
    name: str | None = None,
    found: Mapping[str, Any] = {},
) -> RunConfig:
    """A document as a typed configuration; input images are not looked for yet.

    ``name`` is used where the document has none; ``found`` are values of the fields that are no
    keys, where images were found before. Raises InvalidStagePlanError with all errors:
    unknown keys, wrong values, and what the stages lack; ConfigurationError for a document
    that is too large, or nested too deep.
    """
    return _parse(document, RunConfig(**{**found, "name": name}), source)


def check_config(config: RunConfig) -> RunConfig:
    """``config`` with values of the types that its fields state, and no disabled tables.

    Python does not check the types of fields. A whole number becomes a fraction where the
    field is one, so that equal requests have equal digests. Raises InvalidStagePlanError.
    """
    return msgspec.structs.replace(
        _parse(config.document(), config),
        conflicts=config.conflicts,
        as_given=config.as_given,
    )


def _parse(document: Mapping[str, Any], above: RunConfig, source: Source = "") -> RunConfig:
    """A document with the name and the input images of ``above``."""
    given = copy_document(document, source if isinstance(source, str) else "")
    checked = check_document(given, type_with_stages(RunDocument, given))
    merged = merge_flat_keys(checked.document)
    errors = [one for one in checked.errors if is_flat_key_used(one.key, merged.document)]
    if merged.document.pop(EXTENDS, None) is not None:
        errors.append(field_error(EXTENDS, "can only be in a file, not in a profile or --set"))
    try:
        config = msgspec.convert(merged.document, type_with_stages(RunConfig))
    except msgspec.ValidationError as error:
        words, _, path = str(error).partition(" - at `$.")
        last = field_error(path.rstrip("`"), f"cannot be used: {words}")
        raise as_error(errors or [last], source) from error
    config = msgspec.structs.replace(
        config,
        **{**above.found, "conflicts": merged.conflicts, "as_given": given},
        name=config.name or above.name,
    )
    errors += merged.errors
    try:
        for url in config.server.urls:
            refuse_userinfo(url)
    except ConfigurationError as error:
        errors += error.errors
    errors += resolve_stages(config).errors
    if errors:
        raise as_error(errors, source)
    return config


def document_to_record(config: RunConfig) -> Mapping[str, Any]:
    """The document that ``config`` was parsed from, or its keys if a program has changed them."""
    document = config.document()
    if config.as_given:
        parsed = _parse(config.as_given, config)
        if parsed.document() == document:
            return config.as_given
    return document
