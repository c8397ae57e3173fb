"""Sequences whose members are read when they are asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar, overload

T = TypeVar("T")


class LazySequence(Sequence[T]):
    """A sequence over ``select``; equal to any sequence of equal members."""

    @abstractmethod
    def select(self, indexes: Iterable[int]) -> Iterator[T]:
        """The members at these indexes (0 or more), in the order asked for."""

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...
    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        places = range(len(self))
        if isinstance(index, slice):
            return tuple(self.select(places[index]))
        return next(self.select([places[index]]))

    def __iter__(self) -> Iterator[T]:
        return self.select(range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(
            mine == theirs for mine, theirs in zip(self, other, strict=True)
        )

    __hash__ = None  # type: ignore[assignment]  # sequences that compare by content have none
