"""The file of records: runs add to it, a rebuild repairs it, no failure harms a run."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable
from itertools import count
from pathlib import Path
from random import Random

import filelock
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stagewright.adapters import LearningRecordsError, LearningRecordWriter, open_controller
from stagewright.adapters.projections.learning.record_file import LOCK_NAME, RecordFile
from stagewright.adapters.projections.learning.records import SCHEMA_VERSION
from stagewright.events import RunState, replay, signals
from stagewright.events.log.storage import Storage

from .faulty_storage import Deed, Fault, FaultyStorage, SimulatedCrash
from .learning import NAME, bytes_of, cancelled, rebuilt, records, remade
from .resuming import LOG, cut, dies_at, painter, ran, resumed, small
from .salvaging import salvage, spoil
from .simulated_disk import SimulatedDisk

GOLDEN = Path(__file__).parent / "golden"
RECORDS = Path(__file__).parent / "golden_records"
Library = dict[str, Path]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """A run of each kind; a copy of a run is a run."""
    runs = tmp_path_factory.mktemp("library")
    return {
        "run": ran(runs, small("txt2img", "upscale", images=1)),
        "fail": ran(runs, small(images=2), painter(dies_at(("00-txt2img", 1)))),
        "miss": ran(
            runs,
            small(images=2, run={"on_image_error": "continue"}),
            painter(dies_at(("00-txt2img", 0))),
        ),
        "cancel": cancelled(runs, small(images=2)),
        "opt out": ran(runs, small(images=1, run={"learning": False})),
    }


def ended(runs: Path, run: Path, name: str, storage: Storage | None = None) -> Path:
    """A copy of a run, whose process adds its record."""
    folder = shutil.copytree(run, runs / name)
    RecordFile(runs, storage or Storage()).add(folder, wait_s=30)
    return folder


def lines_of(data: bytes) -> list[bytes]:
    """The lines of a file of records in a fixed order."""
    return sorted(data.splitlines())


@pytest.fixture
def runs(library: Library, tmp_path: Path) -> Path:
    """A folder of three runs and their records."""
    runs = tmp_path / "runs"
    runs.mkdir()
    for name in ("3", "5", "7"):
        ended(runs, library["run"], name)
    return runs


def test_the_record_is_there_when_the_run_has_been_waited_for(tmp_path: Path) -> None:
    """Each run once, also with two controllers; their writers end with them."""
    gc.collect()  # What earlier tests left must not go meanwhile.
    before = len(signals.event_appended.receivers)
    controllers = [open_controller(tmp_path) for _ in range(2)]
    inodes = set()
    for number, controller in enumerate(controllers * 2, start=1):
        handle = controller.start(small(images=1))
        handle.wait(30)
        assert len(records(tmp_path)) == number
        assert records(tmp_path)[-1]["run_id"] == handle.run_id
        inodes.add((tmp_path / NAME).stat().st_ino)
    assert len(inodes) == 1
    assert bytes_of(tmp_path) == rebuilt(tmp_path)
    del controller
    controllers.clear()
    gc.collect()
    assert len(signals.event_appended.receivers) <= before


def test_a_writer_follows_the_runs_of_its_folder_from_start_to_close(tmp_path: Path) -> None:
    """Also where the folder has another name; runs elsewhere and later ones are left out."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    (tmp_path / "link").symlink_to(here)
    with LearningRecordWriter(here):
        followed = [ran(here, small(images=1)), ran(tmp_path / "link", small(images=1))]
        ran(there, small(images=1))
    late = ran(here, small(images=1))
    assert [one["folder"] for one in records(here)] == [folder.name for folder in followed]
    assert records(there) == []
    assert [one["folder"] for one in remade(here)][-1] == late.name


