"""The queue of jobs: order, moves, pauses, and what a second process sees."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from stagewright.adapters.projections.queue_table import SqliteJobTable
from stagewright.events import LogCorruptError, Outcome, subscribe
from stagewright.events.log.shared_events import SharedEvent
from stagewright.events.log.storage import Storage
from stagewright.events.queue.jobs import Job, JobState, JobTableError
from stagewright.events.queue.model import JobBegun, JobStopped, PauseMode
from stagewright.statemachine import (
    ConfigurationError,
    JobNotFoundError,
    JobQueue,
    JobRefusedError,
    Place,
)

from .log_format import make_log, split_bodies
from .queueing import LOG, bare_job, event_types, names, queue_events, sqlite_queue

Open = Callable[[Path], JobQueue]
both = pytest.mark.parametrize("opened", [JobQueue, sqlite_queue], ids=["memory", "sqlite"])


def add(queue: JobQueue, *added: str, priority: int = 0) -> list[str]:
    """Add jobs of these names; their ids."""
    jobs = queue.add([bare_job(name) for name in added], priority=priority)
    return [job.job_id for job in jobs]


@both
def test_jobs_begin_by_priority_and_then_in_the_order_in_which_they_were_added(
    opened: Open, tmp_path: Path
) -> None:
    """Each is taken once, with the run that is recorded for it."""
    queue = opened(tmp_path)
    add(queue, "a", "b")
    add(queue, "urgent", priority=5)
    add(queue, "late", priority=-1)
    assert names(queue) == ["urgent", "a", "b", "late"]
    taken = [queue.take() for _ in range(5)]
    assert [one.job.name for one in taken if one] == ["urgent", "a", "b", "late"]
    assert taken[4] is None
    runs = {one.job.run_id for one in taken if one}
    assert len(runs) == 4
    assert [event.get("run_id") in runs for event in queue_events(tmp_path)][-4:] == [True] * 4


@both
def test_a_job_moves_among_those_of_its_priority(opened: Open, tmp_path: Path) -> None:
    """Top, up, down and bottom; at an end it stays, and nothing is recorded."""
    queue = opened(tmp_path)
    ids = dict(zip("abcd", add(queue, *"abcd"), strict=True))
    add(queue, "urgent", priority=1)
    moves = [
        ("c", "top", "cabd"),
        ("a", "down", "cbad"),
        ("d", "up", "cbda"),
        ("c", "bottom", "bdac"),
    ]
    moves += [("b", "down", "dbac"), ("a", "up", "dabc")]
    for name, place, order in moves:
        queue.move(ids[name], Place(place))
        assert names(queue) == ["urgent", *order], (name, place)
    before = len(queue_events(tmp_path))
    for name, place in (("d", "top"), ("d", "up"), ("c", "down"), ("c", "bottom")):
        queue.move(ids[name], Place(place))
    assert names(queue) == ["urgent", *"dabc"]
    assert len(queue_events(tmp_path)) == before


def test_sixty_moves_between_two_jobs_find_room(tmp_path: Path) -> None:
    """Places between two jobs, which are halved, do not run out."""
    queue = JobQueue(tmp_path)
    first, second, third = add(queue, *"abc")
    assert first
    order = ["b", "c"]
    for _ in range(60):
        queue.move(third if order[0] == "b" else second, Place.UP)
        order.reverse()
    assert names(queue) == ["a", *order]
    assert queue.find("a").position.is_integer()


@both
def test_jobs_that_use_the_loaded_checkpoint_come_first_but_none_waits_for_more_than_20(
    opened: Open, tmp_path: Path
) -> None:
    """The first job is overtaken 20 times, then it begins."""
    queue = opened(tmp_path)
    queue.add([bare_job(f"x{n}", "x") for n in range(2)])
    queue.add([bare_job(f"y{n}", "y") for n in range(30)])
    taken = []
    for _ in range(24):
        job = queue.take("y")
        assert job is not None
        taken.append(job.job.name)
    # x1 waited for 20 others of `y` as well, so it is the next one.
    assert taken == [*(f"y{n}" for n in range(20)), "x0", "x1", "y20", "y21"]


@both
def test_a_job_does_not_begin_before_its_time(opened: Open, tmp_path: Path) -> None:
    """Others begin before it, also of a lower priority."""
    queue = opened(tmp_path)
    later = datetime.now(UTC) + timedelta(hours=1)
    queue.add([bare_job("later")], priority=1, not_before=later)
    add(queue, "now")
    taken = queue.take()
    assert taken is not None
    assert taken.job.name == "now"
    assert queue.take() is None
    assert names(queue) == ["later"]


@both
def test_a_paused_queue_gives_no_job(opened: Open, tmp_path: Path) -> None:
    """Until it is resumed, by any process."""
    queue, other = opened(tmp_path), opened(tmp_path)
    add(queue, "a")
    other.pause(PauseMode.AFTER_RUN)
    assert queue.take() is None
    queue.resume()
    assert other.refresh().paused is None
    assert other.take() is not None


@both
def test_a_job_that_ended_can_be_retried_and_one_that_waits_removed(
    opened: Open, tmp_path: Path
) -> None:
    """What cannot be done is refused, with the reason, and nothing is recorded."""
    queue = opened(tmp_path)
    first, second = add(queue, "a", "b")
    taken = queue.take()
    assert taken is not None
    for refused, why in (
        (lambda: queue.retry(first), "is running"),
        (lambda: queue.remove([second, first]), "a worker works on job"),
        (lambda: queue.move(first, Place.TOP), "only a waiting job"),
        (lambda: queue.find("c"), "no job 'c'"),
        (lambda: queue.remove(["c"]), "no job 'c'"),
    ):
        with pytest.raises(JobRefusedError, match=why):
            refused()
    queue.end(taken, Outcome.FAILED)
    assert queue.find("a").outcome is Outcome.FAILED
    queue.remove([second])
    assert names(queue, JobState.REMOVED) == ["b"]
    again = queue.retry(first)
    assert (again.state, again.run_id) == (JobState.WAITING, taken.job.run_id)
    taken = queue.take()
    assert taken is not None
    queue.end(taken, Outcome.COMPLETED)
    with pytest.raises(JobRefusedError, match="is completed"):
        queue.retry(first)


@both
def test_a_job_whose_worker_died_can_be_removed(opened: Open, tmp_path: Path) -> None:
    """Nothing of it stays in the queue's folder."""
    queue = opened(tmp_path)
    (job_id,) = add(queue, "a")
    taken = queue.take()
    assert taken is not None
    taken.lock.release()
    queue.remove([job_id])
    assert queue.take() is None
    assert not list((tmp_path / "queue").iterdir())


