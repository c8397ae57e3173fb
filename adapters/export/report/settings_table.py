"""A table of a stage's requested settings beside those that its answers report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

from ...projections.used_settings import agree, settings_asked

SEEDS_AS_RECORDED = "seeds as recorded"
"""A key of ``UsedValues``: whether an answer reports the seeds recorded for its images."""
_MAX_VALUES = 6


class UsedValues:
    """The values that the answers of a stage report for each setting, and how often."""

    def __init__(self) -> None:
        self.answers = 0
        self._values: dict[str, Counter[tuple[type, Any]]] = {}

    def take(self, used: Mapping[str, Any]) -> None:
        """Add one more answer."""
        self.answers += 1
        for key, value in used.items():
            values = self._values.setdefault(key, Counter())
            typed = (type(value), value)  # 1 and true are equal in Python, but not in JSON
            if typed in values or len(values) < _MAX_VALUES:
                values[typed] += 1

    def reported(self) -> list[str]:
        """The settings that the answers report."""
        return list(self._values)

    def of(self, key: str) -> list[tuple[Any, int]]:
        """The first values of a setting, the most frequent ones first."""
        found = self._values.get(key, Counter())
        return [(value, often) for (_, value), often in found.most_common()]


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


def setting_rows(config: Mapping[str, Any], used: UsedValues) -> list[SettingRow]:
    """The requested settings of a stage in order, then settings that are only reported."""
    asked = settings_asked(config)
    tables = {key.rpartition(".")[0] for key in asked} | {""}
    unrequested = [
        SettingRow(key, "", _shown(used, key), Agreement.UNREQUESTED)
        for key in used.reported()
        # Settings of a table that was not requested did not take effect.
        if key not in asked and key.rpartition(".")[0] in tables and key != SEEDS_AS_RECORDED
    ]
    return [_row(key, asked, used) for key in asked] + unrequested


def _row(key: str, asked: Mapping[str, Any], used: UsedValues) -> SettingRow:
    if key == "seed":
        return _seed_row(asked[key], used)
    shown = _shown(used, key)
    return SettingRow(key, text_of(asked[key]), shown, _agreement(shown, _fits(key, asked, used)))


def _agreement(shown: tuple[tuple[str, int], ...], fits: bool) -> Agreement:  # noqa: FBT001 - private
    if not shown:
        return Agreement.UNREPORTED
    return Agreement.SAME if fits else Agreement.DIFFERENT


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


def _seed_row(asked: Any, used: UsedValues) -> SettingRow:
    """Seeds count up from the requested one, so each image's seed is compared with its record."""
    reports = used.of(SEEDS_AS_RECORDED)
    words = tuple(("as recorded" if same else "different", often) for same, often in reports)
    fits = all(same for same, _ in reports)
    return SettingRow("seed", f"from {asked} on", words, _agreement(words, fits))


def _shown(used: UsedValues, key: str) -> tuple[tuple[str, int], ...]:
    return tuple((text_of(value), often) for value, often in used.of(key))


def text_of(value: Any) -> str:
    """A setting's value as text; an empty text is shown as ``(empty)``."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if value != "" else "(empty)"
