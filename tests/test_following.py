"""Following a log while it is written, by this process or another: every event once, in order."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from stagewright.adapters import open_controller
from stagewright.events import (
    FileEventLog,
    LogCorruptError,
    LogTail,
    RunNotFoundError,
    RunSealed,
    RunState,
    StageEvent,
    follow,
    iterate,
    replay,
    subscribe,
)
from stagewright.events.log.storage import AppendFile, Storage

from .command_line import Start, stagewright, until, write_config
from .following import seen_by, start_follower
from .resuming import made
from .support import document, fill_log, run_opened

LOG = "events.jsonl"
RUN = "20261120T225226.123456Z-test-7f3a9c"


def written(folder: Path, storage: Storage | None = None) -> FileEventLog:
    """A log of this process that holds its first event."""
    folder.mkdir()
    return FileEventLog.create(folder, run_opened(RUN), storage=storage)


def numbers(events: Iterator[StageEvent]) -> list[int]:
    return [event.seq for event in events]


def begun(folder: Path) -> Path:
    """The one run below a folder, once its log is there."""
    until(lambda: any(folder.glob(f"*/{LOG}")), "a run")
    return next(folder.glob(f"*/{LOG}")).parent


def test_a_run_that_has_ended_is_told_from_any_number_on(tmp_path: Path) -> None:
    """All of it at once, and then the end; from behind its end nothing."""
    folder = made(tmp_path)
    events = list(iterate(folder))
    assert list(follow(folder)) == events
    assert list(follow(folder / LOG, from_seq=5)) == events[5:]
    assert list(follow(folder, from_seq=len(events) + 3)) == []


def test_what_is_no_run_is_said_at_once(tmp_path: Path) -> None:
    """A folder without a log is not waited for."""
    with pytest.raises(RunNotFoundError, match="no run is here"):
        next(follow(tmp_path))


def test_following_ends_soon_after_the_process_has_died(tmp_path: Path, start: Start) -> None:
    """A run that was killed ends where its log does: in RUNNING."""
    config = write_config(tmp_path)
    process = start("run", config, "--set", "images=5000", folder=tmp_path)
    folder = begun(tmp_path / "runs")
    seen: list[int] = []
    for event in follow(folder):
        seen.append(event.seq)
        if event.seq == 40:
            process.kill()
    assert len(seen) >= 40
    assert seen == list(range(len(seen)))
    assert replay(folder).state is RunState.RUNNING


def test_following_can_be_ended_from_another_thread(tmp_path: Path) -> None:
    """A run on which somebody works is followed until ``stop`` is set."""
    log, stop = written(tmp_path / "run"), threading.Event()
    threading.Timer(0.1, stop.set).start()
    assert numbers(follow(tmp_path / "run", stop=stop)) == [0]
    log.close()


def test_a_record_is_read_once_it_is_whole(tmp_path: Path) -> None:
    """Byte for byte, in whatever pieces the file grows: each event once, nothing half-written."""
    whole = (made(tmp_path / "runs") / LOG).read_bytes()
    path = tmp_path / LOG
    path.write_bytes(whole[: whole.index(b"\n") + 1])
    seen: list[int] = []
    with LogTail(path) as tail, open(path, "ab", buffering=0) as file:
        for place in range(path.stat().st_size, len(whole), 97):
            seen += numbers(tail.read())
            file.write(whole[place : place + 97])
            assert tail.next_seq == len(seen)
        seen += numbers(tail.read())
        assert tail.has_ended()
    assert seen == list(range(whole.count(b"\n")))


def test_a_torn_tail_that_is_cut_and_written_over_is_read_anew(tmp_path: Path) -> None:
    """Who has seen what a dying process left goes on with what the resume wrote in its place."""
    folder = made(tmp_path / "runs", document(images=3))
    lines = (folder / LOG).read_bytes().splitlines(keepends=True)
    (folder / LOG).write_bytes(b"".join(lines[:10]) + lines[10][:300])
    seen: list[StageEvent] = []
    with LogTail(folder) as tail, subscribe(seen.append, folder=folder, from_seq=0) as subscription:
        read = list(tail.read())
        assert tail.torn is not None
        done = stagewright("resume", folder, folder=tmp_path)
        assert done.returncode == 0
        read += tail.read()
        until(lambda: len(seen) == len(read), "the rest")
    assert read == list(iterate(folder))
    assert seen == read
    assert subscription.error is None


def test_a_log_that_is_cut_under_the_reader_is_noticed(tmp_path: Path) -> None:
    """What has been read and is gone makes the log corrupt, not shorter."""
    folder = made(tmp_path)
    with LogTail(folder) as tail:
        read = len(list(tail.read()))
        os.truncate(folder / LOG, 1000)
        with pytest.raises(LogCorruptError, match="it was cut while it was being read"):
            list(tail.read())
    assert read > 5


class HeldStorage(Storage):
    """The real file system, whose next sync waits until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.syncing = threading.Event()
        self.go = threading.Event()
        self.go.set()

    def open_append(self, path: Path) -> AppendFile:
        return _HeldFile(path, self)


