"""The file of records: kept up to date with as little work as will do, whatever befalls it."""

from __future__ import annotations

import gc
import json
import os
import shutil
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from stagewright.adapters import LearningRecordsError, LearningRecordWriter, open_controller
from stagewright.adapters.projections.learning.folder_lock import folder_lock
from stagewright.adapters.projections.learning.record_file import FileStamp
from stagewright.adapters.projections.learning.records import SCHEMA_VERSION
from stagewright.adapters.projections.learning.update import RecordUpdater
from stagewright.events import signals
from stagewright.events.codec import CODEC
from stagewright.events.log.storage import OsStorage

from .learning import NAME, bytes_of, rebuilt, records, updated
from .log_format import make_log
from .resuming import LOG, cut, ran, small
from .salvaging import salvage, spoil
from .stories import Story

GOLDEN = Path(__file__).parent / "golden"
RECORDS = Path(__file__).parent / "golden_records"


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three finished runs and their records; nobody may change it."""
    runs = tmp_path_factory.mktemp("three")
    for _ in range(3):
        ran(runs, small(images=1))
    assert len(updated(runs)) == 3
    return runs


@pytest.fixture
def runs(three: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(three, tmp_path / "runs", dirs_exist_ok=True)


def folders(runs: Path) -> list[Path]:
    return sorted(log.parent for log in runs.glob(f"*/{LOG}"))


def inode(runs: Path) -> int:
    return (runs / NAME).stat().st_ino


def test_the_record_is_there_when_the_run_has_been_waited_for(tmp_path: Path) -> None:
    """``open_controller`` keeps the records: whoever waits for a run finds its record."""
    controller = open_controller(tmp_path)
    for number in range(1, 4):
        handle = controller.start(small(images=1))
        handle.wait(30)
        assert [one["run_id"] for one in records(tmp_path)][-1] == handle.run_id
        assert len(records(tmp_path)) == number
    assert bytes_of(tmp_path) == rebuilt(tmp_path)


def test_two_controllers_of_one_folder_share_a_writer(tmp_path: Path) -> None:
    """There is one for each folder of runs in a process, and it ends with the controllers."""
    gc.collect()  # What earlier tests left must not go meanwhile.
    before = len(signals.event_appended.receivers)
    controllers = [open_controller(tmp_path) for _ in range(2)]
    assert len(signals.event_appended.receivers) == before + 1
    for controller in controllers:
        controller.start(small(images=1)).wait(30)
    assert len(records(tmp_path)) == 2
    del controller
    controllers.clear()
    gc.collect()
    assert len(signals.event_appended.receivers) <= before


def test_deleted_and_rebuilt_it_has_the_same_bytes(runs: Path) -> None:
    """Whether by a rebuild or by an update that finds nothing."""
    before = bytes_of(runs)
    (runs / NAME).unlink()
    assert LearningRecordWriter(runs).rebuild().made == 3
    assert bytes_of(runs) == before
    (runs / NAME).unlink()
    assert LearningRecordWriter(runs).update().made == 3
    assert bytes_of(runs) == before


def test_an_update_that_finds_nothing_new_writes_nothing(runs: Path) -> None:
    """Neither in this process nor in a new one."""
    writer = LearningRecordWriter(runs)
    before = FileStamp.of((runs / NAME).stat())
    for update in (writer.update(), writer.update(), LearningRecordWriter(runs).update()):
        assert (update.runs, update.records, update.made, update.removed) == (3, 3, 0, 0)
    assert FileStamp.of((runs / NAME).stat()) == before


def test_a_new_record_that_sorts_last_is_appended(runs: Path) -> None:
    """The file is not written anew for each run; for one that sorts before others it is."""
    writer = LearningRecordWriter(runs)
    writer.update()
    before = inode(runs)
    late = ran(runs, small(images=1))
    assert writer.update().made == 1
    assert inode(runs) == before
    late.rename(runs / f"0-{late.name}")
    update = writer.update()
    assert (update.made, update.removed) == (1, 1)
    assert inode(runs) != before
    assert bytes_of(runs) == rebuilt(runs)


def test_a_record_goes_with_its_run(runs: Path) -> None:
    """And when the last one goes the file does."""
    writer = LearningRecordWriter(runs)
    for left, folder in ((2, folders(runs)[1]), (1, folders(runs)[0]), (0, folders(runs)[2])):
        shutil.rmtree(folder)
        assert writer.update().removed == 1
        assert len(records(runs)) == left
        assert bytes_of(runs) == rebuilt(runs)
    assert not (runs / NAME).exists()
    assert writer.update().records == 0


def test_without_a_folder_of_runs_nothing_is_made(tmp_path: Path) -> None:
    """An update of what is not there is no error, and leaves nothing behind."""
    assert LearningRecordWriter(tmp_path / "nowhere").update().runs == 0
    assert list(tmp_path.iterdir()) == []


def torn(data: bytes) -> bytes:
    return data[:-40]


def old_schema(data: bytes) -> bytes:
    version = f'"schema_version":{SCHEMA_VERSION}'.encode()
    return data.replace(version, version.replace(b":", b":-"), 2)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a torn last line": torn,
    "no newline at the end": lambda data: data[:-1],
    "garbage in the middle": lambda data: data.replace(b"\n", b"\n\xff\x00garbage\n", 1),
    "a doubled line": lambda data: data + data.splitlines(keepends=True)[1],
    "lines in another order": lambda data: b"".join(reversed(data.splitlines(keepends=True))),
    "a line that is gone": lambda data: b"".join(data.splitlines(keepends=True)[::2]),
    "a hole that a power loss left": lambda data: data[:512] + bytes(512) + data[1024:],
    "another version": old_schema,
    "a record without its run": lambda data: data + data.replace(b'"folder":"', b'"folder":"9'),
    "other people's JSON": lambda _data: b'{"a":1}\n[]\n3\n',
    "nothing": lambda _data: b"",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_wrong_with_the_file_is_noticed_and_made_good(runs: Path, damage: str) -> None:
    """By a writer that has known it before as by a new one."""
    good = bytes_of(runs)
    old = LearningRecordWriter(runs)
    old.update()
    for writer in (LearningRecordWriter(runs), old):
        (runs / NAME).write_bytes(DAMAGE[damage](good))
        writer.update()
        assert bytes_of(runs) == good
        assert writer.update().made == 0


def test_a_record_of_another_log_is_noticed(runs: Path) -> None:
    """A log that was put in another's place is told by its last records."""
    first, second, _ = folders(runs)
    (first / LOG).write_bytes((second / LOG).read_bytes())
    assert LearningRecordWriter(runs).update().made == 1
    assert bytes_of(runs) == rebuilt(runs)


