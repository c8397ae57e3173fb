"""Logs of every released format, replayed for ever."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from stagewright.events import (
    EVENT_TYPES,
    CallFailed,
    CallRequested,
    CallReused,
    FileEventLog,
    LogCorruptError,
    MemoryEventLog,
    UnknownEvent,
    fold,
    iterate,
    replay,
)
from stagewright.events.codec import CODEC

from .log_format import make_log, split_bodies, split_lines

pytestmark = pytest.mark.lowest

GOLDEN = Path(__file__).parent / "golden"
FIRST = GOLDEN / "first-format"
LIMITED = GOLDEN / "limited-storage"
REMOVED = GOLDEN / "images-removed"
REUSED = GOLDEN / "reused-images"
NEWER = GOLDEN / "newer-version"
CORRUPT = GOLDEN / "corrupt"
RELEASED = {
    "corrupt/events.jsonl": "ec7510e51c9574f4",
    "first-format/events.jsonl": "f9bb2de854f91c16",
    "first-format/result.json": "da5fff374b73828f",
    "images-removed/events.jsonl": "bd47cfcab32a601b",
    "limited-storage/events.jsonl": "86e4e06fbe92e162",
    "newer-version/events.jsonl": "e6babd58539d2688",
    "reused-images/events.jsonl": "d3dff512c1653c4f",
    "reused-images/result.json": "f0df19bbfcb864d1",
}
"""The beginning of each file's SHA-256. A new format adds lines; none is ever changed."""


def without_events(run: Path) -> dict[str, Any]:
    """The result of a run as JSON, but for its timeline."""
    document: dict[str, Any] = json.loads(b"".join(replay(run).json_parts()))
    del document["events"]
    return document


def expected() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((FIRST / "result.json").read_bytes())
    return read


def test_the_golden_files_are_those_that_were_released() -> None:
    """Released logs are never edited: their digests stand here."""
    digests = {
        path.relative_to(GOLDEN).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in sorted(GOLDEN.glob("*/*.json*"))
    }
    assert digests == RELEASED


def test_the_first_format_replays_to_its_result() -> None:
    """A four-stage run with a retry, a cancel and a resume folds to what it did when released."""
    assert without_events(FIRST) == expected()


def test_the_expected_result_is_worth_expecting() -> None:
    """It is complete: four stages, two images each, one resume, nothing missing."""
    result = expected()
    assert (result["state"], result["outcome"], result["resumes"]) == ("COMPLETED", "completed", 1)
    assert [stage["stage_type"] for stage in result["stages"]] == [
        "txt2img", "img2img", "upscale", "adetailer",
    ]  # fmt: skip
    assert [stage["image_count"] for stage in result["stages"]] == [2, 2, 2, 2]
    assert [image["stage_id"] for image in result["images"]] == ["03-adetailer"] * 2
    assert (result["missing"], result["error"], result["seeds"]) == ([], None, [100, 101])


def test_the_golden_logs_hold_every_event_type() -> None:
    """Each type occurs, so none can change its shape unnoticed."""
    assert {
        type(event) for run in (FIRST, LIMITED, REMOVED, REUSED) for event in iterate(run)
    } == set(EVENT_TYPES)


@pytest.mark.parametrize("run", [LIMITED, REMOVED], ids=lambda run: run.name)
def test_neither_a_limited_disk_nor_a_removal_changes_the_result(run: Path) -> None:
    """The run has the same images and stages."""
    assert without_events(run) == expected()


@pytest.mark.parametrize("run", [FIRST, LIMITED, REMOVED, REUSED], ids=lambda run: run.name)
def test_the_released_formats_are_what_is_still_written(run: Path) -> None:
    """Every event encodes to the very bytes read, and the lines are those of the contract."""
    data = (run / "events.jsonl").read_bytes()
    bodies = split_bodies(data)
    assert [CODEC.encode(event) for event in iterate(run)] == [
        body[:-1].rstrip(b" ") + body[-1:] for body in bodies
    ]
    assert make_log(bodies) == data
    log = MemoryEventLog(replay(run).run_id)
    for event in iterate(run):
        log.append(event)
    again = split_bodies(log.to_bytes())
    # Spaces before the last brace keep records clear of the ends of sectors.
    assert [body[:-1].rstrip(b" ") + body[-1:] for body in again] == [
        body[:-1].rstrip(b" ") + body[-1:] for body in bodies
    ]


