"""A stage's settings as they were asked, beside those that its answers tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

import msgspec

from ...projections.used_settings import agree, settings_asked
from .logged_run import SEEDS_AS_RECORDED, UsedValues


class Agreement(StrEnum):
    """How what was used stands to what was asked."""

    SAME = "same"
    DIFFERENT = "different"
    UNTOLD = "untold"
    UNASKED = "unasked"


class SettingRow(msgspec.Struct, frozen=True):
    """One setting; ``used`` are the values told, each with the number of answers that told it."""

    key: str
    asked: str
    used: tuple[tuple[str, int], ...]
    agreement: Agreement


def setting_rows(config: Mapping[str, Any], used: UsedValues | None) -> list[SettingRow]:
    """The settings of a stage: those asked, in order, then those that were only told."""
    asked = settings_asked(config)
    rows = [_row(key, asked, used) for key in asked]
    told = [key for key in used.told() if key != SEEDS_AS_RECORDED] if used is not None else []
    tables = {key.rpartition(".")[0] for key in asked}
    rows += [
        SettingRow(key, "", _shown(used, key), Agreement.UNASKED)
        for key in told
        # What is told of a table that was not asked for is what the server would have done.
        if key not in asked and key.rpartition(".")[0] in tables | {""}
    ]
    return rows


def _row(key: str, asked: Mapping[str, Any], used: UsedValues | None) -> SettingRow:
    if key == "seed":
        return _seed_row(asked[key], used)
    shown = _shown(used, key)
    agreement = Agreement.UNTOLD
    if used is not None and shown:
        agreement = Agreement.SAME if _fits(key, asked, used) else Agreement.DIFFERENT
    return SettingRow(key, text_of(asked[key]), shown, agreement)


def _fits(key: str, asked: Mapping[str, Any], used: UsedValues) -> bool:
    """Whether all values told are what was asked, with a schedule that some answer tells."""
    table, dot, _ = key.rpartition(".")
    beside = f"{table}{dot}scheduler"
    schedules = [value for value, _ in used.of(beside)] or [None]
    return all(
        any(
            agree(key, asked[key], value, scheduler=asked.get(beside), schedule=schedule)
            for schedule in schedules
        )
        for value, _ in used.of(key)
    )


def _seed_row(asked: Any, used: UsedValues | None) -> SettingRow:
    """Seeds count up from the one that was asked, so each image's is compared with its record."""
    told = used.of(SEEDS_AS_RECORDED) if used is not None else []
    words = tuple(("as recorded" if same else "others", often) for same, often in told)
    same = all(same for same, _ in told)
    agreement = (Agreement.SAME if same else Agreement.DIFFERENT) if told else Agreement.UNTOLD
    return SettingRow("seed", f"{asked}, and on from there", words, agreement)


def _shown(used: UsedValues | None, key: str) -> tuple[tuple[str, int], ...]:
    values = used.of(key) if used is not None else []
    return tuple((text_of(value), often) for value, often in values)


def text_of(value: Any) -> str:
    """A setting's value as text; an empty text is shown as what it is."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if value != "" else "(empty)"


def differing(rows: list[SettingRow]) -> Iterator[SettingRow]:
    """The rows in which something else was used than what was asked."""
    return (row for row in rows if row.agreement is Agreement.DIFFERENT)
