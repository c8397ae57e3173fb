"""Rows of prompts, and the files that hold them."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from ..stages.constraints import Seed
from .text_files import TextFile, read_text_file

MAX_ROWS = 1_000_000
"""A run has no more images."""
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,10}")


class PromptRow(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """A row of ``prompts``: what it lacks comes from the top level of the configuration.

    ``seed`` is that of the row's first image; -1 means one drawn when the run starts.
    """

    prompt: str | None = None
    negative_prompt: str | None = None
    seed: Seed | None = None


COLUMNS = PromptRow.__struct_fields__
_ROW = msgspec.json.Decoder(PromptRow)


def read_prompt_file(path: Path) -> tuple[tuple[PromptRow, ...], str]:
    """The rows of a ``.txt``, ``.csv``, ``.tsv`` or ``.jsonl`` file, and the file's SHA-256.

    Raises ValueError, which says what is wrong with the file in words for after its name.
    """
    kind = _KINDS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"is of no known kind: its name must end in {', '.join(_KINDS)}")
    file = read_text_file(path)
    rows = tuple(islice(kind(file), MAX_ROWS + 1))
    if not rows:
        raise ValueError("holds no prompt")
    if len(rows) > MAX_ROWS:
        raise ValueError(f"holds more than {MAX_ROWS} prompts")
    return rows, file.sha256


def _text_rows(file: TextFile) -> Iterator[PromptRow]:
    for _, line in file.lines():
        if line.strip() and not line.startswith("#"):
            yield PromptRow(prompt=line)


def _json_rows(file: TextFile) -> Iterator[PromptRow]:
    for number, line in file.lines():
        if not line.strip():
            continue
        try:
            yield _ROW.decode(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"line {number} is not an object with {_named(COLUMNS)}: {error}"
            ) from error


def _comma_rows(file: TextFile) -> Iterator[PromptRow]:
    return _table_rows(file, ",")


def _tab_rows(file: TextFile) -> Iterator[PromptRow]:
    return _table_rows(file, "\t")


def _table_rows(file: TextFile, delimiter: str) -> Iterator[PromptRow]:
    reader = csv.reader(StringIO(file.text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = [name.strip() for name in next(reader, [])]
        for name in columns:
            if name not in COLUMNS or columns.count(name) > 1:
                what = "names no column" if name not in COLUMNS else "names one column twice"
                raise ValueError(f"line 1 {what} with {name[:80]!r}: there are {_named(COLUMNS)}")
        for cells in filter(None, reader):
            if len(cells) > len(columns):
                raise ValueError(f"line {reader.line_num} has more cells than line 1")
            row = dict(zip(columns, cells, strict=False))
            yield _row({key: cell for key, cell in row.items() if cell.strip()}, reader.line_num)
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} cannot be read: {error}") from error


def _row(cells: Mapping[str, Any], number: int) -> PromptRow:
    """The row of a line; an empty cell is one that it lacks."""
    seed = cells.get("seed")
    values = {**cells, "seed": int(seed)} if seed and _WHOLE_NUMBER.fullmatch(seed) else cells
    try:
        return msgspec.convert(values, PromptRow)
    except msgspec.ValidationError as error:
        raise ValueError(
            f"line {number}: seed = {str(seed)[:80]!r} is not a seed: {error}"
        ) from error


def _named(names: tuple[str, ...]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1]


_KINDS: Mapping[str, Callable[[TextFile], Iterator[PromptRow]]] = {
    ".txt": _text_rows,
    ".csv": _comma_rows,
    ".tsv": _tab_rows,
    ".jsonl": _json_rows,
}
