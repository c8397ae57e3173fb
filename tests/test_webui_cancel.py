"""A run on a slow ``serve-embedded`` that somebody stops: what the server is told, what is kept."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from stagewright.adapters import open_controller
from stagewright.events import (
    CallCompleted,
    CallFailed,
    CallRequested,
    CancelRequested,
    PipelineRunResult,
    RunState,
    replay,
)
from stagewright.statemachine.stages import Txt2ImgConfig

from .command_line import SMALL, Start, stagewright, until, write_config
from .pictures import made, same_pixels
from .resuming import only
from .serving import Client, InBackground, info, pictures
from .support import document
from .webui_names import Received
from .webui_recorder import Recorder
from .webui_server import ScriptedWebUI

EXAMPLES = Path(__file__).parent.parent / "examples"
LIMIT_S = 2.0
CONFIG = SMALL.replace("base.safetensors", "sd_xl_base_1.0.safetensors").replace(
    "images = 2", "images = 30"
)
LONG = CONFIG.replace("steps = 4", "steps = 100")
SHARED = "[server]\nshared = true\n"
INTERRUPT, SKIP = "/sdapi/v1/interrupt", "/sdapi/v1/skip"
THEIRS: dict[str, Any] = {
    "prompt": "a stranger's tower",
    "seed": 9,
    "steps": 2,
    "width": 64,
    "height": 64,
    "force_task_id": "task(theirs)",
}


@dataclass(frozen=True)
class Scene:
    """A slow server, the proxy that runs are sent to, and a client beside."""

    recorder: Recorder
    client: Client
    folder: Path
    start: Start

    def run(self, config: str) -> subprocess.Popen[str]:
        """A run of the command line that goes on."""
        path = write_config(self.folder, config)
        return self.start("run", path, "--server", self.recorder.url, folder=self.folder)

    def sent(self) -> list[Received]:
        """The generating requests that came from runs."""
        return [one for one in self.recorder.requests if one.stage is not None]

    def sent_ids(self) -> list[str]:
        """The task ids of those requests."""
        return [one.body["force_task_id"] for one in self.sent()]

    def until_in_image(self, number: int) -> None:
        """Wait until the run's ``number``-th request (from 1) has taken a step."""

        def under_way() -> bool:
            if len(self.sent()) < number:
                return False
            task = self.task(self.sent_ids()[-1])
            return task == "active" and self.state()["sampling_step"] >= 1

        until(under_way, f"request {number} under way")

    def state(self) -> dict[str, Any]:
        """What the server says of its job."""
        found: dict[str, Any] = self.client.get("progress")["state"]
        return found

    def task(self, name: str) -> str:
        """What became of a task."""
        found = self.client.post("/internal/progress", {"id_task": name})
        return next((key for key in ("active", "queued", "completed") if found[key]), "unknown")

    def interrupts(self) -> int:
        """How often a run has told the server to stop."""
        return len(self.recorder.asked(INTERRUPT)) + len(self.recorder.asked(SKIP))

    def result(self) -> PipelineRunResult:
        """What the log of the one run tells; its files are those of the log."""
        (run,) = self.folder.glob("runs/*/")
        assert stagewright("verify", run, folder=self.folder).returncode == 0
        result = replay(run)
        found = {file.relative_to(run).as_posix() for file in (run / "images").rglob("*.*")}
        assert found == {image.path for image in result.images}
        return result


@contextmanager
def slow_server(start: Start, folder: Path, step_delay_s: float) -> Iterator[Scene]:
    """A server of the command line with a step delay, and nobody on it yet."""
    server = start("serve-embedded", "--port=0", "--step-delay", str(step_delay_s), folder=folder)
    assert server.stdout is not None
    line = server.stdout.readline()
    address = re.match(r"serving on (http://127\.0\.0\.1:\d+) ", line)
    assert address is not None, line
    client = Client(address[1])
    try:
        with Recorder(address[1]) as recorder:
            yield Scene(recorder, client, folder, start)
    finally:
        client.close()


