"""Documents checked against the configuration's types; every error is found at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import date, datetime, time
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec

from ..errors import (
    UNKNOWN_KEY,
    ConfigurationError,
    FieldError,
    InvalidStagePlanError,
    field_error,
    show_value,
)
from .nearest_name import find_nearest

T = TypeVar("T")
Source = str | Callable[[FieldError], str]
"""Where a document comes from, for messages: its name, or a function that finds it."""
MAX_VALUES = 100_000
MAX_DEPTH = 64
SECRET = msgspec.Meta(extra={"secret": True})
"""Marks a value that no message may show."""
_BOUNDS = {
    "ge": "at least",
    "gt": "above",
    "le": "at most",
    "lt": "below",
    "multiple_of": "a multiple of",
}
_NOUNS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_GIVEN = {
    dict: "a table",
    list: "a list",
    str: "text",
    int: "a number",
    float: "a number",
    NoneType: "null",
    bytes: "bytes",
    set: "a set",
    date: "a date",
    datetime: "a date",
    time: "a time",
}
_PLACEHOLDERS = (True, "?", 1, 8, 0.5)
"""One of them takes the place of a wrong value, which then causes no further error."""
_LIMIT = 2**63
_MOST_SUGGESTED = 100
"""Errors after which no name is looked for: in the largest file that would take 14 s."""
_FREE_TEXTS = ("prompt", "negative_prompt")
"""Keys whose empty text is a value; for every other text key it means "not set"."""


class Checked(NamedTuple):
    """A document of which each wrong value is replaced by a valid one, and what was wrong."""

    document: dict[str, Any]
    errors: list[FieldError]


def convert_document(document: Mapping[str, Any], kind: type[T], source: Source) -> T:
    """``document`` as a ``kind``. Raises InvalidStagePlanError with all its errors."""
    checked = check_document(document, kind)
    if checked.errors:
        raise as_error(checked.errors, source)
    return msgspec.convert(checked.document, kind)


def check_document(document: Mapping[str, Any], kind: type) -> Checked:
    """Every value of ``document`` checked against the fields of ``kind``.

    Unknown keys and empty names are left out, whole floats become whole numbers where these
    are expected. Values in tables that are switched off are not checked, but their keys are.
    """
    errors: list[FieldError] = []
    return Checked(_Checker(errors).check(document, kind, ""), errors)


def as_error(errors: Iterable[FieldError], source: Source) -> InvalidStagePlanError:
    """One error for all of ``errors``; an error below the key of another one is left out."""
    kept: dict[str, FieldError] = {}
    for one in errors:
        parts = str(one.key).split(".")
        if any(".".join(parts[: place + 1]) in kept for place in range(len(parts))):
            continue
        start = source_of(source, one)
        message = f"{start}: {one.message}" if start else one.message
        kept[str(one.key)] = msgspec.structs.replace(one, message=message)
    return InvalidStagePlanError(errors=kept.values())


def source_of(source: Source, error: FieldError) -> str:
    """Where the value of an error comes from; "" if that is not known."""
    return source if isinstance(source, str) else source(error)


class _Checker:
    """Checks a document and returns it as it can be converted."""

    def __init__(self, errors: list[FieldError]) -> None:
        self._errors = errors

    def check(self, value: Any, hint: Any, key: str) -> Any:
        base, optional = _base_of(hint)
        if value is None and optional:
            return None
        if isinstance(value, Mapping | list | tuple) and (part := _table_or_list_in(base)):
            return self.check(value, part, key)
        if is_table(base):
            return self._check_table(value, hint, key)
        if _part_of(base) is not None:
            return self._check_list(value, hint, key)
        if get_origin(base) is Mapping:
            return self._check_entries(value, hint, key)
        if base is Any:
            return self._check_anything(value, key)
        return self._check_value(value, hint, key)

    def _check_table(self, value: Any, hint: Any, key: str) -> Any:
        if not isinstance(value, Mapping):
            return self._replace(value, "a table", key, hint, {})
        hints, checked, known = _hints_of(_base_of(hint)[0]), {}, len(self._errors)
        for name, part in value.items():
            where = join_key(key, name)
            if name not in hints:
                near = find_nearest(name, hints) if len(self._errors) < _MOST_SUGGESTED else None
                near = near and join_key(key, near)
                self._errors.append(field_error(where, UNKNOWN_KEY, part, near))
            elif part != "" or name in _FREE_TEXTS or not _is_optional_name(hints[name]):
                checked[name] = self.check(part, hints[name], where)
        if value.get("enabled") is False and "enabled" in hints:
            self._errors[known:] = [
                one for one in self._errors[known:] if one.reason == UNKNOWN_KEY
            ]
        return checked

    def _check_list(self, value: Any, hint: Any, key: str) -> Any:
        base, optional = _base_of(hint)
        part_hint = _part_of(base)
        if not isinstance(value, list | tuple):
            return self._replace(value, "a list", key, hint, [{}] if is_table(part_hint) else [])
        if _base_of(part_hint)[0] is str and "" in value:
            value = [part for part in value if part != ""]
            if not value and optional:
                return None
        if not value and any(getattr(mark, "min_length", None) for mark in _marks(hint)):
            self._errors.append(field_error(key, "must have an entry, or be left out"))
            return None
        return [self.check(part, part_hint, f"{key}.{place}") for place, part in enumerate(value)]

    def _check_entries(self, value: Any, hint: Any, key: str) -> Any:
        if not isinstance(value, Mapping):
            return self._replace(value, "a table", key, hint, {})
        part_hint = get_args(_base_of(hint)[0])[1]
        return {
            name: self.check(part, part_hint, join_key(key, name)) for name, part in value.items()
        }

    def _check_anything(self, value: Any, key: str) -> Any:
        for where, part in list_values(value, key):
            if reason := _unrecordable(part):
                shown = part if isinstance(part, str | int | float) else None
                self._errors.append(field_error(where, reason, shown))
        return value

    def _check_value(self, value: Any, hint: Any, key: str) -> Any:
        base, _ = _base_of(hint)
        if base is int and isinstance(value, float) and value.is_integer():
            value = int(value) if abs(value) < _LIMIT else value
        unrecordable = filter(None, (_unrecordable(part) for _, part in list_values(value)))
        wrong = _reason(value, hint)
        # An infinity in place of text is no wrong number, but one in place of a number is.
        reason = wrong if wrong and not is_number(hint) else next(unrecordable, wrong)
        if not reason:
            return value
        options = list(_options(base))
        near = find_nearest(value, map(str, options)) if isinstance(value, str) else None
        shown = None if _is_secret(hint) or isinstance(value, bytes | set) else value
        self._errors.append(field_error(key, reason, shown, near and show_value(near)))
        candidates = (*options, *([None] if base is bool else []), *_PLACEHOLDERS)
        return next((one for one in candidates if not _reason(one, hint)), None)

    def _replace(self, value: Any, noun: str, key: str, hint: Any, valid: Any) -> Any:
        """``valid``, after the error of a value that is no such table or list."""
        shown = None if _is_secret(hint) else value
        self._errors.append(field_error(key, f"must be {noun}{_but_not(value)}", shown))
        return valid


def _reason(value: Any, hint: Any) -> str:
    """What is wrong with a single value; "" if nothing is."""
    with suppress(msgspec.ValidationError):
        msgspec.convert(value, hint)
        return ""
    base, _ = _base_of(hint)
    if options := list(_options(base)):
        return f"must be {' or '.join(map(show_value, options))}"
    is_numeric = base in (int, float) and isinstance(value, int | float)
    if is_numeric and not isinstance(value, bool) and (base is float or isinstance(value, int)):
        return f"must be {', '.join(_bounds(hint))}"
    if base in _NOUNS and type(value) is not base:
        return f"must be {_NOUNS[base]}{'' if is_numeric else _but_not(value)}"
    is_list = _table_or_list_in(base) is not None
    return f"must be {'text or a list' if is_list else 'as `stagewright schema` states'}"


def _but_not(value: object) -> str:
    given = _GIVEN.get(type(value))
    return f", not {given}" if given else ""


def _unrecordable(value: object) -> str:
    """Why no log can hold a single value; "" if one can."""
    if isinstance(value, float) and not math.isfinite(value):
        return "must be a finite number"
    if isinstance(value, int) and not -_LIMIT <= value < 2 * _LIMIT:
        return "is a number of more than 64 bits"
    if isinstance(value, bytes | bytearray | set | frozenset):
        return f"is {_GIVEN.get(type(value), 'bytes')}, which a configuration cannot hold"
    if isinstance(value, str) and not _is_unicode(value):
        return "must be Unicode text"
    return ""


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _marks(hint: Any) -> Iterator[Any]:
    """What a field's type is annotated with, also within a union."""
    for part in get_args(hint) if get_origin(hint) in (Annotated, Union, UnionType) else ():
        yield from _marks(part)
    yield from getattr(hint, "__metadata__", ())


