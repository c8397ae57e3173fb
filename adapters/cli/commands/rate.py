"""``rate``: records what a person thinks of images."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

import click

from ....events.errors import RunNotFoundError
from ....events.folds import replay
from ....events.ratings.log import RatedImage, Ratings
from ....events.ratings.model import NOT_RATED, Rating, Verdict
from ....statemachine.files.run_folder import split_image_number, why_no_image
from ...bootstrap import new_storage
from ...projections.learning.writer import LearningRecordWriter
from ...projections.provenance import provenance_of
from ...projections.rating_text import rating_text
from ..completion import complete_run
from ..options import check_runs_folder, json_option, runs_option
from ..output import print_json, print_line
from ..run_lookup import find_image, find_run

_SCORES = ("1", "2", "3", "4", "5")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?", re.ASCII)
_MOST_TAGS, _LONGEST_TAG, _LONGEST_NOTE = 100, 100, 10_000


def _tags(
    _context: click.Context, _parameter: click.Parameter, values: Sequence[str]
) -> tuple[str, ...]:
    tags = [normalize("NFC", _text(value).strip()) for value in values]
    for tag in tags:
        if not tag or "," in tag or len(tag) > _LONGEST_TAG:
            raise click.BadParameter(
                f"{tag!r}: a tag has 1 to {_LONGEST_TAG} characters and no comma"
            )
    return tuple(tags)


def _note(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and len(_text(value)) > _LONGEST_NOTE:
        raise click.BadParameter(f"a note has {_LONGEST_NOTE} characters at most")
    return value


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise click.BadParameter("it is not valid text") from error
    return value


@click.command("rate")
@click.argument(
    "images", nargs=-1, required=True, metavar="IMAGE... [SCORE]", shell_complete=complete_run
)
@click.option("--pick", is_flag=True, help="Mark the images as picked.")
@click.option("--reject", is_flag=True, help="Mark the images as rejected.")
@click.option("--clear", is_flag=True, help="Take all earlier ratings back.")
@click.option("--tag", "tags", multiple=True, callback=_tags, metavar="T", help="Add a tag.")
@click.option("--note", callback=_note, metavar="TEXT", help="Set the note; '' removes it.")
@runs_option
@json_option
def rate_command(
    images: tuple[str, ...],
    pick: bool,
    reject: bool,
    clear: bool,
    tags: tuple[str, ...],
    note: str | None,
    runs: Path,
    as_json: bool,
) -> None:
    """Rate images: by a SCORE, a verdict, tags or a note.

    IMAGE is the path of an image, RUN#3 for a run's third image, or RUN for all of its final
    images. A file that was moved or renamed is found by its content. The last argument is a SCORE
    if it is 1 to 5 and no file has that name.

    What is not given stays as it was; --clear takes back everything, and then what is given with it
    counts. `export --only`, `list --where` and the learning records use the ratings.
    """
    check_runs_folder(runs)
    if pick + reject + clear > 1:
        raise click.UsageError("--pick, --reject and --clear exclude each other: give one of them")
    names, score = _split_score(images)
    if not names:
        raise click.UsageError(f"no image is named: 'rate IMAGE {score}'")
    if score is None and not (pick or reject or clear or tags) and note is None:
        how = "say how: a score from 1 to 5, --pick, --reject, --tag or --note"
        raise click.UsageError(_why_no_score(images[-1]) or how)
    verdict = Verdict.PICKED if pick else Verdict.REJECTED if reject else None
    given = _Given(score, verdict, tags, note, clear)
    found = {image.source_sha256: (name, image) for name, image in _find(runs, names)}
    chosen = [image for _, image in found.values()]
    made = Ratings(runs, storage=new_storage()).rate(chosen, given.added_to)
    LearningRecordWriter(runs).renew(found.keys())
    rated = [(*named, rating) for named, rating in zip(found.values(), made, strict=True)]
    if as_json:
        print_json(
            [{"image": name, **image._asdict(), "rating": one} for name, image, one in rated]
        )
        return
    for name, _, rating in rated:
        print_line(f"{name}: {rating_text(rating) or 'not rated'}")


def _split_score(arguments: Sequence[str]) -> tuple[Sequence[str], int | None]:
    """The names of images, and the score behind them if there is one."""
    *names, last = arguments
    if last in _SCORES and not Path(last).exists():
        return names, int(last)
    return arguments, None


def _why_no_score(name: str) -> str:
    """What is wrong with a number that is meant as a score; "" for a score and for other names."""
    is_number = _NUMBER.fullmatch(name) and name not in _SCORES
    return f"{name} is not a score: scores are 1 to 5" if is_number else ""


class _Given(NamedTuple):
    """What the command line says of the images; ``clear`` takes the earlier ratings back."""

    score: int | None
    verdict: Verdict | None
    tags: tuple[str, ...]
    note: str | None
    clear: bool

    def added_to(self, old: Rating) -> Rating:
        """The rating that follows an earlier one."""
        before = NOT_RATED if self.clear else old
        tags = tuple(dict.fromkeys([*before.tags, *self.tags]))
        if len(tags) > _MOST_TAGS:
            raise click.UsageError(f"an image has {_MOST_TAGS} tags at most")
        return Rating(
            score=before.score if self.score is None else self.score,
            verdict=before.verdict if self.verdict is None else self.verdict,
            tags=tags,
            note=before.note if self.note is None else self.note,
        )


def _find(runs: Path, names: Sequence[str]) -> Iterator[tuple[str, RatedImage]]:
    """The images that the arguments name, each with a name. Raises RunNotFoundError."""
    for name in names:
        if Path(name).is_file():
            yield name, _find_file(runs, Path(name))
            continue
        run, number = split_image_number(name)
        if number is None:
            find_image(runs, name)  # which refuses what looks like an image
        result = replay(_find_run(runs, name if number is None else run))
        images = [one for one in result.images if number in (None, one.number)]
        if not images:
            why = f"run {result.run_id} has no finished image"
            raise RunNotFoundError(f"{name}: {why_no_image(result, number) if number else why}")
        for image in images:
            shown = f"{result.run_id[-6:]}#{image.number}"
            yield (
                shown,
                RatedImage(image.source_sha256, result.run_id, image.stage_id, image.image_index),
            )


def _find_run(runs: Path, name: str) -> Path:
    try:
        return find_run(runs, name)
    except RunNotFoundError as error:
        if why := _why_no_score(name):
            raise RunNotFoundError(f"{error}, and {why}") from error
        raise


def _find_file(runs: Path, path: Path) -> RatedImage:
    found = provenance_of(path, runs)
    return RatedImage(found.artifact.source_sha256, found.run_id, found.stage_id, found.image_index)
