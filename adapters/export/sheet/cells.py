"""The content of sheets: blocks of rows of cells, each an image or the reason why there is none."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ....events.errors import StagewrightError


class SheetRefusedError(StagewrightError, ValueError):
    """No sheet can be made: the stage or the key is not there, or a file would be replaced."""


class Cell(NamedTuple):
    """One image, or, without a ``file``, the ``reason`` why there is none.

    ``width`` and ``height`` are the pixels that were recorded.
    """

    caption: str
    reason: str = ""
    file: Path | None = None
    width: int = 0
    height: int = 0


class Row(NamedTuple):
    """A label, and a cell for each column."""

    label: str
    cells: tuple[Cell, ...]


class Block(NamedTuple):
    """Rows with a common heading, "" for none."""

    heading: str
    rows: tuple[Row, ...]


class SheetContent(NamedTuple):
    """What is to be drawn: ``columns`` are their labels, all of them "" where they have none."""

    title: str
    columns: tuple[str, ...]
    blocks: tuple[Block, ...]

    @property
    def cells(self) -> list[Cell]:
        """All cells in order."""
        return [cell for block in self.blocks for row in block.rows for cell in row.cells]
