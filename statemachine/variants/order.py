"""The order of variants in which the checkpoint changes as seldom as possible."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

Checkpoints = tuple[str | None, str | None]
"""What a run loads first, and what it ends with; None: what the server has loaded."""

_Edge = tuple[int | None, str | None]
"""A variant (None: an edge that was added), and the checkpoint that it leads to."""


def count_changes(checkpoints: Iterable[str | None]) -> int:
    """How often the checkpoint changes while these are loaded in a row."""
    return sum(one != other for one, other in pairwise(checkpoints))


def order_variants(paths: Sequence[Checkpoints]) -> list[int]:
    """The variants, by their index, in an order with the fewest changes between two runs.

    Checkpoints are the nodes of a directed graph and variants its edges, so that variants that
    follow each other without a change are a trail. The fewest trails that hold every edge are the
    parts of a closed trail through the graph and edges that balance its nodes. Variants that
    could run in any order keep theirs.
    """
    edges: dict[str | None, list[_Edge]] = {}
    for index, (first, last) in enumerate(paths):
        edges.setdefault(first, []).append((index, last))
        edges.setdefault(last, [])
    _balance(edges)
    for leaving in edges.values():
        leaving.reverse()  # the first one is taken from the end
    trails: list[list[int]] = []
    for first, _ in paths:
        if edges[first]:
            trails += _split(_closed_trail(first, edges))
    return [index for trail in sorted(trails, key=min) for index in trail]


def _balance(edges: dict[str | None, list[_Edge]]) -> None:
    """Add edges until as many lead to each checkpoint as from it."""
    surplus = {node: -len(leaving) for node, leaving in edges.items()}
    for leaving in edges.values():
        for _, end in leaving:
            surplus[end] += 1
    ends = (node for node, more in surplus.items() for _ in range(more))
    starts = [node for node, more in surplus.items() for _ in range(-more)]
    for end, start in zip(list(ends), starts, strict=True):
        edges[end].append((None, start))


def _closed_trail(start: str | None, edges: dict[str | None, list[_Edge]]) -> list[int | None]:
    """All edges that can be reached, in the order of a walk back to ``start`` (Hierholzer)."""
    walk: list[_Edge] = [(None, start)]
    trail: list[int | None] = []
    while walk:
        if leaving := edges[walk[-1][1]]:
            walk.append(leaving.pop())
        else:
            trail.append(walk.pop()[0])
    return trail[-2::-1]  # without the edge that led to the start


def _split(closed: list[int | None]) -> Iterator[list[int]]:
    """The parts of a closed trail between the edges that were added."""
    if None in closed:
        place = closed.index(None)
        closed = [*closed[place + 1 :], *closed[: place + 1]]
    trail: list[int] = []
    for index in [*closed, None]:
        if index is not None:
            trail.append(index)
        elif trail:
            yield trail
            trail = []
