"""Logs of groups that are cut, damaged or forged: repaired, refused, or of no harm."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from stagewright.events import LogCorruptError, RunState, replay
from stagewright.events.groups.fold import GroupFold
from stagewright.events.groups.log import (
    GROUP_LOG,
    GROUP_LOG_NAME,
    UnknownGroupEvent,
    read_group_log,
)
from stagewright.events.groups.model import GroupEvent, GroupRepaired
from stagewright.events.log.verified_scan import RecordScan
from stagewright.statemachine import GroupResult
from stagewright.statemachine.groups.folder import find_group
from stagewright.statemachine.groups.result import MISSING

from .log_format import changed, make_log, split_bodies, split_lines
from .resuming import asked, files, painter, small
from .support import ScriptedBackend, controller, png

AXIS = "txt2img.steps=1,2,3"
Bodies = list[bytes]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder of a group that is complete."""
    return made(tmp_path_factory.mktemp("whole"))


def made(runs: Path, axis: str = AXIS, **top: Any) -> Path:
    """A folder of runs with a group that is complete."""
    config = small(images=1, **top)
    result = controller(runs, painter()).start_group(config, vary=[axis]).wait(30)
    assert result.state == RunState.COMPLETED
    return runs


def log_of(runs: Path) -> Path:
    """The log of the group that was opened last."""
    return find_group(runs, "last-group") / GROUP_LOG_NAME


def resumed(runs: Path, backend: ScriptedBackend | None = None) -> GroupResult:
    """What the group comes to in another process."""
    return controller(runs, backend or painter()).resume_group("last-group").wait(30)


def scanned(data: bytes) -> tuple[list[GroupEvent], bool]:
    """The events of a log's bytes, and whether a torn tail is behind them."""
    scan = RecordScan(GROUP_LOG, io.BytesIO(data))
    return [event for batch in scan.batches() for event in batch], scan.torn is not None


def test_a_log_cut_at_any_byte_is_torn_or_whole_but_within_its_first_record(whole: Path) -> None:
    """Each prefix has the records that are whole in it; the first one appears by a rename."""
    data = log_of(whole).read_bytes()
    events, _ = scanned(data)
    ends = [len(b"".join(split_lines(data)[: count + 1])) for count in range(len(events))]
    for size in range(len(data)):
        kept = sum(end <= size for end in ends)
        if kept == 0:
            with pytest.raises(LogCorruptError):
                scanned(data[:size])
        else:
            assert scanned(data[:size]) == (events[:kept], size not in ends)


