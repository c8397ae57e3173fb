"""``cancel``: stops a run of another process."""

from __future__ import annotations

import time
from pathlib import Path

import click

from ....events.folds import replay
from ....events.log.lock import is_locked
from ....events.model import CancelMode, RunState
from ....statemachine.files.run_folder import CancelOrder, RunFolder
from ..output import print_line, runs_option
from ..run_lookup import find_run

ACKNOWLEDGED_WITHIN_S = 10.0
_POLL_S = 0.05


@click.command("cancel")
@click.argument("run")
@click.option("--after-image", is_flag=True, help="Finish the current image first.")
@runs_option
def cancel_command(run: str, after_image: bool, runs: Path) -> int:  # noqa: FBT001 - click passes flags
    """Stop a run that another process is executing.

    Finished images are kept, and `stagewright resume` continues the run.

    RUN is a run id, a unique prefix of one, its six digits, a name that only one run has, `last`,
    or the path of a run folder.
    """
    folder = RunFolder(find_run(runs, run))
    name = folder.path.name
    if not is_locked(folder.path):
        raise click.UsageError(f"{name} is not running (state: {replay(folder.path).state})")
    mode = CancelMode.AFTER_IMAGE if after_image else CancelMode.NOW
    folder.order_cancel(CancelOrder(mode=mode, reason="stagewright cancel"))
    deadline = time.monotonic() + ACKNOWLEDGED_WITHIN_S
    while folder.cancel_order() is not None:
        if not is_locked(folder.path):
            if folder.cancel_order() is None:
                break  # the run took the order and has ended since
            folder.forget_cancel_order()
            state = replay(folder.path).state
            if state == RunState.CANCELLED:
                print_line(f"{name}: stopped")
                return 0
            raise click.UsageError(f"{name} is no longer running (state: {state})")
        if time.monotonic() > deadline:
            print_line(f"{name}: the stop was requested, but its process has not answered yet")
            return 0
        time.sleep(_POLL_S)
    print_line(f"{name}: stopping {'after the current image' if after_image else 'now'}")
    return 0
