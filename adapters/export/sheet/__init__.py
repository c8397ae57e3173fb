"""Sheets: the images of a run or a group side by side, as labelled PNG files."""

from .cells import Block, Cell, Row, SheetContent, SheetRefusedError
from .group_cells import group_content
from .run_cells import run_content
from .sheet_files import WrittenSheet, WrittenSheets, write_sheets

__all__ = [
    "Block",
    "Cell",
    "Row",
    "SheetContent",
    "SheetRefusedError",
    "WrittenSheet",
    "WrittenSheets",
    "group_content",
    "run_content",
    "write_sheets",
]
