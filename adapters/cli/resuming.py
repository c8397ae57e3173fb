"""``resume``: goes on with runs that died, failed or were cancelled."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import click
import msgspec

from ...events.errors import StagewrightError
from ...events.model import StageEvent
from ...events.reading import read_log
from ...events.result import PipelineRunResult
from ...statemachine.controller import PipelineController, RunHandle
from ...statemachine.run_folder import find_run
from ..bootstrap import open_controller
from ..catalogue import CORRUPT, Catalogue, CatalogueEntry
from ..progress_view import ProgressView
from .display import open_file_counter
from .foreground import Followed, follow, show_end, tell_error
from .output import (
    LastingStream,
    count,
    escaped,
    insecure_option,
    json_option,
    print_json_parts,
    runs_option,
    say,
)
from .statuses import (
    EXIT_CANCELLED,
    EXIT_COMPLETED,
    EXIT_CORRUPT,
    EXIT_ERROR,
    EXIT_USAGE,
    complain,
    status_of,
    words_of,
)

_GRAVITY = (EXIT_COMPLETED, EXIT_USAGE, EXIT_ERROR, EXIT_CORRUPT)


class _How(msgspec.Struct, frozen=True):
    """What the options of ``resume`` say."""

    force: bool
    preflight: bool
    as_json: bool

    @property
    def stream(self) -> IO[str]:
        """Where progress is shown."""
        return sys.stderr if self.as_json else sys.stdout


@click.command("resume")
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
    """
    if every == (run is not None):
        raise click.UsageError("resume needs either a RUN or --all")
    if len(servers) > 1:
        raise click.UsageError("more than one --server is not supported yet")
    controller = open_controller(runs, servers[0] if servers else None, insecure=insecure)
    how = _How(force=force, preflight=not no_preflight, as_json=as_json)
    if every:
        return _resume_all(controller, runs, how)
    ended = _resume(controller, find_run(runs, run or ""), how)
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
    if waiting:
        named = waiting[-1].folder if len(waiting) == 1 else "--all"
        what = f"{count(len(waiting), 'run')} in {runs} can go on"
        LastingStream(stream).write(escaped(f"note: {what}: stagewright resume {named}") + "\n")


def _resume(controller: PipelineController, folder: Path, how: _How) -> Followed:
    """Go on with one run until its end."""
    view = ProgressView()

    def look_back(events: Sequence[StageEvent]) -> None:
        for event in events:
            view.take_event(event)

    read_log(folder, look_back)
    with open_file_counter(sys.stderr) as counter:

        def begin() -> RunHandle:
            try:
                return controller.resume(
                    str(folder), force=how.force, preflight=how.preflight, on_file=counter.take
                )
            finally:
                counter.pause()

        return follow(controller, begin, how.stream, view)


def _resume_all(controller: PipelineController, runs: Path, how: _How) -> int:
    """Every resumable run, one after the other; the gravest exit status of all."""
    status, results = EXIT_COMPLETED, []
    found = [one for one in Catalogue(runs).entries() if one.resumable or one.state == CORRUPT]
    for entry in reversed(found):
        try:
            ended = _resume(controller, runs / entry.folder, how)
        except StagewrightError as error:
            # The others can go on all the same.
            status = max(status, complain(words_of(error), status_of(error)), key=_GRAVITY.index)
            continue
        results.append(ended.result)
        one = (
            tell_error(ended.result)
            if how.as_json
            else show_end(ended.handle, ended.result, as_json=False)
        )
        # Who stops one run does not want the next.
        if ended.stopped or one == EXIT_CANCELLED:
            status = EXIT_CANCELLED
            break
        status = max(status, one, key=_GRAVITY.index)
    if how.as_json:
        print_json_parts(_as_list(results))
    elif not found:
        say(f"no run in {runs} waits to be resumed")
    return status


def _as_list(results: Sequence[PipelineRunResult]) -> Iterator[bytes]:
    yield b"["
    for place, result in enumerate(results):
        yield b"," if place else b""
        yield from result.json_parts()
    yield b"]"
