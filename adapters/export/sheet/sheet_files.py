"""Draws the content of sheets and writes them, one file for each sheet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec

from ...drawing import Canvas, Font, Picture, choose_font, is_sheet, read_pictures
from ...imaging import ImageError
from ..output_file import atomic_output, may_replace
from .cells import SheetContent, SheetRefusedError
from .pages import GAP, Layout, Page, PlacedCell

_FIXED = "Text 0123456789: ... ()"


class WrittenSheet(msgspec.Struct, frozen=True, kw_only=True):
    """One PNG file; ``width`` and ``height`` are pixels."""

    path: str
    width: int
    height: int
    bytes: int
    cells: int


class WrittenSheets(msgspec.Struct, frozen=True, kw_only=True):
    """All files of a run or a group, in order.

    ``images`` were drawn; ``missing`` cells show why they have none, among them those whose files
    are ``unreadable``, with the reasons. ``escaped`` are characters that no font here has.
    """

    title: str
    sheets: tuple[WrittenSheet, ...]
    images: int
    missing: int
    unreadable: tuple[str, ...]
    escaped: tuple[str, ...]


def write_sheets(
    content: SheetContent, output: Path, on_image: Callable[[int, int], object]
) -> WrittenSheets:
    """Draw a content as PNG: ``output``, or ``output-1``, ``output-2`` where one is not enough.

    One sheet is in memory at a time. ``on_image`` is called at each picture with its number, from
    1, and how many there are. Raises SheetRefusedError if a file there is not a
    sheet; nothing is written then. Raises OSError.
    """
    font = choose_font([_FIXED, *_texts(content)])
    layout = Layout(content, font)
    pages = layout.pages()
    paths = _paths(output, len(pages))
    for path in paths:
        if not may_replace(path, is_sheet):
            raise SheetRefusedError(
                f"{path} exists and is not a sheet; name another file with --output"
            )
    total = sum(cell.file is not None for cell in content.cells)
    drawing = _Drawing(layout, font, total, on_image)
    sheets = tuple(drawing.write(page, path) for page, path in zip(pages, paths, strict=True))
    unreadable = tuple(drawing.unreadable)
    return WrittenSheets(
        title=content.title,
        sheets=sheets,
        images=total - len(unreadable),
        missing=len(content.cells) - total + len(unreadable),
        unreadable=unreadable,
        escaped=tuple(font.lacking),
    )


def _texts(content: SheetContent) -> Iterator[str]:
    yield content.title
    yield from content.columns
    for block in content.blocks:
        yield block.heading
        for row in block.rows:
            yield row.label
    for cell in content.cells:
        yield cell.caption
        yield cell.reason


def _paths(output: Path, number: int) -> list[Path]:
    if number == 1:
        return [output]
    return [output.with_stem(f"{output.stem}-{place}") for place in range(1, number + 1)]


class _Drawing:
    """Draws one page after the other; ``unreadable`` says which pictures could not be drawn."""

    def __init__(
        self, layout: Layout, font: Font, total: int, on_image: Callable[[int, int], object]
    ) -> None:
        self.unreadable: list[str] = []
        self._layout = layout
        self._font = font
        self._total = total
        self._on_image = on_image
        self._number = 0

    def write(self, page: Page, path: Path) -> WrittenSheet:
        canvas = Canvas(page.width, page.height, self._font)
        for x, y, lines in page.texts:
            canvas.write(x, y, lines)
        files = [placed.cell.file for placed in page.cells if placed.cell.file is not None]
        side = max(self._layout.width, self._layout.height)
        with closing(read_pictures(files, side)) as pictures:
            for placed in page.cells:
                self._draw(canvas, placed, next(pictures) if placed.cell.file else None)
        with atomic_output(path) as stream:
            canvas.save(stream)
        return WrittenSheet(
            path=str(path),
            width=page.width,
            height=page.height,
            bytes=path.stat().st_size,
            cells=len(page.cells),
        )

    def _draw(self, canvas: Canvas, placed: PlacedCell, found: Picture | ImageError | None) -> None:
        width, height = self._layout.width, self._layout.height
        reason = placed.reason
        if found is not None:
            self._number += 1
            self._on_image(self._number, self._total)
        if isinstance(found, ImageError):
            self.unreadable.append(str(found))
            reason = ["its file cannot", "be read"]
        elif found is not None:
            canvas.place(found, placed.x, placed.y, width, height)
        if reason:
            canvas.frame(placed.x, placed.y, width, height)
            canvas.write(placed.x + GAP, placed.y + GAP // 2, reason)
        canvas.write(placed.x, placed.y + height, placed.caption)
