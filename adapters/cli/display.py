"""Shows the progress of a run: a live status line on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Protocol, cast

from ...events.folds import is_end
from ...events.model import (
    CallFailed,
    CallReused,
    LifecycleChanged,
    LogRepaired,
    RunOpened,
    RunResumed,
    RunState,
    StageEnd,
    StageEvent,
    StageImageProgress,
    StageStart,
    StorageLimited,
)
from ...statemachine.errors import CANCELLED_KINDS
from ..event_text import error_text, storage_limit
from ..projections.status import RunStatus, StatusBar
from ..text import count, duration, escaped, one_line
from .streams import BrokenPipeTolerantStream
from .styles import DOUBTFUL, WRONG, is_plain

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress

_BAR_WIDTH = 24
_WIDE = 125
"""A terminal of at least so many columns shows the status in one line, otherwise in two."""
_FREE_COLUMNS = 4
"""Columns left free at the end of the line, where a terminal prints ``^C``."""
_BACK_TO_IDLE = ("recover", "cleanup", "reset")


class Display(Protocol):
    """Shows the progress of a run until the display is closed."""

    def take_event(self, event: StageEvent) -> None:
        """Show an event that the display's ``StatusBar`` has already taken."""
        ...

    def refresh(self) -> None:
        """Show the present status; called several times a second."""
        ...

    def print_line(self, line: str) -> None:
        """Print one line for the user."""
        ...


@contextmanager
def open_display(view: StatusBar, stream: IO[str]) -> Iterator[Display]:
    """A display on ``stream`` of the run whose events ``view`` takes."""
    if is_plain(stream):
        yield PlainLines(view, stream)
        return
    display = LiveStatus(view, stream)
    with display:
        yield display


class PlainLines:
    """Prints one line for each stage and image; for files, pipes and logs of services."""

    def __init__(self, view: StatusBar, stream: IO[str]) -> None:
        self._view = view
        self._stream = stream
        self._reused_from: dict[tuple[str, int], str] = {}
        """The run that made each reused image, by stage and index, until it is announced."""

    def take_event(self, event: StageEvent) -> None:
        for line in (self._line(event), self._variant_line(event)):
            if line is not None:
                self.print_line(line)

    def print_line(self, line: str) -> None:
        self._stream.write(escaped(line) + "\n")
        self._stream.flush()

    def refresh(self) -> None:
        """Does nothing: plain lines show events only."""

    def _line(self, event: StageEvent) -> str | None:
        match event:
            case StageStart():
                now = self._view.snapshot()
                remaining = max(0, now.image_count - now.images_done)
                return f"{event.stage_id}: {count(remaining, 'image')} to make"
            case StageImageProgress():
                now = self._view.snapshot()
                finished = f"{now.images_done} of {now.image_count} finished"
                maker = self._reused_from.pop((event.stage_id, event.image_index), None)
                note = f" (reused from run {maker})" if maker else ""
                return f"{event.stage_id}: {finished}: {event.artifact.path}{note}"
            case CallReused():
                for one in event.artifacts:
                    place = (event.stage_id, one.image_index)
                    self._reused_from[place] = event.origin.run_id
                return None
            case StageEnd():
                return f"{event.stage_id}: {event.outcome} in {duration(event.duration_ms)}"
            case CallFailed():
                return failure_line(event)
        return _notice(event)

    def _variant_line(self, event: StageEvent) -> str | None:
        """One line where a variant of a group begins, continues or ends."""
        if isinstance(event, RunOpened | RunResumed):
            return group_text(self._view.snapshot()) or None
        return variant_end(event, self._view.snapshot())


class LiveStatus:
    """A status of one or two lines at the bottom of a terminal, redrawn as the run advances.

    A run of a group has one line more, for the group.
    """

    def __init__(self, view: StatusBar, stream: IO[str]) -> None:
        from rich.console import Console  # noqa: PLC0415 - takes 40 ms; only a terminal needs it
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
        if not isinstance(event, CallFailed):
            line, colour = _notice(event), None
        else:
            line, colour = failure_line(event), DOUBTFUL if event.will_retry else WRONG
        if line is not None:
            self._console.print(line, markup=False, highlight=False, style=colour)
        now = self._view.snapshot()
        if now.state == RunState.ERROR and (end := variant_end(event, now)):
            self._console.print(end, markup=False, highlight=False, style=WRONG)

    def print_line(self, line: str) -> None:
        self._console.print(one_line(line), markup=False, highlight=False)

    def refresh(self) -> None:
        # The first refresh comes after the run has begun; there is nothing to show before.
        self._live.start()
        now = self._view.snapshot()
        self._live.update(_status_line(now, self._console.width - _FREE_COLUMNS), refresh=True)


