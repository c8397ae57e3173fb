"""The known name that a wrong one is likely to mean."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches


def find_nearest(name: object, known: Iterable[str]) -> str | None:
    """The known name that ``name`` is spelt like, or shares a word with; None if none is near."""
    names, text = list(known), str(name)
    if near := get_close_matches(text, names):
        # Swapped letters are likelier than missing ones: modle is model, not modules.
        return max(near, key=lambda one: _likeness(text, one))
    words = {word: one for one in reversed(names) for word in one.split("_")}
    for word in str(name).split("_"):
        if near := get_close_matches(word, words, n=1, cutoff=0.75):
            return words[near[0]]
    return None


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other).ratio() - abs(len(one) - len(other)) / 50
