"""Text for people: which characters are shown as escapes, on terminals and in reports."""

from __future__ import annotations

import re
import sys
from datetime import datetime
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stagewright.adapters.event_text import error_text, image_numbers, state_text
from stagewright.adapters.text import (
    byte_size,
    count_of,
    day_and_time,
    duration,
    escaped,
    ranges_of,
    ranges_text,
    time_of_day,
)
from stagewright.events.model import ErrorDetail


@pytest.mark.parametrize(
    ("character", "shown"),
    [
        ("\x1b", r"\x1b"), ("\u061c", r"\u061c"), ("\u200b", r"\u200b"), ("\u200d", r"\u200d"),
        ("\u200f", r"\u200f"), ("\u202e", r"\u202e"), ("\u2060", r"\u2060"), ("\ufeff", r"\ufeff"),
    ],
)  # fmt: skip
def test_characters_that_are_not_seen_are_shown_as_escapes(character: str, shown: str) -> None:
    """Control characters, marks of direction and characters without width."""
    assert escaped(f"a{character}b") == f"a{shown}b"


def test_a_terminal_and_the_script_of_a_report_escape_the_same_characters() -> None:
    """But for line ends, which the script lays out, and surrogates, which its UTF-8 cannot hold."""
    script = files("stagewright.adapters.export.report") / "templates" / "log.js"
    found = re.search(r"const hidden = /(\[.*\])/g;", script.read_text(encoding="utf-8"))
    assert found is not None
    hidden = re.compile(found[1])
    differ = [
        code
        for code in range(sys.maxunicode + 1)
        if not 0xD800 <= code <= 0xDFFF
        if (escaped(chr(code)) != chr(code)) is not bool(hidden.match(chr(code)))
    ]
    assert differ == [ord("\n")]


@pytest.mark.parametrize(
    ("state", "outcome", "text"),
    [
        ("COMPLETED", "completed", "COMPLETED"),
        ("CANCELLED", "cancelled", "CANCELLED"),
        ("ERROR", "failed", "ERROR"),
        ("ERROR", "partial", "ERROR, partial"),
        ("RUNNING", None, "RUNNING"),
    ],
)
def test_an_outcome_that_repeats_the_state_is_not_shown(
    state: str, outcome: str | None, text: str
) -> None:
    """Only ``partial`` adds something to a state."""
    assert state_text(state, outcome) == text


def test_image_numbers_in_texts_count_from_1() -> None:
    """The index 2 is the third image, alone, in a batch and in an error."""
    error = ErrorDetail(kind="BackendError", message="no", stage_id="00-txt2img", image_index=2)
    assert image_numbers(2, 1) == "image 3"
    assert image_numbers(2, 4) == "images 3-6"
    assert error_text(error) == "00-txt2img, image 3: BackendError: no"
    assert error_text(error, 4) == "00-txt2img, image 3 of 4: BackendError: no"


def test_durations_and_sizes_have_a_fitting_unit() -> None:
    """At the edges of their units."""
    durations = (0, 99, 250, 999.6, 1_940, 59_960, 192_000, 7_500_000, 273_600_000)
    assert [duration(one) for one in durations] == [
        "0 ms", "99 ms", "0.2 s", "1.0 s", "1.9 s", "0:01:00", "0:03:12", "2:05:00",
        "3 days, 4:00:00",
    ]  # fmt: skip
    assert [byte_size(one) for one in (0, 1, 999, 1_400, 999_600, 1_400_000, 10**16)] == [
        "0 bytes", "1 byte", "999 bytes", "1.4 KB", "1 MB", "1.4 MB", "1e+04 TB",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("written", "day", "time"),
    [
        ("0001-01-01T00:00:00+14:00", "0001-01-01 00:00:00+14:00", "00:00:00.000+14:00"),
        ("9999-12-31T23:59:59.999999-14:00", "9999-12-31 23:59:59-14:00", "23:59:59.999-14:00"),
        ("2026-11-20T22:52:26.123456+01:00", "2026-11-20 21:52:26 UTC", "21:52:26.123"),
        ("0001-01-01T00:00:00Z", "0001-01-01 00:00:00 UTC", "00:00:00.000"),
    ],
)
def test_every_legal_time_is_shown(written: str, day: str, time: str) -> None:
    """In UTC, except for the first and the last hours of all, which UTC has in no year."""
    moment = datetime.fromisoformat(written)
    assert (day_and_time(moment), time_of_day(moment)) == (day, time)


@given(st.sets(st.integers(0, 40)))
def test_ranges_hold_exactly_the_numbers(numbers: set[int]) -> None:
    """In as few ranges as possible; as text they look like page numbers."""
    found = ranges_of(sorted(numbers))
    assert [n for first, last in found for n in range(first, last + 1)] == sorted(numbers)
    assert len(found) == len([n for n in numbers if n - 1 not in numbers])
    assert count_of(found) == len(numbers)
    assert ranges_text([(0, 2), (5, 5), (7, 8)]) == "0-2, 5, 7-8"
