"""A server that is gone, or keeps running out of memory, is restarted by the user's command."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from stagewright.adapters import open_controller
from stagewright.adapters.backends.restart import RestartCommand
from stagewright.adapters.export.bundle import bundle_run
from stagewright.events import CallFailed, CancelRequested, RunState
from stagewright.statemachine.errors import PreflightError
from stagewright.statemachine.resume.verify import verify_run
from stagewright.statemachine.run.handle import RunHandle

from . import webui_faults as faults
from .command_line import SCRIPT, SMALL, Start, stagewright, until, write_config
from .serving import url_of
from .support import document
from .test_webui_settling import failures
from .webui_server import ScriptedWebUI

QUICK = {"retries": 1, "backoff_s": 0.01, "wait_s": 0}
FAR = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's state folder, in which restarts are counted."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


class Restarts:
    """A restart command that writes a line with its facts, and what the test does then."""

    def __init__(self, folder: Path, more: str = "") -> None:
        self.file = folder / "restarts.jsonl"
        self.script = (
            f"import os, sys, time; open({str(self.file)!r}, 'a').write(sys.stdin.read() + '\\n')\n"
            f"print('starting', os.environ['STAGEWRIGHT_RESTART_ADDRESS'], flush=True)\n{more}"
        )

    @property
    def facts(self) -> list[dict[str, Any]]:
        """What each run of the command was told."""
        if not self.file.exists():
            return []
        return [json.loads(line) for line in self.file.read_text("utf-8").splitlines() if line]

    def command(self, ready_s: float = 20.0) -> RestartCommand:
        """The command as the settings hold it."""
        return RestartCommand(command=(sys.executable, "-c", self.script), ready_s=ready_s)

    def then(self, action: Callable[[], object]) -> threading.Thread:
        """Do something once the command has run; join the thread."""

        def work() -> None:
            until(lambda: bool(self.facts), "the restart command")
            action()

        thread = threading.Thread(target=work)
        thread.start()
        return thread


def config(**settings: Any) -> dict[str, Any]:
    return {
        **document("txt2img", run={"preflight": False}, server={**QUICK, **settings}),
        "images": 3,
    }


def begin(
    folder: Path,
    server: ScriptedWebUI,
    restarts: Mapping[str, RestartCommand],
    **settings: Any,
) -> RunHandle:
    controller = open_controller(folder / "runs", server.url, restarts=restarts)
    return controller.start(config(**settings))


def test_a_server_that_is_gone_is_restarted_and_the_run_goes_on(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """Once, with the facts; its output is beside the run, which waits though ``wait_s`` is 0."""
    server.on(1, faults.Refuses(3600))
    restarts = Restarts(tmp_path)
    back = restarts.then(server.listen)
    handle = begin(tmp_path, server, {f"{server.url}/": restarts.command()})
    result = handle.wait(30)
    back.join()
    assert result.state is RunState.COMPLETED
    assert set(failures(result)) == {"AnswerLostError", "ServerRestartingError"}
    (facts,) = restarts.facts
    assert (facts["address"].rstrip("/"), facts["run_id"]) == (server.url, handle.run_id)
    assert facts["reason"] == "the server cannot be reached"
    written = (handle.folder / "restart-1.log").read_text("utf-8")
    assert written.startswith(f"starting {server.url}")
    assert sys.executable not in (handle.folder / "events.jsonl").read_text("utf-8")
    assert verify_run(handle.folder).flaws == ()
    bundle = bundle_run(handle.folder, tmp_path / "run.bundle.zip", images=True)
    assert not [name for name in ZipFile(bundle.file).namelist() if "restart" in name]


def test_one_of_several_servers_is_restarted_while_the_others_work(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """It is set aside, gets no request, and is restarted within the stage all the same."""
    server.on(1, faults.Refuses(3600))
    restarts = Restarts(tmp_path)
    with ScriptedWebUI() as other:
        controller = open_controller(
            tmp_path / "runs",
            [server.url, other.url],
            restarts={server.url: restarts.command()},
        )
        with other.hold():
            handle = controller.start({**config(), "images": 4})
            until(lambda: bool(restarts.facts), "the restart command")
            server.listen()
            server.until(lambda: len(server.generating()) > 2)
        result = handle.wait(30)
    assert result.state is RunState.COMPLETED
    assert [one["run_id"] for one in restarts.facts] == [handle.run_id]


def test_a_killed_server_is_started_again_by_the_command_line(start: Start, tmp_path: Path) -> None:
    """The command may be the server itself: it goes on after the run."""
    options = ("serve-embedded", "--model=base.safetensors")
    first = start(*options, "--port=0", "--step-delay=0.02", folder=tmp_path)
    url = url_of(first)
    restarts = Restarts(
        tmp_path,
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        f"os.execv({str(SCRIPT)!r}, "
        f"{['stagewright', *options, '--port=' + url.rpartition(':')[2]]!r})",
    )
    write_config(tmp_path, SMALL + "[server]\nbackoff_s = 0.2\n")
    settings = tmp_path / "settings.toml"
    command = json.dumps([sys.executable, "-c", restarts.script])
    settings.write_text(f'[restart."{url}"]\ncommand = {command}\n', encoding="utf-8")
    run = start("--config-file", settings, "run", "small.toml", "--server", url, folder=tmp_path)
    images = tmp_path / "runs"
    until(
        lambda: run.poll() is not None or any(images.glob("*/images/*/00000*.png")),
        "the first image",
    )
    first.kill()
    _, said = run.communicate(timeout=60)
    try:
        assert run.returncode == 0, said
        assert "your command restarts it" in said
        assert len(restarts.facts) == 1
        assert len(list(tmp_path.glob("runs/*/images/*/*.png"))) == 2
        os.kill(int((tmp_path / "pid").read_text("utf-8")), 0)
    finally:
        os.kill(int((tmp_path / "pid").read_text("utf-8")), 9)


def test_a_server_is_restarted_three_times_an_hour_at_most(
    server: ScriptedWebUI, tmp_path: Path, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Over all controllers and processes; a restart longer ago does not count."""
    restarts = Restarts(tmp_path)
    commands = {server.url: restarts.command(0.1)}
    server.on(1, faults.Refuses(3600))
    for _ in range(2):
        assert begin(tmp_path, server, commands, wait_s=0.2).wait(30).state is RunState.ERROR
        assert len(restarts.facts) == 3
    assert caplog.text.count("3 times within an hour") == 2, "once for each of the two"
    (times,) = (state / "stagewright" / "restarts").glob("*.json")
    times.write_text(json.dumps([time.time() - 3601] * 3), encoding="utf-8")
    begin(tmp_path, server, commands, wait_s=0.2).wait(30)
    assert len(restarts.facts) == 6


