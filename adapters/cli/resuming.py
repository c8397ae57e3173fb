"""Resumes runs and groups in the foreground: one of them, or all that can continue."""

from __future__ import annotations

import os
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from ...events.errors import LogLockedError, LogWriteError, StagewrightError
from ...events.groups.log import GROUP_LOCK_NAME
from ...events.groups.model import GroupEvent, GroupResumed
from ...events.log.lock import LOCK_NAME, lock_holder
from ...events.log.reader import read_log
from ...events.model import RunResumed, RunState, StageEvent
from ...events.result import PipelineRunResult
from ...events.subscriptions.subscription import subscribe
from ...statemachine.groups.result import GroupResult
from ...statemachine.run.controller import PipelineController
from ..projections.catalogue import CORRUPT, UNREADABLE, Catalogue, CatalogueEntry
from ..projections.groups import GroupEntry, group_entries
from ..projections.status import StatusBar
from .foreground import ForegroundResult, run_in_foreground
from .output import count, print_json_parts, print_line, print_note
from .results import Result, print_errors, result_json, show_end
from .statuses import (
    EXIT_CANCELLED,
    EXIT_COMPLETED,
    EXIT_CORRUPT,
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    TRACEBACK_VARIABLE,
    error_messages,
    print_error,
    status_of,
)

_SEVERITY = (EXIT_COMPLETED, EXIT_USAGE, EXIT_ERROR, EXIT_CORRUPT)
_ENDS = {RunState.COMPLETED: "completed", RunState.CANCELLED: "cancelled"}
_TALLIED = (
    "completed", "failed", "cancelled", "refused", "corrupt", "held by another process",
    "not tried",
)  # fmt: skip
Entry = CatalogueEntry | GroupEntry
Ended = ForegroundResult[PipelineRunResult] | ForegroundResult[GroupResult]


class ResumeOptions(msgspec.Struct, frozen=True):
    """The options of ``resume``; without ``cancelled``, what was cancelled is left out."""

    force: bool
    preflight: bool
    as_json: bool
    cancelled: bool


def resume_run(
    controller: PipelineController, folder: Path, options: ResumeOptions
) -> ForegroundResult[PipelineRunResult]:
    """Resume one run and show it until its end."""
    view = StatusBar(expects_steps=True)

    def take_earlier(events: Sequence[StageEvent]) -> None:
        for event in events:
            view.take_event(event)

    read_log(folder, take_earlier)
    appended: set[type[StageEvent]] = set()
    with subscribe(lambda event: appended.add(type(event)), on="publisher"):
        ended = run_in_foreground(
            controller,
            lambda on_file: controller.resume(
                str(folder), force=options.force, preflight=options.preflight, on_file=on_file
            ),
            view,
        )
    if RunResumed not in appended:
        _note_complete(ended.result.run_id, is_sealed=bool(appended))
    return ended


def resume_group(
    controller: PipelineController, folder: Path, options: ResumeOptions
) -> ForegroundResult[GroupResult]:
    """Resume one group and show it until its end."""
    appended: set[type[GroupEvent]] = set()

    def note(event: GroupEvent) -> None:
        appended.add(type(event))

    with subscribe(lambda _event: None, on="publisher", on_group=note):
        ended = run_in_foreground(
            controller,
            lambda _on_file: controller.resume_group(
                str(folder),
                force=options.force,
                preflight=options.preflight,
                cancelled=options.cancelled,
            ),
        )
    if GroupResumed not in appended:
        _note_complete(ended.result.group_id, is_sealed=bool(appended))
    return ended


def _note_complete(run_or_group: str, *, is_sealed: bool) -> None:
    """Say that a resume had nothing to make; ``is_sealed`` where it has sealed the log."""
    rest = "its log has been sealed" if is_sealed else "nothing to do"
    print_note(f"{run_or_group}: already complete; {rest}")


