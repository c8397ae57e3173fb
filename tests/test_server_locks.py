"""One request at a time at a server, over all processes of this machine."""

from __future__ import annotations

import logging
import os
import threading
from itertools import pairwise
from pathlib import Path

import pytest
from stagewright.adapters import open_controller
from stagewright.adapters.backends.server_lock import ServerLock
from stagewright.events import CallCompleted, RunState
from stagewright.events.log.lock import is_locked
from stagewright.events.model import CancelMode
from stagewright.statemachine import CancelToken

from .command_line import Start, until
from .resuming import only, small
from .webui_resuming import configured
from .webui_server import ScriptedWebUI

URL = "http://127.0.0.1:7860"


def test_two_runs_alternate_at_one_server(tmp_path: Path, start: Start) -> None:
    """Their requests never overlap on the server, and neither waits for the other's end."""
    folders = [tmp_path / name for name in ("one", "two")]
    processes = []
    with ScriptedWebUI(steps_per_second=40) as server:
        with server.hold():
            for folder in folders:
                folder.mkdir()
                configured(folder, "txt2img", images=6)
                processes.append(start("run", "config.json", "--server", server.url, folder=folder))
            until(lambda: any(map(_is_held, _lock_files(server.url, ".next.lock"))), "one waits")
        for process in processes:
            assert process.wait(60) == 0, process.communicate()
        assert server.queue.longest == 1
        runs = [one.body["force_task_id"].partition(".00-")[0] for one in server.generating()]
    assert len(runs) == 12
    # A run that still writes its image is not waiting yet.
    assert sum(one != other for one, other in pairwise(runs)) >= 6, runs


def test_a_shared_server_is_not_locked(tmp_path: Path) -> None:
    """Its queue orders the requests of everybody."""
    with ScriptedWebUI() as server, ServerLock(server.url).hold(CancelToken()):
        config = small("txt2img", images=1, server={"shared": True})
        result = open_controller(tmp_path / "runs", server.url).start(config).wait(30)
    assert result.state is RunState.COMPLETED


def test_waiting_for_the_server_takes_no_time_of_the_request_and_ends_with_a_cancel(
    tmp_path: Path,
) -> None:
    """A run that waits is cancelled at once, and has recorded no request."""
    with ScriptedWebUI() as server:
        controller = open_controller(tmp_path / "runs", server.url)
        with ServerLock(server.url).hold(CancelToken()) as is_held:
            assert is_held
            handle = controller.start(small("txt2img", images=2))
            until(lambda: any(folder.iterdir() for folder in [tmp_path / "runs"]), "the run")
            controller.cancel(handle.run_id)
            result = handle.wait(10)
        assert result.state is RunState.CANCELLED
        assert not server.generating()
        again = controller.resume(handle.run_id).wait(30)
    assert again.state is RunState.COMPLETED
    assert all(one.duration_ms < 5000 for one in only(again.events, CallCompleted))


def test_a_lock_goes_to_the_one_that_waits() -> None:
    """Whoever has released it and wants it again comes after those that were waiting."""
    lock, order = ServerLock(URL), list[str]()
    first, done = threading.Event(), threading.Event()

    def other() -> None:
        first.wait(10)
        with ServerLock(URL).hold(CancelToken()):
            order.append("other")
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    with lock.hold(CancelToken()):
        first.set()
        until(lambda: any(map(_is_held, _lock_files(URL, ".next.lock"))), "somebody who waits")
        order.append("first")
    with lock.hold(CancelToken()):
        order.append("first")
    thread.join(10)
    assert order == ["first", "other", "first"]


def test_a_wait_ends_with_its_token() -> None:
    """And the lock is not held then."""
    token = CancelToken()
    with ServerLock(URL).hold(CancelToken()):
        threading.Timer(0.1, token.request, [CancelMode.AFTER_IMAGE]).start()
        with ServerLock(URL).hold(token) as is_held:
            assert not is_held


def test_a_state_folder_that_cannot_be_written_stops_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, and the run goes on without the lock."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with ScriptedWebUI() as server, caplog.at_level(logging.WARNING):
        result = open_controller(tmp_path / "runs", server.url).start(small(images=3)).wait(30)
    assert result.state is RunState.COMPLETED
    assert sum("its lock cannot be used" in one.message for one in caplog.records) == 1


def _lock_files(url: str, ending: str) -> list[Path]:
    folder = Path(os.environ["XDG_STATE_HOME"]) / "stagewright" / "servers"
    port = url.rpartition(":")[2]
    return [path for path in folder.glob(f"*{ending}") if f"-{port}-" in path.name]


def _is_held(path: Path) -> bool:
    return is_locked(path.parent, path.name)
