"""Results read from logs on disk: all of one, the beginning of one, many, in bounded memory."""

from __future__ import annotations

import json
import tracemalloc
from itertools import islice
from pathlib import Path
from typing import Literal

import msgspec
import pytest
from stagewright.events import (
    CallCompleted,
    CallFailed,
    Durability,
    FileEventLog,
    LogCorruptError,
    LogTail,
    RunNotFoundError,
    StageEvent,
    StageImageProgress,
    fold,
    iterate,
    replay,
    replay_many,
    subscribe,
)
from stagewright.events.codec import CODEC
from stagewright.events.log.timeline import FileTimeline

from .log_format import make_log, split_bodies, split_lines
from .stories import Story, error
from .support import START, artifact, controller, document, memory_log, run_opened

MIB = 1024 * 1024
RESULT_KEYS = [
    "run_id", "state", "outcome", "plan", "stages", "images", "missing", "seeds", "error",
    "resumes", "events",
]  # fmt: skip
STAGE_KEYS = [
    "stage_id", "stage_type", "outcome", "image_count", "images", "duration_ms", "metadata",
]  # fmt: skip


def on_disk(folder: Path, story: Story) -> Path:
    """A run folder whose log tells this story."""
    folder.mkdir()
    log = FileEventLog.create(folder, story.events[0], durability=Durability.PROCESS)
    for event in story.events[1:]:
        log.append(event)
    log.close()
    return folder


def long_story(run_id: str = "story") -> Story:
    """Two stages, a failure, a cancel, two resumes."""
    gone = error(stage_id="00-txt2img", image_index=1)
    story = Story("txt2img", "upscale", run_id=run_id).move("start").begin("txt2img")
    story.make("txt2img", 0).miss("txt2img", 1, gone).end("txt2img", "failed").move("fail", gone)
    story.resume("recover").begin("txt2img").make("txt2img", 1).ask_to_cancel()
    story.end("txt2img", "cancelled").move("cancel").resume("cleanup").stage("upscale")
    return story.move("finish")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return on_disk(tmp_path / "run", long_story())


def test_the_fold_of_a_file_equals_the_fold_of_its_events(run: Path) -> None:
    """Replayed from disk, from a timeline or from a tuple, a run has one result."""
    events = tuple(long_story().events)
    result = replay(run)
    assert isinstance(result.events, FileTimeline)
    assert result == fold(events) == fold(result.events)
    assert tuple(result.events) == events == tuple(iterate(run))
    assert list(result.images) == list(fold(events).images)


def test_a_run_is_replayed_from_its_folder_or_its_log(run: Path) -> None:
    """Both paths name the same run, and the log alone is enough."""
    assert replay(run) == replay(run / "events.jsonl")


def test_until_gives_the_result_as_it_was_after_each_event(run: Path) -> None:
    """``until=n`` is the fold of the first n + 1 events, for every n and beyond the end."""
    events = long_story().events
    for until in range(len(events) + 2):
        result = replay(run, until=until)
        assert result == fold(tuple(events[: until + 1])), until
        assert tuple(result.events) == tuple(events[: until + 1])
        assert list(iterate(run, until=until)) == events[: until + 1]


def test_until_needs_nothing_behind_it_to_be_sound(run: Path) -> None:
    """The past of a log that is damaged later can still be looked at."""
    data = (run / "events.jsonl").read_bytes()
    (run / "events.jsonl").write_bytes(data.replace(b'"finish"', b'"finisH"'))
    events = long_story().events
    assert replay(run, until=5) == fold(tuple(events[:6]))
    with pytest.raises(LogCorruptError) as caught:
        replay(run)
    assert caught.value.seq == len(events) - 1


def test_until_before_the_first_event_is_refused(run: Path) -> None:
    """The message names the number that was given and the first that there is."""
    with pytest.raises(ValueError, match=r"until = -1: .* from 0"):
        replay(run, until=-1)


def test_a_log_cut_at_any_record_replays_to_that_moment(run: Path) -> None:
    """After a crash between two records the result is the fold of what is there."""
    path, events = run / "events.jsonl", long_story().events
    lines = split_lines(path.read_bytes())
    for kept in range(1, len(lines) + 1):
        path.write_bytes(b"".join(lines[:kept]))
        assert replay(run) == fold(tuple(events[:kept]))
        if kept < len(lines):
            path.write_bytes(b"".join(lines[:kept]) + lines[kept][:-7])
            result = replay(run)
            assert result == fold(tuple(events[:kept]))
            assert isinstance(result.events, FileTimeline)
            assert result.events.torn is not None
            assert result.events.torn.offset == sum(map(len, lines[:kept]))


def test_several_runs_are_replayed_one_by_one(tmp_path: Path) -> None:
    """``replay_many`` gives the results in the order asked for, each when asked for."""
    runs = [on_disk(tmp_path / name, long_story(name)) for name in ["b", "a"]]
    results = replay_many([*runs, tmp_path / "none"])
    assert [next(results).run_id, next(results).run_id] == ["b", "a"]
    with pytest.raises(RunNotFoundError):
        next(results)


def test_what_is_no_run_is_not_found(tmp_path: Path) -> None:
    """A folder without a log, and a path that is not there, are no runs."""
    for path in [tmp_path, tmp_path / "none", tmp_path / "events.jsonl"]:
        with pytest.raises(RunNotFoundError):
            replay(path)
        with pytest.raises(RunNotFoundError):
            next(iterate(path))


