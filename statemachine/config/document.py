"""Configurations as documents: read from TOML, JSON or YAML, changed by overrides, parsed."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..errors import ConfigurationError, InvalidStagePlanError
from .legacy import RunDocument, merge_flat_keys
from .schema import RunConfig, type_with_stages
from .validation import check_keys, convert_document, join_key

MAX_BYTES = 1024 * 1024
MAX_VALUES = 100_000
MAX_DEPTH = 64
SUFFIXES = (".toml", ".json", ".yaml", ".yml")

# The parsers behind YAML and TOML overflow the stack, or take minutes, on a few kinds of text
# well below MAX_BYTES; no configuration comes near these counts.
_MAX_BRACKETS = 5000
_MAX_MERGED = 8
_MAX_DOTS = 500
_DEEP_BLOCK = re.compile(r"(?:[-?:][ \t]+){64}")
_TAG = re.compile(r"(?:^|[\s\[{,])!")
# PyYAML's constructors also raise a KeyError for !!bool, an AttributeError for !!timestamp.
_DECODE_ERRORS = (ValueError, LookupError, AttributeError, TypeError, ArithmeticError)


def read_document(path: Path) -> dict[str, Any]:
    """The document in a file, whose suffix says the format. Raises ConfigurationError."""
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigurationError(f"{path}: a configuration ends in {', '.join(SUFFIXES)}")
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise ConfigurationError(f"{path}: larger than {MAX_BYTES} bytes")
    try:
        document = _decode(data, path.suffix.lower())
    except RecursionError as error:
        raise ConfigurationError(f"{path}: nested too deep") from error
    except _DECODE_ERRORS as error:
        language = {".toml": "TOML", ".json": "JSON"}.get(path.suffix.lower(), "YAML")
        raise ConfigurationError(f"{path}: not valid {language}: {_one_line(error)}") from error
    if not isinstance(document, dict):
        raise ConfigurationError(f"{path}: not a table of keys and values")
    return _checked_copy(document, str(path))


def _decode(data: bytes, suffix: str) -> Any:
    text = data.decode("utf-8-sig")
    if suffix == ".json":
        return json.loads(text)
    if suffix == ".toml":
        if any(line.count(".") > _MAX_DOTS for line in text.split("\n")):
            raise ValueError(f"a line has more than {_MAX_DOTS} dots")
        return tomllib.loads(text)
    if text.count("[") + text.count("{") > _MAX_BRACKETS or _DEEP_BLOCK.search(text):
        raise ValueError(f"nested too deep, or more than {_MAX_BRACKETS} brackets")
    # Merged aliases multiply while PyYAML reads them; a tag may be a merge in disguise.
    if ("<<" in text or _TAG.search(text)) and text.count("*") > _MAX_MERGED:
        raise ValueError(f"more than {_MAX_MERGED} aliases beside a merge key or a tag")
    return msgspec.yaml.decode(text)


def _one_line(error: BaseException) -> str:
    """The error's message, with its kind where the message alone would be a key or nothing."""
    words = " ".join(str(error).split())
    return words if isinstance(error, ValueError) and words else f"{type(error).__name__}: {words}"


def apply_overrides(document: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of ``document`` with every ``KEY=VALUE`` set; KEY is a dotted path.

    VALUE is a TOML value, or else the text itself. Raises ConfigurationError.
    """
    merged = _checked_copy(document, "configuration")
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ConfigurationError(f"--set {override}: expected KEY=VALUE")
        _set_value(merged, [part.strip() for part in key.split(".")], _toml_value(text), override)
    return merged


def _checked_copy(document: Mapping[Any, Any], source: str) -> dict[str, Any]:
    """A copy of ``document``, with lists for tuples, that can be encoded as JSON.

    Raises ConfigurationError for what cannot be: too many values (aliases of YAML count each
    time), too deep, a key that is not a string, text that is not Unicode, a number of more
    than 64 bits, bytes, a set.
    """
    budget = MAX_VALUES

    def copy(value: Any, path: str, depth: int) -> Any:
        nonlocal budget
        budget -= 1
        if budget < 0 or depth > MAX_DEPTH:
            what = f"more than {MAX_VALUES} values" if budget < 0 else "nested too deep"
            raise ConfigurationError(f"{source}: {what}")
        if isinstance(value, Mapping):
            copied = {}
            for key, part in value.items():
                where = join_key(path, key)
                if not isinstance(key, str):
                    raise ConfigurationError(f"{source}: the key {where} is not a string")
                _check_value(key, where, source)
                copied[key] = copy(part, where, depth + 1)
            return copied
        if isinstance(value, list | tuple):
            return [copy(part, f"{path}.{place}", depth + 1) for place, part in enumerate(value)]
        _check_value(value, path, source)
        return value

    copied: dict[str, Any] = copy(document, "", 0)
    return copied


def _check_value(value: object, where: str, source: str) -> None:
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise ConfigurationError(f"{source}: {where} is a number of more than 64 bits", key=where)
    if isinstance(value, bytes | bytearray | set | frozenset):
        kind = type(value).__name__
        raise ConfigurationError(
            f"{source}: {where} is {kind}, which a configuration cannot hold", key=where
        )
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ConfigurationError(
                f"{source}: {where} must be Unicode text", key=where
            ) from error


def _toml_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    # Text with a newline could add further keys; it is taken as text then.
    return parsed["value"] if len(parsed) == 1 else text


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
    document: Mapping[str, Any], *, source: str = "configuration", name: str | None = None
) -> RunConfig:
    """A document as a typed configuration; input images are not looked for yet.

    ``name`` is used where the document has none. Raises ConfigurationError for an unknown key
    (naming the nearest known one) or a wrong type, InvalidStagePlanError for a value out of
    bounds; both name the key.
    """
    given = _checked_copy(document, source)
    check_keys(given, type_with_stages(RunDocument, given), source)
    merged, conflicts = merge_flat_keys(given)
    config = convert_document(merged, type_with_stages(RunConfig), source)
    if config.name is None:
        config = msgspec.structs.replace(config, name=name)
    return msgspec.structs.replace(config, conflicts=conflicts, as_given=given)


def check_config(config: RunConfig) -> RunConfig:
    """``config`` with values of the types that its fields state, and no disabled tables.

    Python does not check the types of fields. A whole number becomes a fraction where the
    field is one, so that equal requests have equal digests. Raises InvalidStagePlanError.
    """
    try:
        checked = parse_document(config.document())
    except ConfigurationError as error:
        raise InvalidStagePlanError(str(error), key=error.key) from error
    return msgspec.structs.replace(checked, **config.found)


def document_to_record(config: RunConfig) -> Mapping[str, Any]:
    """The document that ``config`` was parsed from, or its keys if a program has changed them."""
    document = config.document()
    if config.as_given:
        parsed = parse_document(config.as_given, name=config.name)
        if parsed.document() == document:
            return config.as_given
    return document
