"""A table of a stage's requested settings beside those that its answers report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

import msgspec

from ...projections.used_settings import agree, settings_asked
from .logged_run import SEEDS_AS_RECORDED, UsedValues


class Agreement(StrEnum):
    """How a used setting compares with the requested one."""

    SAME = "same"
    DIFFERENT = "different"
    UNREPORTED = "unreported"
    UNREQUESTED = "unrequested"


class SettingRow(msgspec.Struct, frozen=True):
    """One setting; ``used`` holds each reported value with the number of answers that report it."""

    key: str
    asked: str
    used: tuple[tuple[str, int], ...]
    agreement: Agreement


def setting_rows(config: Mapping[str, Any], used: UsedValues | None) -> list[SettingRow]:
    """The requested settings of a stage in order, then settings that are only reported."""
    asked = settings_asked(config)
    rows = [_row(key, asked, used) for key in asked]
    reported = [key for key in used.reported() if key != SEEDS_AS_RECORDED] if used else []
    tables = {key.rpartition(".")[0] for key in asked}
    rows += [
        SettingRow(key, "", _shown(used, key), Agreement.UNREQUESTED)
        for key in reported
        # Settings of a table that was not requested did not take effect.
        if key not in asked and key.rpartition(".")[0] in tables | {""}
    ]
    return rows


def _row(key: str, asked: Mapping[str, Any], used: UsedValues | None) -> SettingRow:
    if key == "seed":
        return _seed_row(asked[key], used)
    shown = _shown(used, key)
    agreement = Agreement.UNREPORTED
    if used is not None and shown:
        agreement = Agreement.SAME if _fits(key, asked, used) else Agreement.DIFFERENT
    return SettingRow(key, text_of(asked[key]), shown, agreement)


def _fits(key: str, asked: Mapping[str, Any], used: UsedValues) -> bool:
    """Whether all reported values fit the requested one, with a schedule reported by an answer."""
    table, dot, name = key.rpartition(".")
    if name.endswith("prompt") and "styles" in asked:
        # A server reports the prompt with the texts of the styles around it.
        return all(str(asked[key]).strip() in str(value) for value, _ in used.of(key))
    scheduler_key = f"{table}{dot}scheduler"
    schedules = [value for value, _ in used.of(scheduler_key)] or [None]
    return all(
        any(
            agree(key, asked[key], value, scheduler=asked.get(scheduler_key), schedule=schedule)
            for schedule in schedules
        )
        for value, _ in used.of(key)
    )


def _seed_row(asked: Any, used: UsedValues | None) -> SettingRow:
    """Seeds count up from the requested one, so each image's seed is compared with its record."""
    reports = used.of(SEEDS_AS_RECORDED) if used is not None else []
    words = tuple(("as recorded" if same else "different", often) for same, often in reports)
    same = all(same for same, _ in reports)
    agreement = (
        (Agreement.SAME if same else Agreement.DIFFERENT) if reports else Agreement.UNREPORTED
    )
    return SettingRow("seed", f"from {asked} on", words, agreement)


def _shown(used: UsedValues | None, key: str) -> tuple[tuple[str, int], ...]:
    values = used.of(key) if used is not None else []
    return tuple((text_of(value), often) for value, often in values)


def text_of(value: Any) -> str:
    """A setting's value as text; an empty text is shown as ``(empty)``."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if value != "" else "(empty)"


def differing(rows: list[SettingRow]) -> Iterator[SettingRow]:
    """The rows whose used value differs from the requested one."""
    return (row for row in rows if row.agreement is Agreement.DIFFERENT)