@pytest.mark.parametrize("record", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("part", [0.0, 0.5])
def test_a_group_whose_log_was_cut_finds_its_runs_and_ends(
    record: int, part: float, whole: Path, tmp_path: Path
) -> None:
    """No image is made again; what was cut off is kept beside the log and recorded."""
    runs = shutil.copytree(whole, tmp_path / "runs")
    log = log_of(runs)
    lines = split_lines(log.read_bytes())
    torn = lines[record][: max(1, int(len(lines[record]) * part))] if part else b""
    log.write_bytes(b"".join(lines[:record]) + torn)
    if record == 0:
        with pytest.raises(LogCorruptError):
            resumed(runs)
        assert log.read_bytes() == torn
        return
    backend = painter()
    before = {path: replay(path.parent).run_id for path in runs.glob("*/events.jsonl")}
    assert resumed(runs, backend).state == RunState.COMPLETED
    assert backend.requests == []
    assert {path: replay(path.parent).run_id for path in runs.glob("*/events.jsonl")} == before
    events: list[GroupEvent] = []
    read_group_log(log.parent, events.extend)
    repairs = [one for one in events if isinstance(one, GroupRepaired)]
    assert [(log.parent / one.copied_to).read_bytes() for one in repairs] == [torn] * bool(torn)


@pytest.mark.parametrize("place", [0, 60, 700, -200])
def test_a_group_with_a_damaged_log_is_refused_and_left_as_it_is(
    place: int, whole: Path, tmp_path: Path
) -> None:
    """Nothing is written, and its runs can be resumed alone."""
    runs = shutil.copytree(whole, tmp_path / "runs")
    data = bytearray(log_of(runs).read_bytes())
    data[place] ^= 4
    log_of(runs).write_bytes(data)
    before = files(runs)
    with pytest.raises(LogCorruptError, match="its runs are not affected"):
        resumed(runs)
    locks = {name for name in files(runs) if name.endswith("group.lock")}
    assert {name: data for name, data in files(runs).items() if name not in locks} == {
        name: data for name, data in before.items() if name not in locks
    }
    for run in runs.glob("2*"):
        assert controller(runs, painter()).resume(run.name).wait(30).state == RunState.COMPLETED


def forge(runs: Path, change: Callable[[Bodies], Bodies]) -> None:
    """Write a log anew whose checksums are right; it has no seal."""
    log = log_of(runs)
    log.write_bytes(make_log(change(split_bodies(log.read_bytes())[:-1])))


def forget_runs(runs: Path, *variants: int) -> None:
    """Remove the runs of some variants."""
    for log in list(runs.glob("*/events.jsonl")):
        if claim_of(log.parent) in variants:
            shutil.rmtree(log.parent)


def with_fields(record: int, **fields: Any) -> Callable[[Bodies], Bodies]:
    """A change of some fields of one record."""
    return lambda bodies: [
        changed(body, **fields) if place == record else body for place, body in enumerate(bodies)
    ]


@pytest.mark.parametrize(
    ("record", "fields"),
    [
        (0, {"variants": "x"}),
        (0, {"variants": [{"variant_index": -1, "values": {}}]}),
        (0, {"variants": [{"variant_index": 1, "values": {}}]}),
        (0, {"variants": [{"variant_index": 0, "values": {}}, {"variant_index": 0, "values": {}}]}),
        (0, {"config": []}),
        (0, {"seed": "seven"}),
        (0, {"found": [7]}),
        (0, {"ts": "yesterday"}),
        (1, {"run_id": 7}),
        (1, {"variant_index": -1}),
        (1, {"variant_index": 2**80}),
        (1, {"group_id": "another"}),
        (1, {"seq": 5}),
    ],
)
def test_a_record_that_is_wrong_makes_the_log_corrupt(
    record: int, fields: Mapping[str, Any], whole: Path
) -> None:
    """Its checksums are right, but no stagewright can have written it."""
    bodies = split_bodies(log_of(whole).read_bytes())[:-1]
    with pytest.raises(LogCorruptError):
        scanned(make_log(with_fields(record, **fields)(bodies)))


@pytest.mark.parametrize(
    "run_id",
    [
        "../victim",
        "archive",
        "",
        "20261130T201418.535663Z-x/../../victim-abcdef",
        "20261130T201418.535663Z-\0-abcdef",
    ],
)
def test_a_log_that_names_no_run_for_a_variant_harms_no_folder(
    run_id: str, whole: Path, tmp_path: Path
) -> None:
    """The variant has an error that says so; the others are made."""
    runs = shutil.copytree(whole, tmp_path / "runs")
    for folder in (tmp_path / "victim", tmp_path / "victim-abcdef", runs / "archive"):
        folder.mkdir()
        (folder / "kept.txt").write_text("somebody's work")
    (runs / "20261130T201418.535663Z-x").mkdir()
    before = files(tmp_path)
    forget_runs(runs, 1, 2)
    forge(runs, with_fields(2, run_id=run_id))
    backend = painter()
    result = resumed(runs, backend)
    states = [one.state for one in result.variants]
    assert states == [RunState.COMPLETED, MISSING, RunState.COMPLETED]
    assert result.variants[1].error is not None
    assert "no run has such an id" in result.variants[1].error.message
    assert asked(backend) == [("00-txt2img", 0)]
    kept = {name for name in before if name.endswith("kept.txt")}
    assert {name: files(tmp_path).get(name) for name in kept} == {
        name: before[name] for name in kept
    }


def test_a_log_that_names_the_run_of_another_group_does_not_take_it(
    whole: Path, tmp_path: Path
) -> None:
    """The run is left as it is, and the variant has an error; so with another variant's run."""
    runs = shutil.copytree(whole, tmp_path / "runs")
    theirs = next(runs.glob("2*")).name
    made(runs)
    mine = [json.loads(body) for body in split_bodies(log_of(runs).read_bytes())]
    forge(runs, with_fields(2, run_id=theirs))
    forge_ids = {one["variant_index"]: one["run_id"] for one in mine[1:4]}
    shutil.rmtree(runs / forge_ids[1])
    before = files(runs / theirs)
    result = resumed(runs)
    assert result.state == RunState.ERROR
    assert result.variants[1].error is not None
    assert "of another variant" in result.variants[1].error.message
    assert files(runs / theirs) == before


def test_a_folder_that_is_a_link_is_not_written_through(whole: Path, tmp_path: Path) -> None:
    """A begun variant whose folder leads elsewhere has an error, and nothing is written there."""
    runs = shutil.copytree(whole, tmp_path / "runs")
    (victim := tmp_path / "victim").mkdir()
    run_id = json.loads(split_bodies(log_of(runs).read_bytes())[2])["run_id"]
    shutil.rmtree(runs / run_id)
    (runs / run_id).symlink_to(victim)
    forge(runs, lambda bodies: bodies)
    result = resumed(runs)
    assert result.variants[1].error is not None
    assert "is a link" in result.variants[1].error.message
    assert list(victim.iterdir()) == []


@pytest.mark.parametrize("path", ["../../secret.png", "/etc/passwd", "inputs/../../../secret.png"])
def test_a_log_whose_inputs_lie_outside_its_folder_sends_none_of_them(
    path: str, tmp_path: Path
) -> None:
    """The variants that have not begun have an error; nothing outside is read."""
    given = tmp_path / "given.png"
    given.write_bytes(png(1))
    runs = tmp_path / "runs"
    config = small("img2img", images=1, input_image=str(given))
    controller(runs, painter()).start_group(config, vary=["img2img.steps=1,2"]).wait(30)
    forget_runs(runs, 1)
    (tmp_path / "secret.png").write_bytes(given.read_bytes())
    found = json.loads(split_bodies(log_of(runs).read_bytes())[0])["found"]
    found[0]["inputs"][0]["path"] = path
    forge(runs, lambda bodies: with_fields(0, found=found)(bodies)[:2])
    backend = painter()
    result = resumed(runs, backend)
    assert backend.requests == []
    assert result.variants[1].error is not None
    assert "cannot be used" in result.variants[1].error.message


def test_a_copy_of_an_input_that_is_a_link_is_not_sent(tmp_path: Path) -> None:
    """Whether its digest is recorded or, by a forged log, is not."""
    (tmp_path / "given.png").write_bytes(png(1))
    (tmp_path / "secret.png").write_bytes(png(2))
    runs = tmp_path / "runs"
    config = small("img2img", images=1, input_image=str(tmp_path / "given.png"))
    controller(runs, painter()).start_group(config, vary=["img2img.steps=1,2"]).wait(30)
    copy = log_of(runs).parent / "inputs" / "00000.png"
    copy.unlink()
    copy.symlink_to(tmp_path / "secret.png")
    forget_runs(runs, 1)
    found = json.loads(split_bodies(log_of(runs).read_bytes())[0])["found"]
    backend = painter()
    for digest, why in ((found[0]["inputs"][0]["sha256"], "was changed"), ("", "has no digest")):
        found[0]["inputs"][0]["sha256"] = digest
        forge(runs, lambda bodies: with_fields(0, found=found)(bodies)[:2])
        error = resumed(runs, backend).variants[1].error
        assert error is not None
        assert why in error.message
    assert backend.requests == []


def test_an_event_of_a_newer_version_is_kept_and_the_group_goes_on(
    whole: Path, tmp_path: Path
) -> None:
    """Its bytes stay in the log, behind which a resume writes."""
    runs = shutil.copytree(whole, tmp_path / "runs")
    forget_runs(runs, 2)

    def change(bodies: Bodies) -> Bodies:
        newer = changed(bodies[2], type="VariantPraised", v=9, seq=3, praise={"deep": [1]})
        return [*bodies[:3], newer]

    forge(runs, change)
    before = log_of(runs).read_bytes()
    assert resumed(runs).state == RunState.COMPLETED
    assert log_of(runs).read_bytes().startswith(before)
    events: list[GroupEvent] = []
    read_group_log(log_of(runs).parent, events.extend)
    assert isinstance(events[3], UnknownGroupEvent)


def test_of_two_runs_that_claim_a_variant_the_recorded_one_is_its_run(
    whole: Path, tmp_path: Path
) -> None:
    """Without a record it is the older one; no third is made, and no claim of no variant counts."""
    runs = shutil.copytree(whole, tmp_path / "runs")
    (recorded,) = [one for one in runs.glob("2*") if claim_of(one) == 1]
    for number, index in (("0", 1), ("1", 99)):
        run_id = f"2020010{number}T000000.000000Z-x-00000{number}"
        copied = shutil.copytree(recorded, runs / run_id)
        bodies = split_bodies((copied / "events.jsonl").read_bytes())[:-1]
        mine = [changed(body, run_id=run_id) for body in bodies]
        mine[0] = changed(mine[0], variant_index=index)
        (copied / "events.jsonl").write_bytes(make_log(mine))
    backend = painter()
    result = resumed(runs, backend)
    assert result.state == RunState.COMPLETED
    assert result.variants[1].run_id == recorded.name
    forge(runs, lambda bodies: bodies[:2])
    result = resumed(runs, backend)
    assert result.variants[1].run_id == "20200100T000000.000000Z-x-000000"
    assert backend.requests == []


def claim_of(run: Path) -> Any:
    """The variant that a run says that it is of."""
    return json.loads(split_bodies((run / "events.jsonl").read_bytes())[0])["variant_index"]


def test_a_log_of_many_records_about_no_variant_takes_little_memory(
    whole: Path, tmp_path: Path
) -> None:
    """Records of variants that the group does not have are read and forgotten."""
    runs = shutil.copytree(whole, tmp_path / "runs")

    def change(bodies: Bodies) -> Bodies:
        begun = bodies[1]
        more = (changed(begun, seq=4 + place, variant_index=3 + place) for place in range(5000))
        return [*bodies[:4], *more]

    forge(runs, change)
    fold = GroupFold()
    read_group_log(log_of(runs).parent, fold.apply_all)
    assert fold.run_ids.keys() == {0, 1, 2}
    assert resumed(runs).state == RunState.COMPLETED
