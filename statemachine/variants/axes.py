"""The axes of a sweep, read from text: lists of values, ranges, ``--vary`` and ``--zip``."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from ...events.groups.model import SweepAxis
from ..errors import FieldError, field_error

MAX_VALUES = 100_000
"""Values of one axis, at most."""
VARY = "--vary"

ParseValue = Callable[[str, str], Any]
"""Reads the text of one value of a key, as ``--set`` does."""

_NUMBER = r"[+-]?[0-9]{1,18}(?:\.[0-9]{1,18})?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(?::({_NUMBER}))?")
_MARK = re.compile(
    r"""(?:^|(?<=,))\s*(?:\"\"\"(?:[^\\]|\\.)*?\"\"\"|'''.*?'''|'[^'\n]*'(?=\s*(?:,|$)))"""
    r"""|"(?:[^"\\\n]|\\.)*"|[][(){},]""",
    re.DOTALL,
)
"""A quoted text, a bracket, or a comma; an apostrophe within a word is no quote."""
_OPENING = {")": "(", "]": "[", "}": "{"}


class VariedAxis(NamedTuple):
    """An axis, and where it is written: ``--vary`` or its key (``sweep.axes.0``)."""

    axis: SweepAxis
    place: str

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that it varies."""
        return axis_keys(self.axis)

    @property
    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Its values in order, each as a value for each of its keys."""
        return rows_of(self.axis)

    def value_place(self, number: int | None = None) -> str:
        """Where its values are written, or the one of this number, for a message."""
        if self.place == VARY:
            return f"{VARY} {' '.join(self.keys)}"
        return f"{self.place}.values" if number is None else f"{self.place}.values.{number}"

    def key_place(self, key: str) -> str:
        """Where one of its keys is written, for a message."""
        if self.place == VARY:
            return f"{VARY} {key}"
        return f"{self.place}.keys" if self.axis.keys else f"{self.place}.key"


def axis_keys(axis: SweepAxis) -> tuple[str, ...]:
    """The keys that an axis varies."""
    return axis.keys or ((axis.key,) if axis.key is not None else ())


def rows_of(axis: SweepAxis) -> Iterator[tuple[Any, ...]]:
    """The values of an axis in order, each as a value for each of its keys."""
    return (tuple(value) if axis.keys else (value,) for value in axis.values)


def read_values(text: str, parse: Callable[[str], Any]) -> tuple[Any, ...]:
    """The values that a text lists; ``parse`` reads each one.

    Text that begins with ``[`` is a TOML array. Other text is split at the commas outside of
    quotes and pairs of brackets, of which none may be empty; ``1..5`` and ``4..9:0.5`` are ranges,
    with their end. Raises ValueError, which says what is wrong in words for after the key.
    """
    if not text.strip():
        raise ValueError("has no values")
    if text.lstrip().startswith("["):
        return _array(text)
    values: list[Any] = []
    for part in _split(text):
        if not part:
            raise ValueError('has an empty value beside a comma; an empty text is written as ""')
        found = _RANGE.fullmatch(part)
        texts = _range(part, *found.groups()) if found else [part]
        values += [parse(one) for one in texts]
        if len(values) > MAX_VALUES:
            raise _too_many(len(values))
    return tuple(values)


def read_vary(
    options: Sequence[str], parse: ParseValue
) -> tuple[list[VariedAxis], list[FieldError]]:
    """An axis for each ``KEY=V1,V2,...``, and what is wrong with the others."""
    axes: list[VariedAxis] = []
    errors: list[FieldError] = []
    for option in options:
        key, equals, text = option.partition("=")
        key = ".".join(part.strip() for part in key.split("."))
        if not equals or not key:
            reason = "must be KEY=V1,V2,..."
            errors.append(FieldError(message=f"{VARY} {option} {reason}", reason=reason, key=VARY))
            continue
        try:
            values = read_values(text, partial(parse, key))
        except ValueError as error:
            errors.append(vary_error(key, str(error)))
        else:
            axes.append(VariedAxis(SweepAxis(key=key, values=values), VARY))
    return axes, errors


def zip_axes(axes: Sequence[VariedAxis]) -> VariedAxis:
    """One axis whose keys are those of all ``axes``, of one key each, and move together.

    Raises ValueError, which names the lengths where they differ.
    """
    lengths = {one.keys[0]: len(one.axis.values) for one in axes}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        raise ValueError(f"needs as many values for each key: {shown}")
    if len(axes) == 1:
        return axes[0]
    rows = zip(*(one.axis.values for one in axes), strict=True)
    return VariedAxis(SweepAxis(keys=tuple(lengths), values=tuple(map(list, rows))), VARY)


