"""``cancel``: stops a run of another process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import click

from ....events.folds import replay
from ....events.groups.log import GROUP_LOCK_NAME
from ....events.log.lock import LOCK_NAME, is_locked
from ....events.model import CancelMode, RunState
from ....statemachine.files.run_folder import CancelOrder, RunFolder
from ....statemachine.groups.folder import recorded_group_id
from ....statemachine.groups.result import replay_group
from ..completion import complete_run
from ..options import json_option, runs_option
from ..output import print_json, print_line
from ..run_lookup import find_run_or_group

ACKNOWLEDGED_WITHIN_S = 10.0
_POLL_S = 0.05
_ANSWERS = {
    "stopped": "stopped",
    "requested": "the stop was requested, but its process has not answered yet",
    "stopping": "stopping now",
}


class _Target(NamedTuple):
    """What is to be stopped: a run, or a group of runs."""

    folder: RunFolder
    runs: Path
    is_group: bool

    @property
    def name(self) -> str:
        path = self.folder.path
        return recorded_group_id(path) if self.is_group else path.name

    @property
    def is_running(self) -> bool:
        return is_locked(self.folder.path, GROUP_LOCK_NAME if self.is_group else LOCK_NAME)

    @property
    def state(self) -> RunState:
        if self.is_group:
            return replay_group(self.folder.path, self.runs).state
        return replay(self.folder.path).state


@click.command("cancel")
@click.argument("run", metavar="RUN_OR_GROUP", shell_complete=complete_run)
@click.option("--after-image", is_flag=True, help="Finish the current image first.")
@runs_option
@json_option
def cancel_command(run: str, after_image: bool, runs: Path, as_json: bool) -> None:
    """Stop a run or group that another process is executing.

    Of a group, the run in progress is stopped and no other begins. Finished images are kept, and
    `stagewright resume` continues.
    """
    found = find_run_or_group(runs, run)
    target = _Target(RunFolder(found.folder), found.runs, found.is_group)
    if not target.is_running:
        raise click.UsageError(f"{target.name} is not running (state: {target.state})")
    mode = CancelMode.AFTER_IMAGE if after_image else CancelMode.NOW
    answer = _stop(target, mode)
    if as_json:
        key = "group_id" if target.is_group else "run_id"
        print_json({key: target.name, "mode": mode, "answer": answer})
    else:
        waits = after_image and answer == "stopping"
        said = "stopping after the current image" if waits else _ANSWERS[answer]
        print_line(f"{target.name}: {said}")


def _stop(target: _Target, mode: CancelMode) -> str:
    """Ask the process to stop: ``stopping``, ``stopped``, or ``requested`` if it is silent.

    Raises UsageError if the run or group has ended otherwise.
    """
    folder = target.folder
    folder.order_cancel(CancelOrder(mode=mode, reason="stagewright cancel"))
    deadline = time.monotonic() + ACKNOWLEDGED_WITHIN_S
    while folder.cancel_order() is not None:
        if not target.is_running:
            if folder.cancel_order() is None:
                break  # the order was taken, and the process has ended since
            folder.forget_cancel_order()
            if target.state == RunState.CANCELLED:
                return "stopped"
            raise click.UsageError(f"{target.name} has ended (state: {target.state})")
        if time.monotonic() > deadline:
            return "requested"
        time.sleep(_POLL_S)
    return "stopping"