@both
def test_a_job_is_removed_once(opened: Open, tmp_path: Path) -> None:
    """To remove it again is no error, and records nothing."""
    queue = opened(tmp_path)
    (job_id,) = add(queue, "a")
    queue.remove([job_id])
    queue.remove([job_id, job_id])
    assert event_types(tmp_path).count("JobRemoved") == 1


@both
def test_a_name_stands_for_the_job_that_is_not_over(opened: Open, tmp_path: Path) -> None:
    """The same configuration can be added every night, and moved by its name."""
    queue = opened(tmp_path)
    add(queue, "night")
    taken = queue.take()
    assert taken is not None
    queue.end(taken, Outcome.COMPLETED)
    (removed,) = add(queue, "night")
    queue.remove([removed])
    assert queue.find("night").job_id == taken.job.job_id
    (waiting,) = add(queue, "night")
    assert queue.find("night").job_id == waiting
    add(queue, "night")
    with pytest.raises(JobRefusedError, match="fits 2 jobs"):
        queue.find("night")


@both
def test_a_job_that_was_stopped_is_the_next_one(opened: Open, tmp_path: Path) -> None:
    """It keeps its run."""
    queue = opened(tmp_path)
    add(queue, "a", "b", "c")
    taken = queue.take()
    assert taken is not None
    queue.stop(taken, "the queue is paused")
    assert names(queue) == ["a", "b", "c"]
    again = queue.take()
    assert again is not None
    assert again.job.run_id == taken.job.run_id


@both
def test_a_job_is_found_by_its_name_its_digits_and_a_prefix_of_its_id(
    opened: Open, tmp_path: Path
) -> None:
    """A name that fits several jobs is refused, and names them."""
    queue = opened(tmp_path)
    first, second = add(queue, "a", "b")
    assert queue.find("a").job_id == queue.find(first[-6:]).job_id == queue.find(first).job_id
    for name in (first[:4], ""):
        with pytest.raises(JobNotFoundError):
            queue.find(name)
    with pytest.raises(JobNotFoundError, match=f"2 jobs.*{first}.*{second}"):
        queue.find(first[:10])