class ResumeAll:
    """Resumes every run and group below a folder that can be resumed, the oldest first.

    A run of a group is resumed with its group.
    """

    def __init__(self, controller: PipelineController, runs: Path, options: ResumeOptions) -> None:
        self._controller = controller
        self._runs = runs
        self._options = options
        entries = Catalogue(runs).entries()
        groups = group_entries(runs, entries)
        in_groups = {entry.run_id for group in groups for entry in group.runs}
        single = [
            one for one in entries if one.run_id not in in_groups or one.state in _NOT_READABLE
        ]
        both: list[Entry] = [*single, *groups]
        considered = (one for one in both if _is_considered(one, options))
        self._found = sorted(considered, key=lambda one: one.opened)
        self._left_out = {
            "run": sum(one.resumable and one.cancelled for one in single),
            "group": sum(one.resumable and not one.waits for one in groups),
        }
        self._results: list[Result] = []
        self._tally: Counter[str] = Counter()
        self._status = EXIT_COMPLETED
        self._stopped = False

    def run(self) -> int:
        """Resume them; the most severe exit status of all."""
        for place, entry in enumerate(self._found, start=1):
            noun = "group" if isinstance(entry, GroupEntry) else "run"
            print_note(f"{noun} {place} of {len(self._found)}: {_id(entry)}")
            self._take(entry)
            if self._stopped:
                break
        if len(self._found) > 1:
            self._tally["not tried"] = len(self._found) - self._tally.total()
            counts = (f"{self._tally[what]} {what}" for what in _TALLIED if self._tally[what])
            print_note(", ".join(counts))
        left = [count(number, noun) for noun, number in self._left_out.items() if number]
        if left and not self._options.cancelled:
            named = " and ".join(left)
            print_note(f"{named} that you cancelled left out; --cancelled resumes them too")
        if self._options.as_json:
            print_json_parts(_as_list(self._results))
        elif not self._found:
            print_line(f"nothing to resume in {self._runs}")
        return self._status

    def _take(self, entry: Entry) -> None:
        folder = self._runs / entry.folder
        if entry.alive:
            lock_name = GROUP_LOCK_NAME if isinstance(entry, GroupEntry) else LOCK_NAME
            self._skip(entry, str(lock_holder(folder, lock_name) or "unknown"))
            return
        if entry.state == UNREADABLE:
            self._note_failure(entry, OSError(f"its log cannot be read: {entry.error}"))
            return
        try:
            if isinstance(entry, GroupEntry):
                self._note_end(resume_group(self._controller, folder, self._options))
            else:
                self._note_end(resume_run(self._controller, folder, self._options))
        except LogLockedError as error:
            self._skip(entry, error.holder)
        except KeyboardInterrupt:
            # The run had not begun; the user wants to stop the others as well.
            self._stopped = True
            self._status = print_error("interrupted", EXIT_INTERRUPTED)
        except Exception as error:  # noqa: BLE001 - the other runs can be resumed all the same
            self._note_failure(entry, error)

    def _skip(self, entry: Entry, holder: str) -> None:
        self._tally["held by another process"] += 1
        print_note(f"{_id(entry)}: another process is running it ({holder}); skipped")

    def _note_end(self, ended: Ended) -> None:
        """Print how one ended, with ``as_json`` only what went wrong."""
        result = ended.result
        self._results.append(result)
        status = (
            print_errors(result)
            if self._options.as_json
            else show_end(result, ended.folder, ended.runs, as_json=False)
        )
        self._tally[_ENDS.get(result.state, "failed")] += 1
        if ended.stopped or status == EXIT_CANCELLED:
            self._stopped = True
            self._status = EXIT_INTERRUPTED if ended.interrupted else EXIT_CANCELLED
        else:
            self._note_status(status)

    def _note_failure(self, entry: Entry, error: Exception) -> None:
        if TRACEBACK_VARIABLE in os.environ:
            traceback.print_exception(error)
        words, status = "; ".join(error_messages(error)), status_of(error)
        named = words if _id(entry) in words else f"{_id(entry)}: {words}"
        self._note_status(print_error(named, status))
        refused = isinstance(error, StagewrightError) and not isinstance(error, LogWriteError)
        what = "refused" if refused else "failed"
        self._tally["corrupt" if status == EXIT_CORRUPT else what] += 1

    def _note_status(self, status: int) -> None:
        self._status = max(self._status, status, key=_SEVERITY.index)


_NOT_READABLE = (CORRUPT, UNREADABLE)


def _id(entry: Entry) -> str:
    return entry.group_id if isinstance(entry, GroupEntry) else entry.run_id


def _is_considered(entry: Entry, options: ResumeOptions) -> bool:
    if isinstance(entry, GroupEntry):
        ready = entry.resumable if options.cancelled else entry.waits
        return ready or entry.alive or entry.state in _NOT_READABLE
    if entry.is_archived:
        return False
    ready = entry.resumable and (options.cancelled or not entry.cancelled)
    return ready or entry.alive or entry.state in _NOT_READABLE


def _as_list(results: Sequence[Result]) -> Iterator[bytes]:
    yield b"["
    for place, result in enumerate(results):
        yield b"," if place else b""
        yield from result_json(result)
    yield b"]"