def _bounds(hint: Any) -> Iterator[str]:
    """The bounds of a number in words: ``at least 0``, ``at most 1``."""
    for mark in _marks(hint):
        for name, words in _BOUNDS.items():
            if (bound := getattr(mark, name, None)) is not None:
                yield f"{words} {bound}"


def _options(base: Any) -> Iterator[Any]:
    """The words that a field takes, if it takes only some."""
    if isinstance(base, type) and issubclass(base, Enum):
        yield from (str(member.value) for member in base)
    elif get_origin(base) is Literal:
        yield from get_args(base)
    elif get_origin(base) in (Union, UnionType) and bool in get_args(base):
        yield from (True, False, *(one for part in get_args(base) for one in _options(part)))


@cache
def _base_of(hint: Any) -> tuple[Any, bool]:
    """The type in a field's type, and whether it may be null. Cached: half of all checking."""
    if get_origin(hint) is Annotated:
        return _base_of(get_args(hint)[0])
    if get_origin(hint) not in (Union, UnionType):
        return hint, False
    rest = [part for part in get_args(hint) if part is not NoneType]
    optional = len(rest) < len(get_args(hint))
    return (_base_of(rest[0])[0] if len(rest) == 1 else hint), optional


@cache
def _hints_of(struct: type[msgspec.Struct]) -> Mapping[str, Any]:
    """The types of a table's keys, without those that only a plan fills in."""
    types = get_type_hints(struct, include_extras=True)
    names = zip(struct.__struct_encode_fields__, struct.__struct_fields__, strict=True)
    plan_only = getattr(struct, "plan_only", ())
    return {key: types[name] for key, name in names if name not in plan_only}