@both
def test_a_server_is_named_once_and_never_with_a_password(opened: Open, tmp_path: Path) -> None:
    """The servers of a queue are in its log, so no secret may be."""
    queue = opened(tmp_path)
    for url in ("http://a:7860", "http://b:7860", "http://a:7860"):
        queue.add_server(url)
    assert queue.refresh().servers == ("http://a:7860", "http://b:7860")
    with pytest.raises(ConfigurationError):
        queue.add_server("http://user:secret@c:7860")
    queue.remove_server("http://a:7860")
    with pytest.raises(JobRefusedError, match="no server"):
        queue.remove_server("http://a:7860")
    assert opened(tmp_path).refresh().servers == ("http://b:7860",)
    assert b"secret" not in (tmp_path / LOG).read_bytes()


def test_the_log_of_a_queue_has_the_format_of_shared_logs(tmp_path: Path) -> None:
    """Framed and chained, with an envelope that names the writer."""
    add(JobQueue(tmp_path), "a")
    data = (tmp_path / LOG).read_bytes()
    assert make_log(split_bodies(data)) == data
    assert event_types(tmp_path) == ["QueueOpened", "JobAdded"]
    envelope = ["type", "v", "seq", "ts", "host", "boot_id", "pid"]
    assert [list(event)[:7] for event in queue_events(tmp_path)] == [envelope] * 2


def test_the_projection_is_what_the_log_says_and_may_be_lost_or_damaged_at_any_time(
    tmp_path: Path,
) -> None:
    """Two processes change a queue at random; tables in a file and in memory agree."""
    draw = random.Random(7)
    queues = [sqlite_queue(tmp_path), sqlite_queue(tmp_path)]
    projection = tmp_path / "queue.sqlite"
    for number in range(70):
        queue = draw.choice(queues)
        change_at_random(queue, draw, number)
        if draw.random() < 0.1:
            projection.unlink(missing_ok=True)
        elif draw.random() < 0.1:
            queues = [sqlite_queue(tmp_path), sqlite_queue(tmp_path)]
            data = bytearray(projection.read_bytes() if projection.exists() else b"")
            projection.write_bytes(bytes(data[: draw.randrange(len(data) + 1)]))
    expected = JobQueue(tmp_path)
    for queue in (*queues, sqlite_queue(tmp_path)):
        for state in JobState:
            assert queue.jobs(state) == expected.jobs(state), state
        assert queue.counts() == expected.counts()


def change_at_random(queue: JobQueue, draw: random.Random, number: int) -> None:
    """Add, move, take, end, stop, retry or remove a job."""
    jobs = queue.jobs(*JobState)
    match draw.randrange(6):
        case 0 | 1:
            model = draw.choice([None, "x", "y"])
            queue.add([bare_job(f"j{number}", model)], priority=draw.choice([0, 0, 0, 1]))
        case 2 if waiting := [job for job in jobs if job.state is JobState.WAITING]:
            queue.move(draw.choice(waiting).job_id, draw.choice(list(Place)))
        case 3 if (taken := queue.take(draw.choice([None, "x", "y"]))) is not None:
            if draw.random() < 0.3:
                queue.stop(taken, "stopped")
            else:
                queue.end(taken, draw.choice([Outcome.COMPLETED, Outcome.FAILED]))
        case 4 if failed := [job for job in jobs if job.outcome is Outcome.FAILED]:
            job = draw.choice(failed)
            if job.state is JobState.ENDED:
                queue.retry(job.job_id)
        case 5 if jobs:
            queue.remove([draw.choice(jobs).job_id])


@pytest.mark.parametrize("damage", [b"", b"no database", None])
def test_a_projection_that_cannot_be_used_is_made_anew(
    damage: bytes | None, tmp_path: Path
) -> None:
    """Whatever is in its place; a folder is left alone, and the queue works without."""
    add(sqlite_queue(tmp_path), "a", "b")
    projection = tmp_path / "queue.sqlite"
    projection.unlink()
    if damage is None:
        projection.mkdir()
    else:
        projection.write_bytes(damage)
    assert names(sqlite_queue(tmp_path)) == ["a", "b"]
    add(sqlite_queue(tmp_path), "c")
    assert names(sqlite_queue(tmp_path)) == ["a", "b", "c"]


