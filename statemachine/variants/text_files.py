"""Text files that a configuration names, read within bounds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import NamedTuple

MAX_TEXT_BYTES = 16 * 1024 * 1024
"""The size of the longest record: what a run uses of such a file must fit in its first one."""


class TextFile(NamedTuple):
    """The text of a file without a byte order mark, and the SHA-256 of its bytes."""

    text: str
    sha256: str

    def lines(self) -> Iterator[tuple[int, str]]:
        """The lines without their ends, each with its number from 1."""
        for number, line in enumerate(StringIO(self.text, newline=None), start=1):
            yield number, line.removesuffix("\n")


def read_text_file(path: Path) -> TextFile:
    """Raises ValueError, which says what is wrong with the file in words for after its name."""
    try:
        if not path.is_file():
            raise ValueError("there is no such file")
        with open(path, "rb") as stream:
            # A file that is too large is not read; one that grows is read up to the limit.
            is_long = os.fstat(stream.fileno()).st_size > MAX_TEXT_BYTES
            data = b"" if is_long else stream.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    if is_long or len(data) > MAX_TEXT_BYTES:
        raise ValueError(f"is larger than {MAX_TEXT_BYTES} bytes")
    if (place := data.find(b"\0")) >= 0:
        raise ValueError(f"line {_line(data, place)} holds a NUL byte: it is no UTF-8 text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # Its offset does not count the byte order mark.
        raise ValueError(f"line {_line(data, error.start)} is not UTF-8") from error
    return TextFile(text, sha256(data).hexdigest())


def _line(data: bytes, place: int) -> int:
    return data.count(b"\n", 0, place) + 1
