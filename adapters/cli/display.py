"""How ``run`` shows that it goes on: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Protocol

from ...events.model import (
    CallFailed,
    LifecycleChanged,
    LogRepaired,
    RunResumed,
    StageEnd,
    StageEvent,
    StageImageProgress,
    StageStart,
)
from ...statemachine.errors import GenerationCancelled, GenerationInterrupted
from ..progress_view import ProgressSnapshot, ProgressView
from .output import count, duration, escaped, one_line

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_PATIENCE_S = 0.5
_BACK_TO_IDLE = ("recover", "cleanup", "reset")
_CANCELLED = (GenerationCancelled.__name__, GenerationInterrupted.__name__)


class Display(Protocol):
    """Shows a run's progress until it is left."""

    def take_event(self, event: StageEvent) -> None:
        """An event was appended."""
        ...

    def refresh(self) -> None:
        """Some time has passed."""
        ...

    def tell(self, line: str) -> None:
        """Something that the user should know."""
        ...


@contextmanager
def open_display(view: ProgressView, stream: IO[str]) -> Iterator[Display]:
    """The display that fits ``stream``."""
    if not stream.isatty():
        yield PlainLines(stream, view.finished_images())
        return
    display = LiveLine(view, stream)
    with display:
        yield display


class PlainLines:
    """One line for each stage and image: for files, pipes and logs of services."""

    def __init__(self, stream: IO[str], done: Mapping[str, int]) -> None:
        self._stream = stream
        self._done = dict(done)

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
            case RunResumed() if event.lost:
                for stage_id, rows in event.lost.items():
                    lost = sum(last - first + 1 for first, last in rows)
                    self._done[stage_id] = max(0, self._done.get(stage_id, 0) - lost)
            case StageStart():
                open_images = event.total_images - self._done.get(event.stage_id, 0)
                return f"{event.stage_id}: {count(max(0, open_images), 'image')} to make"
            case StageImageProgress():
                # One whose file was lost has been counted before.
                done = min(self._done.get(event.stage_id, 0) + 1, event.total_images)
                self._done[event.stage_id] = done
                path = event.artifact.path
                return f"{event.stage_id}: {done} of {event.total_images} finished: {path}"
            case StageEnd():
                return f"{event.stage_id}: {event.outcome} in {duration(event.duration_ms)}"
            case CallFailed():
                return failure(event)
        return _of_resume(event)


class LiveLine:
    """One line that moves: stage n of m, image i of k, step, elapsed, estimate."""

    def __init__(self, view: ProgressView, stream: IO[str]) -> None:
        self._view = view
        self._progress = _bar(stream, transient=False)
        self._task: TaskID | None = None

    def __enter__(self) -> LiveLine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._task is not None:
            self.refresh()
            self._progress.stop()

    def take_event(self, event: StageEvent) -> None:
        line = failure(event) if isinstance(event, CallFailed) else _of_resume(event)
        if line is not None:
            self.tell(line)

    def tell(self, line: str) -> None:
        self._progress.console.print(one_line(line), markup=False, highlight=False)

    def refresh(self) -> None:
        now = self._view.snapshot()
        if self._task is None:
            # Only now the run has begun; before there is nothing to be shown of it.
            self._task = self._progress.add_task("", total=1.0, where="", rest="")
            self._progress.start()
        fields: dict[str, Any] = {"where": _where(now), "rest": _rest(now)}
        self._progress.update(self._task, completed=now.fraction, **fields)


class FileCounter:
    """Shows that something is checked, and how many files have been; once that takes a while."""

    label = ""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._timer = threading.Timer(_PATIENCE_S, self._show)
        self._timer.daemon = True
        if stream.isatty():
            self._timer.start()

    def take(self, done: int, total: int) -> None:
        """``done`` of ``total`` files have been checked."""
        if not self._stream.isatty() or time.monotonic() - self._began < _PATIENCE_S:
            return
        self._show()
        with self._lock:
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

    def _show(self) -> None:
        with self._lock:
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


def _bar(stream: IO[str], *, transient: bool = True) -> Progress:
    from rich.console import Console  # noqa: PLC0415 - 40 ms that only a terminal needs
    from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415 - the same

    return Progress(
        TextColumn("{task.fields[where]}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[rest]}", markup=False),
        console=Console(file=stream),
        refresh_per_second=10,
        transient=transient,
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


def _where(now: ProgressSnapshot) -> str:
    image = min(now.images_done + 1, now.total_images)
    return (
        f"stage {now.stage_number} of {now.stage_count} {now.stage_id}  "
        f"image {image} of {now.total_images}"
    )


def _rest(now: ProgressSnapshot) -> str:
    step = f"step {now.step} of {now.steps}  " if now.steps else ""
    left = "" if now.eta_s is None else f", about {duration(now.eta_s * 1000)} left"
    return f"{now.fraction:4.0%}  {step}{duration(now.elapsed_s * 1000)}{left}"