def _table_or_list_in(base: Any) -> Any:
    """The type in a union that is a table or a list, beside single values."""
    parts = get_args(base) if get_origin(base) in (Union, UnionType) else ()
    kinds = (part for part in parts if is_table(_base_of(part)[0]) or _part_of(_base_of(part)[0]))
    return next(kinds, None)


def hint_at(hint: Any, part: str) -> Any:
    """The type of the key ``part`` of a table, or of an entry of a list; None if there is none."""
    base, _ = _base_of(hint)
    if is_table(base):
        return _hints_of(base).get(part)
    return _part_of(base)


def _part_of(base: Any) -> Any:
    """The type of the entries of a list of any length; None for another type."""
    args = get_args(base)
    return args[0] if get_origin(base) is tuple and args[1:] == (...,) else None


def is_table(base: Any) -> bool:
    """Whether a type is that of a table with known keys."""
    return isinstance(base, type) and issubclass(base, msgspec.Struct)


def is_text(hint: Any) -> bool:
    """Whether a key of this type holds text, one of a few words, or else a list of texts."""
    base, _ = _base_of(hint)
    if (part := _part_of(_base_of(_table_or_list_in(base))[0])) and str in get_args(base):
        return _base_of(part)[0] is str
    return base is str or all(isinstance(one, str) for one in list(_options(base)) or [None])


def _is_optional_name(hint: Any) -> bool:
    return is_text(hint) and _base_of(hint)[1]


def _is_secret(hint: Any) -> bool:
    return any(mark is SECRET for mark in _marks(hint))


def is_number(hint: Any) -> bool:
    """Whether a key of this type holds a number."""
    return _base_of(hint)[0] in (int, float)


def copy_document(document: Mapping[Any, Any], source: str) -> dict[str, Any]:
    """A copy of ``document``, with lists for tuples.

    Raises ConfigurationError for too many values (aliases of YAML count each time), for
    tables too deep, and for a key that is not a string.
    """
    budget = MAX_VALUES
    start = f"{source}: " if source else ""

    def copy(value: Any, path: str, depth: int) -> Any:
        nonlocal budget
        budget -= 1
        if budget < 0 or depth > MAX_DEPTH:
            what = f"more than {MAX_VALUES} values" if budget < 0 else "nested too deep"
            raise ConfigurationError(f"{start}{what}")
        if isinstance(value, Mapping):
            for key in value:
                if not isinstance(key, str) or not _is_unicode(key):
                    where = join_key(path, key)
                    raise ConfigurationError(f"{start}the key {where} must be text", key=where)
            return {key: copy(part, join_key(path, key), depth + 1) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [copy(part, f"{path}.{place}", depth + 1) for place, part in enumerate(value)]
        return value

    copied: dict[str, Any] = copy(document, "", 0)
    return copied


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
    word = key if isinstance(key, str) and key and key.isprintable() else show_value(key)
    return f"{path}.{word}" if path else word


def refuse_userinfo(url: str | None, key: str = "server.url") -> None:
    """Raise InvalidStagePlanError, without quoting it, for an address with a user or password.

    Nothing else in a server's address holds an ``@``, and a password may hold anything.
    """
    if url is not None and "@" in url:
        raise InvalidStagePlanError(
            f"{key} holds a user or a password; set STAGEWRIGHT_AUTH=user:password instead", key=key
        )
