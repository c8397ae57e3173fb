"""The writer beside the runs of its process: it follows them, and holds none of them up."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from stagewright.adapters import LearningRecordsError, LearningRecordWriter, open_controller
from stagewright.adapters.projections.learning.folder_lock import folder_lock
from stagewright.statemachine import GenerateRequest

from .learning import NAME, bytes_of, cancelled, rebuilt, records, updated
from .resuming import painter, ran, resumed, small


def test_a_writer_of_ones_own_follows_the_runs_of_this_process(tmp_path: Path) -> None:
    """Between start and close; a run that ends later waits for the next update."""
    with LearningRecordWriter(tmp_path):
        first = ran(tmp_path, small(images=1))
        assert [one["folder"] for one in records(tmp_path)] == [first.name]
    second = ran(tmp_path, small(images=1))
    assert [one["folder"] for one in records(tmp_path)] == [first.name]
    assert [one["folder"] for one in updated(tmp_path)] == [first.name, second.name]


def test_the_first_run_makes_good_what_others_left_undone(tmp_path: Path) -> None:
    """While it is still going on: a record that is missing does not wait for its end."""
    earlier = ran(tmp_path, small(images=1))
    seen = threading.Event()

    def wait_for_record(_request: GenerateRequest, _cancel: object) -> None:
        deadline = time.monotonic() + 10
        while not records(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.005)
        if [one["folder"] for one in records(tmp_path)] == [earlier.name]:
            seen.set()

    with LearningRecordWriter(tmp_path):
        ran(tmp_path, small(images=1), painter(wait_for_record))
    assert seen.is_set()
    assert bytes_of(tmp_path) == rebuilt(tmp_path)


def test_a_run_in_another_folder_is_no_affair_of_a_writer(tmp_path: Path) -> None:
    """It does not wait for records that have nothing to do with it."""
    here, there = tmp_path / "here", tmp_path / "there"
    for runs in (here, there):
        ran(runs, small(images=1))
    with LearningRecordWriter(there):
        ran(here, small(images=1))
        assert records(there) == []
        (tmp_path / "link").symlink_to(there)
        ran(tmp_path / "link", small(images=1))
        assert len(records(there)) == 2


def test_a_thread_that_cannot_be_started_stands_in_nobodys_way_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A run that ends while there are too many has its record with the next one."""

    def use_up(_request: GenerateRequest, _cancel: object) -> None:
        deadline = time.monotonic() + 10
        while any(thread.name == "stagewright-learning" for thread in threading.enumerate()):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        threading.stack_size(2**46)  # more than there can be: no thread begins

    with LearningRecordWriter(tmp_path):
        usual = threading.stack_size()
        try:
            ran(tmp_path, small(images=1), painter(use_up))
        finally:
            threading.stack_size(usual)
        assert records(tmp_path) == []
        assert "cannot be updated now: can't start new thread" in caplog.text
        ran(tmp_path, small(images=1))
        assert len(records(tmp_path)) == 2


def test_a_run_ends_though_its_record_has_to_wait(tmp_path: Path) -> None:
    """The run is not held up for more than a second; the record comes when it can."""
    controller = open_controller(tmp_path)
    with ExitStack() as held:
        held.enter_context(folder_lock(tmp_path, wait_s=1))
        began = time.monotonic()
        assert controller.start(small(images=1)).wait(30).state == "COMPLETED"
        assert time.monotonic() - began < 5
        assert not (tmp_path / NAME).exists()
    deadline = time.monotonic() + 10
    while not records(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert bytes_of(tmp_path) == rebuilt(tmp_path)


def test_a_run_ends_though_no_record_can_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What stands in the way is logged and the run's result is as ever; then it is made good."""
    (tmp_path / NAME).mkdir()
    with caplog.at_level(logging.WARNING, "stagewright.learning"):
        result = open_controller(tmp_path).start(small(images=1)).wait(30)
    assert result.state == "COMPLETED"
    assert "cannot be updated" in caplog.text
    with pytest.raises(LearningRecordsError, match=NAME):
        LearningRecordWriter(tmp_path).update()
    (tmp_path / NAME).rmdir()
    assert len(updated(tmp_path)) == 1


def test_many_writers_at_once_make_one_sound_file(tmp_path: Path) -> None:
    """Threads that run, resume and update beside each other, each with a writer of its own."""
    stopped = [cancelled(tmp_path, small(images=2)) for _ in range(3)]

    def work(folder: Path) -> None:
        with LearningRecordWriter(tmp_path) as writer:
            ran(tmp_path, small(images=1))
            resumed(folder)
            writer.update()

    threads = [threading.Thread(target=work, args=(folder,)) for folder in stopped]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert bytes_of(tmp_path) == rebuilt(tmp_path)
    assert len(records(tmp_path)) == 6
