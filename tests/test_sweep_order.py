"""The order of variants: as few changes of the checkpoint as possible."""

from __future__ import annotations

from itertools import pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stagewright.statemachine.variants.order import Checkpoints, count_changes, order_variants

pytestmark = pytest.mark.lowest

names = st.sampled_from(["a", "b", "c", "d", None])


def changes_between(paths: list[Checkpoints], order: tuple[int, ...]) -> int:
    """How many runs begin with another checkpoint than the one before them ended with."""
    return sum(paths[one][1] != paths[other][0] for one, other in pairwise(order))


@given(st.lists(st.tuples(names, names), max_size=7))
def test_no_order_has_fewer_changes(paths: list[Checkpoints]) -> None:
    order = order_variants(paths)
    fewest = min(changes_between(paths, one) for one in permutations(range(len(paths))))
    assert sorted(order) == list(range(len(paths)))
    assert changes_between(paths, tuple(order)) == fewest


@given(st.lists(names, max_size=60))
def test_variants_of_one_checkpoint_keep_their_order(models: list[str | None]) -> None:
    order = order_variants([(model, model) for model in models])
    first = {model: models.index(model) for model in models}
    assert order == sorted(range(len(models)), key=lambda one: (first[models[one]], one))


def test_a_run_that_ends_with_another_checkpoint_comes_before_one_that_begins_with_it() -> None:
    assert order_variants([("b", "b"), ("a", "b"), ("b", "a")]) == [0, 2, 1]
    assert order_variants([("b", "c"), ("a", "b")]) == [1, 0]


def test_a_hundred_thousand_variants_are_ordered() -> None:
    paths: list[Checkpoints] = [(str(one % 50), str(one % 7)) for one in range(100_000)]
    order = order_variants(paths)
    assert sorted(order) == list(range(100_000))


def test_changes_are_counted_between_checkpoints_that_are_loaded_in_a_row() -> None:
    assert count_changes([]) == 0
    assert count_changes(["a"]) == 0
    assert count_changes(["a", "a", "b", "a", "a"]) == 2
