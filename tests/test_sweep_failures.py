"""Sweeps whose variants fail, whose server goes away for good, and that are stopped by signals."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from stagewright.events import RunState, replay
from stagewright.statemachine import BackendError, GenerateRequest

from .command_line import SMALL, Start, stagewright, until, write_config
from .posix import leave_at_once
from .served_sweeps import MODELS, Json, WatchedRecorder, images_of, resumed, states, swept
from .serving import Client, url_of
from .support import ScriptedBackend, controller, document

TWO = SMALL.replace("base.safetensors", MODELS[0])
MANY = TWO.replace("images = 2", "images = 16")
LONG = TWO.replace("images = 2", "images = 24")
VARY = "--vary=txt2img.cfg_scale=4,5,6"
NOT_THERE = "not-there.safetensors"
WITH_ONE_MISSING = f"--vary=txt2img.model={MODELS[0]},{NOT_THERE},{MODELS[1]}"


@pytest.fixture
def recorder(served: Client) -> Iterator[WatchedRecorder]:
    """Counts what reaches a server."""
    with WatchedRecorder(served.url) as one:
        yield one


def ended(process: subprocess.Popen[str]) -> tuple[int, Json, str]:
    """The exit status, the group that ``--json`` printed, and standard error."""
    output, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors, errors
    return process.returncode, json.loads(output or "{}"), errors


def works(folder: Path, variants: int = 1) -> None:
    """Wait until so many variants have begun, and the last of them has an image."""

    def has_image() -> bool:
        runs = sorted(folder.glob("runs/*/events.jsonl"))
        return len(runs) == variants and any(runs[-1].parent.glob("images/*/*.png"))

    until(has_image, "an image")


def errors_of(group: Json, errors: str) -> list[str]:
    """What standard error says of a group, without its id."""
    begin = f"stagewright: group {group['group_id']}: "
    return [line.removeprefix(begin) for line in errors.splitlines() if line.startswith(begin)]


def test_a_variant_that_fails_does_not_stop_the_others(
    recorder: WatchedRecorder, tmp_path: Path
) -> None:
    """Exit 1, and a line says which failed, and why; a resume makes nothing of the others."""
    arguments = ("--no-preflight", "--server", recorder.url, WITH_ONE_MISSING)
    config = write_config(tmp_path, TWO)
    done = stagewright("run", config, "--json", *arguments, folder=tmp_path)
    assert done.returncode == 1
    result: Json = json.loads(done.stdout)
    assert (result["state"], states(result)) == ("ERROR", ["COMPLETED", "ERROR", "COMPLETED"])
    assert [one["outcome"] for one in result["variants"]] == ["completed", "failed", "completed"]
    (line,) = errors_of(result, done.stderr)
    assert line.startswith("variant 2: 00-txt2img, image 1: ")
    assert NOT_THERE in line
    kept = len(recorder.generating())
    assert states(resumed(tmp_path, "--no-preflight", status=1)) == states(result)
    bodies = [one.request.body for one in recorder.generating()[kept:]]
    assert {one["override_settings"]["sd_model_checkpoint"] for one in bodies} <= {NOT_THERE}


def test_with_fail_fast_no_variant_begins_after_one_that_fails(
    recorder: WatchedRecorder, tmp_path: Path
) -> None:
    """Exit 1; the one that is left is IDLE, and has no run."""
    arguments = ("--no-preflight", "--fail-fast", "--server", recorder.url, WITH_ONE_MISSING)
    result = swept(write_config(tmp_path, TWO), *arguments, status=1)
    assert (result["state"], states(result)) == ("ERROR", ["COMPLETED", "ERROR", "IDLE"])
    assert result["variants"][2]["run_id"] is None
    assert len(list(tmp_path.glob("runs/*/events.jsonl"))) == 2


def test_a_name_that_the_server_lacks_is_found_before_anything_is_made(
    recorder: WatchedRecorder, tmp_path: Path
) -> None:
    """In whichever variant it is: exit 2, one line, no folder."""
    config = write_config(tmp_path, TWO)
    done = stagewright("run", config, WITH_ONE_MISSING, "--server", recorder.url, folder=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert NOT_THERE in done.stderr
    assert not list(tmp_path.glob("runs/**/*.jsonl"))


def test_a_large_sweep_asks_first_and_one_that_cannot_run_is_refused(tmp_path: Path) -> None:
    """No --yes is asked for where it would not help."""
    config = write_config(tmp_path)
    for vary, clear in (
        (("seed=1..1001",), "the sweep makes 1001 variants; add --yes to run them all"),
        (("seed=1..400", "txt2img.steps=1..400"), "160000 variants, and at most 100000 can run"),
    ):
        axes = [text for axis in vary for text in ("--vary", axis)]
        done = stagewright("run", config, *axes, folder=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert clear in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_server_that_is_gone_for_good_ends_the_sweep(start: Start, tmp_path: Path) -> None:
    """Not every variant is tried in vain; a resume says so at once, and finishes all later."""
    server = start("serve-embedded", "--port=0", folder=tmp_path)
    url = url_of(server)
    config = write_config(tmp_path, MANY + "[server]\nretries = 0\nwait_s = 0\n")
    process = start("run", config, "--json", "--server", url, VARY, folder=tmp_path)
    works(tmp_path)
    server.kill()
    status, result, errors = ended(process)
    assert (status, result["state"], states(result)) == (1, "ERROR", ["ERROR", "IDLE", "IDLE"])
    *_, last = errors_of(result, errors)
    assert "reach" in last
    assert states(resumed(tmp_path, status=1)) == states(result)
    server = start("serve-embedded", f"--port={url.rpartition(':')[2]}", folder=tmp_path)
    assert url_of(server) == url
    last_result = resumed(tmp_path)
    assert set(states(last_result)) == {"COMPLETED"}
    assert [len(images) for images in images_of(tmp_path, last_result).values()] == [16] * 3


class OutOfReachError(BackendError):
    """The server cannot be reached."""

    @property
    def is_out_of_reach(self) -> bool:
        return True


@pytest.mark.parametrize(("from_steps", "tried"), [(1, 1), (2, 2), (3, 3)])
def test_one_run_that_gave_the_server_up_is_enough(
    tmp_path: Path, from_steps: int, tried: int
) -> None:
    """It has waited, so no other begins; where none is left, only that run has an error."""

    def fail(request: GenerateRequest, _cancel: object) -> None:
        if getattr(request.config, "steps", 0) >= from_steps:
            raise OutOfReachError("nobody answers", transient=True)

    made = controller(tmp_path, ScriptedBackend(fail))
    config = document(server={"wait_s": 0, "retries": 0})
    result = made.start_group(config, vary=["txt2img.steps=1,2,3"]).wait(30)
    expected = ["COMPLETED"] * (tried - 1) + ["ERROR"] + ["IDLE"] * (3 - tried)
    assert [one.state for one in result.variants] == expected
    assert (result.state, result.error is None) == ("ERROR", tried == 3)
    if result.error is not None:
        assert f"variant {tried} could not reach the server any more" in result.error.message


@pytest.mark.posix
@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_a_sweep(start: Start, tmp_path: Path, asked: signal.Signals) -> None:
    """The variant in progress is CANCELLED, no other begins, and the result is printed.

    The exit status is 3; after Ctrl-C the process dies by SIGINT.
    """
    expected = -signal.SIGINT if asked == signal.SIGINT else 3
    process = start("run", write_config(tmp_path, LONG), "--json", VARY, folder=tmp_path)
    works(tmp_path, variants=2)
    process.send_signal(asked)
    status, result, _ = ended(process)
    assert (status, result["state"]) == (expected, "CANCELLED")
    assert states(result) == ["COMPLETED", "CANCELLED", "IDLE"]
    assert set(states(resumed(tmp_path))) == {"COMPLETED"}


@pytest.mark.posix
def test_a_second_ctrl_c_quits_a_sweep_at_once(start: Start, tmp_path: Path) -> None:
    """Death by SIGINT, with one line; the run of the variant died RUNNING."""
    vary = "--vary=txt2img.cfg_scale=4,5"
    process = start("run", write_config(tmp_path, LONG), "--json", vary, folder=tmp_path)
    works(tmp_path)
    leave_at_once(process)
    status, printed, errors = ended(process)
    assert (status, printed) == (-signal.SIGINT, {})
    assert "quit at once" in errors
    (log,) = tmp_path.glob("runs/*/events.jsonl")
    assert replay(log.parent).state is RunState.RUNNING
    assert set(states(resumed(tmp_path))) == {"COMPLETED"}
