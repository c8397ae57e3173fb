"""Executes a run in the foreground: shows progress, handles stop signals, prints the result."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Generic, Protocol, TypeVar, cast

from ...events.errors import RunNotFoundError
from ...events.model import StageEvent
from ...events.subscriptions.subscription import subscribe
from ...statemachine.errors import InvalidTransitionError
from ...statemachine.files.recorded_files import OnFile
from ...statemachine.run.controller import PipelineController
from ...statemachine.run.handle import Handle
from ..bootstrap import open_controller
from ..notifications.watch import Watch
from ..projections.status import StatusBar, group_history_in, history_in
from .display import Display, open_display, open_file_counter
from .output import progress_stream
from .results import Result, show_end
from .run_watch import open_run_watch
from .settings import current_settings, server_headers
from .statuses import EXIT_INTERRUPTED, die_by_interrupt
from .stop_signals import signals_received
from .streams import BrokenPipeTolerantStream

_REFRESH_S = 0.1
_CTRL_C = "Ctrl-C"
_STOPPED_BY = {"SIGINT": _CTRL_C, "SIGHUP": "the terminal was closed"}


R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True)
class ForegroundResult(Generic[R_co]):
    """A run or a group that has ended; ``stopped`` if a signal asked it to, even too late.

    ``interrupted`` says that this was Ctrl-C, after which the process has to die by SIGINT.
    """

    folder: Path
    runs: Path
    result: R_co
    stopped: bool
    interrupted: bool


class Stoppable(Protocol):
    """What executes a run, a group, or the jobs of a queue, and can be asked to stop."""

    @property
    def runs(self) -> Path:
        """The folder of the runs."""
        ...

    @property
    def current_run_id(self) -> str | None:
        """What can be stopped now."""
        ...

    @property
    def current_group_id(self) -> str | None:
        """The same, if it is a group."""
        ...

    def cancel(self, run_id: str, /, *, reason: str) -> None:
        """Stop it. Raises RunNotFoundError, InvalidTransitionError."""
        ...


def open_command_controller(
    runs: Path, servers: tuple[str, ...], *, insecure: bool
) -> PipelineController:
    """The controller of a command, with what the settings say of servers.

    Raises ConfigurationError.
    """
    return open_controller(
        runs,
        servers,
        insecure=insecure,
        headers=server_headers(),
        restarts=current_settings().of_user.restart,
    )


def run_in_foreground(
    controller: Stoppable,
    begin: Callable[[OnFile], Handle[R]],
    view: StatusBar | None = None,
    on_display: Callable[[Display], object] = lambda _display: None,
    watch: Watch | None = None,
) -> ForegroundResult[R]:
    """Begin a run, a group or a worker, show its progress, and wait for its end.

    ``begin`` is given what it may call after each file that it has checked. ``on_display`` is given
    the display before that. ``watch`` sends messages about it; without one, they are those about a
    run or a group.

    Ctrl-C, SIGTERM and a closed terminal cancel the run; a second signal quits at once. A signal
    before the run has begun raises KeyboardInterrupt, and nothing is started. Also raises
    LogWriteError and what ``begin`` raises.
    """
    # Taken before the counter begins, which stands in for standard error meanwhile.
    stream = progress_stream()
    seen = view or status_bar(controller.runs)
    watching: Watch | None = watch or open_run_watch(controller.runs)
    with ExitStack() as stack:
        counter = stack.enter_context(open_file_counter(stream))
        stops = _StopSignals(controller)
        stack.enter_context(signals_received(stops.receive, _stopping_signals()))
        display = stack.enter_context(
            open_display(seen, cast(IO[str], BrokenPipeTolerantStream(stream)))
        )
        on_display(display)

        def take_event(event: StageEvent) -> None:
            seen.take_event(event)
            display.take_event(event)
            if watching is not None:
                watching.take_event(event)

        stack.enter_context(
            subscribe(take_event, on_step=seen.take_step, on_group=seen.take_group_event)
        )
        try:
            handle = begin(counter.take)
        finally:
            counter.pause()
        stops.has_begun = True
        result = _wait(controller, handle, stops.names, display, watching)
        stopped, interrupted = bool(stops.names), _CTRL_C in stops.names
    if watching is not None:
        watching.send_end(handle, result)
    return ForegroundResult(handle.folder, controller.runs, result, stopped, interrupted)


def status_bar(runs: Path) -> StatusBar:
    """The status of a run, or of a group with what happened before it was resumed."""
    return StatusBar(
        expects_steps=True, history=history_in(runs), group_history=group_history_in(runs)
    )


def show_foreground_end(ended: ForegroundResult[Result], *, as_json: bool) -> int:
    """Print how a run or a group ended, and return the exit status of the command."""
    status = show_end(ended.result, ended.folder, ended.runs, as_json=as_json)
    return EXIT_INTERRUPTED if ended.interrupted else status


def _wait(
    controller: Stoppable,
    handle: Handle[R],
    stops: list[str],
    display: Display,
    watch: Watch | None,
) -> R:
    requested = False
    while not handle.wait_ended(_REFRESH_S):
        display.refresh()
        if watch is not None:
            watch.look(handle)
        if stops and not requested:
            requested = True
            display.print_line(f"{stops[0]}: stopping cleanly; repeat to quit at once")
            # The run may have ended by itself in the meantime.
            with contextlib.suppress(RunNotFoundError, InvalidTransitionError):
                controller.cancel(handle.id, reason=stops[0])
    try:
        return handle.wait()
    except Exception as error:
        if watch is not None:
            watch.send_lost(handle, error)
        raise


class _StopSignals:
    """Receives the signals that ask to stop; ``names`` are those received so far."""

    def __init__(self, controller: Stoppable) -> None:
        self._controller = controller
        self.names: list[str] = []
        self.has_begun = False

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """The first signal stops the run cleanly; a second one quits at once."""
        name = signal.Signals(number).name
        # A closed terminal may send SIGHUP more than once.
        if self.names and name != "SIGHUP":
            os.write(2, b"\nstagewright: quit at once; the run can be resumed\n")
            if _CTRL_C in (self.names[0], _STOPPED_BY.get(name)):
                die_by_interrupt()
            os._exit(EXIT_INTERRUPTED)
        self.names.append(_STOPPED_BY.get(name, name))
        current = self._controller.current_run_id or self._controller.current_group_id
        if not self.has_begun and current is None:
            raise KeyboardInterrupt


def _stopping_signals() -> Iterator[signal.Signals]:
    """The signals that stop a run; one that ``nohup`` ignores stays ignored."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            yield number
