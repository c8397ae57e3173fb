"""``salvage``: every image that a sound record vouches for, wherever it is, is in the new run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from msgspec import to_builtins
from stagewright.events import (
    Artifact,
    CallCompleted,
    StageEvent,
    StageImageProgress,
    iterate,
)
from stagewright.statemachine.resume.salvage import SalvageRefusedError

from .resuming import copied
from .salvaging import (
    LOG,
    answers_of,
    check_ends_the_same,
    check_salvaged,
    flipped,
    lines_of,
    made,
    salvage,
    spoil,
)

Damage = Callable[[Sequence[bytes], int], list[bytes]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two stages and two images; nobody may change it."""
    return made(tmp_path_factory.mktemp("finished"), "txt2img", "img2img")


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return copied(finished, tmp_path / "runs")


def changed(lines: Sequence[bytes], place: int, line: bytes) -> list[bytes]:
    return [*lines[:place], line, *lines[place + 1 :]]


def without_bytes(lines: Sequence[bytes], place: int) -> list[bytes]:
    return changed(lines, place, lines[place][:60] + lines[place][63:])


def garbage_in(lines: Sequence[bytes], place: int) -> list[bytes]:
    middle = bytes(range(256)) + b'\n\n{"h":"' + b"0" * 36 + b'","e":{"x":1}}\n{"h":"{"h":"'
    return [*lines[:place], middle, *lines[place:]]


COSTLY: dict[str, Damage] = {
    "the first byte": partial(flipped, at=0),
    "the length": partial(flipped, at=12),
    "the header": partial(flipped, at=20),
    "the body": partial(flipped, at=90),
    "the last byte": partial(flipped, at=-3),
    "three bytes gone": without_bytes,
    "the line gone": lambda lines, place: [*lines[:place], *lines[place + 1 :]],
    "text instead": lambda lines, place: changed(lines, place, b"not a record\n"),
}
FREE: dict[str, Damage] = {
    "the brace": partial(flipped, at=-2),
    "the newline": partial(flipped, at=-1),
    "no newline": lambda lines, place: changed(lines, place, lines[place][:-1]),
    "another newline": lambda lines, place: changed(lines, place, lines[place][:-1] + b"\r\n"),
    "twice": lambda lines, place: [*lines[: place + 1], *lines[place:]],
    "swapped": lambda lines, place: [
        *lines[: place - 1], lines[place], lines[place - 1], *lines[place + 1 :]
    ],
    "garbage before": garbage_in,
    "garbage behind": lambda lines, place: garbage_in(lines, place + 1),
}  # fmt: skip


@pytest.mark.sampled(2)
@pytest.mark.parametrize("first", [1, 2])
@pytest.mark.parametrize("kind", COSTLY)
def test_a_damaged_record_costs_no_image(run: Path, finished: Path, kind: str, first: int) -> None:
    """Whichever it is: all images are kept, and all that other records say of them."""
    lines = lines_of(run)
    events, answers = list(iterate(run)), answers_of(run)
    for place in range(first, len(lines) - 1, 2):
        (run / LOG).write_bytes(b"".join(COSTLY[kind](lines, place)))
        found = check_salvaged(run)
        assert (found.images, found.lost_files, found.lost_records) == (4, (), 1)
        lost = events[place]
        expected = [
            {**one, "endpoint": "", "info": {}, "duration_ms": 0.0}
            if isinstance(lost, CallCompleted) and one["artifacts"][0] == artifacts(lost)[0]
            else one
            for one in answers
        ]
        assert answers_of(Path(found.folder)) == expected, type(lost)
        assert check_ends_the_same(found, finished) == []


def artifacts(event: CallCompleted) -> list[dict[str, Any]]:
    return [to_builtins(artifact) for artifact in event.artifacts]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("first", [1, 2])
@pytest.mark.parametrize("kind", FREE)
def test_what_does_not_touch_a_record_costs_nothing(run: Path, kind: str, first: int) -> None:
    """Every image and answer is kept, wherever its records stand and however their lines end."""
    lines, answers = lines_of(run), answers_of(run)
    for place in range(first, len(lines), 2):
        (run / LOG).write_bytes(b"".join(FREE[kind](lines, place)))
        if kind == "no newline" and place == len(lines) - 1:
            with pytest.raises(SalvageRefusedError, match="resume repairs it"):
                salvage(run)
            continue
        found = check_salvaged(run)
        assert (found.lost_records, found.images, found.lost_files) == (0, 4, ())
        assert answers_of(Path(found.folder)) == answers


def test_an_unwritten_sector_costs_the_records_it_lies_in(run: Path) -> None:
    """Wherever 512 NUL bytes are, each image is kept of which a record is left."""
    lines, events = lines_of(run), list(iterate(run))
    data = b"".join(lines)
    seen = set()
    for start in range(len(lines[0]), len(data), 512):
        zeros = bytes(len(data[start : start + 512]))
        (run / LOG).write_bytes(data[:start] + zeros + data[start + 512 :])
        try:
            found = check_salvaged(run)
        except SalvageRefusedError:
            seen.add("torn")  # behind the last proved barrier a resume cuts it
            continue
        seen.add("corrupt")
        offset, spared = 0, set()
        for line, event in zip(lines, events, strict=True):
            if offset + len(line) <= start or offset >= start + 512:
                spared |= images_in(event)
            offset += len(line)
        kept = set().union(*map(images_in, iterate(found.folder)))
        assert kept == spared
    assert seen == {"torn", "corrupt"}


def images_in(event: StageEvent) -> set[Artifact]:
    """The images that a record tells of."""
    if isinstance(event, CallCompleted):
        return set(event.artifacts)
    return {event.artifact} if isinstance(event, StageImageProgress) else set()


@pytest.mark.sampled(5)
@pytest.mark.parametrize("first", range(5))
def test_two_damaged_places_cost_an_image_only_if_both_its_records_are_hit(
    run: Path, finished: Path, first: int
) -> None:
    """An image is told by its answer or its announcement; a resume makes exactly the others."""
    lines = lines_of(run)
    events = list(iterate(run))
    for pair in list(combinations(range(1, len(lines)), 2))[first::5]:
        (run / LOG).write_bytes(b"".join(lines))
        spoil(run, *pair)
        found = check_salvaged(run)
        hit = [events[place] for place in pair]
        asked = check_ends_the_same(found, finished)
        both = {type(event) for event in hit} == {CallCompleted, StageImageProgress}
        lost = [
            (one.stage_id, one.image_index)
            for one in hit
            if isinstance(one, StageImageProgress) and both
            and any(isinstance(two, CallCompleted) and one.artifact in two.artifacts for two in hit)
        ]  # fmt: skip
        assert (asked, found.images) == (lost, 4 - len(lost)), hit
