"""Reading configurations: TOML, JSON or YAML, overrides, and errors that name the key."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from ..errors import ConfigurationError, InvalidStagePlanError
from .schema import RunConfig, RunDocument

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
# What PyYAML's constructors let slip: a KeyError for !!bool, an AttributeError for !!timestamp.
_DECODE_ERRORS = (ValueError, LookupError, AttributeError, TypeError, ArithmeticError)


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
    except RecursionError as error:
        raise ConfigurationError(f"{path}: nested too deep") from error
    except _DECODE_ERRORS as error:
        language = {".toml": "TOML", ".json": "JSON"}.get(path.suffix.lower(), "YAML")
        raise ConfigurationError(f"{path}: not valid {language}: {_one_line(error)}") from error
    if not isinstance(document, dict):
        raise ConfigurationError(f"{path}: not a table of keys and values")
    return _copy(document, str(path))


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
    """The error's words, or its kind where they are a bare key or nothing."""
    words = " ".join(str(error).split())
    return words if isinstance(error, ValueError) and words else f"{type(error).__name__}: {words}"


def apply_overrides(document: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """``document`` with every ``KEY=VALUE`` put in; KEY is a dotted path.

    VALUE is a TOML value, or else the text itself. Raises ConfigurationError.
    """
    merged = _copy(document, "configuration")
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ConfigurationError(f"--set {override}: expected KEY=VALUE")
        _put(merged, [part.strip() for part in key.split(".")], _toml_value(text), override)
    return merged


def _copy(document: Mapping[Any, Any], source: str) -> dict[str, Any]:
    """A copy of ``document``, with lists for tuples, that can be encoded as JSON.

    Raises ConfigurationError for what cannot: too many values (aliases of YAML count each
    time), too deep, no string as key, no Unicode, a number beyond 64 bits, bytes, a set.
    """
    budget = MAX_VALUES

    def copy(value: Any, path: str, depth: int) -> Any:
        nonlocal budget
        budget -= 1
        if budget < 0 or depth > MAX_DEPTH:
            what = f"more than {MAX_VALUES} values" if budget < 0 else "nested too deep"
            raise ConfigurationError(f"{source}: {what}")
        if isinstance(value, Mapping):
            return {
                _check_key(key, _joined(path, key), source): copy(
                    part, _joined(path, key), depth + 1
                )
                for key, part in value.items()
            }
        if isinstance(value, list | tuple):
            return [copy(part, f"{path}.{place}", depth + 1) for place, part in enumerate(value)]
        _check_value(value, path, source)
        return value

    copied: dict[str, Any] = copy(document, "", 0)
    return copied


def _joined(path: str, key: object) -> str:
    """The dotted path of ``key`` below ``path``, in characters that fit one line."""
    word = key if isinstance(key, str) and key.isprintable() else repr(key)
    return f"{path}.{word}" if path else word


def _check_key(key: object, where: str, source: str) -> str:
    if not isinstance(key, str):
        raise ConfigurationError(f"{source}: the key {where} is not a string")
    _check_value(key, where, source)
    return key


def _check_value(value: object, where: str, source: str) -> None:
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise ConfigurationError(f"{source}: {where} is a number of more than 64 bits", key=where)
    if isinstance(value, bytes | bytearray | set | frozenset):
        kind = type(value).__name__
        raise ConfigurationError(f"{source}: {where} is {kind}, which is no value here", key=where)
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ConfigurationError(f"{source}: {where} is no Unicode text", key=where) from error


def _toml_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    # Text with a newline could smuggle in further keys; it is no value then.
    return parsed["value"] if len(parsed) == 1 else text


def _put(document: Any, path: Sequence[str], value: Any, override: str) -> None:
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
            raise ConfigurationError(f"--set {override}: {'.'.join(path[:depth])} is no table")
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

    Raises ConfigurationError naming the key: unknown (with the nearest known one), or of a
    wrong type. ``name`` stands in where the document has none.
    """
    given = _copy(document, source)
    _check_keys(given, RunDocument, source)
    try:
        config = msgspec.convert(given, RunConfig)
    except msgspec.ValidationError as error:
        raise _type_error(given, error, source) from error
    if config.name is None and name is not None:
        config = msgspec.structs.replace(config, name=name)
    return msgspec.structs.replace(config, as_given=given)


def checked_config(config: RunConfig) -> RunConfig:
    """``config`` with values of the types that its fields state, which Python does not check.

    A whole number where a fraction may stand becomes one, so that equal requests have equal
    digests. Raises InvalidStagePlanError naming key and value.
    """
    plain = msgspec.to_builtins(config)
    try:
        return msgspec.convert(plain, RunConfig)
    except msgspec.ValidationError as error:
        wrong = _type_error(plain, error, "configuration")
        raise InvalidStagePlanError(str(wrong), key=wrong.key) from error


def refuse_userinfo(url: str | None) -> None:
    """Raise InvalidStagePlanError, without its words, for an address with a user or password.

    Nothing else in a server's address holds an ``@``, and a password may hold anything.
    """
    if url is not None and "@" in url:
        raise InvalidStagePlanError(
            "server.url holds a user or a password; set STAGEWRIGHT_AUTH=user:password instead",
            key="server.url",
        )


def _check_keys(value: Any, hint: Any, source: str, path: str = "") -> None:
    """Raise ConfigurationError for a key that the tables do not have."""
    struct = _struct_in(hint)
    if isinstance(value, Mapping) and struct is not None:
        hints = get_type_hints(struct)
        for key, part in value.items():
            where = _joined(path, key)
            if key not in hints:
                raise _unknown_key(source, where, path, key, list(hints))
            _check_keys(part, hints[key], source, where)
    elif isinstance(value, list):
        for place, part in enumerate(value):
            _check_keys(part, hint, source, f"{path}.{place}")


def _struct_in(hint: Any) -> type[msgspec.Struct] | None:
    """The table type within a field's type: itself, or inside ``| None`` or a tuple."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return hint
    if get_origin(hint) in (Union, UnionType, tuple):
        for part in get_args(hint):
            if (found := _struct_in(part)) is not None:
                return found
    return None


def _unknown_key(
    source: str, where: str, table: str, key: str, known: Sequence[str]
) -> ConfigurationError:
    near = get_close_matches(key, known, n=1, cutoff=0.0)[0]
    return ConfigurationError(
        f"{source}: unknown key {where}; did you mean {_joined(table, near)}?", key=where
    )


def _type_error(
    document: Mapping[str, Any], error: msgspec.ValidationError, source: str
) -> ConfigurationError:
    """msgspec's message with the dotted key, the value and the permitted words in it."""
    message, _, path = str(error).partition(" - at `$")
    parts = path.rstrip("`").replace("[", ".").replace("]", "").strip(".").split(".")
    value: Any = document
    hint: Any = RunDocument
    for part in parts:
        if isinstance(value, Mapping):
            value = value.get(part)
            struct = _struct_in(hint)
            hint = get_type_hints(struct).get(part) if struct else None
        elif isinstance(value, list) and part.isdigit():
            value = value[int(part)]
    key = ".".join(parts) or "the document"
    shown = repr(value)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    words = message[:1].lower() + message[1:].replace("`", "")
    if options := _options(hint):
        words = f"expected {' or '.join(options)}"
    return ConfigurationError(f"{source}: {key} = {shown}: {words}", key=key)


def _options(hint: Any) -> list[str]:
    """The words that a field takes, if it takes only some."""
    if isinstance(hint, type) and issubclass(hint, Enum):
        return [repr(str(member.value)) for member in hint]
    if get_origin(hint) is Literal:
        return [repr(word) for word in get_args(hint)]
    return [word for part in get_args(hint) for word in _options(part)]
