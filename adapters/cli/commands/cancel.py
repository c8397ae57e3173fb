"""``cancel``: stops a run of another process."""

from __future__ import annotations

import time
from pathlib import Path

import click

from ....events.folds import replay
from ....events.log.lock import is_locked
from ....events.model import CancelMode, RunState
from ....statemachine.files.run_folder import CancelOrder, RunFolder
from ..completion import complete_run
from ..output import json_option, print_json, print_line, runs_option
from ..run_lookup import find_run

ACKNOWLEDGED_WITHIN_S = 10.0
_POLL_S = 0.05
_REQUESTED = "the stop was requested, but its process has not answered yet"
_WORDS = {
    ("stopped", CancelMode.NOW): "stopped",
    ("stopped", CancelMode.AFTER_IMAGE): "stopped",
    ("requested", CancelMode.NOW): _REQUESTED,
    ("requested", CancelMode.AFTER_IMAGE): _REQUESTED,
    ("stopping", CancelMode.NOW): "stopping now",
    ("stopping", CancelMode.AFTER_IMAGE): "stopping after the current image",
}


@click.command("cancel")
@click.argument("run", shell_complete=complete_run)
@click.option("--after-image", is_flag=True, help="Finish the current image first.")
@runs_option
@json_option
def cancel_command(run: str, after_image: bool, runs: Path, as_json: bool) -> None:  # noqa: FBT001 - click passes flags
    """Stop a run that another process is executing.

    Finished images are kept, and `stagewright resume` continues the run.
    """
    folder = RunFolder(find_run(runs, run))
    name = folder.path.name
    if not is_locked(folder.path):
        raise click.UsageError(f"{name} is not running (state: {replay(folder.path).state})")
    mode = CancelMode.AFTER_IMAGE if after_image else CancelMode.NOW
    answer = _stop(folder, mode)
    if as_json:
        print_json({"run_id": name, "mode": mode, "answer": answer})
    else:
        print_line(f"{name}: {_WORDS[answer, mode]}")


def _stop(folder: RunFolder, mode: CancelMode) -> str:
    """Ask the process to stop the run: ``stopping``, ``stopped``, or ``requested`` if it is silent.

    Raises UsageError if the run has ended otherwise.
    """
    folder.order_cancel(CancelOrder(mode=mode, reason="stagewright cancel"))
    deadline = time.monotonic() + ACKNOWLEDGED_WITHIN_S
    while folder.cancel_order() is not None:
        if not is_locked(folder.path):
            if folder.cancel_order() is None:
                break  # the run took the order and has ended since
            folder.forget_cancel_order()
            state = replay(folder.path).state
            if state == RunState.CANCELLED:
                return "stopped"
            raise click.UsageError(f"{folder.path.name} has ended (state: {state})")
        if time.monotonic() > deadline:
            return "requested"
        time.sleep(_POLL_S)
    return "stopping"