def live(runs: Path, library: Library, what: str, which: int) -> bool:
    """Let something happen to a folder of runs; whether a run has ended with a record."""
    folders = sorted(log.parent for log in runs.glob(f"*/{LOG}"))
    name = f"{len(folders):02d}"
    if what in library:
        ended(runs, library[what], name)
        return what != "opt out"
    if what == "die":
        folder = shutil.copytree(library["run"], runs / name)
        cut(folder, 1 + which % 8, torn=b'{"h":"0000'[: which % 11])
    elif what == "tear":
        data = bytes_of(runs)
        (runs / NAME).write_bytes(data[: which * len(data) // 100])
    elif folders and replay(folders[which % len(folders)]).state != RunState.COMPLETED:
        backend = painter(dies_at(("00-txt2img", 1)) if what == "fail again" else None)
        with LearningRecordWriter(runs):
            resumed(folders[which % len(folders)], backend, force=True)
        return True
    return False


STEPS = ("run", "fail", "miss", "cancel", "opt out", "die", "tear", "resume", "fail again")


@settings(max_examples=12)
@given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 99)), max_size=10))
def test_after_the_end_of_any_run_the_file_holds_the_lines_of_a_rebuild(
    library: Library, steps: list[tuple[str, int]]
) -> None:
    """Each run once, whatever was torn, resumed or killed; only the order may differ."""
    with tempfile.TemporaryDirectory() as place:
        runs = Path(place)
        for what, which in steps:
            if live(runs, library, what, which):
                assert lines_of(bytes_of(runs)) == lines_of(rebuilt(runs))
        remade(runs)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a torn last line": lambda data: data[:-40],
    "no newline at the end": lambda data: data[:-1],
    "garbage in the middle": lambda data: data.replace(b"\n", b"\n\xff\x00garbage\n", 1),
    "a doubled line": lambda data: data + data.splitlines(keepends=True)[1],
    "a hole that a power loss left": lambda data: data[:512] + bytes(512) + data[1024:],
    "another version": lambda data: data.replace(b'"schema_version":', b'"schema_version":9', 2),
    "other people's JSON": lambda _data: b'{"a":1}\n[]\n3\n',
    "deep nesting": lambda data: data + b"[" * 100_000 + b"\n",
    "nothing": lambda _data: b"",
}
UNNOTICED: dict[str, Callable[[bytes], bytes]] = {
    "a line that is gone": lambda data: b"".join(data.splitlines(keepends=True)[::2]),
    "a record without its run": lambda data: (
        data + data[: data.index(b"\n") + 1].replace(b'"3"', b'"4"')
    ),
}


@pytest.mark.parametrize("damage", [*DAMAGE, *UNNOTICED])
def test_a_bad_line_is_repaired_by_the_next_run_and_all_else_by_a_rebuild(
    runs: Path, library: Library, damage: str
) -> None:
    """A line that is missing or too many makes no other line bad."""
    good = bytes_of(runs)
    bad = {**DAMAGE, **UNNOTICED}[damage](good)
    (runs / NAME).write_bytes(bad)
    LearningRecordWriter(runs).rebuild()
    assert bytes_of(runs) == good
    (runs / NAME).write_bytes(bad)
    ended(runs, library["fail"], "9")
    assert (bytes_of(runs) == rebuilt(runs)) == (damage in DAMAGE)


def test_a_rebuild_says_what_it_has_changed(runs: Path) -> None:
    """A record goes with its run, and the file with its last record."""
    writer = LearningRecordWriter(runs)
    assert (writer.rebuild().made, writer.rebuild().removed) == (0, 0)
    (runs / "5").rename(runs / "9")
    update = writer.rebuild()
    assert (update.runs, update.records, update.made, update.removed) == (3, 3, 1, 1)
    for folder in ("3", "7", "9"):
        shutil.rmtree(runs / folder)
    assert (writer.rebuild().removed, writer.rebuild().records) == (3, 0)
    assert not (runs / NAME).exists()


def test_a_rebuild_takes_runs_as_they_are(runs: Path) -> None:
    """A copied run has a record of its own; a corrupt log and a name that is no text are named."""
    shutil.copytree(runs / "3", runs / "copy")
    found = [(one["folder"], one["run_id"]) for one in remade(runs)]
    assert [folder for folder, _ in found] == ["3", "5", "7", "copy"]
    assert found[0][1] == found[3][1]
    spoil(runs / "5", 2)
    (runs / "3").rename(os.fsdecode(os.fsencode(runs) + b"/\xff\xfe-odd"))
    update = LearningRecordWriter(runs).rebuild()
    assert (update.runs, update.records) == (4, 2)
    assert update.unreadable == ("5", "\\udcff\\udcfe-odd")
    salvaged = salvage(runs / "5")
    assert Path(salvaged.folder).name in {one["folder"] for one in remade(runs)}


def test_golden_logs_give_the_records_of_this_version(tmp_path: Path) -> None:
    """The bytes of a version never change: what changes them needs another SCHEMA_VERSION."""
    for name in ("corrupt", "first-format", "newer-version", "reused-images"):
        shutil.copytree(GOLDEN / name, tmp_path / name)
    update = LearningRecordWriter(tmp_path).rebuild()
    assert (update.runs, update.unreadable) == (4, ("corrupt",))
    expected = RECORDS / f"version-{SCHEMA_VERSION}.jsonl"
    assert bytes_of(tmp_path) == expected.read_bytes()


def peak_of_rebuild(runs: Path, log: Path, count: int) -> int:
    """The most memory in bytes that a rebuild of so many copies of a run takes."""
    for number in range(count):
        (runs / f"{number}").mkdir(parents=True, exist_ok=True)
        shutil.copy(log, runs / f"{number}")
    writer = LearningRecordWriter(runs)
    # What other tests have left would delay the collection of garbage.
    gc.collect()
    gc.freeze()
    tracemalloc.start()
    try:
        assert writer.rebuild().records == count
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        gc.unfreeze()


