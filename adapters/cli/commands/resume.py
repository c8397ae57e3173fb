"""``resume``: continues runs that died, failed or were cancelled."""

from __future__ import annotations

import os
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import msgspec

from ....events.errors import LogLockedError, LogWriteError, StagewrightError
from ....events.log.lock import lock_holder
from ....events.log.reader import read_log
from ....events.model import RunResumed, RunState, StageEvent
from ....events.result import PipelineRunResult
from ....events.subscriptions.subscription import subscribe
from ....statemachine.errors import ResumeRefusedError
from ....statemachine.run.controller import PipelineController
from ....statemachine.run.handle import RunHandle
from ...bootstrap import open_controller
from ...export.bundle.manifest import lacks_images
from ...projections.catalogue import CORRUPT, UNREADABLE, Catalogue, CatalogueEntry
from ...projections.status import StatusBar
from ..completion import complete_run
from ..display import open_file_counter
from ..foreground import ForegroundResult, print_run_error, run_in_foreground, show_end
from ..output import (
    check_runs_folder,
    count,
    insecure_option,
    json_option,
    print_json_parts,
    print_line,
    print_note,
    progress_stream,
    runs_argument,
    runs_option,
)
from ..run_lookup import find_run
from ..settings import named_server, server_headers
from ..statuses import (
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
from .list import waiting_runs
from .replay import resume_line

_SEVERITY = (EXIT_COMPLETED, EXIT_USAGE, EXIT_ERROR, EXIT_CORRUPT)
_EXIT_STATUSES = """\b
Exit status:
  0  COMPLETED
  1  ERROR, or the resume was refused
  2  wrong usage, the server cannot be used, or another process runs it
  3  CANCELLED; after Ctrl-C the command ends by SIGINT (130 in shells)
  4  a log or a file is corrupt, missing or altered
With --all, the most severe status of all runs (4, 1, 2, 0), or 3 if one was
cancelled.
"""


class _Options(msgspec.Struct, frozen=True):
    """The options of ``resume``."""

    force: bool
    preflight: bool
    as_json: bool
    cancelled: bool


@click.command("resume", epilog=_EXIT_STATUSES)
@click.argument("run", required=False, shell_complete=complete_run)
@click.option(
    "--server",
    "servers",
    multiple=True,
    metavar="URL",
    help="WebUI server to use.  [default: the recorded one]",
)
@click.option("--all", "every", is_flag=True, help="Resume every run that can be resumed.")
@click.option(
    "--cancelled", is_flag=True, help="With --all, also resume what was cancelled on purpose."
)
@click.option(
    "--force", is_flag=True, help="Also resume a run that earlier resumes did not advance."
)
@click.option("--no-preflight", is_flag=True, help="Skip the check that the server has all names.")
@insecure_option
@runs_option
@json_option
def resume_command(
    run: str | None,
    servers: tuple[str, ...],
    every: bool,  # noqa: FBT001 - click passes flags
    cancelled: bool,  # noqa: FBT001 - the same
    force: bool,  # noqa: FBT001 - the same
    no_preflight: bool,  # noqa: FBT001 - the same
    insecure: bool,  # noqa: FBT001 - the same
    runs: Path,
    as_json: bool,  # noqa: FBT001 - the same
) -> int:
    """Continue a run that stopped early.

    It runs on the recorded server, unless --server names another one. Finished images are kept;
    images whose file is missing or altered are made again.
    """
    if every == (run is not None):
        raise click.UsageError("resume needs either a RUN or --all")
    if cancelled and not every:
        raise click.UsageError("--cancelled belongs to --all; a RUN is resumed in any case")
    if every:
        check_runs_folder(runs)
    controller = open_controller(
        runs, named_server(servers), insecure=insecure, headers=server_headers()
    )
    options = _Options(
        force=force, preflight=not no_preflight, as_json=as_json, cancelled=cancelled
    )
    if every:
        return _ResumeAll(controller, runs, options).run()
    folder = find_run(runs, run or "")
    if lacks_images(folder):
        raise ResumeRefusedError(
            f"{folder}: this is an unpacked bundle without image files; resume the original run"
        )
    ended = _resume(controller, folder, options)
    return show_end(ended, as_json=as_json)


def print_resumable_runs(runs: Path) -> None:
    """Print a note if there are runs that can be resumed."""
    try:
        found = Catalogue(runs).entries()
    except OSError as error:
        # This does not keep another run from starting.
        print_note(f"note: {runs} cannot be read: {error}")
        return
    waiting = [entry for entry in reversed(found) if entry.waits]
    summary = waiting_runs(waiting, f" in {runs}")
    if summary:
        forced = "" if any(not entry.needs_force for entry in waiting) else " --force"
        command = (
            resume_line(runs / waiting[0].folder)
            if len(waiting) == 1
            else f"stagewright resume --all{runs_argument(runs)}"
        )
        print_note(f"note: {summary}: {command}{forced}")


def _resume(controller: PipelineController, folder: Path, options: _Options) -> ForegroundResult:
    """Resume one run and show it until its end."""
    view = StatusBar(expects_steps=True)

    def take_earlier(events: Sequence[StageEvent]) -> None:
        for event in events:
            view.take_event(event)

    read_log(folder, take_earlier)
    appended: set[type[StageEvent]] = set()
    with (
        open_file_counter(progress_stream()) as counter,
        subscribe(lambda event: appended.add(type(event)), on="publisher"),
    ):

        def begin() -> RunHandle:
            try:
                return controller.resume(
                    str(folder),
                    force=options.force,
                    preflight=options.preflight,
                    on_file=counter.take,
                )
            finally:
                counter.pause()

        ended = run_in_foreground(controller, begin, progress_stream(), view)
    if RunResumed not in appended:
        rest = "its log has been sealed" if appended else "nothing to do"
        print_note(f"{ended.handle.run_id}: already complete; {rest}")
    return ended


class _ResumeAll:
    """Resumes every run below a folder that can be resumed, the oldest first."""

    def __init__(self, controller: PipelineController, runs: Path, options: _Options) -> None:
        self._controller = controller
        self._runs = runs
        self._options = options
        entries = Catalogue(runs).entries()[::-1]
        self._found = [one for one in entries if _is_considered(one, options)]
        self._left_out = sum(one.resumable and one.cancelled for one in entries)
        self._results: list[PipelineRunResult] = []
        self._tally: Counter[str] = Counter()
        self._status = EXIT_COMPLETED
        self._stopped = False

    def run(self) -> int:
        """Resume them; the most severe exit status of all."""
        for place, entry in enumerate(self._found, start=1):
            print_note(f"run {place} of {len(self._found)}: {entry.run_id}")
            self._take(entry)
            if self._stopped:
                break
        if len(self._found) > 1:
            self._tally["not tried"] = len(self._found) - self._tally.total()
            counts = (f"{self._tally[what]} {what}" for what in _TALLIED if self._tally[what])
            print_note(", ".join(counts))
        if self._left_out and not self._options.cancelled:
            left = f"{count(self._left_out, 'run')} that you cancelled left out"
            print_note(f"{left}; --cancelled resumes them too")
        if self._options.as_json:
            print_json_parts(_as_list(self._results))
        elif not self._found:
            print_line(f"nothing to resume in {self._runs}")
        return self._status

    def _take(self, entry: CatalogueEntry) -> None:
        folder = self._runs / entry.folder
        if entry.alive:
            self._skip(entry, str(lock_holder(folder) or "unknown"))
            return
        if entry.state == UNREADABLE:
            self._note_failure(entry, OSError(f"its log cannot be read: {entry.error}"))
            return
        try:
            self._note_end(_resume(self._controller, folder, self._options))
        except LogLockedError as error:
            self._skip(entry, error.holder)
        except KeyboardInterrupt:
            # The run had not begun; the user wants to stop the others as well.
            self._stopped = True
            self._status = print_error("interrupted", EXIT_INTERRUPTED)
        except Exception as error:  # noqa: BLE001 - the other runs can be resumed all the same
            self._note_failure(entry, error)

    def _skip(self, entry: CatalogueEntry, holder: str) -> None:
        self._tally["held by another process"] += 1
        print_note(f"{entry.run_id}: another process is running it ({holder}); skipped")

    def _note_end(self, ended: ForegroundResult) -> None:
        result = ended.result
        self._results.append(result)
        status = (
            print_run_error(result) if self._options.as_json else show_end(ended, as_json=False)
        )
        self._tally[_ENDS.get(result.state, "failed")] += 1
        if ended.stopped or status == EXIT_CANCELLED:
            self._stopped = True
            self._status = EXIT_INTERRUPTED if ended.interrupted else EXIT_CANCELLED
        else:
            self._note_status(status)

    def _note_failure(self, entry: CatalogueEntry, error: Exception) -> None:
        if TRACEBACK_VARIABLE in os.environ:
            traceback.print_exception(error)
        words, status = "; ".join(error_messages(error)), status_of(error)
        named = words if entry.run_id in words else f"{entry.run_id}: {words}"
        self._note_status(print_error(named, status))
        refused = isinstance(error, StagewrightError) and not isinstance(error, LogWriteError)
        what = "refused" if refused else "failed"
        self._tally["corrupt" if status == EXIT_CORRUPT else what] += 1

    def _note_status(self, status: int) -> None:
        self._status = max(self._status, status, key=_SEVERITY.index)


_ENDS = {RunState.COMPLETED: "completed", RunState.CANCELLED: "cancelled"}
_TALLIED = (
    "completed", "failed", "cancelled", "refused", "corrupt", "held by another process",
    "not tried",
)  # fmt: skip


def _is_considered(entry: CatalogueEntry, options: _Options) -> bool:
    if entry.is_archived:
        return False
    ready = entry.resumable and (options.cancelled or not entry.cancelled)
    return ready or entry.alive or entry.state in (CORRUPT, UNREADABLE)


def _as_list(results: Sequence[PipelineRunResult]) -> Iterator[bytes]:
    yield b"["
    for place, result in enumerate(results):
        yield b"," if place else b""
        yield from result.json_parts()
    yield b"]"