def test_a_table_that_is_damaged_within_is_reported_once_and_made_anew(tmp_path: Path) -> None:
    """No record is lost by it."""
    add(sqlite_queue(tmp_path), *map(str, range(200)))
    projection = tmp_path / "queue.sqlite"
    data = bytearray(projection.read_bytes())
    data[8192:] = b"\xff" * (len(data) - 8192)
    projection.write_bytes(data)
    found: list[str] = []
    with contextlib.suppress(JobTableError):
        found = names(sqlite_queue(tmp_path))
    found = found or names(sqlite_queue(tmp_path))
    assert found == [str(number) for number in range(200)]


def test_a_log_that_was_replaced_is_read_again_from_its_start(tmp_path: Path) -> None:
    """The projection knows by the chain that it is of another log."""
    here, there = tmp_path / "here", tmp_path / "there"
    add(sqlite_queue(here), "a", "b")
    add(sqlite_queue(there), "c")
    (here / LOG).write_bytes((there / LOG).read_bytes())
    assert names(sqlite_queue(here)) == ["c"]
    (here / LOG).unlink()
    assert names(sqlite_queue(here)) == []


def test_a_corrupt_queue_is_never_written_to(tmp_path: Path) -> None:
    """Adding and listing name the record, and what to do."""
    add(JobQueue(tmp_path), "a", "b", "c")
    data = bytearray((tmp_path / LOG).read_bytes())
    data[data.index(b'"name":"b"') + 8] ^= 1
    (tmp_path / LOG).write_bytes(data)
    uses: list[Callable[[JobQueue], object]] = [lambda queue: add(queue, "d"), names]
    for use in uses:
        with pytest.raises(LogCorruptError, match=r"record 2.*queue salvage") as caught:
            use(sqlite_queue(tmp_path))
        assert caught.value.seq == 2
    assert (tmp_path / LOG).read_bytes() == data


def test_the_next_writer_repairs_what_a_dead_adder_left_at_every_byte(tmp_path: Path) -> None:
    """The tail is kept beside the log; the jobs before it and the new one are there."""
    add(JobQueue(tmp_path / "whole"), "a", "b")
    whole = (tmp_path / "whole" / LOG).read_bytes()
    sound = whole.rindex(b'{"h"')
    for size in range(sound, len(whole)):
        runs = tmp_path / "runs"
        shutil.rmtree(runs, ignore_errors=True)
        runs.mkdir()
        (runs / LOG).write_bytes(whole[:size])
        storage = Storage()
        storage.syncs = False
        queue = JobQueue(runs, storage=storage)
        assert names(queue) == ["a"]
        add(queue, "c")
        assert names(queue) == names(JobQueue(runs)) == ["a", "c"]
        assert event_types(runs).count("LogRepaired") == (size > sound)
        if size > sound:
            assert (runs / f"{LOG}.torn-2").read_bytes() == whole[sound:size]


def test_subscribers_get_the_changes_of_this_process_and_those_that_it_finds(
    tmp_path: Path,
) -> None:
    """Each once and in order; what was there before is not told."""
    mine, other = sqlite_queue(tmp_path), sqlite_queue(tmp_path)
    add(other, "before")
    mine.refresh()
    seen: list[SharedEvent] = []
    with subscribe(lambda _event: None, on="publisher", on_queue=seen.append):
        taken = other.take()
        assert taken is not None
        assert [type(event) for event in seen] == [JobBegun]
        seen.clear()
        mine.refresh()
        other.stop(taken, "stopped")
    kinds = [type(event) for event in seen]
    assert kinds == [JobBegun, JobStopped]


def test_the_file_of_a_table_is_opened_by_many_queues_of_a_process(tmp_path: Path) -> None:
    """A window and a worker of one program have a queue each."""
    queues = [sqlite_queue(tmp_path) for _ in range(5)]
    for number, queue in enumerate(queues):
        add(queue, str(number))
    assert {tuple(names(queue)) for queue in queues} == {("0", "1", "2", "3", "4")}
    table = SqliteJobTable(tmp_path)
    with table.updating():
        found: list[Job] = list(table.jobs(JobState.WAITING, most=2))
    table.close()
    assert [job.name for job in found] == ["0", "1"]
