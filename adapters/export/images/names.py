"""The names of exported images: a template with fields, made safe for every system."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from unicodedata import category, normalize

from ....events.errors import StagewrightError

RUN_TEMPLATE = "{name}-{number:03}-{seed}"
GROUP_TEMPLATE = "{name}-{variant:03}-{number:03}-{seed}"
"""Runs of a group may have the same name, numbers and seeds."""
_WIDTH = re.compile(r"0?[1-9]?", re.ASCII)
_FORBIDDEN = re.compile(r'[<>:"/\\|?*]')
"""What Windows allows in no name."""
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\.|$)", re.IGNORECASE)
"""Names of devices on Windows, also with a suffix."""
_MOST_BYTES = 200
"""File systems allow 255 bytes, of which the suffix and the temporary name need some."""

Value = str | int | None
"""A field's value; None if an image has none."""


class ExportRefusedError(StagewrightError, ValueError):
    """Images that cannot be exported as asked; nothing was copied."""


class NameTemplate:
    """A template such as ``{name}-{number:03}``. Raises ExportRefusedError for a malformed one."""

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._parts = list(string.Formatter().parse(text))
        except ValueError as error:
            raise ExportRefusedError(f"the name {text!r} is malformed: {error}") from error
        for literal, field, width, conversion in self._parts:
            if "/" in literal or "\\" in literal:
                raise ExportRefusedError(f"the name {text!r} makes folders: leave out {literal!r}")
            if field is not None and (conversion or not _WIDTH.fullmatch(width or "")):
                raise ExportRefusedError(
                    f"the name {text!r}: after {field} only a width may follow, as in {{number:03}}"
                )

    def check_fields(self, known: Sequence[str]) -> None:
        """Raise ExportRefusedError for a field that is not ``known``."""
        for _, field, _, _ in self._parts:
            if field is not None and field not in known:
                raise ExportRefusedError(
                    f"the name {self.text!r}: there is no field {{{field}}}; "
                    f"there are {', '.join(known)}"
                )

    def name(self, values: Mapping[str, Value]) -> str:
        """The name of a file without its suffix, for these values of the fields.

        Raises ExportRefusedError for a field that this image has no value of.
        """
        made = ""
        for literal, field, width, _ in self._parts:
            made += literal
            if field is None:
                continue
            value = values.get(field)
            if value is None:
                raise ExportRefusedError(f"the name {self.text!r}: an image has no {field}")
            made += format(value, width or "") if isinstance(value, int) else value
        return safe_name(made)


def safe_name(text: str) -> str:
    """``text`` as a name of a file that every system allows, without a suffix."""
    kept = "".join(
        "-" if category(letter) in ("Cc", "Cs", "Zl", "Zp") else letter
        for letter in normalize("NFC", text)
    )
    # A dot in front hides a file, and a dash makes it look like an option.
    kept = _FORBIDDEN.sub("-", kept).rstrip(" .").lstrip(" .-")
    if _DEVICES.match(kept):
        kept = f"_{kept}"
    return kept.encode()[:_MOST_BYTES].decode(errors="ignore").rstrip(" .") or "image"


def name_key(name: str) -> str:
    """A key that two names share if Windows or macOS take them for the same file."""
    return normalize("NFC", normalize("NFC", name).casefold())