def test_a_corrupt_log_has_no_record_and_stops_nobody(runs: Path) -> None:
    """It is named; what is salvaged of it is a run with a record of its own."""
    spoiled = folders(runs)[1]
    spoil(spoiled, 2)
    for writer in (LearningRecordWriter(runs), LearningRecordWriter(runs)):
        update = writer.rebuild()
        assert (update.runs, update.records, update.unreadable) == (3, 2, (spoiled.name,))
        assert writer.update().unreadable == (spoiled.name,)
    found = salvage(spoiled)
    assert Path(found.folder).name in {one["folder"] for one in updated(runs)}


def test_a_folder_whose_name_is_no_text_has_no_record(runs: Path) -> None:
    """Names of folders may hold any bytes; those of records may not."""
    folders(runs)[0].rename(os.fsdecode(os.fsencode(runs) + b"/\xff\xfe-odd"))
    update = LearningRecordWriter(runs).update()
    assert (update.records, update.unreadable) == (2, ("\\udcff\\udcfe-odd",))


def test_a_renamed_and_a_copied_run_are_told_apart_by_their_folders(runs: Path) -> None:
    """``folder`` is unique, ``run_id`` says that they are one run."""
    original = folders(runs)[0]
    shutil.copytree(original, runs / "copy")
    told = [(one["run_id"], one["folder"]) for one in updated(runs)]
    assert (original.name, "copy") in told
    assert (original.name, original.name) in told


