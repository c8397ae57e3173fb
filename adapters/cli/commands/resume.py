"""``resume``: goes on with runs that died, failed or were cancelled."""

from __future__ import annotations

import os
import sys
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import click
import msgspec

from ....events.errors import LogLockedError, LogWriteError, StagewrightError
from ....events.log.lock import lock_holder
from ....events.log.reader import read_log
from ....events.model import RunResumed, RunState, StageEvent
from ....events.result import PipelineRunResult
from ....events.subscriptions.subscription import subscribe
from ....statemachine.errors import ResumeRefusedError
from ....statemachine.run.controller import PipelineController, RunHandle
from ...bootstrap import open_controller
from ...export.bundle.manifest import lacks_images
from ...projections.catalogue import CORRUPT, UNREADABLE, Catalogue, CatalogueEntry
from ...projections.status import StatusBar
from ..display import open_file_counter
from ..foreground import Followed, follow, show_end, tell_error
from ..output import (
    LastingStream,
    check_runs_folder,
    escaped,
    insecure_option,
    json_option,
    print_json_parts,
    runs_option,
    say,
)
from ..run_lookup import find_run
from ..statuses import (
    EXIT_CANCELLED,
    EXIT_COMPLETED,
    EXIT_CORRUPT,
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    TRACEBACK_VARIABLE,
    complain,
    status_of,
    words_of,
)
from .list import runs_argument, waiting_runs
from .replay import resume_line

_GRAVITY = (EXIT_COMPLETED, EXIT_USAGE, EXIT_ERROR, EXIT_CORRUPT)
_EXIT_STATUSES = """\b
Exit status:
  0  COMPLETED
  1  ERROR, or the resume was refused
  2  wrong usage, the server is not there, or another process holds the run
  3  CANCELLED
  4  a log or a file is corrupt, missing or altered
With --all it is the gravest of all: 4, 1, 2, 0; and 3 once one was cancelled.
"""


class _How(msgspec.Struct, frozen=True):
    """What the options of ``resume`` say."""

    force: bool
    preflight: bool
    as_json: bool

    @property
    def stream(self) -> IO[str]:
        """Where progress is shown."""
        return sys.stderr if self.as_json else sys.stdout

    def tell(self, line: str) -> None:
        """One line where progress is shown."""
        stream = LastingStream(self.stream)
        stream.write(escaped(line) + "\n")
        stream.flush()


@click.command("resume", epilog=_EXIT_STATUSES)
@click.argument("run", required=False)
@click.option("--server", "servers", multiple=True, metavar="URL", help="Another WebUI server.")
@click.option("--all", "every", is_flag=True, help="Resume every run that can be.")
@click.option("--force", is_flag=True, help="Try again where earlier tries got nowhere.")
@click.option("--no-preflight", is_flag=True, help="Do not check names with the server first.")
@insecure_option
@runs_option
@json_option
def resume_command(
    run: str | None,
    servers: tuple[str, ...],
    every: bool,  # noqa: FBT001 - click passes flags
    force: bool,  # noqa: FBT001 - the same
    no_preflight: bool,  # noqa: FBT001 - the same
    insecure: bool,  # noqa: FBT001 - the same
    runs: Path,
    as_json: bool,  # noqa: FBT001 - the same
) -> int:
    """Go on with RUN where it stopped, on the server that it was made on.

    What is finished is not made again; a file that is missing or altered is.

    RUN is a run id, a unique prefix of one, `last`, or the path of a run folder.
    """
    if every == (run is not None):
        raise click.UsageError("resume needs either a RUN or --all")
    if len(servers) > 1:
        raise click.UsageError("more than one --server is not supported yet")
    if every:
        check_runs_folder(runs)
    controller = open_controller(runs, servers[0] if servers else None, insecure=insecure)
    how = _How(force=force, preflight=not no_preflight, as_json=as_json)
    if every:
        return _ResumeAll(controller, runs, how).run()
    folder = find_run(runs, run or "")
    if lacks_images(folder):
        raise ResumeRefusedError(
            f"{folder}: it is an unpacked bundle, whose image files are where it was made"
        )
    ended = _resume(controller, folder, how)
    return show_end(ended.handle, ended.result, as_json=as_json)


def resumable(runs: Path) -> Iterator[CatalogueEntry]:
    """The runs that a resume could go on with, the oldest first."""
    return reversed([entry for entry in Catalogue(runs).entries() if entry.resumable])


def tell_of_resumable(runs: Path, stream: IO[str]) -> None:
    """Say so when there are runs that could go on."""
    try:
        waiting = list(resumable(runs))
    except OSError as error:
        # It is no reason not to run something else.
        LastingStream(stream).write(f"note: {runs} cannot be read: {escaped(str(error))}\n")
        return
    told = waiting_runs(waiting, f" in {runs}")
    if told:
        forced = "" if any(not entry.needs_force for entry in waiting) else " --force"
        command = (
            resume_line(runs / waiting[0].folder)
            if len(waiting) == 1
            else f"stagewright resume --all{runs_argument(runs)}"
        )
        LastingStream(stream).write(escaped(f"note: {told}: {command}{forced}") + "\n")