@pytest.fixture
def scene(start: Start, tmp_path: Path) -> Iterator[Scene]:
    """A server that takes 0.2 s for a step."""
    with slow_server(start, tmp_path, 0.2) as made:
        yield made


def ended(process: subprocess.Popen[str], stop: Callable[[], object]) -> float:
    """Stop a run; how many seconds it took until it had ended in CANCELLED.

    The exit status is 3, but for Ctrl-C.
    """
    began = time.monotonic()
    stop()
    output, errors = process.communicate(timeout=30)
    took = time.monotonic() - began
    assert process.returncode in (3, -signal.SIGINT), errors
    assert "CANCELLED" in output
    assert "Traceback" not in errors
    return took


def interrupted(process: subprocess.Popen[str]) -> float:
    """Ctrl-C a run; how many seconds it took to end."""
    return ended(process, lambda: process.send_signal(signal.SIGINT))


def finished(result: PipelineRunResult) -> list[int]:
    return [image.image_index for image in result.images]


def test_ctrl_c_interrupts_the_server_and_keeps_what_is_finished(scene: Scene) -> None:
    """Within two seconds; afterwards the server rests, and no further request came."""
    process = scene.run(CONFIG)
    scene.until_in_image(2)
    assert interrupted(process) < LIMIT_S
    state = scene.state()
    assert (state["job"], state["job_count"], state["interrupted"]) == ("", 0, True)
    assert scene.interrupts() >= 1
    result = scene.result()
    assert (result.state, result.outcome) == (RunState.CANCELLED, "cancelled")
    asked = only(result.events, CallRequested)
    assert [one.call_id for one in asked] == scene.sent_ids()
    assert finished(result) == [one.image_index for one in asked[:-1]] != []
    (failed,) = only(result.events, CallFailed)
    assert failed.call_id == asked[-1].call_id
    assert (failed.error.kind, failed.will_retry) == ("GenerationInterrupted", False)
    # The server answered 200 with something half made, which counts for nothing.
    assert {one.status for one in scene.recorder.generating()} == {200}
    assert len(scene.recorder.generating()) == len(asked)
    (order,) = only(result.events, CancelRequested)
    assert order.mode == "now"


def test_ctrl_c_ends_a_hires_pass(scene: Scene) -> None:
    """Interrupted there, the answer has the first pass's size, and counts for nothing."""
    hires = "[txt2img.hires]\nscale = 2.0\nsteps = 60\ndenoise = 0.5\n"
    process = scene.run(CONFIG.replace("steps = 4", "steps = 1") + hires)
    until(lambda: scene.state()["job_no"] == 1, "the second pass")
    assert interrupted(process) < LIMIT_S
    assert scene.state()["job_count"] == 0
    (answered,) = scene.recorder.generating()
    assert [picture.size for picture in pictures(answered.answer)] == [(64, 64)]
    assert finished(scene.result()) == []


def test_ctrl_c_ends_an_upscale(start: Start, tmp_path: Path) -> None:
    """It has no task and tells no steps; what the server gives for it counts for nothing."""
    config = (EXAMPLES / "enlarge.toml").read_text(encoding="utf-8")
    (tmp_path / "portrait.png").write_bytes((EXAMPLES / "portrait.png").read_bytes())
    with slow_server(start, tmp_path, 3600.0) as scene:
        process = scene.run(config)
        until(lambda: bool(scene.state()["job"] == "Upscale"), "the upscale")
        assert interrupted(process) < LIMIT_S
        assert scene.interrupts() >= 1
        assert scene.state()["job_count"] == 0
        assert [one.status for one in scene.recorder.generating()] == [200]
        result = scene.result()
        assert (result.state, finished(result)) == (RunState.CANCELLED, [])


