"""Resume of upscales on WebUI servers: no tasks, and a cache that keeps half-made pictures."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stagewright.adapters import open_controller
from stagewright.adapters.webui_server import EmbeddedServer
from stagewright.events import (
    CallCompleted,
    replay,
)

from . import webui_faults as faults
from .command_line import Start
from .log_format import make_log, split_bodies
from .resuming import LOG, comparable, cut_before
from .test_webui_settling import INTERNAL_PROGRESS, PROGRESS
from .webui_resuming import (
    check_equal,
    configured,
    expected_of,
    kill,
    only_run,
    resume,
)
from .webui_server import ScriptedWebUI


@pytest.mark.parametrize("missing", [(), (INTERNAL_PROGRESS, PROGRESS)])
def test_an_upscale_that_still_runs_is_waited_for(
    start: Start, tmp_path: Path, missing: tuple[str, ...]
) -> None:
    """It is no task that can be asked for: the server is waited for until it is idle."""
    with ScriptedWebUI(missing_routes=missing) as server:
        config = configured(tmp_path, "upscale")
        with ScriptedWebUI() as untouched:
            expected = expected_of(tmp_path, config, untouched.url)
        server.on(0, faults.Generates(lasts_s=1.0))
        process = start("run", config, "--server", server.url, "--no-preflight", folder=tmp_path)
        server.until(lambda: bool(server.queue.line))
        kill(process)
        assert resume(tmp_path, "--no-preflight") == 0
        check_equal(tmp_path, expected)
        assert server.queue.interrupts == []
        if PROGRESS not in missing:
            assert server.queue.longest == 1


SIZES: dict[str, dict[str, Any]] = {
    "factor": {"upscaler": "R-ESRGAN 4x+", "factor": 2.0},
    "size": {"upscaler": "R-ESRGAN 4x+", "width": 128, "height": 96},
    "cropped": {"upscaler": "R-ESRGAN 4x+", "width": 128, "height": 128},
}


def ends_by_ctrl_c(_server: ScriptedWebUI, process: subprocess.Popen[str]) -> None:
    """Cancelled in order; the server was told to stop."""
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == -signal.SIGINT


def dies_after_ctrl_c(server: ScriptedWebUI, process: subprocess.Popen[str]) -> None:
    """The server was told to stop, and the end of the run is not recorded."""
    process.send_signal(signal.SIGINT)
    server.until(lambda: bool(server.queue.interrupts))
    kill(process)


def dies_in_a_stall(server: ScriptedWebUI, process: subprocess.Popen[str]) -> None:
    """The server was told to stop what stood still, and nothing says so in the log."""
    server.until(lambda: bool(server.queue.interrupts))
    kill(process)


def dies_before_an_interrupt(server: ScriptedWebUI, process: subprocess.Popen[str]) -> None:
    """Somebody else stopped the job of the dead process."""
    kill(process)
    server.queue.interrupt()


ENDS = [ends_by_ctrl_c, dies_after_ctrl_c, dies_in_a_stall, dies_before_an_interrupt]


@pytest.mark.sampled(5)
@pytest.mark.parametrize("size", list(SIZES))
@pytest.mark.parametrize("end", ENDS)
def test_an_interrupted_upscale_is_made_whole_by_the_resume(
    server: ScriptedWebUI, start: Start, tmp_path: Path, size: str,
    end: Callable[[ScriptedWebUI, subprocess.Popen[str]], None],
) -> None:  # fmt: skip
    """The server keeps the half-made picture, and would give it again."""
    stall_s = 0.3 if end is dies_in_a_stall else 20.0
    table = {"stall_timeout_s": stall_s}
    config = configured(tmp_path, "upscale", upscale=SIZES[size], server=table)
    with ScriptedWebUI() as untouched:
        expected = expected_of(tmp_path, config, untouched.url)
    server.queue.decoding_s = 0.0 if end is ends_by_ctrl_c else 0.5
    process = start("run", config, "--server", server.url, folder=tmp_path)
    with server.hold():
        server.until_running()
        end(server, process)
    assert resume(tmp_path) == 0
    result = replay(only_run(tmp_path))
    wanted = [image["source_sha256"] for image in expected["images"]]
    assert [image.source_sha256 for image in result.images] == wanted
    assert server.queue.longest == 1


@pytest.mark.parametrize("size", ["factor", "cropped"])
def test_an_upscale_that_is_interrupted_twice_is_made_whole(
    server: ScriptedWebUI, start: Start, tmp_path: Path, size: str
) -> None:
    """The second attempt is kept half made as well, so that the third needs a key of its own."""
    config = configured(tmp_path, "upscale", upscale=SIZES[size])
    with ScriptedWebUI() as untouched:
        expected = expected_of(tmp_path, config, untouched.url)
    commands = ("run", str(config), "--server", server.url), ("resume", "last")
    for interrupts, command in enumerate(commands, start=1):
        process = start(*command, folder=tmp_path)
        with server.hold():
            server.until_running()
            ends_by_ctrl_c(server, process)
        assert len(server.queue.interrupts) >= interrupts
    assert resume(tmp_path) == 0
    wanted = [image["source_sha256"] for image in expected["images"]]
    images = replay(only_run(tmp_path)).images
    assert [image.source_sha256 for image in images] == wanted


def test_an_interrupted_upscale_is_the_same_to_the_byte_where_the_settings_are_in_it(
    tmp_path: Path,
) -> None:
    """What the server writes into the picture does not tell that it was asked for twice."""
    config = configured(tmp_path, "upscale", upscale=SIZES["factor"])
    with EmbeddedServer() as embedded:
        handle = open_controller(tmp_path / "runs", embedded.url).start(config)
        expected = comparable(handle.wait(30))
        cut_before(handle.folder, CallCompleted, 1)
        path = handle.folder / LOG
        bodies = split_bodies(path.read_bytes())
        cancel = {"type": "CancelRequested", "v": 1, "mode": "now", "reason": "", "epoch": 0}
        last = json.loads(bodies[-1])
        cancel |= {"run_id": last["run_id"], "seq": last["seq"] + 1, "ts": last["ts"]}
        path.write_bytes(make_log([*bodies, json.dumps(cancel).replace(": ", ":").encode()]))
        assert resume(tmp_path) == 0
    check_equal(tmp_path, expected)


def test_an_upscale_that_a_later_image_had_to_stop_is_made_whole_by_the_resume(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """Its answer was lost for good; it stood still, and was interrupted for the image after it."""
    config = configured(
        tmp_path, "upscale", upscale=SIZES["factor"], run={"on_image_error": "continue"},
        server={"stall_timeout_s": 0.1},
    )  # fmt: skip
    with ScriptedWebUI() as untouched:
        expected = expected_of(tmp_path, config, untouched.url)

    def loses(exchange: faults.Exchange) -> None:
        exchange.break_off(reset=False)
        exchange.generate(stands_at=0)

    server.on(0, loses)
    partial = open_controller(tmp_path / "runs", server.url).start(config).wait(30)
    assert [gap.image_index for gap in partial.missing] == [0]
    assert len(server.queue.interrupts) == 1
    result = open_controller(tmp_path / "runs").resume("last").wait(30)
    wanted = [image["source_sha256"] for image in expected["images"]]
    assert [image.source_sha256 for image in result.images] == wanted


def test_a_stalled_upscale_that_another_image_settles_is_made_whole(
    server: ScriptedWebUI, start: Start, tmp_path: Path
) -> None:
    """Killed while an upscale stands still; the file before it is lost and made first."""
    config = configured(
        tmp_path, "txt2img", "upscale", upscale=SIZES["factor"], server={"stall_timeout_s": 0.3}
    )
    with ScriptedWebUI() as untouched:
        expected = expected_of(tmp_path, config, untouched.url)
    server.on(0, faults.Generates(stands_at=0), stage="extra-single-image")
    process = start("run", config, "--server", server.url, folder=tmp_path)
    server.until(lambda: server.queue.state["job"] == "Upscale")
    kill(process)
    next((only_run(tmp_path) / "images").glob("*/00001-*.png")).unlink()
    assert resume(tmp_path) == 0
    check_equal(tmp_path, expected)