def _resume(controller: PipelineController, folder: Path, how: _How) -> Followed:
    """Go on with one run until its end."""
    view = StatusBar(expects_steps=True)

    def look_back(events: Sequence[StageEvent]) -> None:
        for event in events:
            view.take_event(event)

    read_log(folder, look_back)
    appended: set[type[StageEvent]] = set()
    with (
        open_file_counter(sys.stderr) as counter,
        subscribe(lambda event: appended.add(type(event)), on="publisher"),
    ):

        def begin() -> RunHandle:
            try:
                return controller.resume(
                    str(folder), force=how.force, preflight=how.preflight, on_file=counter.take
                )
            finally:
                counter.pause()

        ended = follow(controller, begin, how.stream, view)
    if RunResumed not in appended:
        rest = "its log has been sealed" if appended else "nothing is to be done"
        how.tell(f"{ended.handle.run_id}: it is complete; {rest}")
    return ended


class _ResumeAll:
    """Every run below a folder that can go on, one after the other, the oldest first."""

    def __init__(self, controller: PipelineController, runs: Path, how: _How) -> None:
        self._controller = controller
        self._runs = runs
        self._how = how
        self._found = [one for one in Catalogue(runs).entries() if _concerns_all(one)][::-1]
        self._results: list[PipelineRunResult] = []
        self._tally: Counter[str] = Counter()
        self._status = EXIT_COMPLETED
        self._stopped = False

    def run(self) -> int:
        """Go through them; the gravest exit status of all."""
        for place, entry in enumerate(self._found, start=1):
            self._how.tell(f"run {place} of {len(self._found)}: {entry.run_id}")
            self._take(entry)
            if self._stopped:
                break
        if len(self._found) > 1:
            self._tally["not tried"] = len(self._found) - self._tally.total()
            told = (f"{self._tally[what]} {what}" for what in _TOLD if self._tally[what])
            self._how.tell(", ".join(told))
        if self._how.as_json:
            print_json_parts(_as_list(self._results))
        elif not self._found:
            say(f"no run in {self._runs} waits to be resumed")
        return self._status

    def _take(self, entry: CatalogueEntry) -> None:
        folder = self._runs / entry.folder
        if entry.alive:
            self._pass_over(entry, str(lock_holder(folder) or "unknown"))
            return
        if entry.state == UNREADABLE:
            self._note_failure(entry, OSError(f"its log cannot be read: {entry.error}"))
            return
        try:
            self._note_end(_resume(self._controller, folder, self._how))
        except LogLockedError as error:
            self._pass_over(entry, error.holder)
        except KeyboardInterrupt:
            # Before the run had begun; who stops one run does not want the next.
            self._stopped = True
            self._status = complain("interrupted", EXIT_INTERRUPTED)
        except Exception as error:  # noqa: BLE001 - the others can go on all the same
            self._note_failure(entry, error)

    def _pass_over(self, entry: CatalogueEntry, holder: str) -> None:
        self._tally["held by another process"] += 1
        self._how.tell(f"{entry.run_id}: another process works on it: {holder}; skipped")

    def _note_end(self, ended: Followed) -> None:
        result = ended.result
        self._results.append(result)
        status = (
            tell_error(result)
            if self._how.as_json
            else show_end(ended.handle, result, as_json=False)
        )
        self._tally[_ENDS.get(result.state, "failed")] += 1
        if ended.stopped or status == EXIT_CANCELLED:
            self._stopped = True
            self._status = EXIT_CANCELLED
        else:
            self._weigh(status)

    def _note_failure(self, entry: CatalogueEntry, error: Exception) -> None:
        if TRACEBACK_VARIABLE in os.environ:
            traceback.print_exception(error)
        words, status = words_of(error), status_of(error)
        named = words if entry.run_id in words else f"{entry.run_id}: {words}"
        self._weigh(complain(named, status))
        refused = isinstance(error, StagewrightError) and not isinstance(error, LogWriteError)
        what = "refused" if refused else "failed"
        self._tally["corrupt" if status == EXIT_CORRUPT else what] += 1

    def _weigh(self, status: int) -> None:
        self._status = max(self._status, status, key=_GRAVITY.index)


_ENDS = {RunState.COMPLETED: "completed", RunState.CANCELLED: "cancelled"}
_TOLD = (
    "completed", "failed", "cancelled", "refused", "corrupt", "held by another process",
    "not tried",
)  # fmt: skip


def _concerns_all(entry: CatalogueEntry) -> bool:
    return entry.resumable or entry.alive or entry.state in (CORRUPT, UNREADABLE)


def _as_list(results: Sequence[PipelineRunResult]) -> Iterator[bytes]:
    yield b"["
    for place, result in enumerate(results):
        yield b"," if place else b""
        yield from result.json_parts()
    yield b"]"