def test_the_result_as_json_has_the_keys_of_the_contract(run: Path) -> None:
    """One JSON document; states upper case, stages lower case, images with their stage."""
    read = json.loads(b"".join(replay(run).json_parts()))
    assert list(read) == RESULT_KEYS
    assert (read["state"], read["outcome"], read["resumes"]) == ("COMPLETED", "completed", 2)
    assert read["seeds"] == [100, 101]
    assert [list(stage) for stage in read["stages"]] == [STAGE_KEYS] * 2
    assert [stage["stage_type"] for stage in read["stages"]] == ["txt2img", "upscale"]
    assert [image["stage_id"] for image in read["images"]] == ["02-upscale"] * 2
    assert read["images"] == read["stages"][1]["images"]
    assert read["images"][0]["path"] == "images/02-upscale/00000-100.png"
    assert (read["missing"], read["error"]) == ([], None)


def test_a_failed_result_as_json_names_what_is_missing(run: Path) -> None:
    """``missing`` lists stage, index and error; ``error`` kind and message."""
    failed = next(e.seq for e in long_story().events if getattr(e, "trigger", "") == "fail")
    read = json.loads(b"".join(replay(run, until=failed).json_parts()))
    assert (read["state"], read["outcome"]) == ("ERROR", "failed")
    waiting, gap = read["missing"]
    assert waiting == {"stage_id": "02-upscale", "image_index": 0, "error": None}
    assert (gap["stage_id"], gap["image_index"]) == ("00-txt2img", 1)
    assert gap["error"]["message"] == read["error"]["message"] == "out of memory"
    assert read["error"]["stage_id"] == "00-txt2img"


def test_the_events_of_the_json_are_the_bytes_of_the_log(run: Path) -> None:
    """``events`` is the whole timeline as it stands in the log, unknown fields included."""
    path = run / "events.jsonl"
    bodies = [body[:-1] + b',"later":1}' for body in split_bodies(path.read_bytes())]
    bodies.append(
        b'{"type":"StageRated","run_id":"story","seq":%d,"ts":"2030-01-01T00:00:00Z","x":"\\u00e4"}'
        % len(bodies)
    )
    path.write_bytes(make_log(bodies))
    document = b"".join(replay(run).json_parts())
    assert document.endswith(b'"events":[' + b",".join(bodies) + b"]}")
    assert len(json.loads(document)["events"]) == len(bodies)


def test_the_json_of_a_result_in_memory_is_the_same(run: Path) -> None:
    """A result folded from a tuple of events prints what one from the disk prints."""
    in_memory = fold(tuple(long_story().events))
    assert b"".join(in_memory.json_parts()) == b"".join(replay(run).json_parts())


def write_long_log(folder: Path, count: int) -> None:
    """A log of ``count`` events, most of them failures with a long message."""
    log = FileEventLog.create(folder, run_opened("long", 2), durability=Durability.PROCESS)
    for event in Story(run_id="long").move("start").begin("txt2img").make("txt2img", 0).events[1:]:
        log.append(event)
    failure = error(detail="a long traceback " * 25)
    for seq in range(log.next_seq, count):
        log.append(
            CallFailed(
                run_id="long", seq=seq, ts=START, call_id="other", endpoint="x", error=failure,
                will_retry=True,
            )
        )  # fmt: skip
    log.close()


def test_a_long_log_is_replayed_in_bounded_memory(tmp_path: Path) -> None:
    """20,000 events, 13 MB on disk, take less than 4 MiB, also while they are walked."""
    write_long_log(tmp_path, 20_000)
    size = (tmp_path / "events.jsonl").stat().st_size
    assert size > 12 * MIB
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        result = replay(tmp_path)
        walked = sum(1 for _ in islice(result.events, 10_000))
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert (walked, len(result.events)) == (10_000, 20_000)
    assert peak < 4 * MIB


@pytest.mark.parametrize("on", ["worker", "publisher"])
def test_an_image_of_an_event_has_a_file_that_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on: Literal["worker", "publisher"]
) -> None:
    """Of one that is announced, of a timeline, of a log that is read along or walked through."""
    monkeypatch.chdir(tmp_path)
    live: list[StageEvent] = []
    with subscribe(live.append, on=on):
        handle = controller(Path("runs")).start(document(images=2))
        result = handle.wait(30)
    monkeypatch.chdir("/")
    folder = tmp_path / handle.folder
    assert len(live) == len(result.events)
    for events in (live, replay(folder).events, replay(folder).events[:], iterate(folder)):
        pictured = [event for event in events if isinstance(event, StageImageProgress)]
        assert [event.artifact.number for event in pictured] == [1, 2]
        for event in pictured:
            assert event.artifact.file == folder / event.artifact.path
            assert event.artifact.file.read_bytes()
    with LogTail(folder) as tail:
        (answer, _) = (event for event in tail.read() if isinstance(event, CallCompleted))
    assert answer.artifacts[0].file == pictured[0].artifact.file
    assert pictured[0].artifact == msgspec.structs.replace(answer.artifacts[0])
    assert b'"folder"' not in CODEC.encode(answer)


def test_an_image_of_a_result_has_a_file_that_opens_and_a_number(tmp_path: Path) -> None:
    """From any working folder; in JSON neither is there, for a result can be read elsewhere."""
    handle = controller(tmp_path / "runs").start(document(images=2))
    for result in (handle.wait(30), replay(handle.folder)):
        assert [image.number for image in result.images] == [1, 2]
        for image in (*result.images, *result.stages[0].images):
            assert image.file == (handle.folder / image.path).absolute()
            assert image.file.read_bytes()
        assert b'"file"' not in b"".join(result.json_parts())
    assert fold(memory_log().timeline()).images[0].file == Path(artifact(0).path)
