"""``queue list`` and ``queue status``: the jobs, and the queue as a whole."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.cells import cell_len

from ....events.queue.jobs import Job, JobState, QueueState
from ....statemachine.queue.job_queue import JobQueue
from ...projections.queue_estimate import JobEstimates, QueueEstimate
from ...text import one_line, rough_duration
from ..options import json_option, runs_option
from ..output import print_json, print_line
from ..queues import default_servers, job_state, open_queue, short_id, shown_job, state_colour
from ..styles import Mark, state_mark
from ..table import cell

_DONE = (JobState.ENDED, JobState.SET_ASIDE, JobState.REMOVED)
_LEFT = (JobState.RUNNING, JobState.WAITING)
_HEAD = ("JOB", "NAME", "KIND", "IMAGES", "STATE", "NOTE")
_NAME = 1
_WIDEST_NAME = 40


@click.command("list")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=20,
    metavar="N",
    help="Show N jobs that are over and N that wait; 0: all.  [default: 20]",
)
@runs_option
@json_option
def list_command(limit: int, runs: Path, as_json: bool) -> None:
    """List the jobs.

    Those that are over come first, then those in progress, then those that wait. Waiting jobs are
    in the order in which they begin. NOTE says how long a job will about take, when it begins
    at the earliest, or why it is not complete. With --json all jobs are printed, removed ones
    too.
    """
    queue = open_queue(runs)
    state, now = queue.refresh(), datetime.now(UTC)
    estimates = JobEstimates(runs, default_servers(state.servers))
    most = None if as_json or not limit else limit
    over = sorted(queue.jobs(*_DONE, most=most), key=lambda job: job.ended_seq)
    left = queue.jobs(*_LEFT, most=most)
    dead = {job.job_id for job in left if _is_dead(queue, job)}
    if as_json:
        print_json(
            [
                shown_job(
                    job,
                    is_dead=job.job_id in dead,
                    estimate_s=estimates.estimate_s(job, now),
                )
                for job in (*over, *left)
            ]
        )
        return
    shown = [job for job in over if job.state is not JobState.REMOVED][-limit:]
    rows = [_row(job, estimates, now, is_dead=job.job_id in dead) for job in (*shown, *left)]
    if rows:
        _show(rows)
    print_line(_summary(queue, state, estimates, now))


@click.command("status")
@runs_option
@json_option
def status_command(runs: Path, as_json: bool) -> None:
    """Count the jobs in each state, and estimate the time of all."""
    queue = open_queue(runs)
    state, now = queue.refresh(), datetime.now(UTC)
    estimates = JobEstimates(runs, default_servers(state.servers))
    if not as_json:
        print_line(_summary(queue, state, estimates, now))
        return
    whole = _estimate_of(queue, estimates, now)
    print_json(
        {
            "paused": state.paused,
            "servers": state.servers,
            "counts": queue.counts(),
            "estimate_s": whole.seconds,
            "estimate_is_complete": whole.complete,
        }
    )


def _is_dead(queue: JobQueue, job: Job) -> bool:
    return job.state is JobState.RUNNING and not queue.files.is_held(job.job_id)


def _estimate_of(queue: JobQueue, estimates: JobEstimates, now: datetime) -> QueueEstimate:
    return estimates.estimate_all(queue.work_left(), queue.jobs(JobState.RUNNING), now)


def _row(job: Job, estimates: JobEstimates, now: datetime, *, is_dead: bool) -> list[str]:
    return [
        short_id(job.job_id),
        one_line(job.name),
        str(job.job),
        str(job.total_images or ""),
        job_state(job, is_dead=is_dead),
        _note(job, estimates.estimate_s(job, now), now, is_dead=is_dead),
    ]


def _note(job: Job, seconds: float | None, now: datetime, *, is_dead: bool) -> str:
    notes = []
    if is_dead:
        notes.append("the next worker continues it")
    if seconds is not None and seconds >= 1:
        notes.append(f"about {rough_duration(seconds)}")
    if job.state is JobState.WAITING:
        if job.priority:
            notes.append(f"priority {job.priority}")
        if not job.is_due(now) and job.not_before is not None:
            notes.append(f"not before {job.not_before.astimezone():%Y-%m-%d %H:%M}")
        if job.run_id or job.group_id:
            notes.append("continues")
    return one_line(", ".join([*notes, *([job.reason] if job.reason else [])]))


def _show(rows: Sequence[Sequence[str]]) -> None:
    columns = list(zip(*[_HEAD, *rows], strict=True))
    widths = [max(map(cell_len, column)) for column in columns[:-1]]
    widths[_NAME] = min(widths[_NAME], _WIDEST_NAME)
    terminal = shutil.get_terminal_size().columns
    room = max(20, terminal - sum(widths) - 2 * len(widths)) if sys.stdout.isatty() else None
    for row in (_HEAD, *rows):
        parts: list[str | Mark] = []
        for place, (text, width) in enumerate(zip(row, widths, strict=False)):
            shown = f"{cell(text, width)}  "
            is_state = _HEAD[place] == "STATE" and row is not _HEAD
            parts.append(state_mark(state_colour(text), shown) if is_state else shown)
        note = row[-1]
        cut = note if room is None or cell_len(note) <= room else cell(note, room)
        print_line(*parts, cut)


def _summary(queue: JobQueue, state: QueueState, estimates: JobEstimates, now: datetime) -> str:
    counts = queue.counts()
    known = [
        f"{counts[one]} {one}" for one in JobState if counts[one] and one is not JobState.REMOVED
    ]
    text = ", ".join(known) or "the queue is empty"
    whole = _estimate_of(queue, estimates, now)
    if whole.seconds >= 1:
        least = "" if whole.complete else "at least "
        text += f"; {least}about {rough_duration(whole.seconds)} for all that is left"
    return f"{text}; the queue is paused" if state.paused is not None else text
