"""Documents checked against the configuration's types; errors name key, value and bounds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from enum import Enum
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from ..errors import ConfigurationError, InvalidStagePlanError

T = TypeVar("T")
_OUT_OF_BOUNDS = re.compile(r"Expected `(?:int|float)` (?:[<>]|that's)")
_WORDS = {
    "ge": "at least",
    "gt": "above",
    "le": "at most",
    "lt": "below",
    "multiple_of": "a multiple of",
}
_LONGEST_VALUE = 80
"""Characters of a value that a message shows."""


def convert_document(document: Mapping[str, Any], kind: type[T], source: str) -> T:
    """``document`` as a ``kind``.

    Raises InvalidStagePlanError for a value out of bounds or not finite, which JSON cannot
    hold; for others ConfigurationError, which begins with ``source``.
    """
    for key, value in list_values(document):
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidStagePlanError(f"{key} = {value} must be a finite number", key=key)
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise _explained(error, document, kind, source) from error


def check_keys(value: Any, hint: Any, source: str, path: str = "") -> None:
    """Raise ConfigurationError for a key that the table does not have, or a table below it."""
    struct = _struct_in(hint)
    if isinstance(value, Mapping) and struct is not None:
        types = get_type_hints(struct)
        plan_only = getattr(struct, "plan_only", ())
        names = zip(struct.__struct_encode_fields__, struct.__struct_fields__, strict=True)
        hints = {key: types[name] for key, name in names if name not in plan_only}
        for key, part in value.items():
            where = join_key(path, key)
            if key not in hints:
                near = join_key(path, get_close_matches(key, hints, n=1, cutoff=0.0)[0])
                raise ConfigurationError(
                    f"{source}: unknown key {where}; did you mean {near}?", key=where
                )
            check_keys(part, hints[key], source, where)
    elif isinstance(value, list):
        for place, part in enumerate(value):
            check_keys(part, hint, source, f"{path}.{place}")


def list_values(document: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a document with its dotted path; an empty table or list is one too."""
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(document, Mapping):
        parts = document.items()
    elif isinstance(document, list | tuple):
        parts = enumerate(document)
    if not document or not parts:
        yield path, document
    for name, part in parts:
        yield from list_values(part, join_key(path, name))


def join_key(path: str, key: object) -> str:
    """The dotted path of ``key`` below ``path``, in characters that fit one line."""
    word = key if isinstance(key, str) and key.isprintable() else repr(key)
    return f"{path}.{word}" if path else word


def refuse_userinfo(url: str | None) -> None:
    """Raise InvalidStagePlanError, without quoting it, for an address with a user or password.

    Nothing else in a server's address holds an ``@``, and a password may hold anything.
    """
    if url is not None and "@" in url:
        raise InvalidStagePlanError(
            "server.url holds a user or a password; set STAGEWRIGHT_AUTH=user:password instead",
            key="server.url",
        )


def _explained(
    error: msgspec.ValidationError, document: Mapping[str, Any], kind: Any, source: str
) -> ConfigurationError:
    """msgspec's error with the dotted key, the value, and the bounds or permitted words."""
    message, _, path = str(error).partition(" - at `$")
    parts = path.rstrip("`").replace("[", ".").replace("]", "").strip(".").split(".")
    value: Any = document
    hint: Any = kind
    for part in parts:
        if isinstance(value, Mapping):
            value = value.get(part)
            struct = _struct_in(hint)
            hint = get_type_hints(struct, include_extras=True).get(part) if struct else None
        elif isinstance(value, list) and part.isdigit():
            value = value[int(part)]
    key = ".".join(parts) or "the document"
    shown = repr(value)
    shown = shown if len(shown) <= _LONGEST_VALUE else f"{shown[: _LONGEST_VALUE - 3]}..."
    if _OUT_OF_BOUNDS.match(message):
        return InvalidStagePlanError(f"{key} = {shown} must be {_bounds(hint)}", key=key)
    words = message[:1].lower() + message[1:].replace("`", "")
    if options := list(_options(hint)):
        words = f"expected {' or '.join(options)}"
    return ConfigurationError(f"{source}: {key} = {shown}: {words}", key=key)


def _struct_in(hint: Any) -> type[msgspec.Struct] | None:
    """The table type within a field's type: itself, or inside ``| None`` or a tuple."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return hint
    return next(filter(None, map(_struct_in, get_args(hint))), None)


def _bounds(hint: Any) -> str:
    """The bounds of a number in words: ``at least 0, at most 1``."""
    for part in (hint, *get_args(hint)):
        for meta in getattr(part, "__metadata__", ()):
            stated = {words: getattr(meta, name) for name, words in _WORDS.items()}
            return ", ".join(
                f"{words} {bound}" for words, bound in stated.items() if bound is not None
            )
    raise AssertionError(f"{hint} has no bounds")


def _options(hint: Any) -> Iterator[str]:
    """The words that a field takes, if it takes only some."""
    if isinstance(hint, type) and issubclass(hint, Enum):
        yield from (repr(str(member.value)) for member in hint)
    elif get_origin(hint) is Literal:
        yield from (repr(word) for word in get_args(hint))
    else:
        for part in get_args(hint):
            yield from _options(part)
