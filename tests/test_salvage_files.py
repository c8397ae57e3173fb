"""``salvage``: the files of a corrupt run, hostile logs, refusals, and salvages that break off."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from stagewright.events import (
    CallRequested,
    LifecycleChanged,
    LogCorruptError,
    LogLockedError,
    LogRepaired,
    RunNotFoundError,
    RunState,
    UnknownEvent,
    iterate,
)
from stagewright.events.lock import RunLock
from stagewright.statemachine.resume.verify import verify_run
from stagewright.statemachine.salvaging import SalvageRefusedError

from .log_format import body_of, make_log
from .posix import make_pipe
from .salvaging import (
    LOG,
    check_ends_the_same,
    check_salvaged,
    controller,
    lines_of,
    resumed,
    salvage,
    spoil,
    state_of,
)
from .support import ScriptedBackend, document, png


def made(runs: Path, *stages: str, **top: Any) -> Path:
    """A finished run."""
    handle = controller(runs).start(document(*stages, **{"images": 2, **top}))
    assert handle.wait(60).state == RunState.COMPLETED
    return handle.folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of two stages and two images."""
    return made(tmp_path / "runs", "txt2img", "img2img")


def image(folder: Path, stage: str, index: int) -> Path:
    """The file of one image."""
    return next((folder / "images" / stage).glob(f"{index:05d}-*"))


