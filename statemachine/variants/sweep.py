"""A sweep: the variants that its axes make, all of them or some drawn at random."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from ..errors import ConfigurationError
from .axes import VariedAxis
from .templates import SeededChooser

MAX_VARIANTS = 100_000
"""Variants of one sweep, at most: the first record of a group lists them all."""


class Sweep(msgspec.Struct, frozen=True):
    """The product of ``axes``; with ``random``, so many variants that are drawn from it.

    ``seed`` is that of the draw, None where it is left to chance; it counts as 0 then.
    """

    axes: tuple[VariedAxis, ...]
    random: int | None = None
    seed: int | None = None

    def count(self) -> int:
        """How many variants there are; none of them is made."""
        return self._whole if self.random is None else min(self.random, self._whole)

    @property
    def _whole(self) -> int:
        return math.prod(len(one.axis.values) for one in self.axes)

    def variants(self) -> Iterator[Mapping[str, Any]]:
        """The values of each variant by key; the last axis changes fastest.

        Raises ConfigurationError for more than ``MAX_VARIANTS``.
        """
        count = self.count()
        if count > MAX_VARIANTS:
            raise ConfigurationError(
                f"sweep makes {count} variants, and at most {MAX_VARIANTS} can run: use fewer "
                "values, or draw some of them with sweep.random",
                key="sweep",
            )
        rows = [tuple(one.rows) for one in self.axes]
        keys = [one.keys for one in self.axes]
        return (self._variant(number, keys, rows) for number in self._numbers(count))

    def _variant(
        self, number: int, keys: list[tuple[str, ...]], rows: list[tuple[tuple[Any, ...], ...]]
    ) -> Mapping[str, Any]:
        """The variant at a place in the whole product."""
        chosen: list[Iterable[tuple[str, Any]]] = []
        for names, values in zip(reversed(keys), reversed(rows), strict=True):
            number, place = divmod(number, len(values))
            chosen.append(zip(names, values[place], strict=True))
        return {key: value for pairs in reversed(chosen) for key, value in pairs}

    def _numbers(self, count: int) -> Iterable[int]:
        """The places in the product of the variants that run, in its order."""
        if count == self._whole:
            return range(count)
        return sorted(_draw(self._whole, count, SeededChooser(self.seed or 0, "sweep")))


def _draw(whole: int, count: int, chooser: SeededChooser) -> Iterator[int]:
    """So many of ``range(whole)``: a shuffle that stores only the places that it moved."""
    moved: dict[int, int] = {}
    for place in range(count):
        other = place + chooser.choose(whole - place)
        yield moved.get(other, other)
        moved[other] = moved.pop(place, place)
