"""Places the content of sheets on pages: where each picture and each line of text goes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ...drawing import LINE, Font
from .cells import Cell, SheetContent

MOST_SIDE = 6_400
"""Of one sheet, in pixels: it takes 120 MB while it is drawn. Graphics cards show 8,192 or more."""
_SIDES = ((60, 512), (300, 256))
"""Up to how many cells, the longest side of a picture in pixels."""
_SMALLEST = 160
"""The same beyond: 1,000 images are one sheet."""
_LEAST_WIDTH, _LEAST_HEIGHT = 160, 120
"""Of a cell: a caption, or a reason, needs this room."""
_MARGIN, GAP = 16, 8
_WIDEST_LABEL = 280
_MOST_LINES = 12
"""Of a label beside or above cells; the whole text of a longer one is on a sheet at the end."""
_LEAST_PAGE = 480
_NOTE_WIDTH, _NOTE_LINES = 1_600, 100
_LONGEST_SHORT = 200
"""A longer line is wider than any label."""

PlacedText = tuple[int, int, list[str]]
"""Left and top edge, and printable lines."""


class PlacedCell(NamedTuple):
    """A cell whose box begins here, and the lines of its caption and of its reason."""

    cell: Cell
    x: int
    y: int
    caption: list[str]
    reason: list[str]


class Page(NamedTuple):
    """One sheet: its size in pixels, and what is on it."""

    width: int
    height: int
    texts: list[PlacedText]
    cells: list[PlacedCell]


class Layout:
    """Places a content; ``width`` and ``height`` are those of the box of each picture."""

    def __init__(self, content: SheetContent, font: Font) -> None:
        self._content = content
        self._font = font
        cells = content.cells
        side = next((side for most, side in _SIDES if len(cells) <= most), _SMALLEST)
        sizes = [_reduced(cell, side) for cell in cells if cell.file]
        self.width = max([_LEAST_WIDTH, *(width for width, _ in sizes)])
        self.height = max([_LEAST_HEIGHT, *(height for _, height in sizes)])
        captions = {font.printable(cell.caption) for cell in cells}
        self._caption = LINE * max((len(font.wrap(one, self.width)) for one in captions), default=1)
        labels = {row.label for block in content.blocks for row in block.rows}
        self._label_width = self._widest(labels) + GAP if any(labels) else 0
        self._notes: dict[str, int] = {}
        """The texts that are too long for their place, and their numbers."""

    def pages(self) -> list[Page]:
        """All sheets in order: the cells, then the texts that were too long, in full.

        Columns that are too many for the width of a sheet follow below the others, as far as there
        is room for all of their rows.
        """
        columns = len(self._content.columns)
        room = MOST_SIDE - 2 * _MARGIN - self._label_width
        each = max(1, min(columns, room // (self.width + GAP)))
        found: list[Page] = []
        for first in range(0, columns, each):
            for page in self._pages_of(range(first, min(first + each, columns))):
                both = _joined(found[-1], page) if found else None
                found[-1:] = [both] if both else [*found[-1:], page]
        return [*found, *self._note_pages()]

    def _pages_of(self, columns: range) -> Iterator[Page]:
        """The sheets that have these columns."""
        page = self._begin(columns)
        for block in self._content.blocks:
            heading = self._fit(block.heading, page.width - 2 * _MARGIN, _MOST_LINES)
            is_shown = False
            for row in block.rows:
                label = self._fit(row.label, self._label_width - GAP, _MOST_LINES)
                tall = max(self.height + self._caption, len(label) * LINE) + GAP
                above = 0 if is_shown or not heading else len(heading) * LINE + GAP
                if page.cells and page.height + above + tall > MOST_SIDE - _MARGIN:
                    yield _closed(page)
                    page, is_shown = self._begin(columns), False
                if heading and not is_shown:
                    page = _with_text(page, heading)
                is_shown = True
                page.texts.append((_MARGIN, page.height, label))
                page.cells.extend(self._placed(row.cells, columns, page.height))
                page = page._replace(height=page.height + tall)
        yield _closed(page)

    def _begin(self, columns: range) -> Page:
        """A sheet with its title and the labels of its columns."""
        step = self.width + GAP
        width = max(_LEAST_PAGE, 2 * _MARGIN + self._label_width + len(columns) * step)
        title = self._fit(self._content.title, width - 2 * _MARGIN, _MOST_LINES)
        page = _with_text(Page(width, _MARGIN, [], []), title)
        labels = [self._fit(self._content.columns[at], self.width, _MOST_LINES) for at in columns]
        for place, label in enumerate(labels):
            page.texts.append((self._left(place), page.height, label))
        tall = max(map(len, labels)) * LINE
        return page._replace(height=page.height + tall + (GAP if tall else 0))

    def _placed(self, cells: Sequence[Cell], columns: range, top: int) -> Iterator[PlacedCell]:
        """The cells of a row that are in these columns; the last row of a run may be shorter."""
        for place, cell in enumerate(cells[columns.start : columns.stop]):
            caption = self._font.wrap(self._font.printable(cell.caption), self.width)
            reason = self._fit(cell.reason, self.width - 2 * GAP, (self.height - GAP) // LINE)
            yield PlacedCell(cell, self._left(place), top, caption, reason)

    def _left(self, place: int) -> int:
        return _MARGIN + self._label_width + place * (self.width + GAP)

    def _widest(self, labels: Iterable[str]) -> int:
        lines = {line for label in labels for line in label.split("\n")}
        return max(
            min(_WIDEST_LABEL, self._font.width(self._font.printable(line[:_LONGEST_SHORT])))
            for line in lines
        )

    def _fit(self, text: str, width: int, most: int) -> list[str]:
        """The lines of a text; those that are too many are replaced by the number of a note."""
        if not text:
            return []
        lines = self._font.wrap(self._font.printable(text), width)
        if len(lines) <= most:
            return lines
        number = self._notes.setdefault(text, len(self._notes) + 1)
        mark = self._font.wrap(f"... (text {number})", width)
        return [*lines[: most - len(mark)], *mark]

    def _note_pages(self) -> Iterator[Page]:
        """Sheets of text alone."""
        page = Page(_NOTE_WIDTH, _MARGIN, [], [])
        for text, number in self._notes.items():
            written = self._font.printable(f"Text {number}: {text}")
            lines = self._font.wrap(written, _NOTE_WIDTH - 2 * _MARGIN)
            for first in range(0, len(lines), _NOTE_LINES):
                part = lines[first : first + _NOTE_LINES]
                if page.texts and page.height + len(part) * LINE > MOST_SIDE - _MARGIN:
                    yield _closed(page)
                    page = Page(_NOTE_WIDTH, _MARGIN, [], [])
                page = _with_text(page, part)
        if page.texts:
            yield _closed(page)


def _with_text(page: Page, lines: list[str]) -> Page:
    """The page with lines over its whole width below what is on it."""
    page.texts.append((_MARGIN, page.height, lines))
    return page._replace(height=page.height + len(lines) * LINE + GAP)


def _closed(page: Page) -> Page:
    return page._replace(height=page.height + _MARGIN)


def _joined(upper: Page, lower: Page) -> Page | None:
    """One sheet with the content of two that have the same title; None where it is too high."""
    _, top, title = lower.texts[0]
    down = upper.height - _MARGIN - (top + len(title) * LINE)
    if lower.height + down > MOST_SIDE:
        return None
    upper.texts.extend((x, y + down, lines) for x, y, lines in lower.texts[1:])
    upper.cells.extend(one._replace(y=one.y + down) for one in lower.cells)
    return upper._replace(height=lower.height + down)


def _reduced(cell: Cell, side: int) -> tuple[int, int]:
    """The size of a picture within ``side`` x ``side`` pixels; smaller ones keep theirs."""
    share = min(1.0, side / max(cell.width, cell.height, 1))
    return round(cell.width * share), round(cell.height * share)
