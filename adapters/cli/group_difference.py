"""Prints the differences between two groups."""

from __future__ import annotations

from collections.abc import Sequence

from ...statemachine.groups.result import VariantResult
from ..projections.diff.groups import ComparedGroup, GroupComparison, VariantPair
from ..projections.varied_values import varied_text
from .output import count, one_line, print_line

_SHOWN = 40
"""How many variants of one part are printed; the rest are counted."""
_NAMED = 4
"""How many differences of a pair are named."""


def show_group_comparison(found: GroupComparison) -> None:
    """Print a line for each pair of variants that differ, and what is in one group only."""
    pairs = count(len(found.pairs), "pair")
    if found.same:
        print_line(f"no difference: {_named(found.left)} and {_named(found.right)}, {pairs}")
        return
    print_line(f"left:  {_named(found.left)}")
    print_line(f"right: {_named(found.right)}")
    differing = [pair for pair in found.pairs if not pair.same]
    if found.pairs:
        print_line()
        print_line(f"{pairs} of variants with equal values, {len(differing)} with a difference")
    for pair in differing[:_SHOWN]:
        numbers = f"{pair.left_index + 1}, {pair.right_index + 1}"
        print_line(f"  {numbers}  {varied_text(pair.values)}: {_differences(pair)}")
    _show_more(len(differing))
    _show_only("only left", found.only_left)
    _show_only("only right", found.only_right)


def _differences(pair: VariantPair) -> str:
    if pair.error:
        return f"cannot be compared: {pair.error}"
    named = ", ".join(map(one_line, pair.differences[:_NAMED]))
    more = len(pair.differences) - _NAMED
    return f"{named}, and {more} more" if more > 0 else named


def _show_only(title: str, variants: Sequence[VariantResult]) -> None:
    if not variants:
        return
    print_line()
    print_line(f"{title}: {count(len(variants), 'variant')}")
    for one in variants[:_SHOWN]:
        print_line(f"  {one.variant_index + 1}  {varied_text(one.values)}: {one.state}")
    _show_more(len(variants))


def _show_more(number: int) -> None:
    if number > _SHOWN:
        print_line(f"  ... and {number - _SHOWN} more (--json has them all)")


def _named(group: ComparedGroup) -> str:
    variants = count(group.variants, "variant")
    return f"{one_line(group.group_id)} ({group.state}, {variants})"