def rewrite(folder: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Change the events of a log, each with its checksums right; the last one stays damaged."""
    events = [json.loads(body_of(line)) for line in lines_of(folder)]
    change(events)
    bodies = [json.dumps(event, separators=(",", ":")).encode() for event in events]
    (folder / LOG).write_bytes(make_log(bodies) + b"garbage\n")


def altered(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"x")


def linked(file: Path) -> None:
    shutil.move(file, file.parent.parent / "elsewhere.png")
    file.symlink_to(file.parent.parent / "elsewhere.png")


def below_a_link(file: Path) -> None:
    shutil.move(file.parent, file.parent.parent / "elsewhere")
    file.parent.symlink_to(file.parent.parent / "elsewhere")


def piped(file: Path) -> None:
    file.unlink()
    make_pipe(file)


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    "harm",
    [
        Path.unlink,
        altered,
        linked,
        below_a_link,
        pytest.param(piped, marks=pytest.mark.posix),
        a_folder,
    ],
)
def test_an_image_that_is_not_there_as_recorded_is_left_out(
    run: Path, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    """Its records go with it, no link is followed, and a resume makes it and nothing else."""
    whole = shutil.copytree(run, tmp_path / run.name)
    lost = [image(run, "01-img2img", 1)]
    if harm is below_a_link:
        lost.insert(0, image(run, "01-img2img", 0))
    spoil(run, 2)
    harm(lost[-1])
    found = check_salvaged(run)
    assert found.images == 4 - len(lost)
    assert sorted(flaw.place for flaw in found.lost_files) == [
        str(file.relative_to(run)) for file in lost
    ]
    assert not any(path.is_symlink() for path in Path(found.folder).rglob("*"))
    asked = check_ends_the_same(found, whole)
    assert asked == [("01-img2img", int(file.name[:5])) for file in lost]


def test_a_complete_run_that_lost_an_image_goes_on_by_reset(run: Path) -> None:
    """The log goes on saying COMPLETED, and a resume leaves that state the legal way."""
    spoil(run, 2)
    image(run, "00-txt2img", 0).unlink()
    found = check_salvaged(run)
    assert found.state == RunState.COMPLETED
    result, asked = resumed(found)
    moves = [event.trigger for event in result.events if isinstance(event, LifecycleChanged)]
    assert (moves, asked) == (["start", "finish", "reset", "start", "finish"], [("00-txt2img", 0)])


def test_an_answer_of_several_images_counts_whole_or_not_at_all(tmp_path: Path) -> None:
    """Of a batch that lacks a file nothing is copied, and the same whole request is repeated."""
    table = {**document()["txt2img"], "batch_size": 2}
    run = made(tmp_path / "runs", txt2img=table, images=3)
    whole = shutil.copytree(run, tmp_path / run.name)
    spoil(run, 2)
    image(run, "00-txt2img", 1).unlink()
    found = check_salvaged(run)
    assert found.images == 1
    assert check_ends_the_same(found, whole) == [("00-txt2img", 0)]


def test_an_image_that_was_made_twice_keeps_both_its_stories(run: Path, tmp_path: Path) -> None:
    """The first record stays though its file was replaced, for the later one stands behind it."""
    altered(image(run, "00-txt2img", 0))
    controller(run.parent).resume(run.name).wait(60)
    whole = shutil.copytree(run, tmp_path / run.name)
    before = [event for event in iterate(run) if isinstance(event, CallRequested)]
    spoil(run, 2)
    found = check_salvaged(run)
    after = [event for event in iterate(found.folder) if isinstance(event, CallRequested)]
    assert [event.call_id for event in after] == [event.call_id for event in before]
    assert (found.images, check_ends_the_same(found, whole)) == (4, [])


def test_what_descends_from_a_lost_image_is_looked_at_when_that_one_differs(
    tmp_path: Path,
) -> None:
    """A server that gives another picture now: what was made of the first is made again too."""
    first = ScriptedBackend()
    handle = controller(tmp_path, first).start(document("txt2img", "img2img"))
    handle.wait(60)
    spoil(handle.folder, 3)
    image(handle.folder, "00-txt2img", 0).unlink()
    found = check_salvaged(handle.folder)
    again = ScriptedBackend(images=lambda request: [png(request.seed + 7)])
    controller(tmp_path, again).resume(found.run_id).wait(60)
    assert [request.stage_id for request in again.requests] == ["00-txt2img", "01-img2img"]


@pytest.mark.parametrize("harm", [None, altered, Path.unlink])
def test_inputs_are_copied_and_a_damaged_one_is_said(
    tmp_path: Path, harm: Callable[[Path], None] | None
) -> None:
    """A run made from a file and a mask goes on with their copies; without them it says so."""
    for name in ("in.png", "mask.png"):
        (tmp_path / name).write_bytes(png(1))
    img2img = {**document("img2img")["img2img"], "mask": str(tmp_path / "mask.png")}
    run = made(tmp_path / "runs", "img2img", img2img=img2img, input_image=str(tmp_path / "in.png"))
    whole = shutil.copytree(run, tmp_path / run.name)
    requests = [event for event in iterate(run) if isinstance(event, CallRequested)]
    spoil(run, requests[0].seq, 8)
    if harm is None:
        found = check_salvaged(run)
        rebuilt = [event for event in iterate(found.folder) if isinstance(event, CallRequested)]
        assert rebuilt[0].request_sha256 == requests[0].request_sha256
        assert rebuilt[0].inputs == requests[0].inputs
        image(Path(found.folder), "00-img2img", 1).unlink()
        assert check_ends_the_same(found, whole) == [("00-img2img", 1)]
        return
    harm(run / "inputs" / "mask.png")
    found = salvage(run)
    assert [flaw.place for flaw in found.lost_inputs] == ["inputs/mask.png"]
    assert found.images == 2
    assert [flaw.place for flaw in verify_run(Path(found.folder)).flaws] == ["inputs/mask.png"]


def test_what_newer_versions_write_is_kept(run: Path) -> None:
    """Unknown events, and unknown fields of known ones, are told as they were."""

    def newer(events: list[dict[str, Any]]) -> None:
        events[3]["more"] = {"deep": [1, None, "ü"]}
        envelope = {key: events[3][key] for key in ("run_id", "ts", "epoch")}
        events.append({"type": "Note", "v": 9, **envelope, "seq": len(events), "text": ["?"]})

    rewrite(run, newer)
    found = check_salvaged(run)
    new = [json.loads(body_of(line)) for line in lines_of(Path(found.folder))]
    assert new[3]["more"] == {"deep": [1, None, "ü"]}
    (note,) = [event for event in iterate(found.folder) if isinstance(event, UnknownEvent)]
    assert (note.run_id, json.loads(note.raw)["text"]) == (found.run_id, ["?"])


def test_a_salvaged_run_that_is_damaged_again_is_salvaged_again(run: Path, tmp_path: Path) -> None:
    """Both corrupt logs are in the second new run, each under the name that a record gives."""
    whole = shutil.copytree(run, tmp_path / run.name)
    spoil(run, 4)
    first = Path(check_salvaged(run).folder)
    spoil(first, 5)
    second = salvage(first)
    repairs = [event for event in iterate(second.folder) if isinstance(event, LogRepaired)]
    assert [one.epoch for one in repairs] == [1, 2]
    for repair, log in zip(repairs, (run / LOG, first / LOG), strict=True):
        copy = (Path(second.folder) / repair.copied_to).read_bytes()
        assert (copy, len(copy)) == (log.read_bytes(), repair.bytes)
        assert sha256(copy).hexdigest() == repair.sha256
    assert check_ends_the_same(second, whole) == []


@pytest.mark.parametrize(
    "path",
    ["../../stolen.png", "/etc/passwd", "run.lock", "cancel.request", "events.jsonl", "a/b.png"],
)
def test_a_hostile_path_writes_nothing_where_it_does_not_belong(run: Path, path: str) -> None:
    """Only images and inputs are copied, and only below their own folders."""
    (run / "a").mkdir()
    (run / "a" / "b.png").write_bytes(png(1))
    (run / "cancel.request").write_bytes(b"{}")

    def hostile(events: list[dict[str, Any]]) -> None:
        place = run / path
        digest = sha256(place.read_bytes() if place.is_file() else b"").hexdigest()
        for event in (events[4]["artifacts"][0], events[5]["artifact"]):
            event.update(path=path, sha256=digest)

    rewrite(run, hostile)
    found = check_salvaged(run)
    assert found.images == 3
    assert sorted(path.name for path in Path(found.folder).iterdir()) == [
        LOG, f"{LOG}.corrupt", "images", "run.lock",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seq", "fields"),
    [
        (8, {"epoch": 2**53 - 1}),
        (8, {"seq": 2**53 - 1}),
        (4, {"call_id": "x.00-txt2img.00000." + "9" * 5000}),
        (4, {"call_id": "x.00-txt2img.00000.²"}),
        (0, {"seeds": [10**30, 1]}),
        (0, {"plan": {"stages": [{"stage_id": "00-txt2img", "stage_type": 5}]}}),
        (0, {"plan": {"stages": 5}, "config": {"name": 5}}),
        (1, {"source": "RUNNING", "dest": "COMPLETED"}),
    ],
)
def test_odd_values_give_a_sound_log(run: Path, seq: int, fields: dict[str, Any]) -> None:
    """Whatever a sound record says, the new log can be read, and its sequence has no gap."""

    def odd(events: list[dict[str, Any]]) -> None:
        events[seq] |= fields
        del events[3]

    rewrite(run, odd)
    check_salvaged(run)


def test_an_event_over_several_lines_is_no_record(run: Path) -> None:
    """A line break, which JSON allows and a log does not, never gets into the new log."""
    bodies = [body_of(line) for line in lines_of(run)]
    event = {**json.loads(bodies[2]), "type": "Note", "v": 9, "seq": len(bodies)}
    note = json.dumps({**event, "text": {"a": 1}}, indent=1).encode()
    (run / LOG).write_bytes(make_log([*bodies, note]))
    found = check_salvaged(run)
    assert (found.records, found.known_records) == (19, 20)


def test_a_log_that_is_not_corrupt_is_refused(run: Path) -> None:
    """A sound one, a torn one, and a folder without any: nothing is made."""
    before = state_of(run.parent)
    with pytest.raises(SalvageRefusedError, match="sound"):
        salvage(run)
    assert state_of(run.parent) == before
    (run / LOG).write_bytes(b"".join(lines_of(run))[:-3])
    with pytest.raises(SalvageRefusedError, match="resume repairs it"):
        salvage(run)
    (run / LOG).unlink()
    with pytest.raises(RunNotFoundError):
        salvage(run)
    assert list(run.parent.iterdir()) == [run]


def test_a_run_that_is_held_is_refused(run: Path) -> None:
    """Whoever holds the lock is named, and the lock file stays as it is."""
    spoil(run, 4)
    lock = RunLock(run)
    before = state_of(run)
    with pytest.raises(LogLockedError, match=f"process {os.getpid()} "):
        salvage(run)
    lock.release()
    assert state_of(run) == before
    assert list(run.parent.iterdir()) == [run]


@pytest.mark.parametrize("log", [b"", b"garbage\n", None])
def test_without_its_plan_nothing_can_be_salvaged(run: Path, log: bytes | None) -> None:
    """The error is that of a corrupt log, and names the folder of the images."""
    spoil(run, 0)
    if log is not None:
        (run / LOG).write_bytes(log)
    with pytest.raises(LogCorruptError, match="nothing can be salvaged") as raised:
        salvage(run)
    assert str(run / "images") in str(raised.value)
    assert list(run.parent.iterdir()) == [run]
