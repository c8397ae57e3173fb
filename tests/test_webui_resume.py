"""Resume on WebUI servers: what a dead process left there is settled before anything is sent."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from stagewright.adapters import open_controller
from stagewright.adapters.webui_server import EmbeddedServer
from stagewright.events import (
    CallCompleted,
    CallRequested,
    RunResumed,
    RunState,
    replay,
)

from . import webui_faults as faults
from .command_line import Start, stagewright, until
from .resuming import comparable, cut_before, files, only, small
from .webui_recorder import Recorder
from .webui_resuming import (
    asked_about,
    check_equal,
    configured,
    expected_of,
    kill,
    only_run,
    resume,
)
from .webui_server import ScriptedWebUI

LISTED = "sd_xl_base_1.0.safetensors"


@pytest.mark.parametrize("stage", ["txt2img", "adetailer"])
def test_a_task_that_still_runs_is_waited_for_and_then_sent_again(
    server: ScriptedWebUI, start: Start, tmp_path: Path, stage: str
) -> None:
    """The same seed, attempt + 1, and never two generations of ours at once."""
    stages = ("txt2img",) if stage == "txt2img" else ("txt2img", stage)
    config = configured(tmp_path, *stages)
    expected = expected_of(tmp_path, config, server.url)
    before = len(server.generating(stage))
    server.on(before + 1, faults.Generates(stands_at=0), stage=stage)
    process = start("run", config, "--server", server.url, folder=tmp_path)
    server.until(lambda: len(server.generating(stage)) == before + 2 and bool(server.queue.line))
    server.until_running()
    kill(process)
    folder = only_run(tmp_path)
    lost = only(replay(folder).events, CallRequested)[-1]
    resuming = start("resume", "last", folder=tmp_path)
    server.until(lambda: asked_about(server, lost.call_id))
    assert len(server.generating(stage)) == before + 2
    server.queue.alter(lambda: setattr(server.queue.line[0], "stands_at", None))
    assert resuming.wait(30) == 0
    result = check_equal(tmp_path, expected)
    first, again = (one.body for one in server.generating(stage)[-2:])
    assert first.pop("force_task_id") == lost.call_id
    assert again.pop("force_task_id") == f"{lost.call_id[:-1]}1"
    assert first == again
    assert server.queue.longest == 1
    assert server.queue.interrupts == []
    assert only(result.events, CallRequested)[-1].attempt == 1


def test_a_server_without_tasks_is_waited_for_until_it_is_idle(
    start: Start, tmp_path: Path
) -> None:
    """A WebUI that was started without its user interface."""
    with ScriptedWebUI(ui=False) as server:
        config = configured(tmp_path, "txt2img")
        expected = expected_of(tmp_path, config, server.url)
        server.on(3, faults.Generates(lasts_s=1.0))
        process = start("run", config, "--server", server.url, folder=tmp_path)
        server.until(lambda: len(server.generating()) == 4 and bool(server.queue.line))
        kill(process)
        assert resume(tmp_path) == 0
        check_equal(tmp_path, expected)
        assert (server.queue.longest, server.queue.interrupts) == (1, [])


def test_a_resume_that_waits_for_an_earlier_task_can_be_stopped(
    server: ScriptedWebUI, start: Start, tmp_path: Path
) -> None:
    """Ctrl-C: CANCELLED, with nothing sent; the next resume goes on."""
    config = configured(tmp_path, "txt2img")
    expected = expected_of(tmp_path, config, server.url)
    server.on(2, faults.Generates(stands_at=0))
    process = start("run", config, "--server", server.url, folder=tmp_path)
    server.until(lambda: len(server.generating()) == 3 and bool(server.queue.line))
    kill(process)
    resuming = start("resume", "last", folder=tmp_path)
    lost = only(replay(only_run(tmp_path)).events, CallRequested)[-1]
    server.until(lambda: asked_about(server, lost.call_id))
    resuming.send_signal(signal.SIGINT)
    assert resuming.wait(30) == -signal.SIGINT
    assert len(server.generating()) == 3
    server.queue.alter(lambda: setattr(server.queue.line[0], "stands_at", None))
    assert resume(tmp_path) == 0
    check_equal(tmp_path, expected)
    assert server.queue.longest == 1


def test_somebody_elses_job_on_a_shared_server_is_left_alone(
    server: ScriptedWebUI, start: Start, tmp_path: Path
) -> None:
    """Ours has ended since; the resume goes on in its turn and interrupts nobody."""
    config = configured(tmp_path, "txt2img", server={"shared": True, "stall_timeout_s": 0.5})
    expected = expected_of(tmp_path, config, server.url)
    server.on(3, faults.Generates(lasts_s=0.3))
    process = start("run", config, "--server", server.url, folder=tmp_path)
    server.until(lambda: len(server.generating()) == 4 and bool(server.queue.line))
    kill(process)
    server.until(lambda: not server.queue.line)
    with server.foreign_job() as job:
        resuming = start("resume", "last", folder=tmp_path)
        server.until(lambda: len(server.generating()) == 5)
        assert not job.released
    assert resuming.wait(30) == 0
    assert server.queue.interrupts == []
    check_equal(tmp_path, expected)


def test_a_server_that_was_restarted_has_forgotten_the_task(
    server: ScriptedWebUI, start: Start, tmp_path: Path
) -> None:
    """It is idle: the request is sent again at once, on the address that ``--server`` names."""
    config = configured(tmp_path, "txt2img", "img2img")
    expected = expected_of(tmp_path, config, server.url)
    server.on(5, faults.silent)
    process = start("run", config, "--server", server.url, folder=tmp_path)
    server.until(lambda: len(server.generating()) == 6)
    kill(process)
    with ScriptedWebUI() as restarted:
        assert resume(tmp_path, "--server", restarted.url) == 0
        assert len(restarted.generating()) == 3
        result = check_equal(tmp_path, expected)
        assert only(result.events, RunResumed)[0].backend.url == restarted.url
        next((only_run(tmp_path) / "images").glob("*/00001-*.png")).unlink()
        assert resume(tmp_path) == 0
        assert len(restarted.generating()) == 4
    assert len(server.generating()) == 6


def dead_on(
    server: ScriptedWebUI, tmp_path: Path, configured_url: str | None = None
) -> tuple[Path, dict[str, Any]]:
    """A run on the server of which only the first image is recorded, and what it is to come to."""
    table = {} if configured_url is None else {"url": configured_url}
    config = configured(tmp_path, "txt2img", server=table)
    handle = open_controller(tmp_path / "runs", server.url).start(config)
    expected = comparable(handle.wait(30))
    cut_before(handle.folder, CallRequested, 1)
    return handle.folder, expected


def test_the_recorded_server_is_asked_and_not_the_configured_one(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """The run was made on the one that ``--server`` named."""
    with ScriptedWebUI() as other:
        folder, expected = dead_on(server, tmp_path, configured_url=other.url)
        before = len(server.generating())
        assert resume(tmp_path) == 0
        assert len(server.generating()) == before + 1
        assert other.requests == []
    assert comparable(replay(folder)) == expected


def test_a_server_that_is_down_is_exit_2_and_nothing_is_written(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """Without the preflight the run fails there, and can be taken up when the server is back."""
    folder, expected = dead_on(server, tmp_path)
    before = files(folder)
    server.refuse()
    done = stagewright("resume", "last", folder=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert server.url in done.stderr
    assert files(folder) == before
    assert resume(tmp_path, "--no-preflight") == 1
    failed = replay(folder)
    assert (failed.state, failed.resumes) == (RunState.ERROR, 1)
    server.listen()
    assert resume(tmp_path) == 0
    assert comparable(replay(folder)) == expected


def test_a_name_that_the_server_has_no_more_is_exit_2(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """The preflight looks at the recorded plan."""
    folder, _ = dead_on(server, tmp_path)
    before = files(folder)
    names = server.painter.names
    server.painter.names = type(names)(models=("refiner.safetensors",))
    done = stagewright("resume", "last", folder=tmp_path)
    assert done.returncode == 2
    assert "base.safetensors" in done.stderr
    assert files(folder) == before


AUTH = {"STAGEWRIGHT_AUTH": "user:s3cret"}


@contextmanager
def guarded(tmp_path: Path) -> Iterator[tuple[ScriptedWebUI, Path]]:
    """A server that wants a password, and a run that died on it."""
    with ScriptedWebUI(auth=("user", "s3cret")) as server:
        config = configured(tmp_path, "txt2img")
        done = stagewright(
            "run", config, "--server", server.url, folder=tmp_path, env={**os.environ, **AUTH}
        )
        assert done.returncode == 0, done.stderr
        folder = only_run(tmp_path)
        cut_before(folder, CallRequested, 1)
        server.requests.clear()
        yield server, folder


def told(server: ScriptedWebUI) -> list[str]:
    """Every header of credentials that the server was sent."""
    sent = [one.headers.get("Authorization") for one in server.requests]
    return [header for header in sent if header is not None]


def test_credentials_are_not_sent_where_only_the_log_says_so(tmp_path: Path) -> None:
    """Exit 2, the log untouched, and the line says what to do."""
    with guarded(tmp_path) as (server, folder):
        before = files(folder)
        done = stagewright("resume", "last", folder=tmp_path, env={**os.environ, **AUTH})
        assert done.returncode == 2
        assert "STAGEWRIGHT_AUTH_ORIGIN" in done.stderr
        assert told(server) == []
        assert files(folder) == before


@pytest.mark.parametrize("named", ["--server", "STAGEWRIGHT_AUTH_ORIGIN"])
def test_credentials_are_sent_where_the_user_says_so(tmp_path: Path, named: str) -> None:
    """And stand in no file afterwards."""
    with guarded(tmp_path) as (server, folder):
        by_option = ("--server", server.url) if named == "--server" else ()
        env = AUTH if by_option else {**AUTH, named: server.url}
        assert resume(tmp_path, *by_option, env=env) == 0
        assert len(set(told(server))) == 1
        assert replay(folder).state is RunState.COMPLETED
        assert all(b"s3cret" not in data for data in files(folder).values())


@pytest.mark.parametrize("insecure", [False, True])
def test_credentials_go_over_plain_http_beyond_loopback_only_if_insecure(
    tmp_path: Path, *, insecure: bool
) -> None:
    """0.0.0.0 is this machine, but not by a loopback address."""
    with guarded(tmp_path) as (server, folder):
        before = files(folder)
        address = server.url.replace("127.0.0.1", "0.0.0.0")
        options = ("--insecure",) if insecure else ()
        status = resume(tmp_path, "--server", address, *options, env=AUTH)
        assert status == (0 if insecure else 2)
        assert bool(told(server)) == insecure
        assert (files(folder) == before) != insecure


def test_lost_calls_of_several_stages_are_all_settled_first(
    server: ScriptedWebUI, start: Start, tmp_path: Path
) -> None:
    """An upscale that was lost in the first epoch, a txt2img in the second."""
    config = configured(tmp_path, "txt2img", "upscale")
    expected = expected_of(tmp_path, config, server.url)
    server.on(2, faults.silent, stage="extra-single-image")
    process = start("run", config, "--server", server.url, folder=tmp_path)
    server.until(lambda: len(server.generating("extra-single-image")) == 3)
    kill(process)
    folder = only_run(tmp_path)
    next((folder / "images").glob("00-txt2img/00001-*.png")).unlink()
    server.on(4, faults.Generates(lasts_s=2.0), stage="txt2img")
    second = start("resume", "last", folder=tmp_path)
    server.until(lambda: len(server.generating("txt2img")) == 5 and bool(server.queue.line))
    kill(second)
    lost = only(replay(folder).events, CallRequested)[-1]
    assert (lost.stage_id, lost.attempt) == ("00-txt2img", 1)
    assert resume(tmp_path) == 0
    result = check_equal(tmp_path, expected)
    assert asked_about(server, lost.call_id)
    assert not any(asked_about(server, one.call_id) for one in only(result.events, CallRequested)
                   if one.stage_id == "02-upscale")  # fmt: skip
    assert (server.queue.longest, result.resumes) == (1, 2)


def test_a_run_killed_again_and_again_makes_no_more_requests_than_planned_and_kills(
    start: Start, tmp_path: Path
) -> None:
    """Four stages on the embedded server, killed in the middle of each."""
    stages = ("txt2img", "img2img", "upscale", "adetailer")
    config = configured(tmp_path, *stages, txt2img={**small()["txt2img"], "model": LISTED})
    with EmbeddedServer() as quick:
        expected = expected_of(tmp_path, config, quick.url)
    with EmbeddedServer(step_delay_s=0.05) as embedded, Recorder(embedded.url) as recorder:
        command: tuple[str, ...] = ("run", str(config), "--server", recorder.url)
        for kills, wanted in enumerate((1, 4, 7)):
            process = start(*command, folder=tmp_path)
            until(lambda: generated(recorder) >= wanted + kills, "a request")  # noqa: B023 - at once
            kill(process)
            command = ("resume", "last")
        assert resume(tmp_path) == 0
        assert recorder.longest <= 2
        assert generated(recorder) <= 8 + 3
    result = check_equal(tmp_path, expected)
    assert result.resumes == 3
    assert stagewright("verify", "last", folder=tmp_path).returncode == 0


def generated(recorder: Recorder) -> int:
    """How many generating requests came."""
    return sum(one.stage is not None for one in list(recorder.requests))


def test_a_run_of_the_embedded_backend_goes_on_where_a_server_is_named(tmp_path: Path) -> None:
    """What is finished stays; the rest is made on the server, and is the same."""
    config = configured(tmp_path, "txt2img", txt2img={**small()["txt2img"], "model": LISTED})
    handle = open_controller(tmp_path / "runs").start(config)
    handle.wait(30)
    cut_before(handle.folder, CallCompleted, 1)
    with EmbeddedServer() as embedded:
        assert resume(tmp_path, "--server", embedded.url) == 0
        result = replay(handle.folder)
        assert only(result.events, RunResumed)[0].backend.url == embedded.url
    assert result.state is RunState.COMPLETED