class FileCounter:
    """Shows on a terminal how many files have been worked on; shows nothing elsewhere."""

    label = ""

    def __init__(self, stream: IO[str], action: str) -> None:
        self._action = action
        self._progress: Progress | None = None
        if stream.isatty():
            progress = _file_progress(cast(IO[str], BrokenPipeTolerantStream(stream)))
            # A dumb terminal cannot clear a line: rich would print an empty one at each stop.
            if progress.console.is_interactive:
                progress.add_task("", total=None, where=action, rest="(Ctrl-C stops)")
                progress.start()
                self._progress = progress

    def take(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` files have been worked on."""
        if self._progress is not None:
            where, rest = f"{self._action} {self.label}".rstrip(), f"{done} of {total} files"
            task = self._progress.task_ids[0]
            self._progress.update(task, completed=done, total=total, where=where, rest=rest)
            self._progress.start()

    def pause(self) -> None:
        """Clear the line so that something else can be printed."""
        if self._progress is not None:
            self._progress.stop()


@contextmanager
def open_file_counter(stream: IO[str], action: str = "checking") -> Iterator[FileCounter]:
    """A counter of files on ``stream``, which disappears at the end; ``action`` is done to them."""
    counter = FileCounter(stream, action)
    try:
        yield counter
    finally:
        counter.pause()


def _file_progress(stream: IO[str]) -> Progress:
    from rich.console import Console  # noqa: PLC0415 - takes 40 ms; only a terminal needs it
    from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415 - the same

    return Progress(
        TextColumn("{task.fields[where]}", markup=False),
        BarColumn(bar_width=_BAR_WIDTH),
        TextColumn("{task.fields[rest]}", markup=False),
        console=Console(file=stream),
        transient=True,
    )


def _notice(event: StageEvent) -> str | None:
    """One line about what a resume found and did, or about the file system of the run."""
    match event:
        case LogRepaired():
            cut = count(event.bytes, "byte")
            return f"removed {cut} of an incomplete record; a copy is in {event.copied_to}"
        case LifecycleChanged() if event.trigger in _BACK_TO_IDLE and event.reason:
            return one_line(event.reason)
        case StorageLimited():
            return f"warning: {storage_limit(event)}"
        case RunResumed():
            done = count(event.completed_images, "image")
            return f"{event.run_id}: resumed; {done} already finished"
    return None


def group_text(now: RunStatus) -> str:
    """The variant and its group: ``variant 3 of 18: steps 30  group 12%, about 0:02:00 left``.

    Empty without a group.
    """
    return "  ".join(part for part in (now.group_headline, now.group_detail) if part)


def variant_end(event: StageEvent, now: RunStatus) -> str | None:
    """How a variant ended, with the status after this event: ``variant 3 of 18: completed``."""
    if not is_end(event) or not now.variant_number or event.run_id != now.run_id:
        return None
    why = f": {now.last_error}" if now.state == RunState.ERROR and now.last_error else ""
    took = f" in {duration(now.elapsed_s * 1000)}" if now.state == RunState.COMPLETED else ""
    return f"{now.variant_place}: {now.state.lower()}{took}{why}"


def failure_line(event: CallFailed) -> str | None:
    """One line about a failed attempt; None if the user cancelled it."""
    error = event.error
    if error.kind in CANCELLED_KINDS:
        return None
    again = "; trying again" if event.will_retry else ""
    return one_line(f"{error_text(error)}{again}")


def _status_line(now: RunStatus, width: int) -> RenderableType:
    """The status as one line of ``width`` columns if it fits, otherwise as two lines."""
    from rich.console import Group  # noqa: PLC0415 - only a terminal needs it
    from rich.constrain import Constrain  # noqa: PLC0415 - the same
    from rich.progress_bar import ProgressBar  # noqa: PLC0415 - the same
    from rich.table import Table  # noqa: PLC0415 - the same

    group = list(_group_line(now))
    if group and not now.run_id:
        return Constrain(group[0], width)  # No run of it has begun.
    where = now.place if now.state == RunState.RUNNING else now.headline
    bar = ProgressBar(completed=now.percentage or 0.0, width=min(_BAR_WIDTH, max(8, width // 5)))
    parts: list[RenderableType] = [bar, _cell(f"{now.percent:>4}"), _cell(now.detail)]
    is_wide = width >= _WIDE
    line = Table.grid(padding=(0, 1))
    line.add_row(*([_cell(where)] if is_wide else []), *parts)
    lines = [line] if is_wide else [_cell(where), line]
    return Constrain(Group(*group, *lines), width)


def _group_line(now: RunStatus) -> Iterator[RenderableType]:
    """The group's line, if there is a group; the variant gives way where there is no room."""
    from rich.table import Table  # noqa: PLC0415 - only a terminal needs it

    if now.group_headline:
        line = Table.grid(padding=(0, 2))
        line.add_column()
        line.add_column(no_wrap=True)
        line.add_row(_cell(now.group_headline), _cell(now.group_detail))
        yield line


def _cell(text: str) -> RenderableType:
    from rich.text import Text  # noqa: PLC0415 - only a terminal needs it

    return Text(text, no_wrap=True, overflow="ellipsis")
