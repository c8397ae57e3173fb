"""The controller: one call for programs that run pipelines."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from stagewright.events import (
    EventRecorder,
    RunNotFoundError,
    RunOpened,
    RunState,
    StageEvent,
    signals,
    subscribe,
)
from stagewright.statemachine import (
    ConfigurationError,
    ControllerBusyError,
    GenerateRequest,
    InvalidStagePlanError,
    StageExecutionPlan,
)
from stagewright.statemachine.stages import Img2ImgConfig

from .support import ScriptedBackend, controller, document, png


def test_a_run_goes_from_idle_through_running_back_to_idle(tmp_path: Path) -> None:
    """Meanwhile `wait` gives up after its time, and no second run starts; the result stays."""
    gate = threading.Event()
    runner = controller(tmp_path, ScriptedBackend(lambda _request, _cancel: wait_for(gate)))
    assert (runner.state, runner.last_result) == (RunState.IDLE, None)
    handle = runner.start(document())
    assert (runner.state, handle.result) == (RunState.RUNNING, None)
    with pytest.raises(ControllerBusyError):
        runner.start(document())
    with pytest.raises(TimeoutError):
        handle.wait(0.05)
    gate.set()
    result = handle.wait(60)
    assert result.state is RunState.COMPLETED
    assert runner.state == RunState.IDLE
    assert runner.last_result == result == handle.result
    assert runner.start(document()).wait(60).state is RunState.COMPLETED
    assert len([folder for folder in tmp_path.iterdir() if folder.is_dir()]) == 2


def wait_for(gate: threading.Event) -> None:
    """Hold a request until the test opens the gate."""
    assert gate.wait(30)


def test_an_invalid_configuration_never_starts(
    tmp_path: Path, recorded_events: EventRecorder
) -> None:
    """The lifecycle stays IDLE, no folder appears, subscribers get a Config Error."""
    runner = controller(tmp_path / "runs")
    told: list[dict[str, Any]] = []

    def take(_sender: str | None, **payload: Any) -> None:
        told.append(payload)

    config = document()
    config["txt2img"]["steps"] = 0
    with (
        signals.config_error.connected_to(take),
        pytest.raises(ConfigurationError, match=r"txt2img\.steps = 0"),
    ):
        runner.start(config)
    (payload,) = told
    assert payload["message"].startswith("Config Error: ")
    assert payload["errors"] == payload["error"].errors
    assert [(one.key, one.value) for one in payload["errors"]] == [("txt2img.steps", 0)]
    assert runner.state is RunState.IDLE
    assert recorded_events.events == ()
    assert recorded_events.config_errors == (told[0]["message"],)
    assert not (tmp_path / "runs").exists()
    assert runner.start(document()).wait(60).state is RunState.COMPLETED


def test_a_subscriber_that_raises_harms_neither_run_nor_others(
    tmp_path: Path, recorded_events: EventRecorder
) -> None:
    """The run completes, the other subscriber sees everything, the fault is counted."""

    def broken(_event: StageEvent) -> None:
        raise RuntimeError("broken subscriber")

    def broken_receiver(_sender: str | None, **_payload: Any) -> None:
        raise RuntimeError("broken receiver")

    with subscribe(broken), signals.event_appended.connected_to(broken_receiver):
        result = controller(tmp_path).start(document(images=5)).wait(60)
    assert result.state is RunState.COMPLETED
    assert recorded_events.events == tuple(result.events)
    assert sorted(name.split(".")[-1] for name in recorded_events.faults()) == [
        "broken",
        "broken_receiver",
    ]


def test_cancel_of_a_run_that_is_not_running_here_is_refused(tmp_path: Path) -> None:
    """An unknown id and a run that has ended raise RunNotFoundError."""
    runner = controller(tmp_path)
    with pytest.raises(RunNotFoundError):
        runner.cancel("no-such-run")
    handle = runner.start(document())
    handle.wait(60)
    with pytest.raises(RunNotFoundError):
        runner.cancel(handle.run_id)


class FailingRelease(ScriptedBackend):
    """A backend that cannot close its connections."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self._error = error

    def prepare(self, *_parts: Any, **_named: Any) -> None:
        """Take whatever configuration there is."""

    def release(self) -> None:
        raise self._error


@pytest.mark.parametrize(
    "error", [ConnectionResetError("closing the pool"), asyncio.CancelledError("closing the pool")]
)
def test_a_backend_that_fails_to_release_neither_hides_a_result_nor_holds_the_controller(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """`wait` returns the result, the next run starts, and the failure is logged."""
    runner = controller(tmp_path, FailingRelease(error))
    for _ in range(2):
        assert runner.start(document()).wait(30).state is RunState.COMPLETED
        assert runner.state is RunState.IDLE
    with pytest.raises(InvalidStagePlanError, match="No pipeline stages"):
        runner.start({"prompt": "no stage"})
    assert "closing the pool" in caplog.text


def test_the_last_plan_is_kept_for_tests(tmp_path: Path) -> None:
    """The plan of a dry run, then that of the run with its drawn seed."""
    runner = controller(tmp_path)
    assert runner.get_last_stage_execution_plan_for_tests() is None
    plan = runner.validate(document(seed=-1))
    assert runner.get_last_stage_execution_plan_for_tests() == plan
    result = runner.start(document(seed=-1)).wait(60)
    last = runner.get_last_stage_execution_plan_for_tests()
    assert last is not None
    assert last.stages[0].config.seed == result.seeds[0]


class PreparedBackend(ScriptedBackend):
    """A backend that keeps the plan that it was prepared for."""

    def prepare(self, plan: StageExecutionPlan, *_parts: Any, **_named: Any) -> None:
        self.plan = plan

    def release(self) -> None:
        """It holds nothing."""


def test_a_backend_is_prepared_for_the_very_plan_that_is_recorded(tmp_path: Path) -> None:
    """Its seeds are drawn by then, and the mask is the copy in the run's folder."""
    for name in ("input", "mask"):
        (tmp_path / f"{name}.png").write_bytes(png(1))
    config = document("img2img", seed=-1, input_image=str(tmp_path / "input.png"))
    config["img2img"] |= {"seed": -1, "mask": str(tmp_path / "mask.png")}
    backend = PreparedBackend()
    runner = controller(tmp_path / "runs", backend)
    result = runner.start(config).wait(60)
    assert backend.plan is runner.get_last_stage_execution_plan_for_tests()
    assert StageExecutionPlan.from_document(result.plan) == backend.plan
    settings = backend.plan.stages[0].config
    assert isinstance(settings, Img2ImgConfig)
    assert settings.seed not in (None, -1)
    assert settings.mask == "inputs/mask.png"
    opened = result.events[0]
    assert isinstance(opened, RunOpened)
    assert (opened.config["seed"], opened.config["img2img"]["seed"]) == (-1, -1)
    assert opened.config["img2img"]["mask"] == str(tmp_path / "mask.png")


def test_the_one_method_of_a_backend_can_be_wrapped(tmp_path: Path) -> None:
    """A recorder that wraps ``controller.backend.generate_images`` sees every request."""
    runner = controller(tmp_path)
    asked: list[str] = []
    inner = runner.backend.generate_images

    def recorded(request: GenerateRequest, **named: Any) -> Any:
        asked.append(request.stage_id)
        return inner(request, **named)

    runner.backend.generate_images = recorded  # type: ignore[method-assign]  # as recorders do
    runner.start(document("txt2img", "upscale", images=2)).wait(60)
    assert asked == ["00-txt2img"] * 2 + ["01-upscale"] * 2
