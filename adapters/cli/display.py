"""How a terminal shows that a run goes on: live at its foot, plain lines elsewhere."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Protocol

from ...events.model import (
    CallFailed,
    LifecycleChanged,
    LogRepaired,
    RunResumed,
    RunState,
    StageEnd,
    StageEvent,
    StageImageProgress,
    StageStart,
)
from ...statemachine.errors import GenerationCancelled, GenerationInterrupted
from ..projections.status import RunStatus, StatusBar
from ..text import count, duration, escaped, one_line

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress, TaskID

_IMMOVABLE = ("dumb", "unknown")
"""Terminals on which no line can be drawn again."""
_PATIENCE_S = 0.5
_BAR_WIDTH = 24
_WIDE = 125
"""Columns from which on all of it goes into one line."""
_ECHO = 4
"""Columns that stay free: a terminal puts ``^C`` there, and may not break the line for it."""
_BACK_TO_IDLE = ("recover", "cleanup", "reset")
_CANCELLED = (GenerationCancelled.__name__, GenerationInterrupted.__name__)


class Display(Protocol):
    """Shows a run's progress until it is left."""

    def take_event(self, event: StageEvent) -> None:
        """An event was appended, which the display's ``StatusBar`` has just taken."""
        ...

    def refresh(self) -> None:
        """Some time has passed."""
        ...

    def tell(self, line: str) -> None:
        """Something that the user should know."""
        ...


@contextmanager
def open_display(view: StatusBar, stream: IO[str]) -> Iterator[Display]:
    """The display that fits ``stream``, of the run that ``view`` is given the events of."""
    if not stream.isatty() or os.environ.get("TERM") in _IMMOVABLE:
        yield PlainLines(view, stream)
        return
    display = LiveStatus(view, stream)
    with display:
        yield display


class PlainLines:
    """One line for each stage and image: for files, pipes and logs of services."""

    def __init__(self, view: StatusBar, stream: IO[str]) -> None:
        self._view = view
        self._stream = stream

    def take_event(self, event: StageEvent) -> None:
        line = self._line(event)
        if line is not None:
            self.tell(line)

    def tell(self, line: str) -> None:
        self._stream.write(escaped(line) + "\n")
        self._stream.flush()

    def refresh(self) -> None:
        """Plain lines only tell what has happened."""

    def _line(self, event: StageEvent) -> str | None:
        match event:
            case StageStart():
                now = self._view.snapshot()
                open_images = max(0, now.image_count - now.images_done)
                return f"{event.stage_id}: {count(open_images, 'image')} to make"
            case StageImageProgress():
                now = self._view.snapshot()
                finished = f"{now.images_done} of {now.image_count} finished"
                return f"{event.stage_id}: {finished}: {event.artifact.path}"
            case StageEnd():
                return f"{event.stage_id}: {event.outcome} in {duration(event.duration_ms)}"
            case CallFailed():
                return failure(event)
        return _of_resume(event)


class LiveStatus:
    """A line or two that move: stage n of m, image i of k, percentage, step, elapsed, estimate."""

    def __init__(self, view: StatusBar, stream: IO[str]) -> None:
        from rich.console import Console  # noqa: PLC0415 - 40 ms that only a terminal needs
        from rich.live import Live  # noqa: PLC0415 - the same

        self._view = view
        self._console = Console(file=stream)
        self._live = Live(console=self._console, auto_refresh=False)

    def __enter__(self) -> LiveStatus:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live.is_started:
            self.refresh()
            self._live.stop()

    def take_event(self, event: StageEvent) -> None:
        line = failure(event) if isinstance(event, CallFailed) else _of_resume(event)
        if line is not None:
            self.tell(line)

    def tell(self, line: str) -> None:
        self._console.print(one_line(line), markup=False, highlight=False)

    def refresh(self) -> None:
        # Only now the run has begun; before there is nothing to be shown of it.
        self._live.start()
        now = self._view.snapshot()
        self._live.update(_drawn(now, self._console.width - _ECHO), refresh=True)


