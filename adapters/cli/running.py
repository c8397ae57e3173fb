"""``run``: a run in the foreground, with progress, that Ctrl-C ends cleanly."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import IO

import click

from ...events import signals
from ...events.errors import RunNotFoundError
from ...events.model import RunState
from ...events.result import PipelineRunResult
from ...events.signals import subscribe
from ...statemachine.config import RunConfig
from ...statemachine.controller import PipelineController, RunHandle
from ...statemachine.errors import InvalidTransitionError
from ...statemachine.loading import load_config
from ...statemachine.ports import StepProgress
from ..bootstrap import open_controller
from ..inputs import PillowInputReader
from ..progress_view import ProgressView
from .display import Display, open_display
from .output import (
    escaped,
    insecure_option,
    json_option,
    one_line,
    print_json_parts,
    runs_option,
)
from .planning import config_argument, set_option
from .replaying import show_result

_REFRESH_S = 0.1
_EXIT_STATUS = {RunState.COMPLETED: 0, RunState.ERROR: 1, RunState.CANCELLED: 3}
_EXIT_AT_ONCE = 130


@click.command("run")
@config_argument
@click.option("--server", "servers", multiple=True, metavar="URL", help="A WebUI server.")
@set_option
@click.option("--no-preflight", is_flag=True, help="Do not check names with the server first.")
@insecure_option
@runs_option
@json_option
def run_command(
    config: Path,
    servers: tuple[str, ...],
    overrides: tuple[str, ...],
    no_preflight: bool,  # noqa: FBT001 - click passes flags
    insecure: bool,  # noqa: FBT001 - the same
    runs: Path,
    as_json: bool,  # noqa: FBT001 - the same
) -> int:
    """Run CONFIG. Ctrl-C once stops it and keeps its images, twice leaves at once."""
    if len(servers) > 1:
        raise click.UsageError("more than one --server is not supported yet")
    if no_preflight:
        overrides = (*overrides, "run.preflight=false")
    loaded = load_config(config, inputs=PillowInputReader(), runs=runs, overrides=overrides)
    controller = open_controller(runs, servers[0] if servers else None, insecure=insecure)
    stream = sys.stderr if as_json else sys.stdout
    for warning in controller.validate(loaded).warnings:
        click.echo(f"warning: {escaped(warning)}", file=stream)
    handle, result = _run(controller, loaded, stream)
    if as_json:
        print_json_parts(result.json_parts())
    else:
        show_result(result, handle.folder, with_error=False)
    if result.error is not None:
        print(f"stagewright: {one_line(_why(result))}", file=sys.stderr)  # noqa: T201 - an error
    return _EXIT_STATUS.get(result.state, 1)


def _why(result: PipelineRunResult) -> str:
    error = result.error
    assert error is not None
    where = f"{error.stage_id}, image {error.image_index}: " if error.stage_id else ""
    return f"run {result.run_id}: {where}{error.kind}: {error.message}"


def _run(
    controller: PipelineController, config: RunConfig, stream: IO[str]
) -> tuple[RunHandle, PipelineRunResult]:
    view = ProgressView()

    def take_step(_run_id: str | None, progress: StepProgress) -> None:
        view.take_step(progress)

    with ExitStack() as stack:
        stops = stack.enter_context(_stop_signals())
        display = stack.enter_context(open_display(view, stream))
        stack.enter_context(subscribe(view.take_event, on_own_thread=False))
        stack.enter_context(subscribe(display.take_event))
        stack.enter_context(signals.step_progress.connected_to(take_step))
        handle = controller.start(config)
        return handle, _wait(controller, handle, stops, display)


def _wait(
    controller: PipelineController, handle: RunHandle, stops: list[str], display: Display
) -> PipelineRunResult:
    asked = False
    while not handle.wait_ended(_REFRESH_S):
        display.refresh()
        if stops and not asked:
            asked = True
            display.tell(f"{stops[0]}: stopping cleanly; once more leaves at once")
            # The run may end by itself in this very moment, which is as good.
            with contextlib.suppress(RunNotFoundError, InvalidTransitionError):
                controller.cancel(handle.run_id, reason=stops[0])
    return handle.wait()


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[str]]:
    """Collects the names of signals that ask to stop; the second one leaves at once."""
    received: list[str] = []

    def receive(number: int, _frame: FrameType | None) -> None:
        if received:
            os.write(2, b"\nstagewright: left at once; the run can be replayed\n")
            os._exit(_EXIT_AT_ONCE)
        received.append("Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name)

    previous = {
        number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
