"""Executes a run in the foreground: shows progress, handles stop signals, prints the result."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Generic, Protocol, TypeVar, cast

from ...events import signals
from ...events.errors import RunNotFoundError
from ...events.model import RunState, StageEvent
from ...events.result import PipelineRunResult
from ...events.subscriptions.subscription import subscribe
from ...statemachine.errors import InvalidTransitionError
from ...statemachine.run.handle import Handle
from ..event_text import error_text
from ..notifications.watch import Watch
from ..projections.status import StatusBar, group_history_in, history_in
from ..text import count
from .commands.replay import show_result
from .display import Display, open_display
from .output import print_json_parts
from .run_watch import open_run_watch
from .statuses import (
    EXIT_CANCELLED,
    EXIT_COMPLETED,
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    die_by_interrupt,
    print_error,
)
from .streams import BrokenPipeTolerantStream, discard_output

EXIT_STATUSES = {RunState.COMPLETED: EXIT_COMPLETED, RunState.CANCELLED: EXIT_CANCELLED}
_REFRESH_S = 0.1
_DISCONNECTED = (errno.EPIPE, errno.EIO, errno.ECONNRESET)
"""Errors of a write to a closed pipe or terminal."""
_CTRL_C = "Ctrl-C"
_STOPPED_BY = {"SIGINT": _CTRL_C, "SIGHUP": "the terminal was closed"}


R = TypeVar("R")


@dataclass(frozen=True)
class ForegroundResult(Generic[R]):
    """A run or a group that has ended; ``stopped`` if a signal asked it to, even too late.

    ``interrupted`` says that this was Ctrl-C, after which the process has to die by SIGINT.
    """

    folder: Path
    result: R
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


def run_in_foreground(
    controller: Stoppable,
    begin: Callable[[], Handle[R]],
    stream: IO[str],
    view: StatusBar | None = None,
    on_display: Callable[[Display], object] = lambda _display: None,
    watch: Watch | None = None,
) -> ForegroundResult[R]:
    """Begin a run, a group or a worker, show its progress, and wait for its end.

    ``on_display`` is given the display before that. ``watch`` sends messages about it; without one,
    they are those about a run or a group.

    Ctrl-C, SIGTERM and a closed terminal cancel the run; a second signal quits at once. A signal
    before the run has begun raises KeyboardInterrupt, and nothing is started. Also raises
    LogWriteError and what ``begin`` raises.
    """
    seen = view or status_bar(controller.runs)
    watching: Watch | None = watch or open_run_watch(controller.runs)
    with ExitStack() as stack:
        stops = stack.enter_context(_stop_signals(controller))
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
        handle = begin()
        stops.has_begun = True
        result = _wait(controller, handle, stops.names, display, watching)
        stopped, interrupted = bool(stops.names), _CTRL_C in stops.names
    if watching is not None:
        watching.send_end(handle, result)
    return ForegroundResult(handle.folder, result, stopped, interrupted)


def status_bar(runs: Path) -> StatusBar:
    """The status of a run, or of a group with what happened before it was resumed."""
    return StatusBar(
        expects_steps=True, history=history_in(runs), group_history=group_history_in(runs)
    )


def show_end(ended: ForegroundResult[PipelineRunResult], *, as_json: bool) -> int:
    """Print how a run ended, and return its exit status."""
    result = ended.result

    def show() -> None:
        if as_json:
            print_json_parts(result.json_parts())
        else:
            show_result(result, ended.folder, with_error=False)

    try_to_print(show)
    print_faults()
    status = print_run_error(result)
    return EXIT_INTERRUPTED if ended.interrupted else status


def try_to_print(show: Callable[[], None]) -> None:
    """Call ``show``; a closed pipe or terminal is ignored, another write error is reported.

    A failed write does not change how the run ended.
    """
    try:
        show()
        sys.stdout.flush()
    except OSError as error:
        discard_output(sys.stdout)
        if error.errno not in _DISCONNECTED:
            print_error(f"standard output cannot be written: {error.strerror or error}", EXIT_ERROR)


def print_faults() -> None:
    """Warn about subscribers that failed; the run itself was not affected."""
    for name, times in sorted(signals.faults().items()):
        print_error(f"warning: subscriber {name} failed or blocked {count(times, 'time')}", 0)


def print_run_error(result: PipelineRunResult) -> int:
    """Print on standard error why a run failed, if it did, and return its exit status."""
    status = EXIT_STATUSES.get(result.state, EXIT_ERROR)
    return status if result.error is None else print_error(_why(result), status)


def _why(result: PipelineRunResult) -> str:
    error = result.error
    assert error is not None
    return f"run {result.run_id}: {error_text(error)}"


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


@contextlib.contextmanager
def _stop_signals(controller: Stoppable) -> Iterator[_StopSignals]:
    stops = _StopSignals(controller)
    previous = {number: signal.signal(number, stops.receive) for number in _stopping_signals()}
    try:
        yield stops
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stopping_signals() -> Iterator[signal.Signals]:
    """The signals that stop a run; one that ``nohup`` ignores stays ignored."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            yield number
