"""``queue move``, ``remove``, ``retry``, ``pause``, ``resume`` and ``servers``."""

from __future__ import annotations

from pathlib import Path

import click

from ....events.queue.model import PauseMode
from ....statemachine.queue.job_order import Place
from ...backends.registry import recorded_address
from ..options import json_option, runs_option
from ..output import count, print_json, print_line
from ..queues import (
    JOB_NAMES,
    complete_job,
    job_argument,
    job_label,
    open_queue,
    shown_job,
)

_STOPS = {
    PauseMode.NOW: "jobs in progress stop now",
    PauseMode.AFTER_IMAGE: "jobs in progress stop after their image",
    PauseMode.AFTER_RUN: "jobs in progress are finished",
}


@click.command("move", epilog=JOB_NAMES)
@job_argument
@click.argument("place", type=click.Choice([str(place) for place in Place]))
@runs_option
@json_option
def move_command(job: str, place: str, runs: Path, as_json: bool) -> None:
    """Move a waiting job among those of its priority."""
    queue = open_queue(runs)
    moved = queue.move(queue.find(job).job_id, Place(place))
    if as_json:
        print_json(shown_job(moved))
        return
    ahead = queue.place_of(moved)
    print_line(f"{job_label(moved)}: {count(ahead, 'job')} before it")


@click.command("remove", epilog=JOB_NAMES)
@click.argument("jobs", metavar="JOB...", nargs=-1, required=True, shell_complete=complete_job)
@runs_option
@json_option
def remove_command(jobs: tuple[str, ...], runs: Path, as_json: bool) -> None:
    """Remove jobs from the queue; their runs stay.

    A job on which a worker works cannot be removed: cancel its run first.
    """
    queue = open_queue(runs)
    found = [queue.find(job) for job in jobs]
    queue.remove([job.job_id for job in found])
    if as_json:
        print_json([shown_job(queue.find(job.job_id)) for job in found])
        return
    for job in found:
        print_line(f"{job_label(job)}: removed")


@click.command("retry", epilog=JOB_NAMES)
@job_argument
@runs_option
@json_option
def retry_command(job: str, runs: Path, as_json: bool) -> None:
    """Let a job wait again that failed, was cancelled or was set aside.

    Its run is resumed: finished images are kept.
    """
    queue = open_queue(runs)
    retried = queue.retry(queue.find(job).job_id)
    if as_json:
        print_json(shown_job(retried))
        return
    print_line(f"{job_label(retried)}: waits; {count(queue.place_of(retried), 'job')} before it")


@click.command("pause")
@click.option("--now", "mode", flag_value="now", help="Stop jobs in progress at once.")
@click.option(
    "--after-image", "mode", flag_value="after_image", help="Stop them after the present image."
)
@click.option(
    "--after-run",
    "mode",
    flag_value="after_run",
    default=True,
    help="Let jobs in progress end (the default).",
)
@runs_option
@json_option
def pause_command(mode: str, runs: Path, as_json: bool) -> None:
    """Let no job begin until `queue resume`.

    A job that is stopped keeps its finished images, and is continued first.
    """
    queue = open_queue(runs, check=False)
    queue.pause(PauseMode(mode))
    if as_json:
        print_json({"paused": mode})
    else:
        print_line(f"the queue is paused; {_STOPS[PauseMode(mode)]}")


@click.command("resume")
@runs_option
@json_option
def resume_command(runs: Path, as_json: bool) -> None:
    """Let jobs begin again after `queue pause`."""
    queue = open_queue(runs)
    queue.resume()
    if as_json:
        print_json({"paused": None})
    else:
        print_line("the queue is not paused")


@click.command("servers")
@click.argument("action", required=False, type=click.Choice(["add", "remove"]))
@click.argument("url", required=False)
@runs_option
@json_option
def servers_command(action: str | None, url: str | None, runs: Path, as_json: bool) -> None:
    """Show, add or remove the servers of workers.

    `queue work` without --server uses them for jobs whose configuration names no server. They are
    kept in the queue's log. Credentials are sent only to a --server that is given to `queue work`,
    or to the origin in STAGEWRIGHT_AUTH_ORIGIN.
    """
    if (action is None) != (url is None):
        raise click.UsageError("say `queue servers add URL` or `queue servers remove URL`")
    queue = open_queue(runs, check=action != "add")
    if action == "add" and url is not None:
        queue.add_server(recorded_address(url))
    elif url is not None:
        queue.remove_server(url if url in queue.refresh().servers else recorded_address(url))
    servers = queue.refresh().servers
    if as_json:
        print_json(servers)
        return
    for server in servers:
        print_line(server)
    if not servers:
        print_line("the queue names no server")
