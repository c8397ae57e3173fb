"""Columns of a table that is cut to the width of the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len, set_cell_size

_LEAST = 4
"""The characters that are left of an elastic column at least."""


def shrink(widths: list[int], shares: Sequence[int], room: int) -> None:
    """Cut columns until the sum of ``widths`` is ``room``, or none can be cut further.

    ``shares`` are those of the columns in the room; a column whose share is 0 is not cut.
    """
    while sum(widths) > room:
        wide = [place for place, share in enumerate(shares) if share and widths[place] > _LEAST]
        if not wide:
            return
        widths[max(wide, key=lambda place: widths[place] / shares[place])] -= 1


def cell(text: str, width: int) -> str:
    """``text`` in so many columns of a terminal, cut at its end if it is longer."""
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    return set_cell_size(text, width - 1) + "…"


def cells(
    rows: Sequence[Sequence[str]], is_cut: Sequence[bool], room: int, left: Sequence[int] = ()
) -> Iterator[list[str]]:
    """The cells of a table, each as wide as its column; two spaces belong between columns.

    Columns that ``is_cut`` are cut in the middle, so that the table is ``room`` wide if that is
    possible. The others are aligned to the right, but for those at the places ``left``.
    """
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    shrink(widths, [int(one) for one in is_cut], room - 2 * (len(widths) - 1))
    for row in rows:
        yield [
            _cut_in_the_middle(text, width)
            if is_cut[place]
            else cell(text, width)
            if place in left
            else _to_the_right(text, width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ]


def _cut_in_the_middle(text: str, width: int) -> str:
    """``text`` in so many columns of a terminal; prompts often differ at their end alone."""
    if cell_len(text) <= width:
        return cell(text, width)
    left, right = width // 2, (width - 1) // 2
    begin, end = text[:left], text[len(text) - right :]
    if not text.isascii():
        begin, end = _fitting(begin, left), _fitting(end[::-1], right)[::-1]
    return cell(f"{begin}…{end}", width)


def _fitting(text: str, width: int) -> str:
    """The beginning of ``text`` that has at most so many columns."""
    while cell_len(text) > width:
        text = text[:-1]
    return text


def _to_the_right(text: str, width: int) -> str:
    return " " * (width - cell_len(text)) + text
