"""Runs without a record: their logs are not read again by every process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from stagewright.adapters import LearningRecordWriter
from stagewright.adapters.learning.unrecorded_file import UNRECORDED_NAME
from stagewright.events.lock import RunLock

from .learning import bytes_of, rebuilt
from .resuming import LOG, cut, painter, ran, small
from .salvaging import spoil


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended, one that died, one that opted out and a corrupt one."""
    runs = tmp_path_factory.mktemp("four")
    for name in ("ended", "died", "corrupt"):
        ran(runs, small(images=1)).rename(runs / name)
    ran(runs, small(images=1, run={"learning": False})).rename(runs / "opted-out")
    cut(runs / "died", 6)
    spoil(runs / "corrupt", 2)
    return runs


@pytest.fixture
def runs(four: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(four, tmp_path / "runs")


def make_traps(runs: Path) -> None:
    """Whoever reads a log without a record from now on finds it corrupt, and says so."""
    for name in ("died", "opted-out"):
        log = runs / name / LOG
        status = log.stat()
        log.write_bytes(b"x" * status.st_size)
        os.utime(log, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("first", ["update", "rebuild"])
@pytest.mark.parametrize("others", [1, 0], ids=["beside a record", "where no run has one"])
def test_a_new_process_does_not_read_what_it_knows_to_have_no_record(
    runs: Path, first: str, others: int
) -> None:
    """A log that is corrupt is named all the same."""
    if not others:
        shutil.rmtree(runs / "ended")
    getattr(LearningRecordWriter(runs), first)()
    make_traps(runs)
    update = LearningRecordWriter(runs).update()
    assert (update.records, update.made) == (others, 0)
    assert update.unreadable == ("corrupt",)


def test_a_log_that_has_changed_is_read(runs: Path) -> None:
    """Its time tells, or its size."""
    LearningRecordWriter(runs).update()
    make_traps(runs)
    (runs / "died" / LOG).touch()
    assert LearningRecordWriter(runs).update().unreadable == ("corrupt", "died")


def other_version(data: bytes) -> bytes:
    return data.replace(b'"schema_version":', b'"schema_version":9')


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "torn": lambda data: data[: len(data) // 2],
    "empty": lambda _data: b"",
    "another version": other_version,
    "other people's JSON": lambda _data: b'{"runs":{"died":[[1,2,3],true,4]}}',
    "no text": lambda data: b"\xff" + data,
    "nested": lambda _data: b"[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_wrong_with_the_file_costs_reading_the_logs_and_no_more(
    runs: Path, damage: str
) -> None:
    """It is written anew, and the records are the same."""
    LearningRecordWriter(runs).update()
    path = runs / UNRECORDED_NAME
    good = path.read_bytes()
    path.write_bytes(DAMAGE[damage](good))
    assert LearningRecordWriter(runs).update().unreadable == ("corrupt",)
    assert path.read_bytes() == good
    assert bytes_of(runs) == rebuilt(runs)


def test_a_folder_in_its_place_harms_nothing(runs: Path) -> None:
    """Then nothing is noted."""
    (runs / UNRECORDED_NAME).mkdir()
    for _ in range(2):
        assert LearningRecordWriter(runs).update().unreadable == ("corrupt",)
    assert bytes_of(runs) == rebuilt(runs)


def test_a_record_is_looked_at_though_its_run_is_noted(runs: Path) -> None:
    """As the files may say where a process died between the two."""
    LearningRecordWriter(runs).update()
    whole = bytes_of(runs)
    cut(runs / "ended", 6)
    LearningRecordWriter(runs).update()
    (runs / "learning.jsonl").write_bytes(whole)
    LearningRecordWriter(runs).update()
    assert bytes_of(runs) == b""


def test_a_run_that_somebody_holds_is_not_noted(tmp_path: Path) -> None:
    """It will change; ordinary runs leave no such file."""
    with LearningRecordWriter(tmp_path):
        ran(tmp_path, small(images=1), painter())
    assert not (tmp_path / UNRECORDED_NAME).exists()
    died = ran(tmp_path, small(images=1))
    cut(died, 6)
    lock = RunLock(died)
    LearningRecordWriter(tmp_path).update()
    assert not (tmp_path / UNRECORDED_NAME).exists()
    lock.release()
    LearningRecordWriter(tmp_path).update()
    assert died.name in (tmp_path / UNRECORDED_NAME).read_text()
    shutil.rmtree(died)
    LearningRecordWriter(tmp_path).update()
    assert not (tmp_path / UNRECORDED_NAME).exists()
