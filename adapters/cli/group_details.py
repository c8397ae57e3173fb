"""Prints what a group's log says of the group itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ...events.groups.fold import GroupFold
from ...events.groups.log import GROUP_LOG_NAME
from ...events.groups.model import GroupOpened, SweepAxis
from ...statemachine.groups.result import GroupResult
from ...statemachine.variants.axes import axis_keys
from ..event_text import backend_text
from ..projections.varied_values import value_text, varies_seed
from ..text import day_and_time
from .output import count, one_line, print_line, print_settings
from .styles import Mark, file_mark

_MOST_AXES = 12
_MOST_VALUES = 12


def group_document(fold: GroupFold, result: GroupResult) -> Mapping[str, Any]:
    """What ``show --json`` prints of a group: its result, and what its first record holds.

    ``seed`` is null where the seed is varied: each variant has its own.
    """
    opened = fold.opened
    assert opened is not None
    names = ("name", "config", "random", "random_seed", "fail_fast", "backend", "software")
    return {
        **msgspec.to_builtins(result),
        **{name: getattr(opened, name) for name in names},
        "seed": None if varies_seed(opened.axes) else opened.seed,
        "options": None if opened.options is msgspec.UNSET else opened.options,
        "opened_at": opened.ts,
        "ended_at": fold.sealed.ts if fold.sealed else None,
        "resumes": fold.resumes,
    }


def show_group_details(fold: GroupFold, folder: Path) -> None:
    """Print the configuration's name, the axes, the server, its options and the times."""
    opened = fold.opened
    assert opened is not None
    for name, value in _rows(fold, opened, folder):
        print_line(f"{name:<15} ", value if isinstance(value, Mark) else one_line(value))
    if isinstance(opened.options, Mapping) and opened.options:
        print_line("options of the server:")
        print_settings(opened.options.items())


def _rows(fold: GroupFold, opened: GroupOpened, folder: Path) -> Iterator[tuple[str, str | Mark]]:
    yield "group", opened.group_id
    yield "name", opened.name
    for place, axis in enumerate(opened.axes[:_MOST_AXES]):
        yield "" if place else "varies", _axis_text(axis)
    if opened.random is not None:
        yield (
            "drawn",
            f"{count(opened.random, 'variant')} of the product, seed {opened.random_seed}",
        )
    if not varies_seed(opened.axes):
        yield "seed", _seed_text(opened)
    backend = opened.backend
    kind = f"{backend.kind} " if backend.product else ""
    yield "backend", f"{kind}{backend_text(backend)}"
    yield "software", opened.software
    yield "opened", day_and_time(opened.ts)
    if fold.sealed is not None:
        yield "ended", day_and_time(fold.sealed.ts)
    if fold.resumes:
        yield "resumed", count(fold.resumes, "time")
    yield "log", file_mark(folder / GROUP_LOG_NAME)


def _axis_text(axis: SweepAxis) -> str:
    keys = " + ".join(map(value_text, axis_keys(axis)[:_MOST_AXES]))
    values = ", ".join(map(value_text, axis.values[:_MOST_VALUES]))
    more = len(axis.values) - _MOST_VALUES
    return f"{keys}: {values}{f', and {more} more' if more > 0 else ''}"


def _seed_text(opened: GroupOpened) -> str:
    stated = opened.config.get("seed", -1)
    return f"{opened.seed}, drawn once for all runs" if stated == -1 else value_text(stated)
