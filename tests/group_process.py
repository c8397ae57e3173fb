"""A program that runs one group on the embedded backend and cancels it at a certain moment."""

from __future__ import annotations

import sys
from pathlib import Path

from stagewright.adapters import open_controller
from stagewright.events import RunSealed, signals
from stagewright.events.groups.model import GroupEvent, GroupOpened, VariantBegun
from stagewright.statemachine import PipelineController
from stagewright.statemachine.files.run_folder import CancelOrder, RunFolder
from stagewright.statemachine.groups.folder import find_group

MOMENTS = ("opening", "ordered", "second", "between")
"""When it can be cancelled: as it opens, as its second run begins, after the end of its first.

It is ``ordered`` as it opens, by the file that another process leaves for it.
"""


def main() -> None:
    """The arguments are a configuration, its axis, and one of ``MOMENTS``."""
    config, axis, moment = sys.argv[1:]
    controller = open_controller(Path("runs"))
    _cancel_at(moment, controller)
    controller.start_group(Path(config), vary=[axis]).wait()


def _cancel_at(moment: str, controller: PipelineController) -> None:
    def on_group(_sender: object, group_event: GroupEvent, **_: object) -> None:
        match group_event:
            case GroupOpened() if moment == "opening":
                controller.cancel(group_event.group_id)
            case GroupOpened() if moment == "ordered":
                folder = find_group(controller.runs, group_event.group_id)
                RunFolder(folder).order_cancel(CancelOrder(reason="enough"))
            case VariantBegun(variant_index=1) if moment == "second":
                controller.cancel(group_event.group_id)

    def on_run(_sender: object, event: object, **_: object) -> None:
        if isinstance(event, RunSealed) and moment == "between" and controller.current_group_id:
            controller.cancel(controller.current_group_id)

    signals.group_changed.connect(on_group, weak=False)
    signals.event_appended.connect(on_run, weak=False)


if __name__ == "__main__":
    main()
