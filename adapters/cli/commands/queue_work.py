"""``queue work``: works on the jobs of the queue."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

import click

from ....events.model import RunState
from ....events.queue.jobs import Job, JobState
from ....statemachine.groups.folder import GROUPS_NAME
from ....statemachine.queue.job_queue import JobQueue
from ....statemachine.queue.job_runner import SingleNodeJobRunner, WorkEnd, WorkHandle, WorkResult
from ...notifications.messages import job_message, queue_message
from ...notifications.notifier import Notifier
from ...notifications.watch import WorkerWatch
from ..configuration import with_farm
from ..display import Display
from ..foreground import open_command_controller, run_in_foreground, status_bar
from ..options import farm_option, insecure_option, json_option, runs_option, servers_option
from ..output import count, print_json, print_line, print_note
from ..queues import default_servers, job_label, job_state, moment_option, open_queue, shown_job
from ..results import print_faults, try_to_print
from ..run_watch import open_notifier, run_watch_opener
from ..settings import named_servers
from ..statuses import EXIT_CANCELLED, EXIT_COMPLETED, EXIT_ERROR, EXIT_INTERRUPTED, print_error

_NAME = "queue"
_BEHIND_S = 0.5
"""The display may be so far behind the run."""
_LOOK_S = 0.02


@click.command("work")
@servers_option(
    "WebUI server to use; repeated, several share the work.  [default: those of the job, else "
    "those of `queue servers`]"
)
@farm_option
@moment_option("--until", "until", "Stop at this time, after the present image: 07:30.")
@click.option("--exit-when-empty", is_flag=True, help="End when no job waits.")
@insecure_option
@runs_option
@json_option
def work_command(
    servers: tuple[str, ...],
    farm: str | None,
    until: datetime | None,
    exit_when_empty: bool,
    insecure: bool,
    runs: Path,
    as_json: bool,
) -> int:
    """Work on the jobs of the queue, and wait for more.

    A job whose worker died is continued first, from its last image. A server that cannot be reached
    is waited for. Ctrl-C, SIGTERM and a closed terminal stop the job in progress cleanly; the
    next worker continues it. Jobs of equal priority that use the checkpoint that is loaded come
    first, but no job waits for more than 20 others.

    \b
    Exit status:
      0  the queue is empty or paused (--exit-when-empty), or --until was reached
      1  the same, but some jobs are not complete, or the server was not reached
      2  wrong usage
      3  stopped by a signal; after Ctrl-C the command ends by SIGINT (130 in
         shells)
      4  the queue's log is corrupt
    """
    queue = open_queue(runs, check=False)
    state = queue.refresh()
    default = default_servers(state.servers)
    if state.paused is not None:
        print_note("the queue is paused; `stagewright queue resume` lets jobs begin")
    controller = open_command_controller(
        runs, named_servers(with_farm(servers, farm)), insecure=insecure
    )
    watch = WorkerWatch(run_watch_opener(runs))
    worker = _Worker(queue, watch, open_notifier())
    runner = SingleNodeJobRunner(
        queue,
        controller,
        until=until,
        exit_when_empty=exit_when_empty,
        servers=default,
        on_job=worker.show,
        on_run=watch.begin,
        on_end=watch.end,
        on_refused=worker.note_refused,
        on_empty=worker.note_empty,
    )
    worker.runner = runner
    ended = run_in_foreground(
        worker, worker.start, worker.view, on_display=worker.use_display, watch=watch
    )
    return _show_end(ended.result, as_json=as_json, interrupted=ended.interrupted)


class _Worker:
    """The worker as the foreground sees it: one thing that runs and can be stopped."""

    runner: SingleNodeJobRunner

    def __init__(self, queue: JobQueue, watch: WorkerWatch, notifier: Notifier | None) -> None:
        self.runs = queue.runs
        self._watch = watch
        self._notifier = notifier
        self.view = status_bar(queue.runs)
        self.current_run_id: str | None = None
        self.current_group_id: str | None = None
        self._display: Display | None = None
        self._ended = 0

    def use_display(self, display: Display) -> None:
        self._display = display

    def start(self, _on_file: object) -> WorkHandle:
        handle = self.runner.start()
        self.current_run_id = _NAME
        return handle

    def cancel(self, _name: str, /, *, reason: str) -> None:
        self.runner.cancel(reason=reason)

    def note_empty(self) -> None:
        """Say that no job is left, also by a message."""
        print_note("the queue is empty")
        if self._notifier is not None:
            self._notifier.send(queue_message(self.runs, self._ended))
        self._ended = 0

    def note_refused(self, job: Job) -> None:
        """Send that a job has failed whose run could not begin."""
        if self._notifier is not None:
            self._notifier.send(job_message(job, self.runs))

    def show(self, job: Job) -> None:
        """Print one line where a job begins, or stops or ends."""
        self._ended += job.state is JobState.ENDED
        if job.reason == WorkEnd.PAUSED:
            self._watch.drop()
        if self._display is None:
            return
        if job.state is JobState.RUNNING:
            what = f"begins ({job.run_id or job.group_id})" if not job.images else "is continued"
            self._display.print_line(f"{job_label(job)} {what}")
            return
        self._wait_for_lines(job)
        state = "waits to be continued" if job.state is JobState.WAITING else job_state(job)
        why = f": {job.reason}" if job.reason else ""
        self._display.print_line(f"{job_label(job)}: {state}{why}")

    def _wait_for_lines(self, job: Job) -> None:
        """Let the display show the run or group to its end first; it is a little behind."""
        end = time.monotonic() + _BEHIND_S
        is_group = job.group_id is not None
        name = str(job.group_id or job.run_id)
        folder = self.runs / GROUPS_NAME / name if is_group else self.runs / name
        while time.monotonic() < end and folder.exists():
            now = self.view.snapshot()
            shown = (now.group_id, now.group_state) if is_group else (now.run_id, now.state)
            if shown[0] == name and shown[1] != RunState.RUNNING:
                return
            time.sleep(_LOOK_S)


def _show_end(result: WorkResult, *, as_json: bool, interrupted: bool) -> int:
    def show() -> None:
        if as_json:
            print_json({"end": result.end, "jobs": list(map(shown_job, result.jobs))})
        else:
            print_line(_end_text(result))

    try_to_print(show)
    print_faults()
    if interrupted:
        return EXIT_INTERRUPTED
    if result.end is WorkEnd.STOPPED:
        return EXIT_CANCELLED
    if result.end is WorkEnd.SERVER:
        return print_error(f"{WorkEnd.SERVER}; its jobs wait", EXIT_ERROR)
    return EXIT_COMPLETED if result.is_complete else EXIT_ERROR


def _end_text(result: WorkResult) -> str:
    bad = [job for job in result.jobs if job.outcome != "completed"]
    ended = f"{count(len(result.jobs), 'job')} ended"
    failed = f", {len(bad)} of them not complete" if bad else ""
    return f"{ended}{failed}; {result.end}"