class FileCounter:
    """Shows that something is checked, and how many files have been; once that takes a while."""

    label = ""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._timer = threading.Timer(_PATIENCE_S, self._show_when_due)
        self._timer.daemon = True
        if stream.isatty():
            self._timer.start()

    def take(self, done: int, total: int) -> None:
        """``done`` of ``total`` files have been checked."""
        if not self._stream.isatty() or time.monotonic() - self._began < _PATIENCE_S:
            return
        with self._lock:
            self._show()
            if self._progress is not None and self._task is not None:
                rest = f"{done} of {total} files"
                self._progress.update(self._task, completed=done, total=total, rest=rest)

    def pause(self) -> None:
        """Clear the line, so that something else can be printed."""
        self._timer.cancel()
        with self._lock:
            if self._progress is not None:
                self._progress.stop()
            self._progress = self._task = None

    def _show_when_due(self) -> None:
        with self._lock:
            # It may have been cancelled by ``pause`` after it had fired.
            if not self._timer.finished.is_set():
                self._show()

    def _show(self) -> None:
        if self._progress is not None:
            return
        self._progress = _bar(self._stream)
        where = f"checking {self.label}".rstrip()
        rest = "(Ctrl-C stops)"
        self._task = self._progress.add_task("", total=None, where=where, rest=rest)
        self._progress.start()


@contextmanager
def open_file_counter(stream: IO[str]) -> Iterator[FileCounter]:
    """A counter of files on ``stream``, gone when it is left."""
    counter = FileCounter(stream)
    try:
        yield counter
    finally:
        counter.pause()


def _bar(stream: IO[str]) -> Progress:
    from rich.console import Console  # noqa: PLC0415 - 40 ms that only a terminal needs
    from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415 - the same

    return Progress(
        TextColumn("{task.fields[where]}", markup=False),
        BarColumn(bar_width=_BAR_WIDTH),
        TextColumn("{task.fields[rest]}", markup=False),
        console=Console(file=stream),
        refresh_per_second=10,
        transient=True,
    )


def _of_resume(event: StageEvent) -> str | None:
    """One line on what a resume found and did."""
    match event:
        case LogRepaired():
            return (
                f"{count(event.bytes, 'byte')} of a torn record are cut; {event.copied_to} has them"
            )
        case LifecycleChanged() if event.trigger in _BACK_TO_IDLE and event.reason:
            return one_line(event.reason)
        case RunResumed():
            done = count(event.completed_images, "image")
            return f"{event.run_id}: resumed; {done} finished already"
    return None


def failure(event: CallFailed) -> str | None:
    """One line on an attempt that gave no image; none where the user wanted it so."""
    error = event.error
    if error.kind in _CANCELLED:
        return None
    where = f"{error.stage_id}, image {error.image_index}: " if error.stage_id else ""
    again = "; trying again" if event.will_retry else ""
    return one_line(f"{where}{error.kind}: {error.message}{again}")


def _drawn(now: RunStatus, width: int) -> RenderableType:
    """A status in one line of ``width`` columns where it fits, else in two."""
    from rich.console import Group  # noqa: PLC0415 - only a terminal needs it
    from rich.constrain import Constrain  # noqa: PLC0415 - the same
    from rich.progress_bar import ProgressBar  # noqa: PLC0415 - the same
    from rich.table import Table  # noqa: PLC0415 - the same

    where = now.place if now.state == RunState.RUNNING else now.headline
    bar = ProgressBar(completed=now.percentage or 0.0, width=min(_BAR_WIDTH, max(8, width // 5)))
    parts: list[RenderableType] = [bar, _cell(f"{now.percent:>4}"), _cell(now.detail)]
    is_wide = width >= _WIDE
    line = Table.grid(padding=(0, 1))
    line.add_row(*([_cell(where)] if is_wide else []), *parts)
    return Constrain(line if is_wide else Group(_cell(where), line), width)


def _cell(text: str) -> RenderableType:
    from rich.text import Text  # noqa: PLC0415 - only a terminal needs it

    return Text(text, no_wrap=True, overflow="ellipsis")