def test_memory_does_not_grow_with_the_records(tmp_path: Path) -> None:
    """A further run costs a small part of its record: the name of its folder and its log_head."""
    log = ran(tmp_path / "one", small(images=1, prompt="x" * 20_000)) / LOG
    peak_of_rebuild(tmp_path, log, 1)  # what is loaded on first use is no part of it
    few, many = (peak_of_rebuild(tmp_path, log, count) for count in (30, 130))
    assert (many - few) / 100 < 20_000 / 4


def test_many_writers_at_once_make_one_sound_file(tmp_path: Path) -> None:
    """Threads that run, resume and rebuild beside each other, each with a writer of its own."""
    stopped = [cancelled(tmp_path, small(images=2)) for _ in range(3)]

    def work(folder: Path) -> None:
        with LearningRecordWriter(tmp_path) as writer:
            ran(tmp_path, small(images=1))
            writer.rebuild()
            resumed(folder)

    threads = [threading.Thread(target=work, args=(folder,)) for folder in stopped]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert lines_of(bytes_of(tmp_path)) == lines_of(rebuilt(tmp_path))
    assert len(records(tmp_path)) == 6


def test_a_run_ends_though_its_record_has_to_wait(tmp_path: Path) -> None:
    """The run is delayed by less than a second; a rebuild gives up when it was told to."""
    controller = open_controller(tmp_path)
    with filelock.FileLock(tmp_path / LOCK_NAME):
        began = time.monotonic()
        assert controller.start(small(images=1)).wait(30).state == "COMPLETED"
        assert time.monotonic() - began < 5
        assert not (tmp_path / NAME).exists()
        with pytest.raises(LearningRecordsError, match="could not be acquired"):
            LearningRecordWriter(tmp_path).rebuild(wait_s=0.1)
    deadline = time.monotonic() + 10
    while not records(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_run_ends_though_no_record_can_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says why and what to do, and the run's result is as ever."""
    (tmp_path / NAME).mkdir()
    with caplog.at_level(logging.WARNING, "stagewright.learning"):
        result = open_controller(tmp_path).start(small(images=1)).wait(30)
    assert result.state == "COMPLETED"
    assert "has no learning record (`stagewright learning` makes it)" in caplog.text
    with pytest.raises(LearningRecordsError, match=NAME):
        LearningRecordWriter(tmp_path).rebuild()
    (tmp_path / NAME).rmdir()
    assert len(remade(tmp_path)) == 1


Work = Callable[[Path, Storage], object]


def append(runs: Path, storage: Storage) -> None:
    """A run ends whose record is new."""
    RecordFile(runs, storage).add(runs / "8", wait_s=30)


def exchange(runs: Path, storage: Storage) -> None:
    """A run ends that has been resumed."""
    RecordFile(runs, storage).add(runs / "6", wait_s=30)


def rebuild(runs: Path, storage: Storage) -> None:
    """The file is made anew."""
    LearningRecordWriter(runs, storage=storage).rebuild()


@pytest.fixture
def prepared(library: Library, tmp_path: Path) -> Callable[[], Path]:
    """Makes folders in which a cancelled run has been resumed and another run has just ended."""
    model = tmp_path / "model"
    model.mkdir()
    for name in ("5", "6", "7"):
        ended(model, library["cancel" if name == "6" else "run"], name)
    resumed(model / "6")
    shutil.copytree(library["fail"], model / "8")
    numbers = iter(range(1000))
    return lambda: shutil.copytree(model, tmp_path / f"{next(numbers)}")


@pytest.mark.parametrize("loses_power", [False, True], ids=["power stays", "power lost"])
@pytest.mark.parametrize("work", [append, exchange, rebuild])
def test_no_crash_and_no_failure_of_the_disk_loses_more_than_the_record_in_work(
    library: Library, prepared: Callable[[], Path], work: Work, loses_power: bool
) -> None:
    """At each operation on the disk; the next record repairs what a power loss has torn."""
    before, wanted = bytes_of(prepared()), prepared()
    work(wanted, Storage())
    after = bytes_of(wanted)
    ended(wanted, library["miss"], "9")
    whole = rebuilt(wanted)
    met = 0
    for deed in (Deed.DIE_WITHIN, Deed.DIE_AFTER, Deed.FAIL):
        for at in count(1):
            runs = prepared()
            disk = SimulatedDisk(runs, Random(at))
            storage = FaultyStorage(disk, Fault(at=at, deed=deed))
            try:
                work(runs, storage)
            except (SimulatedCrash, OSError, LearningRecordsError):
                met += 1
            if deed is Deed.FAIL:
                assert bytes_of(runs) in (before, after), at
            if loses_power:
                disk.lose_power()
            if not storage.fault_met:
                assert loses_power or bytes_of(runs) == after
                break
            ended(runs, library["miss"], "9")
            assert {"5", "6", "7", "9"} <= {one["folder"] for one in records(runs)}, (deed, at)
            LearningRecordWriter(runs).rebuild()
            assert bytes_of(runs) == whole
            assert [path.name for path in runs.glob(".*.part")] == []
    assert met >= 6