def test_a_command_that_brings_no_server_back_is_ended_with_its_children(
    server: ScriptedWebUI, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After ``ready_s``; what it prints without end does not fill the disk."""
    pids = tmp_path / "pids"
    restarts = Restarts(
        tmp_path,
        "import subprocess\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3600)'])\n"
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "print('x' * 3_000_000, flush=True)\n"
        "time.sleep(3600)",
    )
    server.on(1, faults.Refuses(3600))
    controller = open_controller(
        tmp_path / "runs", server.url, restarts={server.url: restarts.command(1.5)}
    )
    handle = controller.start(config())
    until(lambda: "does not listen 1.5 s after its restart" in caplog.text, "the limit")
    controller.cancel(handle.run_id, reason="enough")
    handle.wait(30)
    for pid in pids.read_text("utf-8").split():
        until(lambda pid=pid: is_gone(int(pid)), f"the end of process {pid}")  # type: ignore[misc]  # a default value
    assert (handle.folder / "restart-1.log").stat().st_size < 1_100_000


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody waits for may be listed for ever."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").split()[2] == "Z"
    except FileNotFoundError:
        return True


def test_a_cancel_does_not_wait_for_a_restart(server: ScriptedWebUI, tmp_path: Path) -> None:
    """The run ends at once, cancelled."""
    server.on(1, faults.Refuses(3600))
    restarts = Restarts(tmp_path, "time.sleep(3)")
    controller = open_controller(
        tmp_path / "runs", server.url, restarts={server.url: restarts.command(3)}
    )
    handle = controller.start(config())
    until(lambda: bool(restarts.facts), "the restart command")
    began = time.monotonic()
    controller.cancel(handle.run_id, reason="enough")
    result = handle.wait(10)
    assert time.monotonic() - began < 2
    assert result.state is RunState.CANCELLED
    assert any(isinstance(one, CancelRequested) for one in result.events)


@pytest.mark.parametrize(
    ("failing", "retries", "state", "kinds"),
    [
        (range(1, 3), 3, RunState.COMPLETED, 2),
        (range(1, 2), 0, RunState.COMPLETED, 1),
        (range(1, 99), 2, RunState.ERROR, 4),
    ],
)
def test_a_server_that_keeps_running_out_of_memory_is_restarted_once(
    server: ScriptedWebUI, tmp_path: Path,
    failing: range, retries: int, state: RunState, kinds: int,
) -> None:  # fmt: skip
    """Before the image is given up, which is after one more failure than without the command."""
    server.on(failing, faults.OUT_OF_MEMORY)
    restarts = Restarts(tmp_path)

    def restart() -> None:
        server.refuse()
        time.sleep(0.5)  # longer than the looks at its port are apart
        server.listen()

    back = restarts.then(restart)
    handle = begin(tmp_path, server, {server.url: restarts.command()}, retries=retries)
    result = handle.wait(30)
    back.join()
    assert result.state is state
    assert [one["reason"] for one in restarts.facts] == ["the server keeps running out of memory"]
    found = [one for one in result.events if isinstance(one, CallFailed)]
    assert len([one for one in found if "out of memory" in one.error.message]) == kinds


def test_a_server_that_died_between_two_runs_is_restarted(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """As between the variants of a group. A server that this process never used is not."""
    restarts = Restarts(tmp_path)
    commands = {server.url: restarts.command()}
    server.refuse()
    controller = open_controller(tmp_path / "runs", server.url, restarts=commands)
    checked = {**config(), "run": {}}
    with pytest.raises(PreflightError):
        controller.start(checked)
    assert restarts.facts == []
    server.listen()
    first = controller.start(checked)
    assert first.wait(30).state is RunState.COMPLETED
    server.refuse()
    with pytest.raises(PreflightError):
        controller.start(checked)
    restarts.then(server.listen).join()
    assert restarts.facts[0]["run_id"] == first.run_id
    assert (first.folder / "restart-1.log").exists()
    assert controller.start(checked).wait(30).state is RunState.COMPLETED


def test_only_the_server_of_the_address_is_restarted(
    server: ScriptedWebUI, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another server has no command; one that cannot be started is reported and harms nothing."""
    caplog.set_level(logging.WARNING)
    restarts = Restarts(tmp_path)
    server.on(1, faults.Refuses(0.3))
    handle = begin(tmp_path, server, {FAR: restarts.command()}, wait_s=30)
    assert handle.wait(30).state is RunState.COMPLETED
    assert restarts.facts == []
    server.on(4, faults.Refuses(0.3))
    missing = RestartCommand(command=("/nowhere/start", "hush-7f3a9c"))
    handle = begin(tmp_path, server, {server.url: missing}, wait_s=30)
    assert handle.wait(30).state is RunState.COMPLETED
    assert "/nowhere/start: cannot be started: No such file" in caplog.text
    assert "hush" not in caplog.text


HOSTILE = """
[restart."URL"]
command = ["touch", "owned"]
[notify]
command = ["touch", "owned"]
[servers."URL".headers]
X-Stolen = "env:HOME"
"""


@pytest.mark.parametrize("where", ["folder", "configuration", "metadata"])
def test_nothing_but_the_users_own_settings_names_a_command(
    server: ScriptedWebUI, tmp_path: Path, where: str
) -> None:
    """A hostile file in the folder, a configuration and a log start nothing and send no header."""
    hostile = HOSTILE.replace("URL", server.url)
    server.on(1, faults.Refuses(0.3))
    text = SMALL + "[server]\nbackoff_s = 0.01\nwait_s = 30\n"
    if where == "folder":
        (tmp_path / "stagewright.toml").write_text(hostile, encoding="utf-8")
    elif where == "configuration":
        text += hostile
    else:
        for table in ("restart", "notify", "servers"):
            hostile = hostile.replace(f"[{table}", f"[metadata.{table}")
        text += hostile
    write_config(tmp_path, text)
    done = stagewright("run", "small.toml", "--server", server.url, folder=tmp_path)
    if where == "configuration":
        assert (done.returncode, "unknown key restart" in done.stderr) == (2, True)
        assert not server.requests
    else:
        assert done.returncode == 0, done.stderr
        again = stagewright("rerun", "last", "--set", "seed=7", folder=tmp_path)
        assert again.returncode == 0, again.stderr
        assert len(server.generating()) >= 4
    assert ("restart, notify, servers" in done.stderr) is (where == "folder")
    assert not (tmp_path / "owned").exists()
    assert not [
        one
        for one in server.requests
        if "X-Stolen" in str(vars(one) if hasattr(one, "__dict__") else one)
    ]
