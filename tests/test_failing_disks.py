"""Disks that fill up or fail, and the torn tails of crashes, under the log on disk."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stagewright.events import (
    FileEventLog,
    LogRepaired,
    LogWriteError,
    replay,
)
from stagewright.events.log.lock import is_locked

from .command_line import run_python
from .log_format import make_log, split_bodies, split_lines
from .samples import Deed, WatchedStorage, more
from .support import START, fill_log, run_opened

RUN = "20261120T225226.123456Z-disk-7f3a9c"
LIMITED = """
import resource, sys
from datetime import UTC, datetime
from pathlib import Path
from stagewright.events import CancelMode, CancelRequested, FileEventLog, LogWriteError
log = FileEventLog.open(Path(sys.argv[1]))
def append():
    log.append(CancelRequested(
        run_id=log.run_id, seq=log.next_seq, ts=datetime.now(UTC), reason="x" * 100,
        mode=CancelMode.NOW))
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), hard))
failed = []
while len(failed) < 2:
    try:
        append()
    except LogWriteError as error:
        failed.append(str(error))
        size = (Path(sys.argv[1]) / "events.jsonl").stat().st_size
print(log.next_seq, size, failed[0])
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
append()
log.close()
"""


def error(number: int) -> OSError:
    return OSError(number, "made by the test")


def taking(count: int, failure: BaseException | None = None) -> Deed:
    """A write that really puts ``count`` bytes down and then falls short or raises."""

    def write(really_write: Callable[[bytes], int], data: bytes) -> int:
        taken = really_write(data[:count]) if count else 0
        if failure is not None:
            raise failure
        return taken

    return write


@pytest.fixture
def storage() -> WatchedStorage:
    return WatchedStorage()


@pytest.fixture
def log(tmp_path: Path, storage: WatchedStorage) -> Iterator[FileEventLog]:
    made = FileEventLog.create(tmp_path, run_opened(RUN), storage=storage)
    fill_log(made, finished=False)
    storage.deeds.clear()
    yield made
    made.close()


def assert_sound(log: FileEventLog, count: int) -> None:
    data = log.path.read_bytes()
    assert data == make_log(split_bodies(data))
    assert len(split_lines(data)) == count == len(replay(log.path).events)


@pytest.mark.parametrize(
    "failing",
    [
        taking(0), taking(1), taking(60),
        taking(0, error(errno.ENOSPC)), taking(60, error(errno.ENOSPC)),
        taking(100_000, error(errno.EIO)),
    ],
    ids=["nothing", "a byte", "a header", "full", "full within", "failed behind"],
)  # fmt: skip
def test_a_failed_write_is_cut_back_and_the_next_is_tried_anew(
    log: FileEventLog, storage: WatchedStorage, failing: Deed
) -> None:
    """However much was taken: LogWriteError, whole records only, then a new descriptor works."""
    before = log.path.read_bytes()
    storage.next_writes = [failing]
    with pytest.raises(LogWriteError, match=r"CancelRequested \(record 9\)") as caught:
        log.append(more(log))
    assert isinstance(caught.value.__cause__, OSError)
    assert log.path.read_bytes() == before
    assert storage.deeds[1:] == ["truncate", "open", "close"]
    log.append(more(log, "second try"))
    assert_sound(log, 10)


def test_several_failed_writes_in_a_row_leave_a_sound_log(
    log: FileEventLog, storage: WatchedStorage
) -> None:
    """Each try is cut back by itself; the one that works is the next record."""
    storage.next_writes = [taking(7), taking(0, error(errno.ENOSPC)), taking(50)]
    for _ in range(3):
        with pytest.raises(LogWriteError):
            log.append(more(log))
    log.append(more(log))
    assert_sound(log, 10)


@pytest.mark.parametrize("call", ["truncate", "open"])
def test_a_log_that_cannot_be_cut_back_takes_nothing_more(
    log: FileEventLog, storage: WatchedStorage, tmp_path: Path, call: str
) -> None:
    """When the cut or the new descriptor fails too, every later append is refused unwritten."""
    storage.next_writes = [taking(60)]
    storage.failures[call] = error(errno.EIO)
    for _ in range(3):
        with pytest.raises(LogWriteError):
            log.append(more(log))
    assert len(storage.writes()) == 1
    assert storage.deeds.count("close") == 1
    log.close()
    assert storage.deeds.count("close") == 1
    assert not is_locked(tmp_path)
    again = FileEventLog.open(tmp_path)
    assert again.next_seq == 9
    again.close()


def test_after_a_failed_sync_nothing_is_ever_written_again(
    log: FileEventLog, storage: WatchedStorage, tmp_path: Path
) -> None:
    """A sync that fails once makes the log refuse all, though later syncs would succeed."""
    storage.failures["sync"] = error(errno.EIO)
    with pytest.raises(LogWriteError, match="synced"):
        log.append(more(log))
    size, deeds = log.path.stat().st_size, list(storage.deeds)
    for _ in range(3):
        with pytest.raises(LogWriteError, match="a sync failed"):
            log.append(more(log))
    assert (log.path.stat().st_size, storage.deeds) == (size, deeds)
    log.close()
    again = FileEventLog.open(tmp_path)
    assert_sound(again, 10)
    again.close()


def test_an_append_that_was_interrupted_is_the_last(
    log: FileEventLog, storage: WatchedStorage, tmp_path: Path
) -> None:
    """After a Ctrl-C behind the write no second record of the same number can follow."""
    storage.next_writes = [taking(100_000, KeyboardInterrupt())]
    with pytest.raises(KeyboardInterrupt):
        log.append(more(log))
    with pytest.raises(LogWriteError, match="interrupted"):
        log.append(more(log))
    log.close()
    again = FileEventLog.open(tmp_path)
    assert_sound(again, 10)
    again.close()


def test_a_descriptor_that_cannot_be_closed_does_not_keep_the_lock(
    log: FileEventLog, storage: WatchedStorage, tmp_path: Path
) -> None:
    """``close`` passes the error on, and the run can be taken up again."""
    storage.failures["close"] = error(errno.EIO)
    with pytest.raises(OSError, match="made by the test"):
        log.close()
    assert not is_locked(tmp_path)


@pytest.mark.parametrize("room", [0, 30, 200])
def test_a_real_limit_on_the_file_size(log: FileEventLog, tmp_path: Path, room: int) -> None:
    """Under RLIMIT_FSIZE the log keeps its whole records, and goes on once there is room.

    ``-B``: compiled modules would be cut off, too.
    """
    log.close()
    limit = log.path.stat().st_size + room
    done = run_python("-B", "-c", LIMITED, tmp_path, str(limit))
    count, size, said = done.stdout.split(" ", 2)
    assert "could not be written" in said
    assert int(size) <= limit
    assert_sound(log, int(count) + 1)
    assert sum(map(len, split_lines(log.path.read_bytes())[:-1])) == int(size)


TAILS: dict[str, Callable[[bytes], bytes]] = {
    "a byte": lambda line: line[:1],
    "half a header": lambda line: line[:25],
    "a header": lambda line: line[:48],
    "no newline": lambda line: line[:-1],
    "an unwritten sector": lambda line: line[:90] + bytes(40) + line[130:],
    "zeros": lambda _line: bytes(700),
}


@pytest.mark.parametrize("tail", TAILS)
def test_a_torn_tail_must_be_repaired_before_the_first_append(
    log: FileEventLog, tmp_path: Path, tail: str
) -> None:
    """``open`` reports it, ``append`` refuses, ``repair`` copies it aside and cuts it."""
    log.append(more(log, "x" * 100))
    log.close()
    whole = log.path.read_bytes()
    last = split_lines(whole)[-1]
    offset, torn = len(whole) - len(last), TAILS[tail](last)
    log.path.write_bytes(whole[:offset] + torn)
    again = FileEventLog.open(tmp_path)
    assert again.torn is not None
    assert (again.torn.offset, again.torn.bytes) == (offset, len(torn))
    with pytest.raises(LogWriteError, match="repaired"):
        again.append(more(again))
    assert log.path.read_bytes() == whole[:offset] + torn
    cut = again.repair("events.torn-1")
    assert cut is not None
    assert (tmp_path / "events.torn-1").read_bytes() == torn
    assert (cut.offset, cut.bytes, cut.copied_to) == (offset, len(torn), "events.torn-1")
    assert cut.sha256 == hashlib.sha256(torn).hexdigest()
    assert log.path.read_bytes() == whole[:offset]
    again.append(
        LogRepaired(
            run_id=RUN, seq=9, ts=START, epoch=1, offset=cut.offset, bytes=cut.bytes,
            sha256=cut.sha256, copied_to=cut.copied_to,
        )
    )  # fmt: skip
    again.append(more(again))
    again.close()
    assert_sound(again, 11)


def test_there_is_nothing_to_repair_in_a_sound_log(log: FileEventLog, tmp_path: Path) -> None:
    """``repair`` of a log without a torn tail cuts nothing and makes no file."""
    before = log.path.read_bytes()
    assert log.repair("events.torn-1") is None
    assert log.path.read_bytes() == before
    assert not (tmp_path / "events.torn-1").exists()


@pytest.fixture
def torn(log: FileEventLog, storage: WatchedStorage, tmp_path: Path) -> Iterator[FileEventLog]:
    log.close()
    with log.path.open("ab") as stream:
        stream.write(b'{"h":"torn')
    opened = FileEventLog.open(tmp_path, storage=storage)
    storage.deeds.clear()
    yield opened
    opened.close()


@pytest.mark.parametrize("call", ["write_file", "open"])
def test_a_tail_that_cannot_be_copied_is_not_cut(
    torn: FileEventLog, storage: WatchedStorage, call: str
) -> None:
    """A repair that fails before the cut leaves the tail, and may be tried again."""
    before = torn.path.read_bytes()
    storage.failures[call] = error(errno.ENOSPC)
    with pytest.raises(LogWriteError):
        torn.repair("events.torn-1")
    with pytest.raises(LogWriteError):
        torn.append(more(torn))
    assert torn.path.read_bytes() == before
    torn.repair("events.torn-1")
    torn.append(more(torn))
    assert_sound(torn, 10)


@pytest.mark.parametrize("call", ["truncate", "sync"])
def test_a_tail_that_cannot_be_cut_ends_the_log(
    torn: FileEventLog, storage: WatchedStorage, call: str
) -> None:
    """After a failing cut nothing is appended behind the tail, and the copy is never lost."""
    storage.failures[call] = error(errno.EIO)
    with pytest.raises(LogWriteError):
        torn.repair("events.torn-1")
    with pytest.raises(LogWriteError):
        torn.append(more(torn))
    with pytest.raises(LogWriteError):
        torn.repair("events.torn-1")
    assert storage.writes() == []
    assert torn.path.with_name("events.torn-1").read_bytes() == b'{"h":"torn'
    torn.close()
    assert storage.deeds[-1] == "close"
