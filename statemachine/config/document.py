"""Configurations as documents: changed by overrides, and parsed."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from ..errors import ConfigurationError, field_error
from .legacy import EXTENDS, RunDocument, is_flat_key_used, merge_flat_keys, without_overridden
from .resolution import resolve_stages
from .schema import RunConfig, type_with_stages
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
    # Which stages are enabled decides what a flat key stands for.
    for path, text, override in sorted(parsed, key=lambda one: not one[0][-1].endswith("enabled")):
        value = _parse_value(path, text)
        above: Any = value
        for part in reversed(path):
            above = [above] if part == "0" else {part: above}
        if isinstance(above, dict):
            merged = without_overridden(merged, above, {**merged, **above})
        _set_value(merged, path, value, override)
    return merged


def _split_override(override: str) -> tuple[list[str], str, str]:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigurationError(f"--set {override}: expected KEY=VALUE")
    return [part.strip() for part in key.split(".")], text, override


def _parse_value(path: Sequence[str], text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    # Text with a newline could add further keys; it is taken as text then.
    value = parsed["value"] if len(parsed) == 1 else text
    if isinstance(value, str | list | dict):
        return value
    hint: Any = type_with_stages(RunDocument, path[:1])
    for part in path:
        hint = hint_at(hint, part)
    return text.strip() if hint is not None and is_text(hint) else value


def _set_value(document: Any, path: Sequence[str], value: Any, override: str) -> None:
    place = document
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(place, list):
            if not _is_index(part) or int(part) > len(place):
                raise ConfigurationError(
                    f"--set {override}: {'.'.join(path[:depth])} has {len(place)} entries, "
                    f"counted from 0"
                )
            key: Any = int(part)
            if key == len(place):
                place.append({})
        elif isinstance(place, dict):
            key = part
        else:
            raise ConfigurationError(f"--set {override}: {'.'.join(path[:depth])} must be a table")
        if last:
            place[key] = value
            return
        if isinstance(place, dict) and key not in place:
            place[key] = [] if _is_index(path[depth + 1]) else {}
        place = place[key]


def _is_index(part: str) -> bool:
    return part.isascii() and part.isdigit() and len(part) < 10


def parse_document(
    document: Mapping[str, Any], *, source: Source = "", name: str | None = None
) -> RunConfig:
    """A document as a typed configuration; input images are not looked for yet.

    ``name`` is used where the document has none. Raises InvalidStagePlanError with all errors:
    unknown keys, wrong values, and what the stages lack; ConfigurationError for a document
    that is too large, or nested too deep.
    """
    return _parse(document, RunConfig(name=name), source)


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
        refuse_userinfo(config.server.url)
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
