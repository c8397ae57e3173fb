"""Axes and sweeps: what texts list, which variants they make, and what is refused."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stagewright.events.groups.model import SweepAxis
from stagewright.statemachine.errors import ConfigurationError
from stagewright.statemachine.variants.axes import (
    MAX_VALUES,
    VariedAxis,
    axis_errors,
    read_values,
    read_vary,
    repetition_errors,
    zip_axes,
)
from stagewright.statemachine.variants.sweep import MAX_VARIANTS, Sweep

pytestmark = pytest.mark.lowest


def texts(text: str) -> list[Any]:
    """The values that a text lists, each as it is written."""
    return list(read_values(text, lambda one: one))


def sweep(*values: list[Any], **options: Any) -> Sweep:
    """A sweep over the keys a, b, c ..."""
    axes = (SweepAxis(key=key, values=tuple(one)) for key, one in zip("abcd", values, strict=False))
    return Sweep(tuple(map(placed, axes)), **options)


def placed(axis: SweepAxis) -> VariedAxis:
    """The first axis of a configuration."""
    return VariedAxis(axis, "sweep.axes.0")


def messages(axis: SweepAxis) -> list[str]:
    """What is wrong with the first axis of a configuration."""
    lacking = list(axis_errors(placed(axis)))
    return [one.message for one in lacking or repetition_errors(placed(axis))]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("Euler a, DPM++ 2M", ["Euler a", "DPM++ 2M"]),
        ("it's raining,snow", ["it's raining", "snow"]),
        ("'a, b', \"c, d\",e", ["'a, b'", '"c, d"', "e"]),
        ('a sign saying "open, now", night', ['a sign saying "open, now"', "night"]),
        ("'''a,b''',c", ["'''a,b'''", "c"]),
        ("'tis, a \"b", ["'tis", 'a "b']),
        ('"",blurry', ['""', "blurry"]),
        ("{a=1,b=2},{a=3,b=4}", ["{a=1,b=2}", "{a=3,b=4}"]),
        ("a [b, (c, d)], e", ["a [b, (c, d)]", "e"]),
        ("(a, b:1.2) c,d", ["(a, b:1.2) c", "d"]),
        ('{a="},{", b=1},c', ['{a="},{", b=1}', "c"]),
        ("a (b,c [d, e) f,g", ["a (b,c [d, e) f", "g"]),
        (":(,:],x{", [":(", ":]", "x{"]),
        ("x", ["x"]),
    ],
)
def test_a_list_is_split_at_commas_outside_of_quotes_and_brackets(
    text: str, values: list[str]
) -> None:
    assert texts(text) == values


def test_a_text_that_begins_with_a_bracket_is_an_array_of_the_values() -> None:
    assert texts('["a,b", 1, [2, 3], {x = 1}]') == ["a,b", 1, [2, 3], {"x": 1}]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1..3", ["1", "2", "3"]),
        ("3..1", ["3", "2", "1"]),
        ("1..6:2", ["1", "3", "5"]),
        ("9..4:-2.5", ["9.0", "6.5", "4.0"]),
        ("0.1..0.3:0.1", ["0.1", "0.2", "0.3"]),
        ("-1..0:0.25", ["-1.0", "-0.75", "-0.5", "-0.25", "0.0"]),
        ("5..5", ["5"]),
        ("1..3,8", ["1", "2", "3", "8"]),
        ("a..b", ["a..b"]),
        ("1..", ["1.."]),
        ("1...3", ["1...3"]),
        ('"1..3"', ['"1..3"']),
    ],
)
def test_a_range_needs_a_number_at_both_ends_and_has_them(text: str, values: list[str]) -> None:
    assert texts(text) == values


@given(st.decimals("-50", "50", places=2), st.decimals("0.01", "2", places=2), st.integers(0, 60))
def test_a_range_holds_each_number_as_it_would_be_written(
    first: Any, step: Any, count: int
) -> None:
    last = first + step * count
    values = [float(one) for one in texts(f"{first}..{last}:{step}")]
    assert values == [float(first + step * number) for number in range(count + 1)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has no values"),
        ("[]", "has no values"),
        ("a,,b", 'an empty text is written as ""'),
        (",a", "has an empty value beside a comma"),
        ("a, ", "has an empty value beside a comma"),
        ("[1, 2", "is no TOML array"),
        ("[1]\nother = 2", "must be one TOML array"),
        ("1..5:0", "has the range 1..5:0, whose step is 0"),
        ("1..5:-1", "leads away from 5"),
        ("5..1:1", "leads away from 1"),
        ("1..100001", f"has 100001 values, and an axis has at most {MAX_VALUES}"),
        ("1..999999999999999999", "has 999999999999999999 values"),
        ("1..60000,1..60000", "has 120000 values"),
    ],
)
def test_a_list_without_a_meaning_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its text is compared
        texts(text)
    assert reason in str(caught.value)


def test_every_vary_is_an_axis_and_all_wrong_ones_are_named() -> None:
    axes, errors = read_vary(["a.b=1,2", "c", "=3", "d="], lambda key, text: f"{key}:{text}")
    assert [(one.keys, one.axis.values) for one in axes] == [(("a.b",), ("a.b:1", "a.b:2"))]
    assert [one.message for one in errors] == [
        "--vary c must be KEY=V1,V2,...",
        "--vary =3 must be KEY=V1,V2,...",
        "--vary d has no values",
    ]


def test_a_key_of_vary_with_a_part_in_quotes_is_named() -> None:
    axes, _ = read_vary(['metadata."a.b"=1,2'], lambda _, text: text)
    (error,) = axis_errors(axes[0])
    assert error.message.startswith('--vary metadata."a.b" has a part in quotes')


def test_zipped_axes_move_together() -> None:
    axes, _ = read_vary(["a=1,2", "b=x,y"], lambda _, text: text)
    zipped = zip_axes(axes)
    assert list(Sweep((zipped,)).variants()) == [{"a": "1", "b": "x"}, {"a": "2", "b": "y"}]


def test_zipped_axes_of_unequal_lengths_are_refused_with_their_lengths() -> None:
    axes, _ = read_vary(["a=1,2", "b=1..3"], lambda _, text: text)
    with pytest.raises(ValueError, match="a has 2, b has 3"):
        zip_axes(axes)


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        (SweepAxis(values=(1,)), "sweep.axes.0.key is missing: set it, or keys"),
        (
            SweepAxis(key="a", keys=("b",), values=(1,)),
            "sweep.axes.0.keys and sweep.axes.0.key exclude each other: set one of them",
        ),
        (
            SweepAxis(key="metadata.'b'", values=(1,)),
            """sweep.axes.0.key = "metadata.'b'" has a part in quotes; leave the quotes out""",
        ),
        (SweepAxis(key="a", values=()), "sweep.axes.0.values has no values"),
        (
            SweepAxis(keys=("a", "b"), values=([1, 2], [3])),
            "sweep.axes.0.values.1 = [3] must be a list of 2 values, one for each of a, b",
        ),
        (
            SweepAxis(key="a", values=(1, 7, 7.0)),
            "sweep.axes.0.values.2 = 7.0 repeats a value of the axis",
        ),
        (
            SweepAxis(key="a", values=({"b": [1], "c": 2}, {"c": 2.0, "b": [1]})),
            'sweep.axes.0.values.1 = {"c": 2.0, "b": [1]} repeats a value of the axis',
        ),
    ],
)
def test_a_wrong_axis_is_refused_with_its_place(axis: SweepAxis, message: str) -> None:
    assert messages(axis) == [message]


def test_true_and_1_are_different_values() -> None:
    assert messages(SweepAxis(key="a", values=(True, 1, "1", "true"))) == []


def test_the_last_axis_changes_fastest() -> None:
    pair = SweepAxis(keys=("c", "d"), values=(["x", 1], ["y", 2]))
    axes = (SweepAxis(key="a", values=(1, 2)), pair)
    assert list(Sweep(tuple(map(placed, axes))).variants()) == [
        {"a": 1, "c": "x", "d": 1},
        {"a": 1, "c": "y", "d": 2},
        {"a": 2, "c": "x", "d": 1},
        {"a": 2, "c": "y", "d": 2},
    ]


def test_a_million_million_variants_are_counted_and_some_drawn_in_little_memory() -> None:
    values = list(range(10_000))
    tracemalloc.start()
    whole = sweep(values, values, values)
    assert whole.count() == 10**12
    drawn = list(sweep(values, values, values, random=20, seed=7).variants())
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(drawn) == 20
    assert most < 10_000_000


@given(st.integers(1, 40), st.integers(0, 2**32), st.lists(st.integers(1, 5), min_size=1))
def test_drawn_variants_are_of_the_product_in_its_order_and_none_twice(
    random: int, seed: int, lengths: list[int]
) -> None:
    axes = [list(range(length)) for length in lengths[:4]]
    every = list(sweep(*axes).variants())
    drawn = list(sweep(*axes, random=random, seed=seed).variants())
    assert len(drawn) == min(random, len(every))
    assert drawn == [one for one in every if one in drawn]


def test_every_variant_is_drawn_equally_often() -> None:
    counts = [0] * 6
    for seed in range(600):
        for variant in sweep(list(range(6)), random=2, seed=seed).variants():
            counts[variant["a"]] += 1
    assert min(counts) > 150
    assert max(counts) < 250


def test_a_draw_is_the_same_on_any_machine() -> None:
    drawn = sweep(list(range(1000)), random=5, seed=7).variants()
    assert [one["a"] for one in drawn] == [87, 229, 399, 532, 713]


def test_too_many_variants_are_refused_before_one_is_made() -> None:
    values = list(range(1000))
    with pytest.raises(ConfigurationError, match=f"sweep makes 1000000 .* at most {MAX_VARIANTS}"):
        sweep(values, values).variants()