class _HeldFile(AppendFile):
    def __init__(self, path: Path, held: HeldStorage) -> None:
        super().__init__(path, held)
        self._held = held

    def sync(self) -> None:
        self._held.syncing.set()
        assert self._held.go.wait(20)
        super().sync()


def test_what_this_process_writes_is_read_only_once_it_is_durable(tmp_path: Path) -> None:
    """A barrier whose sync has not returned is in the file, and given to nobody."""
    storage = HeldStorage()
    log = written(tmp_path / "run", storage)
    with LogTail(tmp_path / "run") as tail:
        assert numbers(tail.read()) == [0]
        storage.go.clear()
        writer = threading.Thread(target=fill_log, args=(log,))
        writer.start()
        assert storage.syncing.wait(20)
        until(lambda: (tmp_path / "run" / LOG).stat().st_size > log.size, "the barrier's bytes")
        assert numbers(tail.read()) == []
        storage.go.set()
        writer.join(20)
        assert numbers(tail.read()) == list(range(1, log.next_seq))
    log.close()


def test_followers_in_other_processes_see_every_event_once(tmp_path: Path) -> None:
    """Eight of them, joining at different moments and from different numbers on."""
    joins = [(0, 0), (0, 7), (1, 0), (20, 0), (20, 15), (40, 0), (60, 61), (90, 0)]
    followers = []
    controller = open_controller(tmp_path)
    passed = [threading.Event() for _ in joins]

    def note(event: StageEvent) -> None:
        for (at, _), one in zip(joins, passed, strict=True):
            if event.seq >= at and not one.is_set():
                one.set()

    with ExitStack() as stack:
        stack.enter_context(subscribe(note, on="publisher"))
        handle = controller.start(document(images=400))
        for (_, from_seq), one in zip(joins, passed, strict=True):
            assert one.wait(30)
            process = stack.enter_context(start_follower(handle.folder, from_seq))
            followers.append((from_seq, process))
        total = len(handle.wait(60).events)
        for from_seq, process in followers:
            assert [one.seq for one in seen_by(process)] == list(range(from_seq, total))


@pytest.mark.parametrize("from_seq", [3, None])
def test_a_subscriber_gets_a_run_of_another_process(
    tmp_path: Path, start: Start, from_seq: int | None
) -> None:
    """As if it were this one's: from the number asked for, or from now on, to the seal."""
    config = write_config(tmp_path)
    process = start("run", config, "--set", "images=200", folder=tmp_path)
    folder = begun(tmp_path / "runs")
    until(lambda: len(list(iterate(folder))) > 20, "some events")
    seen: list[StageEvent] = []
    with subscribe(seen.append, folder=folder, from_seq=from_seq):
        process.communicate(timeout=30)
        until(lambda: bool(seen) and isinstance(seen[-1], RunSealed), "the seal")
    assert seen[0].seq == from_seq or (from_seq is None and seen[0].seq > 20)
    assert seen == list(iterate(folder))[seen[0].seq :]