def axis_errors(varied: VariedAxis) -> Iterator[FieldError]:
    """What an axis lacks."""
    axis, place = varied
    if axis.key is not None and axis.keys is not None:
        yield field_error(f"{place}.keys", f"and {place}.key exclude each other: set one of them")
        return
    keys = axis_keys(axis)
    if not keys or not all(key.strip() for key in keys):
        yield field_error(f"{place}.key", "is missing: set it, or keys")
        return
    quoted = (key for key in keys if any(part[:1] in ('"', "'") for part in key.split(".")))
    if (key := next(quoted, None)) is not None:
        reason = "has a part in quotes; leave the quotes out"
        shown = None if place == VARY else key
        yield field_error(varied.key_place(key), reason, shown)
        return
    where = varied.value_place()
    if not axis.values:
        yield field_error(where, "has no values")
    elif len(axis.values) > MAX_VALUES:
        yield field_error(where, str(_too_many(len(axis.values))))
    elif axis.keys and (wrong := _first_of_other_length(axis)) is not None:
        reason = f"must be a list of {len(keys)} values, one for each of {', '.join(keys)}"
        yield field_error(varied.value_place(wrong), reason, axis.values[wrong])


def repetition_errors(varied: VariedAxis) -> Iterator[FieldError]:
    """The first value of an axis that would make the same variants as one before it."""
    seen: set[str] = set()
    for number, value in enumerate(varied.axis.values):
        if (identity := _identity(value)) in seen:
            reason = "repeats a value of the axis"
            yield field_error(varied.value_place(number), reason, value)
            return
        seen.add(identity)


def vary_error(key: str, reason: str) -> FieldError:
    """What is wrong with a ``--vary``."""
    return field_error(f"{VARY} {key}", reason)


def _first_of_other_length(axis: SweepAxis) -> int | None:
    length = len(axis.keys or ())
    wrong = (
        number
        for number, value in enumerate(axis.values)
        if not isinstance(value, list | tuple) or len(value) != length
    )
    return next(wrong, None)


def _identity(value: Any) -> str:
    """A text that is the same for values that make equal plans: 7 and 7.0 are one."""
    if isinstance(value, dict):
        return repr(sorted((key, _identity(part)) for key, part in value.items()))
    if isinstance(value, list | tuple):
        return repr(list(map(_identity, value)))
    if isinstance(value, float) and value.is_integer():
        return repr(int(value))
    return repr(value)


def _array(text: str) -> tuple[Any, ...]:
    try:
        parsed = tomllib.loads(f"values = {text}")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"begins with [ and is no TOML array ({error}); put text that begins so in quotes"
        ) from error
    values = parsed["values"]
    if len(parsed) > 1 or not isinstance(values, list):
        raise ValueError("must be one TOML array")
    if not values:
        raise ValueError("has no values")
    return tuple(values)


def _split(text: str) -> Iterator[str]:
    begin = 0
    for place in _commas(text):
        yield text[begin:place].strip()
        begin = place + 1
    yield text[begin:].strip()


def _commas(text: str) -> list[int]:
    """The places of the commas outside of quotes and of pairs of brackets, in order."""
    commas: list[int] = []
    unclosed: list[tuple[str, int]] = []  # brackets, and how many commas were before each
    numbers: Counter[str] = Counter()
    for found in _MARK.finditer(text):
        mark = found[0]
        if mark == ",":
            commas.append(found.start())
        elif mark in _OPENING.values():
            unclosed.append((mark, len(commas)))
            numbers[mark] += 1
        elif numbers[opening := _OPENING.get(mark, "")]:
            # A bracket that the pair encloses and that is not closed in it is text.
            while (last := unclosed.pop())[0] != opening:
                numbers[last[0]] -= 1
            numbers[opening] -= 1
            del commas[last[1] :]
    return commas


def _range(text: str, first: str, last: str, step: str | None) -> list[str]:
    """The numbers of a range as text, counted in its last decimal place: none is rounded."""
    places = max(len(one.partition(".")[2]) for one in (first, last, step or ""))
    start, end = _scaled(first, places), _scaled(last, places)
    by = _scaled(step or ("1" if end >= start else "-1"), places)
    if by == 0:
        raise ValueError(f"has the range {text}, whose step is 0")
    if (end - start) * by < 0:
        raise ValueError(f"has the range {text}, whose step leads away from {last}")
    if (count := (end - start) // by + 1) > MAX_VALUES:
        raise _too_many(count)
    return [_decimal(start + by * number, places) for number in range(count)]


def _scaled(number: str, places: int) -> int:
    whole, _, decimals = number.partition(".")
    return int(whole + decimals.ljust(places, "0"))


def _decimal(scaled: int, places: int) -> str:
    if not places:
        return str(scaled)
    whole, decimals = divmod(abs(scaled), 10**places)
    sign = "-" if scaled < 0 else ""
    return f"{sign}{whole}.{f'{decimals:0{places}}'.rstrip('0') or '0'}"


def _too_many(count: int) -> ValueError:
    return ValueError(f"has {count} values, and an axis has at most {MAX_VALUES}")
