"""Draws labelled sheets of pictures with Pillow: fonts, wrapped text, and the canvas.

It loads Pillow, which takes 20 ms: modules that every command loads import it where it is needed.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import repeat
from math import ceil
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from .imaging import ImageError
from .text import escaped
from .thumbnails import reduced_picture

TEXT_SIZE = 15
"""The size of letters, in pixels."""
LINE = 20
"""The height of a line of text, in pixels."""

_SYSTEM_FONTS = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf",
    "Arial Unicode.ttf", "arial.ttf", "Arial.ttf", "segoeui.ttf",
    "NotoSansCJK-Regular.ttc", "wqy-zenhei.ttc", "wqy-microhei.ttc", "DroidSansFallbackFull.ttf",
    "msyh.ttc", "YuGothM.ttc", "msgothic.ttc", "malgun.ttf", "Hiragino Sans GB.ttc",
    "PingFang.ttc", "AppleSDGothicNeo.ttc",
)  # fmt: skip
"""Fonts of common systems: Pillow's own has ASCII and a few signs, and no letter with an accent."""
_NO_CHARACTER = "\U0010ffff"
_BACKGROUND, _INK, _FRAME, _EMPTY = "white", "#1a1a1a", "#b0b0b0", "#f0f0f0"
_THREADS, _AHEAD = 2, 32
_KEYWORD, _PROGRAM = "Software", "stagewright sheet"


class Font:
    """A font, which measures and wraps texts; a text is first made ``printable``.

    ``lacking`` are the characters that were escaped so far, for it has no picture of them.
    """

    def __init__(self, font: ImageFont.FreeTypeFont) -> None:
        self.font = font
        self.lacking: dict[str, None] = {}
        self._blank = self._picture(_NO_CHARACTER)
        self._draws = lru_cache(maxsize=None)(self._has_picture)
        self._width = lru_cache(maxsize=65_536)(font.getlength)

    def lacks(self, text: str) -> set[str]:
        """The characters of ``text`` that the font cannot draw."""
        return {letter for letter in set(_composed(text)) if not self._draws(letter)}

    def printable(self, text: str) -> str:
        """``text`` with escapes for what cannot be drawn, such as ``\\u6771``."""
        found = _composed(text)
        lacking = self.lacks(found)
        self.lacking |= dict.fromkeys(sorted(lacking))
        return "".join(_escape(one) if one in lacking else one for one in found)

    def width(self, text: str) -> int:
        """The width of a printable line, in pixels."""
        return ceil(self._width(text))

    def wrap(self, text: str, width: int) -> list[str]:
        """The lines of a printable text, at most ``width`` pixels wide; long words are broken."""
        lines: list[str] = []
        for paragraph in text.split("\n"):
            line = ""
            for word in paragraph.split():
                joined = f"{line} {word}" if line else word
                if self._width(joined) <= width:
                    line = joined
                    continue
                lines += [line] if line else []
                *full, line = self._broken(word, width)
                lines += full
            lines.append(line)
        return lines

    def _broken(self, word: str, width: int) -> list[str]:
        """The parts of a word that fit; each has a character at least."""
        parts, begin, wide = [], 0, 0.0
        for end, letter in enumerate(word):
            wide += self._width(letter)
            if wide > width and end > begin:
                parts.append(word[begin:end])
                begin, wide = end, self._width(letter)
        return [*parts, word[begin:]]

    def _has_picture(self, letter: str) -> bool:
        return letter.isspace() or self._picture(letter) != self._blank

    def _picture(self, letter: str) -> tuple[bytes, tuple[int, int]]:
        mask = self.font.getmask(letter)
        return bytes(mask), mask.size


def choose_font(texts: Iterable[str]) -> Font:
    """The first font that has every character of ``texts``, else the one that lacks the fewest.

    Pillow's own font comes first, so that a sheet in ASCII looks the same on every machine.
    """
    letters = "".join(sorted(set().union(*map(_composed, texts))))
    best, fewest = None, len(letters) + 1
    for font in _fonts():
        lacking = len(font.lacks(letters))
        if lacking < fewest:
            best, fewest = font, lacking
        if not lacking:
            break
    assert best is not None
    return best


def _fonts() -> Iterator[Font]:
    own = ImageFont.load_default(TEXT_SIZE)
    assert isinstance(own, ImageFont.FreeTypeFont)  # a size makes it one
    yield Font(own)
    for name in _SYSTEM_FONTS:
        try:
            yield Font(ImageFont.truetype(name, TEXT_SIZE))
        except OSError:
            continue  # not installed here


def _composed(text: str) -> str:
    """Letters and accents as one character where there is one; control characters as escapes."""
    lines = unicodedata.normalize("NFC", text).split("\n")
    return "\n".join(escaped(line.replace("\t", " ")) for line in lines)


def _escape(letter: str) -> str:
    code = ord(letter)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


Picture = Image.Image


def read_pictures(files: Sequence[Path], side: int) -> Generator[Picture | ImageError]:
    """Each picture within ``side`` x ``side`` pixels, in order, or why it cannot be read.

    Two threads decode at a time, for that is most of the time that a sheet takes; no more than
    some small pictures wait for the caller.
    """
    with ThreadPoolExecutor(_THREADS) as threads:
        for first in range(0, len(files), _AHEAD):
            part = files[first : first + _AHEAD]
            yield from threads.map(_picture_or_error, part, repeat(side))


def _picture_or_error(file: Path, side: int) -> Picture | ImageError:
    try:
        return reduced_picture(file, side)
    except ImageError as error:
        return error


class Canvas:
    """One sheet; places and sizes are pixels from its upper left corner."""

    def __init__(self, width: int, height: int, font: Font) -> None:
        self.size = (width, height)
        self._font = font.font
        self._image = Image.new("RGB", self.size, _BACKGROUND)
        self._draw = ImageDraw.Draw(self._image)

    def write(self, x: int, y: int, lines: Sequence[str]) -> None:
        """Write printable lines, one below the other."""
        for place, line in enumerate(lines):
            self._draw.text((x, y + place * LINE), line, fill=_INK, font=self._font)

    def frame(self, x: int, y: int, width: int, height: int) -> None:
        """Draw the frame of a cell without a picture."""
        box = (x, y, x + width - 1, y + height - 1)
        self._draw.rectangle(box, fill=_EMPTY, outline=_FRAME)

    def place(self, picture: Image.Image, x: int, y: int, width: int, height: int) -> None:
        """Place a picture, reduced if need be, in the middle of a box."""
        if picture.width > width or picture.height > height:  # not the size that was recorded
            picture.thumbnail((width, height))
        left = x + (width - picture.width) // 2
        top = y + (height - picture.height) // 2
        self._image.paste(picture, (left, top), picture if picture.mode == "RGBA" else None)

    def save(self, stream: BinaryIO) -> None:
        """Write the sheet as a PNG."""
        texts = PngImagePlugin.PngInfo()
        texts.add_text(_KEYWORD, _PROGRAM)
        self._image.save(stream, "PNG", compress_level=1, pnginfo=texts)


def is_sheet(stream: BinaryIO) -> bool:
    """Whether a file is a sheet that ``Canvas`` wrote, by its beginning."""
    return f"{_KEYWORD}\0{_PROGRAM}".encode() in stream.read(256)
