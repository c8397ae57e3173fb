"""Removal of the runs of a group, and of the group's folder.

That a variant's run is removed is durable in the group's log before the run is, so that no resume
makes it again. A crash leaves a group that can be resumed, or removed again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from ...events.errors import LogCorruptError
from ...events.groups.log import GROUP_LOCK_NAME
from ...events.groups.model import VariantRemoved
from ...events.log.storage import Storage
from ..files.removed_folders import remove_folder
from ..files.run_folder import ARCHIVE_NAME
from ..ports import Clock
from .folder import group_folder, group_folders
from .journal import GroupJournal
from .result import fold_group
from .variant_config import VariantConfigs


class VariantRemovals:
    """Records which runs of a group are removed; the group's log is held until ``close``.

    Raises LogLockedError, LogCorruptError, LogWriteError.
    """

    def __init__(self, folder: Path, *, clock: Clock, storage: Storage | None = None) -> None:
        self._journal = GroupJournal.open(folder, clock=clock, storage=storage or Storage())
        self._indexes = {one.variant_index for one in self._journal.opened.variants}
        self._has_begun = False

    def record(self, variant_index: int, run_id: str, reason: str) -> None:
        """Make it durable that the run of a variant is removed on purpose.

        Nothing is recorded of a run that the group's log does not know as that variant's.
        Raises LogWriteError.
        """
        fold, opened = self._journal.fold, self._journal.opened
        is_known = fold.run_ids.get(variant_index, run_id) == run_id
        if variant_index not in self._indexes or not is_known:
            return
        if not self._has_begun:
            durability = VariantConfigs(opened, self._journal.folder).durability
            self._journal.begin_epoch(durability)
            self._has_begun = True
        self._journal.record(
            lambda at: VariantRemoved(
                **at, variant_index=variant_index, run_id=run_id, reason=reason
            )
        )

    def close(self) -> None:
        """Release the group's log."""
        self._journal.close()


def remove_group(folder: Path, *, storage: Storage | None = None) -> None:
    """Remove the folder of a group; its runs stay.

    Raises LogLockedError, RemovalRefusedError, LogWriteError.
    """
    remove_folder(folder, storage or Storage(), lock_name=GROUP_LOCK_NAME)


def group_of_run(folder: Path, group_id: str | None) -> Path | None:
    """The folder of the group that the run in ``folder`` belongs to; None where there is none."""
    if group_id is None:
        return None
    runs = Path(os.path.abspath(folder)).parent  # noqa: PTH100 - a link must not be followed
    return group_folder(runs.parent if runs.name == ARCHIVE_NAME else runs, group_id)


class Claim(NamedTuple):
    """The group whose log names a run as that of one of its variants."""

    group_id: str
    variant_index: int


def claim_of(folder: Path) -> Claim | None:
    """What a group's log says of the run in ``folder``, whose own log has lost it; else None."""
    run = Path(os.path.abspath(folder))  # noqa: PTH100 - a link must not be followed
    runs = run.parent
    for group in group_folders(runs.parent if runs.name == ARCHIVE_NAME else runs):
        try:
            fold = fold_group(group)
        except (LogCorruptError, OSError):  # it cannot record the removal either
            continue
        for variant_index, run_id in fold.run_ids.items():
            if run_id == run.name:
                return Claim(fold.group_id, variant_index)
    return None
