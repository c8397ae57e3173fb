"""A run in the foreground: its progress, the signals that stop it, and how it ended."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import FrameType
from typing import IO, NamedTuple, cast

from ...events import signals
from ...events.errors import RunNotFoundError
from ...events.model import RunState, StageEvent
from ...events.result import PipelineRunResult
from ...events.subscriptions.subscription import subscribe
from ...statemachine.errors import InvalidTransitionError
from ...statemachine.run.controller import PipelineController, RunHandle
from ..projections.status import StatusBar
from ..text import count
from .commands.replay import show_result
from .display import Display, open_display
from .output import LastingStream, print_json_parts
from .statuses import EXIT_CANCELLED, EXIT_COMPLETED, EXIT_ERROR, EXIT_INTERRUPTED, complain

EXIT_STATUSES = {RunState.COMPLETED: EXIT_COMPLETED, RunState.CANCELLED: EXIT_CANCELLED}
_REFRESH_S = 0.1
_READER_LEFT = (errno.EPIPE, errno.EIO, errno.ECONNRESET)
"""A closed pipe, a closed terminal."""
_STOPPED_BY = {"SIGINT": "Ctrl-C", "SIGHUP": "the terminal was closed"}


class Followed(NamedTuple):
    """A run that has ended; ``stopped`` says that the user wanted it to, in time or not."""

    handle: RunHandle
    result: PipelineRunResult
    stopped: bool


def follow(
    controller: PipelineController,
    begin: Callable[[], RunHandle],
    stream: IO[str],
    view: StatusBar | None = None,
) -> Followed:
    """Begin a run, show how it goes on, and wait for its end.

    Ctrl-C, SIGTERM and a closed terminal cancel it; the second one leaves at once. Before the
    run has begun the first one is enough: nothing is started. Raises KeyboardInterrupt then,
    what ``begin`` raises, and LogWriteError.
    """
    seen = view or StatusBar(expects_steps=True)
    with ExitStack() as stack:
        stops = stack.enter_context(_stop_signals(controller))
        display = stack.enter_context(open_display(seen, cast(IO[str], LastingStream(stream))))

        def take_event(event: StageEvent) -> None:
            seen.take_event(event)
            display.take_event(event)

        stack.enter_context(subscribe(take_event, on_step=seen.take_step))
        handle = begin()
        stops.has_begun = True
        result = _wait(controller, handle, stops.names, display)
        return Followed(handle, result, bool(stops.names))


def show_end(handle: RunHandle, result: PipelineRunResult, *, as_json: bool) -> int:
    """Print how a run ended; the exit status that says so as well."""

    def show() -> None:
        if as_json:
            print_json_parts(result.json_parts())
        else:
            show_result(result, handle.folder, with_error=False)

    try_to_print(show)
    _tell_faults()
    return tell_error(result)


def try_to_print(show: Callable[[], None]) -> None:
    """Print how a run ended; it has ended so, whether or not that can be written.

    Whoever read the output may have left, which is all right; a full disk is said.
    """
    try:
        show()
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno not in _READER_LEFT:
            complain(f"standard output cannot be written: {error.strerror or error}", EXIT_ERROR)


def _tell_faults() -> None:
    """Say which subscribers failed meanwhile: the run has not suffered, and they have."""
    for name, times in sorted(signals.faults().items()):
        complain(f"warning: subscriber {name} failed or blocked {count(times, 'time')}", 0)


def tell_error(result: PipelineRunResult) -> int:
    """Say on standard error why a run failed, if it did; its exit status."""
    status = EXIT_STATUSES.get(result.state, EXIT_ERROR)
    return status if result.error is None else complain(_why(result), status)


def _why(result: PipelineRunResult) -> str:
    error = result.error
    assert error is not None
    where = f"{error.stage_id}, image {error.image_index}: " if error.stage_id else ""
    return f"run {result.run_id}: {where}{error.kind}: {error.message}"


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


class _Stops:
    """Receives the signals that ask to stop; ``names`` are those that came."""

    def __init__(self, controller: PipelineController) -> None:
        self._controller = controller
        self.names: list[str] = []
        self.has_begun = False

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """The first one stops, cleanly; the second one leaves at once."""
        name = signal.Signals(number).name
        # A terminal that is closed says so to every process in it, and more than once.
        if self.names and name != "SIGHUP":
            os.write(2, b"\nstagewright: left at once; the run can be resumed\n")
            os._exit(EXIT_INTERRUPTED)
        self.names.append(_STOPPED_BY.get(name, name))
        if not self.has_begun and self._controller.current_run_id is None:
            raise KeyboardInterrupt


@contextlib.contextmanager
def _stop_signals(controller: PipelineController) -> Iterator[_Stops]:
    stops = _Stops(controller)
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
