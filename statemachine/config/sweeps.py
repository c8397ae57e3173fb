"""The sweep of a configuration: its table and ``--vary``, checked before any variant is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate, islice
from typing import Any

import msgspec

from ...events.groups.model import SweepAxis
from ..errors import UNKNOWN_KEY, ConfigurationError, FieldError, field_error
from ..variants.axes import (
    VARY,
    VariedAxis,
    axis_errors,
    read_values,
    read_vary,
    repetition_errors,
    vary_error,
    zip_axes,
)
from ..variants.sweep import Sweep
from .document import parse_value
from .inputs import ConfigDocument
from .legacy import EXTENDS, RunDocument, nested_key
from .schema import SWEEP, AxisTable, SweepTable, type_with_stages
from .validation import as_error, check_document, source_of

_FIXED = (SWEEP, EXTENDS, "server.url", "server.kind")
"""Keys that cannot be varied: the runs of a group are made on one server."""
_MOST_ERRORS = 10
"""Values of one axis that are reported."""
_LARGEST_INDEX = 100


def sweep_of(
    document: ConfigDocument,
    vary: Sequence[str] = (),
    *,
    zip: bool = False,  # noqa: A002 - as the option is called
) -> Sweep | None:
    """The sweep of a document, None if there is none.

    Each of ``vary`` is ``KEY=V1,V2,...``, an axis that replaces one of the document for its key;
    with ``zip`` they move together. Every value is checked on its own. Raises ConfigurationError
    with all errors.
    """
    table, errors = _read_table(document.document)
    varied, wrong = read_vary(vary, parse_value)
    errors += wrong
    if zip and not vary:
        raise ConfigurationError("--zip is for the values of --vary: add it, or leave --zip out")
    if zip and not wrong:
        try:
            varied = [zip_axes(varied)]
        except ValueError as error:
            errors.append(FieldError(key="--zip", message=f"--zip {error}", reason=str(error)))
    if table is None and not vary:
        return None
    table = table or SweepTable()
    axes, wrong = _merge_axes(list(_axes_of(table, errors)), varied, document.document)
    if not (axes or errors or wrong):
        errors.append(field_error("sweep.axes", "is missing: a sweep needs an axis, or --vary"))
    errors += [*wrong, *_key_errors(axes, document)]
    errors += [error for one in axes for error in _axis_errors(one)]
    if errors:
        raise as_error(errors, partial(_source, document))
    seed = None if table.seed == -1 else table.seed
    return Sweep(tuple(axes), random=table.random, seed=seed)


def _source(document: ConfigDocument, error: FieldError) -> str:
    """What is typed needs no file."""
    return "" if (error.key or "").startswith("--") else source_of(document.source, error)


def _read_table(document: Mapping[str, Any]) -> tuple[SweepTable | None, list[FieldError]]:
    if (given := document.get(SWEEP)) is None:
        return None, []
    checked = check_document({SWEEP: given}, type_with_stages(RunDocument))
    # Wrong values were replaced, and what follows from that is no further error.
    table = SweepTable() if checked.errors else checked.document[SWEEP]
    return msgspec.convert(table, SweepTable), checked.errors


def _axes_of(table: SweepTable, errors: list[FieldError]) -> Iterator[VariedAxis]:
    for number, axis in enumerate(table.axes):
        place = f"{SWEEP}.axes.{number}"
        try:
            values = _values_of(axis)
        except ValueError as error:
            errors.append(field_error(f"{place}.values", str(error)))
        else:
            yield VariedAxis(SweepAxis(key=axis.key, keys=axis.keys, values=values), place)


def _values_of(axis: AxisTable) -> tuple[Any, ...]:
    """Raises ValueError, which says what is wrong with them."""
    if not isinstance(axis.values, str):
        return axis.values
    if axis.key is None:
        raise ValueError("must be a list, of a list for each value of keys")
    return read_values(axis.values, partial(parse_value, axis.key))


def _merge_axes(
    own: Sequence[VariedAxis], varied: Sequence[VariedAxis], document: Mapping[str, Any]
) -> tuple[list[VariedAxis], list[FieldError]]:
    """The axes of a document, of which those of ``--vary`` replace the ones for their keys."""
    replacing = {nested_key(key, document): (key, one) for one in varied for key in one.keys}
    axes: list[VariedAxis] = []
    errors: list[FieldError] = []
    for one in own:
        found = [
            replacing[path] for key in one.keys if (path := nested_key(key, document)) in replacing
        ]
        if not found:
            axes.append(one)
        elif len(one.keys) > 1:
            reason = f"cannot replace {one.place}, which varies {' and '.join(one.keys)} together"
            errors += [vary_error(key, reason) for key, _ in found]
        elif not any(found[0][1] is other for other in axes):
            axes.append(found[0][1])
    axes += [one for one in varied if not any(one is other for other in axes)]
    return axes, errors


def _key_errors(axes: Sequence[VariedAxis], document: ConfigDocument) -> Iterator[FieldError]:
    """Keys that cannot be varied, that ``--set`` sets as well, or that are varied twice."""
    typed = [nested_key(key, document.document) for key in document.typed]
    known: dict[str, str] = {}  # each varied path and each path above one, and which axis does
    paths: set[str] = set()
    for one in axes:
        for key in one.keys:
            path = nested_key(key, document.document)
            above = list(accumulate(path.split("."), "{}.{}".format))
            where = one.key_place(key)
            shown = None if one.place == VARY else key
            if any(_is_within(path, other) or _is_within(other, path) for other in _FIXED):
                yield field_error(where, "cannot be varied", shown)
            if any(_is_within(other, path) for other in typed):
                yield field_error(where, "is set by --set as well", shown)
            if again := next((known[other] for other in above if other in paths), known.get(path)):
                yield field_error(where, f"is varied twice: {again}", shown)
            paths.add(path)
            known |= dict.fromkeys(above, f"{one.place} varies {key}")


def _axis_errors(varied: VariedAxis) -> list[FieldError]:
    """What is wrong with an axis on its own."""
    if lacking := list(axis_errors(varied)):
        return lacking
    return [*islice(_value_errors(varied), _MOST_ERRORS), *repetition_errors(varied)]


def _is_within(path: str, above: str) -> bool:
    return f"{path}.".startswith(f"{above}.")


def _value_errors(varied: VariedAxis) -> Iterator[FieldError]:
    """What is wrong with values on their own; an unknown key is reported once."""
    unknown: set[str | None] = set()
    for number, row in enumerate(varied.rows):
        for key, value in zip(varied.keys, row, strict=True):
            for error in _errors_at(key, value):
                where = varied.value_place(number)
                if error.reason == UNKNOWN_KEY:
                    if error.key in unknown:
                        continue
                    unknown.add(error.key)
                    where = varied.key_place(key)
                elif varied.place == VARY:
                    where += f" {number}"  # as only one error of a key is kept
                shown = VARY if varied.place == VARY else where
                message = f"{shown}: {error.message}"
                yield msgspec.structs.replace(error, key=where, message=message)


def _errors_at(key: str, value: Any) -> Iterator[FieldError]:
    """What a document with this value alone has wrong at its key."""
    above = value
    for part in reversed(key.split(".")):
        is_index = part.isascii() and part.isdigit() and len(part) < 4
        if is_index and int(part) <= _LARGEST_INDEX:
            above = [{} for _ in range(int(part))] + [above]
        else:
            above = {part: above}
    kind = type_with_stages(RunDocument, [key.partition(".")[0]])
    errors = check_document(above, kind).errors
    return (one for one in errors if _is_within(str(one.key), key) or _is_within(key, str(one.key)))
