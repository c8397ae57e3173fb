"""LIST: which images ``3,17,20-25``, ``picked`` and ``rating>=4`` choose."""

from __future__ import annotations

import operator

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stagewright.adapters.cli.image_choice import ImageChoiceError, parse_choice
from stagewright.events import Artifact
from stagewright.events.ratings.model import Rating, Verdict

from .support import artifact

TOTAL = 12
SIGNS = {"=": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
IMAGES: list[Artifact] = [
    msgspec.structs.replace(artifact(index), source_sha256=f"{index:064x}")
    for index in range(TOTAL)
]

numbers = st.integers(1, TOTAL)
ranges = st.tuples(numbers, numbers).map(sorted)
ratings = st.builds(
    Rating,
    score=st.none() | st.integers(1, 5),
    verdict=st.none() | st.sampled_from(Verdict),
    tags=st.lists(st.sampled_from(["sky", "Sea"]), unique=True).map(tuple),
)
rated = st.lists(ratings, min_size=TOTAL, max_size=TOTAL)


def chosen(text: str, by_index: list[Rating]) -> list[int]:
    """The numbers of the images that a list chooses, where these are their ratings."""
    choice = parse_choice(text)
    images = choice.select(IMAGES, lambda source: by_index[int(source, 16)])
    return [image.number for image in images]


@settings(max_examples=50)
@given(parts=st.lists(ranges, min_size=1, max_size=5), by_index=rated)
def test_numbers_and_ranges_choose_the_images_that_people_call_so(
    parts: list[list[int]], by_index: list[Rating]
) -> None:
    """Each image once, in the order of its number, however often and in which order it is named."""
    text = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
    wanted = {number for a, b in parts for number in range(a, b + 1)}
    assert chosen(text, by_index) == sorted(wanted)


@settings(max_examples=50)
@given(sign=st.sampled_from(list(SIGNS)), score=st.integers(1, 5), by_index=rated)
def test_scores_are_compared_and_an_image_without_one_fits_no_comparison(
    sign: str, score: int, by_index: list[Rating]
) -> None:
    """Spaces around the sign do not matter."""
    wanted = [
        place + 1
        for place, one in enumerate(by_index)
        if one.score is not None and SIGNS[sign](one.score, score)
    ]
    assert chosen(f"rating{sign}{score}", by_index) == wanted
    assert chosen(f" rating {sign} {score} ", by_index) == wanted


@settings(max_examples=40)
@given(by_index=rated, number=numbers)
def test_an_image_is_chosen_if_any_part_fits_it(by_index: list[Rating], number: int) -> None:
    """A list is the union of its parts; tags are compared without regard to case."""
    parts = ("picked", "rejected", "tag=SEA", str(number))
    union = {number for part in parts for number in chosen(part, by_index)}
    assert chosen(",".join(parts), by_index) == sorted(union)
    assert chosen("picked", by_index) == [
        place + 1 for place, one in enumerate(by_index) if one.verdict == "picked"
    ]
    assert chosen("tag=sea", by_index) == [
        place + 1 for place, one in enumerate(by_index) if "Sea" in one.tags
    ]


@settings(max_examples=60)
@given(text=st.text(max_size=20))
def test_any_text_is_a_list_or_is_refused_with_an_example(text: str) -> None:
    """No text ends in another error."""
    try:
        choice = parse_choice(text)
    except ImageChoiceError:
        return
    choice.select(IMAGES, lambda _source: Rating())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "examples: 3,17"),
        ("3,,4", "'' chooses no images"),
        ("0", "the first image is number 1"),
        ("7-3", "write the smaller number first, 3-7"),
        ("rating>=6", "'rating>=6' chooses no images"),
        ("rating=>3", "chooses no images"),
        ("tag=", "chooses no images"),
        ("٣", "chooses no images"),
        ("12345678901", "chooses no images"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused_by_its_part(text: str, words: str) -> None:
    """The error names the part."""
    with pytest.raises(ImageChoiceError, match=words.replace("(", r"\(")):
        parse_choice(text)


def test_numbers_that_are_not_there_are_refused() -> None:
    """Beyond the end, or not finished; a huge range is refused without being counted."""
    with pytest.raises(ImageChoiceError, match="run x has no image 999999999: it has 12"):
        parse_choice("2-999999999").check_numbers(range(1, 13), 12, "run x")
    with pytest.raises(ImageChoiceError, match="run x has no finished image 3, 5: leave"):
        parse_choice("1-5").check_numbers([1, 2, 4], 12, "run x")
    parse_choice("1-2,picked").check_numbers([1, 2, 4], 12, "run x")
