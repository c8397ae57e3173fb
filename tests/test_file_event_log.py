"""The log on disk: one writer, its lock, its barriers, and real processes."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest
from stagewright.events import (
    Durability,
    EventLogError,
    FileEventLog,
    LogCorruptError,
    LogLockedError,
    LogWriteError,
    UnknownEvent,
    replay,
)
from stagewright.events.log.lock import FileLock, is_locked, lock_holder

from .command_line import run_python
from .log_format import split_lines
from .samples import WatchedStorage, more, one_of_each
from .support import START, fill_log, run_opened

pytestmark = pytest.mark.lowest

RUN = "20261120T225226.123456Z-file-7f3a9c"

HOLD = """
import sys
from pathlib import Path
from stagewright.events import FileEventLog
log = FileEventLog.open(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
log.close()
"""
TRY = """
import sys, time
from pathlib import Path
from stagewright.events import FileEventLog, LogLockedError
began = time.monotonic()
try:
    FileEventLog.open(Path(sys.argv[1]))
except LogLockedError as error:
    print(time.monotonic() - began, error)
"""


def python(script: str, *arguments: str | Path) -> str:
    done = run_python("-c", script, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def storage() -> WatchedStorage:
    return WatchedStorage()


@pytest.fixture
def log(tmp_path: Path, storage: WatchedStorage) -> Iterator[FileEventLog]:
    made = FileEventLog.create(tmp_path, run_opened(RUN), storage=storage)
    yield made
    made.close()


def test_a_log_that_cannot_be_made_leaves_neither_file_nor_lock(
    tmp_path: Path, storage: WatchedStorage
) -> None:
    """A disk that refuses the first event gives LogWriteError; the folder is free again."""
    storage.failures["write_file"] = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(LogWriteError):
        FileEventLog.create(tmp_path, run_opened(RUN), storage=storage)
    assert not (tmp_path / "events.jsonl").exists()
    FileEventLog.create(tmp_path, run_opened(RUN)).close()


def test_a_log_is_never_made_over_another(log: FileEventLog, tmp_path: Path) -> None:
    """``create`` in a folder that has a log is refused and the log stays as it is."""
    before = log.path.read_bytes()
    log.close()
    with pytest.raises(EventLogError, match="already"):
        FileEventLog.create(tmp_path, run_opened(RUN))
    assert log.path.read_bytes() == before


def test_a_second_writer_is_told_who_holds_the_lock(log: FileEventLog, tmp_path: Path) -> None:
    """Another process gives up after 2 s, naming the holder, and the holder is not harmed."""
    seconds, said = python(TRY, tmp_path).split(" ", 1)
    assert 2.0 <= float(seconds) < 4.0
    assert f"process {os.getpid()} on " in said
    log.append(more(log))
    assert replay(tmp_path).events[1] == log.event_at(1)


def test_the_lock_of_a_killed_holder_is_free(log: FileEventLog, tmp_path: Path) -> None:
    """A lock held by another process is named; kill -9 sets it free, and the file stays."""
    log.close()
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert is_locked(tmp_path)
        with pytest.raises(LogLockedError) as caught:
            FileEventLog.open(tmp_path, wait_s=0)
        assert f"process {other.pid} on " in caught.value.holder
        other.kill()
        other.wait()
    assert not is_locked(tmp_path)
    with_open = FileEventLog.open(tmp_path, wait_s=0)
    holder = lock_holder(tmp_path)
    assert holder is not None
    assert holder.pid == os.getpid()
    with_open.close()


def test_the_lock_is_given_back_on_close_and_its_file_stays(
    log: FileEventLog, tmp_path: Path
) -> None:
    """``run.lock`` outlives the log, for unlinking it would let two writers in."""
    inode = (tmp_path / "run.lock").stat().st_ino
    assert is_locked(tmp_path)
    log.close()
    assert not is_locked(tmp_path)
    FileEventLog.open(tmp_path, wait_s=0).close()
    assert (tmp_path / "run.lock").stat().st_ino == inode


def test_asking_for_the_lock_writes_nothing(tmp_path: Path) -> None:
    """``is_locked`` makes no lock file and leaves the holder's name alone."""
    assert not is_locked(tmp_path)
    assert list(tmp_path.iterdir()) == []
    lock = FileLock(tmp_path)
    lock.note_epoch(3)
    assert is_locked(tmp_path)
    assert "(epoch 3)" in str(lock_holder(tmp_path))
    lock.release()


def test_opening_a_corrupt_log_is_refused_and_gives_the_lock_back(
    log: FileEventLog, tmp_path: Path
) -> None:
    """LogCorruptError names the file and the offset; nothing is written, nobody locked out."""
    fill_log(log)
    log.close()
    damaged = log.path.read_bytes().replace(b"StageStart", b"StageStarT")
    log.path.write_bytes(damaged)
    with pytest.raises(LogCorruptError) as caught:
        FileEventLog.open(tmp_path)
    assert caught.value.path == log.path
    assert caught.value.offset == sum(map(len, split_lines(damaged)[:2]))
    assert log.path.read_bytes() == damaged
    assert not is_locked(tmp_path)


def test_there_is_no_log_to_open(tmp_path: Path) -> None:
    """``open`` without a log is an error and leaves no lock file behind."""
    with pytest.raises(EventLogError, match="no log"):
        FileEventLog.open(tmp_path)
    assert list(tmp_path.iterdir()) == []


SYNCED = {
    "RunOpened", "LifecycleChanged", "CallRequested", "CallCompleted", "CallReused",
    "CancelRequested", "RunResumed", "LogRepaired", "ImagesRemoved", "RunSealed",
}  # fmt: skip


@pytest.mark.parametrize("durability", Durability)
def test_which_events_are_synced(tmp_path: Path, durability: Durability) -> None:
    """The barriers of the contract's table with checkpoint, all with every, none with process."""
    storage, events = WatchedStorage(), one_of_each(RUN)
    log = FileEventLog.create(tmp_path, run_opened(RUN), storage=storage, durability=durability)
    assert storage.syncs is (durability is not Durability.PROCESS)
    synced = {"RunOpened"}
    for event in events[1:]:
        before = storage.deeds.count("synced")
        log.append(event)
        if storage.deeds.count("synced") > before:
            synced.add(type(event).__name__)
    log.close()
    every = {type(event).__name__ for event in events}
    assert len(every) == 15
    expected = {"checkpoint": SYNCED, "every": every, "process": {"RunOpened"}}
    assert synced == expected[durability]


def test_nothing_is_written_after_a_barrier_until_its_sync_has_returned(
    log: FileEventLog, storage: WatchedStorage
) -> None:
    """Each record is one write; a barrier's is followed by its whole sync, then the next."""
    fill_log(log)
    kinds = [json.loads(line)["e"]["type"] for line in storage.writes()]
    expected: list[bytes | str] = ["open"]
    for line, kind in zip(storage.writes(), kinds, strict=True):
        expected += [line, "sync", "synced"] if kind in SYNCED else [line]
    assert storage.deeds == expected
    assert b"".join(storage.writes()) == b"".join(split_lines(log.path.read_bytes())[1:])


def test_a_reader_ignores_the_incomplete_tail_of_a_log_that_is_being_written(
    log: FileEventLog, tmp_path: Path
) -> None:
    """A reader sees the whole records, says what is torn, and cuts nothing."""
    fill_log(log, finished=False)
    partial = log.path.read_bytes() + b'{"h":"0000'
    log.path.write_bytes(partial)
    assert replay(tmp_path).events == log.timeline()
    assert log.path.read_bytes() == partial


def test_a_long_torn_tail_is_recorded_alike_by_a_process_that_died_and_the_next(
    tmp_path: Path,
) -> None:
    """Longer than a record: whoever died between cut and LogRepaired, size and digest are right."""
    folder = tmp_path / RUN
    folder.mkdir()
    with closing(FileEventLog.create(folder, run_opened(RUN))) as log:
        fill_log(log, finished=False)
    tail = bytes(17 * 2**20)
    with open(folder / "events.jsonl", "ab") as stream:
        stream.write(tail)
    for _ in range(2):
        with closing(FileEventLog.open(folder)) as log:
            repaired = log.repair("events.jsonl.torn-1")
        assert repaired is not None
        assert (repaired.bytes, repaired.sha256) == (len(tail), sha256(tail).hexdigest())
    assert (folder / "events.jsonl.torn-1").read_bytes() == tail


def test_a_copy_of_a_torn_tail_without_bounds_is_refused_and_nothing_is_written(
    tmp_path: Path,
) -> None:
    """A terabyte of nothing in a foreign folder: one clear error, and no memory is taken for it."""
    folder = tmp_path / RUN
    folder.mkdir()
    with closing(FileEventLog.create(folder, run_opened(RUN))) as log:
        fill_log(log, finished=False)
    path = folder / "events.jsonl.torn-1"
    path.touch()
    os.truncate(path, 2**40)
    before = (path.stat().st_size, path.stat().st_mtime_ns)
    with (
        closing(FileEventLog.open(folder)) as log,
        pytest.raises(LogWriteError, match="longer than 268435456 bytes; move it"),
    ):
        log.repair("events.jsonl.torn-1")
    assert (path.stat().st_size, path.stat().st_mtime_ns) == before


def test_a_log_that_ends_in_a_record_with_a_carriage_return_is_opened(tmp_path: Path) -> None:
    """It is white space in JSON; what a newer version writes may hold it."""
    folder = tmp_path / RUN
    folder.mkdir()
    with closing(FileEventLog.create(folder, run_opened(RUN))) as log:
        raw = b'{"type":"Newer","v":9,\r"run_id":"%b","seq":1,"ts":"2030-01-01T00:00:00.000000Z"}'
        raw %= RUN.encode()
        log.append(UnknownEvent(type="Newer", v=9, run_id=RUN, seq=1, ts=START, raw=raw))
    with closing(FileEventLog.open(folder)) as log:
        assert log.next_seq == 2


def test_a_timeline_tells_that_its_file_was_changed(log: FileEventLog) -> None:
    """Reading records that are damaged or gone since raises instead of giving other events."""
    fill_log(log)
    timeline, data = log.timeline(), log.path.read_bytes()
    log.path.write_bytes(data.replace(b"StageStart", b"StageStarT"))
    with pytest.raises(LogCorruptError):
        timeline[2]
    with pytest.raises(LogCorruptError):
        list(timeline)
    log.path.write_bytes(b"".join(split_lines(data)[:5]))
    with pytest.raises(LogCorruptError):
        list(timeline)
    with pytest.raises(LogCorruptError):
        timeline[-1]