def test_new_lines_that_are_too_many_to_hold_are_written_before_more_are_made(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded, and the bytes are the same."""
    monkeypatch.setattr("stagewright.adapters.projections.learning.update.BATCH_BYTES", 1)
    whole, lines = bytes_of(runs), bytes_of(runs).splitlines(keepends=True)
    for kept in (lines[:1], lines[1:2], lines[2:]):
        (runs / NAME).write_bytes(b"".join(kept))
        LearningRecordWriter(runs).update()
        assert bytes_of(runs) == whole


def test_an_update_that_is_ended_in_its_middle_need_not_begin_anew(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has made stands in the file soon, and it says how much was left."""
    monkeypatch.setattr("stagewright.adapters.projections.learning.update.BATCH_S", 0.0)
    monkeypatch.setattr("stagewright.adapters.projections.learning.update.PAUSE_PER_WRITE", 0)
    (runs / NAME).unlink()
    seen: list[int] = []

    def is_over() -> bool:
        seen.append(len(records(runs)))
        return len(seen) > 2

    with pytest.raises(TimeoutError, match="with 1 logs unread"):
        RecordUpdater(runs, OsStorage()).update(is_over)
    assert seen == [0, 1, 2]
    assert LearningRecordWriter(runs).update().made == 1
    assert bytes_of(runs) == rebuilt(runs)


def test_whoever_cannot_have_the_lock_says_so_and_waits_no_longer(runs: Path) -> None:
    """A bounded wait and one clear error; afterwards all is well."""
    with folder_lock(runs, wait_s=1):
        began = time.monotonic()
        with pytest.raises(LearningRecordsError, match="locked by another process"):
            LearningRecordWriter(runs).update(wait_s=0.1)
        assert time.monotonic() - began < 2
    assert LearningRecordWriter(runs).update().records == 3


def golden_runs(runs: Path) -> Iterator[Path]:
    for log in sorted(GOLDEN.glob(f"*/{LOG}")):
        yield shutil.copytree(log.parent, runs / log.parent.name)


def test_golden_logs_give_the_records_of_this_version(tmp_path: Path) -> None:
    """The bytes of a version are for ever: what changes them needs another SCHEMA_VERSION."""
    assert len(list(golden_runs(tmp_path))) == 3
    update = LearningRecordWriter(tmp_path).update()
    assert update.unreadable == ("corrupt",)
    expected = RECORDS / f"version-{SCHEMA_VERSION}.jsonl"
    assert bytes_of(tmp_path) == expected.read_bytes()


def test_a_log_that_lost_its_end_loses_its_record(runs: Path) -> None:
    """As a power loss may leave it where logs are not synced."""
    writer = LearningRecordWriter(runs)
    writer.update()
    cut(folders(runs)[2], 4)
    assert (writer.update().removed, len(records(runs))) == (1, 2)
    assert json.loads(rebuilt(runs).splitlines()[-1]) == records(runs)[-1]


def peak_of_rebuild(runs: Path, count: int) -> int:
    """The most memory in bytes that a rebuild of so many runs takes, each record 40 KB long."""
    story = Story("txt2img").move("start").stage("txt2img").move("finish")
    config = {"prompt": "x" * 20_000}
    plan = {"stages": [{"stage_id": "00-txt2img", "stage_type": "txt2img", "config": config}]}
    story.events[0] = msgspec.structs.replace(story.events[0], config=config, plan=plan)
    log = make_log(map(CODEC.encode, story.events))
    for number in range(count):
        folder = runs / f"{number:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOG).write_bytes(log)
    writer = LearningRecordWriter(runs)
    tracemalloc.start()
    try:
        assert writer.rebuild().records == count
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_records(tmp_path: Path) -> None:
    """A further run costs a small part of its record: what tells that it has not changed."""
    peak_of_rebuild(tmp_path, 1)  # what is loaded on first use is no part of it
    few, many = (peak_of_rebuild(tmp_path, count) for count in (30, 130))
    assert (many - few) / 100 < 40_000 / 4
