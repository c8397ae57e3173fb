"""Chooses images of a run by a list such as ``3,17,20-25``, ``picked`` or ``rating>=4``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import click

from ...events.errors import StagewrightError
from ...events.folds import replay
from ...events.model import Artifact
from ...events.ratings.model import Rating, Verdict
from ...events.result import FinishedImage, PipelineRunResult
from .ratings import shown_ratings

_NUMBERS = re.compile(r"(\d{1,9})(?:\s*-\s*(\d{1,9}))?", re.ASCII)
_RATING = re.compile(r"rating\s*(<=|>=|=|<|>)\s*([1-5])", re.ASCII)
_ORDERS: Mapping[str, Callable[[int, int], bool]] = {
    "=": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_TAG = "tag="
_SHOWN = 4
EXAMPLES = "3,17,20-25, picked, rejected, rating>=4 or tag=sky"


A = TypeVar("A", bound=Artifact)


class ImageChoiceError(StagewrightError, ValueError):
    """A list of images that cannot be understood, or that names images which are not there."""


class _Numbers(NamedTuple):
    """Image numbers from ``first`` to ``last``, counted from 1."""

    first: int
    last: int


class ImageChoice:
    """A list of images; an image is chosen if any part of the list fits it.

    Made by ``parse_choice``.
    """

    def __init__(
        self, text: str, numbers: Sequence[_Numbers], tests: Sequence[Callable[[Rating], bool]]
    ) -> None:
        self.text = text
        self._numbers = numbers
        self._tests = tests

    def select(self, images: Sequence[A], rating_of: Callable[[str], Rating]) -> list[A]:
        """Those of ``images`` that are chosen, in their order.

        ``rating_of`` gives the rating of an image by the digest of its source.
        """
        return [
            image
            for image in images
            if any(one.first <= image.number <= one.last for one in self._numbers)
            or (self._tests and self._fits(rating_of(image.source_sha256)))
        ]

    def check_numbers(self, there: Sequence[int], total: int, owner: str) -> None:
        """Raise ImageChoiceError, naming ``owner``, for a number that is not ``there``.

        ``there`` are the numbers of its finished images; ``total`` were planned.
        """
        known = set(there)
        beyond = [one for one in self._numbers if one.last > total]
        if beyond:
            most = max(one.last for one in beyond)
            raise ImageChoiceError(f"{owner} has no image {most}: it has {total}")
        missing = sorted(
            {
                number
                for one in self._numbers
                for number in range(one.first, one.last + 1)
                if number not in known
            }
        )
        if missing:
            named = ", ".join(map(str, missing[:_SHOWN]))
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            raise ImageChoiceError(
                f"{owner} has no finished image {named}{more}: leave them out, or resume it"
            )

    def _fits(self, rating: Rating) -> bool:
        return any(test(rating) for test in self._tests)


def choose_images(
    results: Sequence[PipelineRunResult],
    choice: ImageChoice | None,
    rating_of: Callable[[str], Rating],
    owner: str,
) -> list[list[FinishedImage]]:
    """For each of some runs, the final images that ``choice`` fits, or all.

    A number is that of an image in each run; one of them must have it. ``owner`` names the run, or
    the group of the runs, in errors. Raises ImageChoiceError also where nothing is chosen.
    """
    images = [list(result.images) for result in results]
    if choice is not None:
        there = [image.number for found in images for image in found]
        choice.check_numbers(there, max((len(one.seeds) for one in results), default=0), owner)
        images = [choice.select(found, rating_of) for found in images]
    if not any(images):
        fits = f" that {choice.text!r} fits" if choice is not None else ""
        raise ImageChoiceError(f"{owner} has no finished image{fits}")
    return images


def chosen_indexes(runs: Path, folder: Path, choice: ImageChoice | None) -> list[int] | None:
    """The indexes of the images of the run in ``folder`` that ``choice`` fits; None for all.

    ``runs`` is the folder with the ratings. Raises ImageChoiceError.
    """
    if choice is None:
        return None
    result = replay(folder)
    (images,) = choose_images([result], choice, shown_ratings(runs).of, f"run {result.run_id}")
    return [image.image_index for image in images]


def parse_choice(text: str) -> ImageChoice:
    """A list of images, its parts separated by commas. Raises ImageChoiceError.

    A part is a number or a range of numbers from 1, ``picked``, ``rejected``, ``rating>=4`` (or
    with another comparison), or ``tag=T``.
    """
    numbers: list[_Numbers] = []
    tests: list[Callable[[Rating], bool]] = []
    for part in map(str.strip, text.split(",")):
        if found := _NUMBERS.fullmatch(part):
            numbers.append(_numbers(part, int(found[1]), int(found[2] or found[1])))
        elif found := _RATING.fullmatch(part):
            tests.append(_score_test(found[1], int(found[2])))
        elif part in list(Verdict):
            tests.append(_verdict_test(Verdict(part)))
        elif part.startswith(_TAG) and part != _TAG:
            tests.append(_tag_test(part.removeprefix(_TAG).strip()))
        else:
            raise ImageChoiceError(f"{part!r} chooses no images; examples: {EXAMPLES}")
    return ImageChoice(text, numbers, tests)


def _numbers(part: str, first: int, last: int) -> _Numbers:
    if first == 0:
        raise ImageChoiceError(f"{part!r}: the first image is number 1")
    if first > last:
        raise ImageChoiceError(f"{part!r}: write the smaller number first, {last}-{first}")
    return _Numbers(first, last)


def _score_test(sign: str, wanted: int) -> Callable[[Rating], bool]:
    fits = _ORDERS[sign]
    # An image without a score is neither good nor bad.
    return lambda rating: rating.score is not None and fits(rating.score, wanted)


def _verdict_test(wanted: Verdict) -> Callable[[Rating], bool]:
    return lambda rating: rating.verdict == wanted


def _tag_test(wanted: str) -> Callable[[Rating], bool]:
    return lambda rating: wanted.casefold() in map(str.casefold, rating.tags)


def _read_choice(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> ImageChoice | None:
    try:
        return None if value is None else parse_choice(value)
    except ImageChoiceError as error:
        raise click.BadParameter(str(error)) from error


only_option = click.option(
    "--only",
    callback=_read_choice,
    metavar="LIST",
    help="Only these images: 3,17,20-25, picked, rejected, rating>=4 or tag=T.",
)