def test_a_run_of_reused_images_replays_to_its_result() -> None:
    """A batch of two and an image of an earlier run: its stage took no request, and is complete."""
    assert without_events(REUSED) == json.loads((REUSED / "result.json").read_bytes())
    events = list(iterate(REUSED))
    reused = [event for event in events if isinstance(event, CallReused)]
    assert [(len(one.artifacts), one.origin.run_id[-6:]) for one in reused] == [
        (2, "555555"), (1, "555555"),
    ]  # fmt: skip
    requests = [event for event in events if isinstance(event, CallRequested)]
    assert {event.stage_id for event in requests} == {"01-upscale"}
    assert [stage.image_count for stage in replay(REUSED).stages] == [3, 3]


def test_the_past_of_the_first_format_can_be_replayed() -> None:
    """At the cancel five images are finished: it is CANCELLED, and knows what is missing."""
    cancelled = next(
        event.seq for event in iterate(FIRST) if getattr(event, "trigger", "") == "cancel"
    )
    result = replay(FIRST, until=cancelled)
    assert (result.state, result.outcome, result.resumes) == ("CANCELLED", "cancelled", 0)
    assert [stage.image_count for stage in result.stages] == [2, 2, 1]
    assert [(gap.stage_id, gap.image_index) for gap in result.missing] == [
        ("03-adetailer", 0), ("02-upscale", 1),
    ]  # fmt: skip
    assert result.missing[1].error is not None
    assert result.missing[1].error.kind == "GenerationCancelled"


def test_a_log_of_a_newer_version_replays_to_the_same_result() -> None:
    """Unknown types, unknown fields and higher versions do not disturb an older reader."""
    assert without_events(NEWER) == expected()
    events = list(iterate(NEWER))
    unknown = [event for event in events if isinstance(event, UnknownEvent)]
    assert {event.type for event in unknown} == {"StageRated", "CallFailed"}
    assert not any(isinstance(event, CallFailed) for event in events)
    assert any(event.v == 2 for event in events if not isinstance(event, UnknownEvent))


def test_a_log_of_a_newer_version_is_passed_on_as_it_is() -> None:
    """The result's timeline, in memory and as JSON, keeps every byte that was not understood."""
    data = (NEWER / "events.jsonl").read_bytes()
    bodies = split_bodies(data)
    assert b"".join(replay(NEWER).json_parts()).endswith(b",".join(bodies) + b"]}")
    assert MemoryEventLog.from_bytes(data).to_bytes() == data
    assert fold(MemoryEventLog.from_bytes(data).timeline()) == replay(NEWER)
    assert [event.raw for event in iterate(NEWER) if isinstance(event, UnknownEvent)] == [
        body for body in bodies if b'"StageRated"' in body or b'"CallFailed"' in body
    ]


def test_a_newer_log_can_be_gone_on_with(tmp_path: Path) -> None:
    """An older writer opens it, appends, and the chain over the unknown records is right."""
    (tmp_path / "events.jsonl").write_bytes((NEWER / "events.jsonl").read_bytes())
    log = FileEventLog.open(tmp_path)
    last = log.event_at(log.next_seq - 2)
    appended = replace(last, seq=log.next_seq)
    log.append(appended)
    log.close()
    data = (tmp_path / "events.jsonl").read_bytes()
    assert data == make_log(split_bodies(data))
    assert replay(tmp_path).events[-1] == appended


def test_the_corrupt_log_is_refused_at_the_place() -> None:
    """One wrong digit is found for ever: record 7, at its first byte."""
    lines = split_lines((CORRUPT / "events.jsonl").read_bytes())
    with pytest.raises(LogCorruptError) as caught:
        replay(CORRUPT)
    assert (caught.value.seq, caught.value.offset) == (7, sum(map(len, lines[:7])))
    assert caught.value.offset == 5090
    assert caught.value.path == CORRUPT / "events.jsonl"


def test_the_corrupt_log_can_be_looked_at_before_the_place() -> None:
    """What stands before the damage is given, then the error comes."""
    events = iterate(CORRUPT)
    assert [next(events).seq for _ in range(7)] == list(range(7))
    with pytest.raises(LogCorruptError):
        next(events)
    assert replay(CORRUPT, until=6) == replay(FIRST, until=6)
