"""Text for people: which characters are shown as escapes, on terminals and in reports."""

from __future__ import annotations

import re
import sys
from importlib.resources import files

import pytest
from stagewright.adapters.text import escaped


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
