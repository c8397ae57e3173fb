"""Reading configurations: TOML, JSON or YAML, overrides, and errors that name the key."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec

from .config import RunConfig, RunDocument
from .errors import ConfigurationError

MAX_BYTES = 1024 * 1024
MAX_VALUES = 100_000
SUFFIXES = (".toml", ".json", ".yaml", ".yml")


def read_document(path: Path) -> dict[str, Any]:
    """The document in a file, its format told by the suffix. Raises ConfigurationError."""
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
    except (ValueError, RecursionError, msgspec.DecodeError) as error:
        raise ConfigurationError(f"{path}: {_one_line(error)}") from error
    if not isinstance(document, dict):
        raise ConfigurationError(f"{path}: not a table of keys and values")
    return document


def _decode(data: bytes, suffix: str) -> Any:
    if suffix == ".toml":
        return tomllib.loads(data.decode("utf-8-sig"))
    if suffix == ".json":
        return json.loads(data.decode("utf-8-sig"))
    return msgspec.yaml.decode(data)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def apply_overrides(document: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """``document`` with every ``KEY=VALUE`` put in; KEY is a dotted path.

    VALUE is a TOML value, or else the text itself. Raises ConfigurationError.
    """
    merged: dict[str, Any] = _copy(document)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ConfigurationError(f"--set {override}: expected KEY=VALUE")
        _put(merged, [part.strip() for part in key.split(".")], _toml_value(text), override)
    return merged


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_copy(part) for part in value]
    return value


def _toml_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except ValueError:
        return text
    # Text with a newline could smuggle in further keys; it is no value then.
    return parsed["value"] if len(parsed) == 1 else text


def _put(document: Any, path: Sequence[str], value: Any, override: str) -> None:
    place = document
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(place, list):
            if not part.isdigit() or int(part) > len(place):
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
            raise ConfigurationError(f"--set {override}: {'.'.join(path[:depth])} is no table")
        if last:
            place[key] = value
            return
        if isinstance(place, dict) and key not in place:
            place[key] = [] if path[depth + 1].isdigit() else {}
        place = place[key]


def parse_document(
    document: Mapping[str, Any], *, source: str = "configuration", name: str | None = None
) -> RunConfig:
    """A document as a typed configuration; input images are not looked for yet.

    Raises ConfigurationError naming the key: unknown (with the nearest known one), or of a
    wrong type. ``name`` stands in where the document has none.
    """
    given = _copy(document)
    _check_keys(given, RunDocument, source)
    try:
        config = msgspec.convert(given, RunConfig)
    except msgspec.ValidationError as error:
        raise _type_error(given, error, source) from error
    if config.name is None and name is not None:
        config = msgspec.structs.replace(config, name=name)
    return msgspec.structs.replace(config, as_given=given)


def _check_keys(document: Mapping[Any, Any], table: type[msgspec.Struct], source: str) -> None:
    budget = [MAX_VALUES]

    def walk(value: Any, hint: Any, path: str) -> None:
        budget[0] -= 1
        if budget[0] < 0:
            raise ConfigurationError(f"{source}: more than {MAX_VALUES} values")
        struct = _struct_in(hint)
        if isinstance(value, Mapping):
            hints = get_type_hints(struct) if struct else {}
            for key, part in value.items():
                where = f"{path}.{key}" if path else str(key)
                if not isinstance(key, str):
                    raise ConfigurationError(f"{source}: the key {where} is not a string")
                if struct and key not in hints:
                    raise _unknown_key(source, where, key, list(hints))
                walk(part, hints.get(key), where)
        elif isinstance(value, list):
            for place, part in enumerate(value):
                walk(part, hint, f"{path}.{place}")

    try:
        walk(document, table, "")
    except RecursionError as error:
        raise ConfigurationError(f"{source}: nested too deep") from error


def _struct_in(hint: Any) -> type[msgspec.Struct] | None:
    """The table type within a field's type: itself, or inside ``| None`` or a tuple."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return hint
    if get_origin(hint) in (Union, UnionType, tuple):
        for part in get_args(hint):
            if (found := _struct_in(part)) is not None:
                return found
    return None


def _unknown_key(source: str, where: str, key: str, known: Sequence[str]) -> ConfigurationError:
    near = get_close_matches(key, known, n=1, cutoff=0.5)
    table = where.rpartition(".")[0]
    hint = f"; did you mean {f'{table}.' if table else ''}{near[0]}?" if near else ""
    return ConfigurationError(f"{source}: unknown key {where}{hint}", key=where)


def _type_error(
    document: Mapping[str, Any], error: msgspec.ValidationError, source: str
) -> ConfigurationError:
    """msgspec's message with the dotted key and the value in it."""
    message, _, path = str(error).partition(" - at `$")
    parts = path.rstrip("`").replace("[", ".").replace("]", "").strip(".").split(".")
    value: Any = document
    for part in parts:
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and part.isdigit():
            value = value[int(part)]
    key = ".".join(parts)
    words = message[:1].lower() + message[1:].replace("`", "")
    return ConfigurationError(f"{source}: {key} = {value!r}: {words}", key=key)
