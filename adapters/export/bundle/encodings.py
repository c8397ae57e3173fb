"""Finds words in a text in any encoding: backslash escapes, percent encoding, HTML entities."""

from __future__ import annotations

import html
import re
from array import array
from collections.abc import Callable, Iterator
from typing import NamedTuple

_SIMPLE = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}
_BACKSLASHED = re.compile(
    r"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})"  # two halves of one
    r"|\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|([^ux\s]))"
)
_QUOTED = re.compile(r"%([0-9a-fA-F]{2})|\+")
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z]{2,8});")
_DEEPEST = 3
"""How many encodings may be nested."""
_HINT = re.compile(r"[\\%&+]")


def _unescaped(found: re.Match[str]) -> str:
    high, low, wide, narrow, simple = found.groups()
    if high:
        return bytes.fromhex(high + low).decode("utf-16-be")
    digits = wide or narrow
    return chr(int(digits, 16)) if digits else _SIMPLE.get(simple, simple)


def _unquoted(found: re.Match[str]) -> str:
    return chr(int(found[1], 16)) if found[1] else " "


def _plain(found: re.Match[str]) -> str:
    decoded = html.unescape(found[0])
    return decoded if len(decoded) == 1 else found[0]


class _Encoding(NamedTuple):
    """One encoding: a pattern for an encoded character, and its decoder."""

    pattern: re.Pattern[str]
    decoded: Callable[[re.Match[str]], str]

    def undone(self, text: str) -> str:
        return self.pattern.sub(self.decoded, text)

    def places(self, text: str) -> array[int]:
        """Where each character of what is ``undone`` began in ``text``, and where that ends."""
        places, done = array("L"), 0
        for found in self.pattern.finditer(text):
            places.extend(range(done, found.start()))
            decoded = self.decoded(found)
            # A match that decodes to itself keeps its characters.
            kept = range(found.start(), found.end()) if decoded == found[0] else (found.start(),)
            places.extend(kept)
            done = found.end()
        places.extend(range(done, len(text) + 1))
        return places


_WRITINGS = (
    _Encoding(_BACKSLASHED, _unescaped),
    _Encoding(_QUOTED, _unquoted),
    _Encoding(_ENTITY, _plain),
)


def spans(words: re.Pattern[str], text: str) -> list[tuple[int, int]]:
    """The positions of these words in a text, in any encoding; in order, without overlaps."""
    if not _HINT.search(text):
        return [found.span() for found in words.finditer(text)]
    found = sorted(_spans(words, text, None, {text}, _DEEPEST))
    apart: list[tuple[int, int]] = []
    for begin, end in found:
        if apart and begin < apart[-1][1]:
            apart[-1] = (apart[-1][0], max(end, apart[-1][1]))
        else:
            apart.append((begin, end))
    return apart


def _spans(
    words: re.Pattern[str], text: str, places: Callable[[], array[int]] | None,
    seen: set[str], deepest: int,
) -> Iterator[tuple[int, int]]:  # fmt: skip
    """As ``spans``; ``places`` says where the characters of ``text`` are in the text itself."""
    found = [one.span() for one in words.finditer(text)]
    if found and places is not None:
        table = places()
        found = [(table[begin], table[end]) for begin, end in found]
    yield from found
    for writing in _WRITINGS if deepest else ():
        undone = writing.undone(text)
        if undone not in seen:
            seen.add(undone)
            yield from _spans(words, undone, _through(writing, text, places), seen, deepest - 1)


def _through(
    writing: _Encoding, text: str, places: Callable[[], array[int]] | None
) -> Callable[[], array[int]]:
    """The places of what is undone of ``text``, worked out when they are needed."""

    def through() -> array[int]:
        inner = writing.places(text)
        if places is None:
            return inner
        outer = places()
        return array("L", (outer[place] for place in inner))

    return through
