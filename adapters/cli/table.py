"""Columns of a table that is cut to the width of the terminal."""

from __future__ import annotations

from collections.abc import Sequence

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
