"""The columns of ``list``, and the conditions on them."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from ....events.model import RunState
from ...projections.catalogue import CORRUPT, DIED, UNREADABLE, CatalogueEntry

Condition = Callable[[CatalogueEntry], bool]
"""Whether a run fits a condition."""


def _date(entry: CatalogueEntry) -> str:
    """Local time to the minute."""
    with suppress(ValueError, OverflowError, OSError):
        return datetime.fromisoformat(entry.opened).astimezone().strftime("%Y-%m-%d %H:%M")
    return ""


def _done(entry: CatalogueEntry) -> str:
    total = entry.total_stage_images
    return f"{100 * entry.stage_images // total}%" if total else ""


STATES = (*RunState, CORRUPT, UNREADABLE, DIED)
"""The states that ``list`` shows."""
COLUMNS: Mapping[str, Callable[[CatalogueEntry], tuple[str, ...]]] = {
    "run": lambda entry: (entry.run_id[-6:],),
    "run_id": lambda entry: (entry.run_id,),
    "date": lambda entry: (_date(entry),),
    "name": lambda entry: (entry.name,),
    "prompt": lambda entry: (entry.prompt,),
    "model": lambda entry: entry.models,
    "server": lambda entry: entry.all_servers,
    "images": lambda entry: (f"{entry.images}/{entry.total_images}",),
    "done": lambda entry: (_done(entry),),
    "state": lambda entry: (entry.shown_state,),
    "outcome": lambda entry: (entry.outcome or "",),
    "plan": lambda entry: (entry.summary,),
    "rating": lambda entry: tuple(map(str, entry.scores)),
    "resumes": lambda entry: (str(entry.resumes),),
    "group": lambda entry: (entry.group_id or "",),
    "variant": lambda entry: ("" if entry.variant_index is None else str(entry.variant_index + 1),),
    "folder": lambda entry: (entry.folder,),
    "error": lambda entry: (entry.error,),
}
"""The values of each column, by its name; ``model``, ``server`` and ``rating`` may have several."""

_TERM = re.compile(
    r"""\s*(\w+)\s*(!~|~|!=|<=|>=|=|<|>)\s*("[^"]*"|'[^']*'|[^\s"'].*?)(?:\s+(and)(?:\s+|\Z)|\s*\Z)""",
    re.IGNORECASE | re.DOTALL,
)
_NUMBER = re.compile(r"\d+(?:\.\d+)?%?")
_NUMERIC = {
    "images": re.compile(r"\d+(?:/\d+)?"),
    "done": _NUMBER,
    "rating": _NUMBER,
    "resumes": _NUMBER,
    "variant": re.compile(r"\d*"),  # "" fits the runs of no group
}
"""The columns of numbers, and what they can be compared with."""
_ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt,
    ">=": operator.ge, "~": operator.contains, "!~": lambda text, part: part not in text,
}  # fmt: skip


def parse_conditions(text: str) -> tuple[Condition, ...]:
    """The conditions in ``model~xl and state=error``. Raises ValueError for a wrong one."""
    conditions = []
    begin: int | None = 0
    while begin is not None:
        term = _TERM.match(text, begin)
        if term is None:
            rest = text[begin:].strip()
            raise ValueError(f"{rest!r} is not a comparison such as model~xl or state=error")
        conditions.append(_condition(term[1].lower(), term[2], term[3]))
        begin = term.end() if term[4] else None
    return tuple(conditions)


def _condition(column: str, sign: str, wanted: str) -> Condition:
    if column == "state" and sign in ("=", "!=") and wanted.strip("\"'").upper() not in STATES:
        raise ValueError(f"there is no state {wanted!r}; there are {', '.join(STATES).lower()}")
    if column not in COLUMNS:
        raise ValueError(f"there is no column {column!r}; there are {', '.join(COLUMNS)}")
    if wanted[0] in "\"'":
        wanted = wanted[1:-1]
    if column in _NUMERIC and "~" not in sign and not _NUMERIC[column].fullmatch(wanted):
        raise ValueError(f"{wanted!r} is not a number, and {column} can only be compared with one")
    # One of several models has to fit; with != and !~, each of them.
    every = all if sign.startswith("!") else any
    return lambda entry: every(_compare(value, sign, wanted) for value in COLUMNS[column](entry))


def _compare(value: str, sign: str, wanted: str) -> bool:
    fits = _ORDERS[sign]
    number = value.partition("/")[0] if "/" not in wanted else value  # 2 of 2/4
    if "~" not in sign and _NUMBER.fullmatch(number) and _NUMBER.fullmatch(wanted):
        return fits(float(number.rstrip("%")), float(wanted.rstrip("%")))
    return fits(value.casefold(), wanted.casefold())
