"""Runs without a record: their logs are not read again by every process."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stagewright.adapters import LearningRecordWriter
from stagewright.adapters.projections.learning.unrecorded_file import UNRECORDED_NAME
from stagewright.events.log.lock import RunLock

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


class Opened:
    """The logs that are opened by this process, while it listens, by the names of their folders."""

    def __init__(self) -> None:
        self.folders: list[str] = []
        self.before_opening: Callable[[str], object] = self.folders.append
        self.listens = False
        sys.addaudithook(self._take)

    def _take(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.listens and event == "open":
            path = os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes) else ""
            if path.endswith(f"/{LOG}"):
                self.before_opening(Path(path).parent.name)


@pytest.fixture(scope="module")
def hook() -> Opened:
    """There is one, for it can never be taken away."""
    return Opened()


@pytest.fixture
def opened(hook: Opened) -> Iterator[list[str]]:
    """The folders of the logs that are opened during the test."""
    hook.folders.clear()
    hook.before_opening = hook.folders.append
    hook.listens = True
    yield hook.folders
    hook.listens = False


@pytest.mark.parametrize("first", ["update", "rebuild"])
@pytest.mark.parametrize("others", [1, 0], ids=["beside a record", "where no run has one"])
def test_a_new_process_does_not_read_what_it_knows_to_have_no_record(
    runs: Path, first: str, others: int, opened: list[str]
) -> None:
    """A log that is corrupt is named all the same."""
    if not others:
        shutil.rmtree(runs / "ended")
    getattr(LearningRecordWriter(runs), first)()
    assert {"died", "opted-out", "corrupt"} <= set(opened)
    opened.clear()
    update = LearningRecordWriter(runs).update()
    assert opened == ["ended"] * others
    assert (update.records, update.made) == (others, 0)
    assert update.unreadable == ("corrupt",)


def test_a_log_that_has_changed_is_read(runs: Path, opened: list[str]) -> None:
    """Its time tells, or its size."""
    LearningRecordWriter(runs).update()
    opened.clear()
    (runs / "died" / LOG).touch()
    LearningRecordWriter(runs).update()
    assert "died" in opened
    assert "corrupt" not in opened


def test_a_damaged_log_that_is_replaced_by_its_copy_gets_a_record(
    runs: Path, tmp_path: Path
) -> None:
    """Though the copy has its size and the time at which it was written, in the same file."""
    log = runs / "ended" / LOG
    copy = Path(shutil.copy2(log, tmp_path))
    with open(log, "r+b") as stream:
        stream.seek(200)
        stream.write(b"damage")
    shutil.copystat(copy, log)
    assert "ended" in LearningRecordWriter(runs).update().unreadable
    log.write_bytes(copy.read_bytes())
    shutil.copystat(copy, log)
    assert LearningRecordWriter(runs).update().made == 1
    assert bytes_of(runs) == rebuilt(runs)


def test_a_run_that_was_away_in_the_moment_it_was_read_gets_a_record(
    runs: Path, tmp_path: Path, hook: Opened
) -> None:
    """It comes back as it was, and nothing has been noted of it."""
    folder, away = runs / "ended", tmp_path / "away"

    def move(name: str) -> None:
        if name == "died" and folder.exists():  # the log that is read before
            folder.rename(away)
        elif name == "opted-out" and away.exists():  # and the one behind it
            away.rename(folder)

    hook.before_opening, hook.listens = move, True
    assert LearningRecordWriter(runs).update().made == 0
    hook.listens = False
    assert folder.exists()
    assert LearningRecordWriter(runs).update().made == 1


def test_a_rebuild_forgets_what_was_noted(runs: Path) -> None:
    """Where every run has a record after all, and the records are lost afterwards."""
    for other in ("corrupt", "opted-out"):
        shutil.rmtree(runs / other)
    LearningRecordWriter(runs).update()
    note, stale = runs / UNRECORDED_NAME, runs / "died" / LOG
    noted = note.read_bytes()
    shutil.rmtree(runs / "died")
    shutil.copytree(runs / "ended", runs / "died")
    status = stale.stat()
    document = json.loads(noted)
    document["runs"]["died"][0] = [
        status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    ]  # fmt: skip
    note.write_text(json.dumps(document))
    assert LearningRecordWriter(runs).rebuild().records == 2
    (runs / "learning.jsonl").unlink()
    assert LearningRecordWriter(runs).update().records == 2


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
