"""What the commands of the queue share: opening it, naming jobs, and texts about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from ...events.queue.jobs import Job, JobState
from ...statemachine.queue.job_queue import JobQueue
from ..bootstrap import new_storage
from ..projections.queue_table import SqliteJobTable
from .completion import fitting, given_runs_folder
from .options import check_runs_folder
from .settings import current_settings

_MOST_COMPLETED = 100
_COLOURED = {
    "completed": "completed",
    "failed": "error",
    "partial": "error",
    "cancelled": "cancelled",
    "set-aside": "error",
    "running": "running",
}


_SHOWN = (
    *("job_id", "name", "job", "state", "outcome", "run_id", "group_id", "priority"),
    *("not_before", "total_images", "reason", "added", "begun", "ended"),
)


def shown_job(
    job: Job, *, is_dead: bool = False, estimate_s: float | None = None
) -> dict[str, Any]:
    """A job as ``--json`` prints it.

    ``is_dead`` says that it is running and its worker has died: the next worker continues it.
    ``estimate_s`` is how long it will still take, where that is known.
    """
    shown = {name: getattr(job, name) for name in _SHOWN}
    return {**shown, "is_dead": is_dead, "estimate_s": estimate_s}


def open_queue(runs: Path, *, check: bool = True) -> JobQueue:
    """The queue below ``runs``. Raises UsageError for a folder that is given and not there."""
    if check:
        check_runs_folder(runs)
    return JobQueue(runs, table=SqliteJobTable(runs), storage=new_storage())


def default_servers(of_queue: Sequence[str]) -> tuple[str, ...]:
    """The servers of jobs whose configuration names none; none: the embedded backend.

    They are those of the queue, else that of the settings. Raises ConfigurationError.
    """
    if of_queue:
        return tuple(of_queue)
    default = current_settings().server
    return () if default is None else (default.url,)


def short_id(job_id: str) -> str:
    """The six digits by which commands take a job."""
    return job_id[-6:]


def job_label(job: Job) -> str:
    """``job 7f3a9c (portrait)``."""
    return f"job {short_id(job.job_id)} ({job.name})"


def job_state(job: Job, *, is_dead: bool = False) -> str:
    """The state of a job in a word; of one that has ended, its outcome."""
    if job.state is JobState.ENDED and job.outcome is not None:
        return str(job.outcome)
    return "died" if is_dead else str(job.state)


def state_colour(state: str) -> str:
    """The state of a run whose colour a job's state has."""
    return _COLOURED.get(state, state)


def complete_job(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Jobs by the last six digits of their ids: waiting ones first, then the others."""
    runs = given_runs_folder(context)
    queue = JobQueue(runs, table=SqliteJobTable(runs))
    states = (JobState.WAITING, JobState.RUNNING, JobState.SET_ASIDE, JobState.ENDED)
    found = [
        CompletionItem(short_id(job.job_id), help=f"{job.name}, {job_state(job)}")
        for job in queue.jobs(*states, most=_MOST_COMPLETED)
    ]
    return fitting(found, incomplete)


def parse_moment(text: str, now: datetime) -> datetime:
    """The next ``HH:MM`` of the local day, or a date with a time; local without an offset.

    Raises ValueError.
    """
    here = now.astimezone()
    if len(text) <= len("HH:MM") and ":" in text:
        clock = datetime.strptime(text, "%H:%M")
        moment = here.replace(hour=clock.hour, minute=clock.minute, second=0, microsecond=0)
        # Through a naive time: a change to summer time in between moves the offset.
        naive = moment.replace(tzinfo=None)
        return (naive if moment > here else naive + timedelta(days=1)).astimezone()
    return datetime.fromisoformat(text).astimezone()


def moment_option(
    name: str, variable: str, description: str
) -> Callable[[click.decorators.FC], click.decorators.FC]:
    """An option that takes a time of ``parse_moment``."""

    def read(
        _context: click.Context, _parameter: click.Parameter, text: str | None
    ) -> datetime | None:
        if text is None:
            return None
        try:
            return parse_moment(text, datetime.now().astimezone())
        except (ValueError, OverflowError, OSError) as error:
            raise click.BadParameter(
                f"{text} is not a time (examples: 23:30, 2026-11-20T23:30)"
            ) from error

    return click.option(name, variable, metavar="TIME", callback=read, help=description)


job_argument = click.argument("job", metavar="JOB", shell_complete=complete_job)
JOB_NAMES = """\
JOB is the six digits that `queue list` shows, a job id, a unique prefix of one, or a name that only
one job has, or only one of those that are not over."""
