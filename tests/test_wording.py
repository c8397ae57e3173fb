"""Text for people: which characters are shown as escapes, on terminals and in reports."""

from __future__ import annotations

import re
import sys
from importlib.resources import files

import pytest
from stagewright.adapters.event_text import error_text, image_numbers
from stagewright.adapters.text import escaped, state_text
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