def test_after_image_lets_the_image_finish_and_tells_the_server_nothing(scene: Scene) -> None:
    """The image under way is kept whole; the one after it is never asked for."""
    process = scene.run(CONFIG)
    scene.until_in_image(1)

    def stop() -> None:
        done = stagewright("cancel", "last", "--after-image", folder=scene.folder)
        assert done.returncode == 0, done.stderr

    ended(process, stop)
    assert scene.interrupts() == 0
    assert scene.state()["interrupted"] is False
    result = scene.result()
    assert result.state is RunState.CANCELLED
    (order,) = only(result.events, CancelRequested)
    assert order.mode == "after_image"
    asked, completed = only(result.events, CallRequested), only(result.events, CallCompleted)
    assert asked[-1].seq < order.seq < completed[-1].seq
    assert [one.call_id for one in completed] == [one.call_id for one in asked] == scene.sent_ids()
    assert finished(result) == [one.image_index for one in asked]
    assert not only(result.events, CallFailed)


def whole(answer: dict[str, Any]) -> bool:
    """Whether a stranger's picture is what it would be without us."""
    asked = {key: THEIRS[key] for key in ("prompt", "seed", "steps", "width", "height")}
    (picture,) = pictures(answer)
    assert info(answer)["steps"] == THEIRS["steps"]
    return same_pixels(picture, made(Txt2ImgConfig(**asked), seed=THEIRS["seed"]))


def test_on_a_shared_server_a_stranger_s_job_behind_ours_is_left_alone(scene: Scene) -> None:
    """Ours is interrupted and known to be ours; theirs, which begins then, is whole."""
    process = scene.run(LONG + SHARED)
    scene.until_in_image(1)
    theirs = InBackground(scene.client, "txt2img", THEIRS)
    until(lambda: scene.task("task(theirs)") == "queued", "their job")
    assert interrupted(process) < LIMIT_S
    assert scene.interrupts() == 1
    assert whole(theirs.answer())
    result = scene.result()
    assert (result.state, finished(result)) == (RunState.CANCELLED, [])
    (failed,) = only(result.events, CallFailed)
    assert failed.error.kind == "GenerationInterrupted"


class SharedWebUI(ScriptedWebUI):
    """The scripted server with a stranger's job before ours."""

    @property
    def works_for_us(self) -> bool:
        """Whether the job that runs is no stranger's."""
        return bool(self.queue.state["job"]) and not self.queue.line[0].foreign


class LateRecorder(Recorder):
    """A look that shows an interrupt arrives when our own job has begun meanwhile.

    ``questions`` counts how often the client has asked for its task since that job began.
    """

    webui: SharedWebUI
    questions = 0

    def went(self, request: Received, status: int, data: bytes) -> None:
        """Hold such an answer back."""
        super().went(request, status, data)
        if request.path == "/internal/progress":
            self.questions += self.webui.works_for_us
        elif request.path.endswith("/progress") and b'"interrupted": true' in data:
            self.webui.until(lambda: self.webui.works_for_us)


def test_a_stranger_s_interrupt_of_his_own_job_is_not_taken_for_one_of_ours(
    tmp_path: Path,
) -> None:
    """Ours begins behind it and is whole, however long a look is on its way."""
    config = document("txt2img", images=1, server={"shared": True, "retries": 0})
    with SharedWebUI() as webui, LateRecorder(webui.url) as recorder:
        recorder.webui = webui
        webui.queue.decoding_s = 0.5  # As long as the interrupted job shows its flag.
        with webui.hold(step=2), webui.foreign_job():
            handle = open_controller(tmp_path / "runs", recorder.url).start(config)
            webui.until(lambda: len(webui.queue.line) == 2)
            webui.queue.interrupt()
            until(lambda: recorder.questions >= 2, "questions for our task")
        result = handle.wait(60)
    assert [job is not None and job.foreign for job in webui.queue.interrupts] == [True]
    assert not only(result.events, CallFailed)
    assert result.state is RunState.COMPLETED
