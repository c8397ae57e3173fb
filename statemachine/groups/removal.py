"""Removal of the runs of a group, and of the group's folder.

That a variant's run is removed is durable in the group's log before the run is, so that no resume
makes it again. A crash leaves a group that can be resumed, or removed again.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import NamedTuple

from ...events.errors import LogCorruptError, StagewrightError
from ...events.groups.log import GROUP_LOCK_NAME
from ...events.groups.model import VariantRemoved
from ...events.log.lock import is_locked, lock_holder
from ...events.log.storage import PART_SUFFIX, Storage
from ..files.removed_folders import remove_folder
from ..files.run_folder import ARCHIVE_NAME, is_run_id
from ..ports import Clock
from .folder import GROUPS_NAME, group_folder, group_folders
from .found_files import INPUTS_NAME
from .journal import GroupJournal
from .result import fold_group
from .variant_config import VariantConfigs

_MAKING_S = 60.0
"""A process that has made the folder of a group takes its lock at once."""
_logger = logging.getLogger("stagewright.groups")


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


def remove_unopened_groups(runs: Path, *, storage: Storage | None = None) -> None:
    """Remove the folders that processes left below ``runs`` that died before a group had its log.

    One that cannot be removed stays: nothing depends on it.
    """
    place = runs / GROUPS_NAME
    for folder in place.iterdir() if place.is_dir() else ():
        try:
            if _is_left_unopened(folder):
                remove_folder(folder, storage or Storage(), lock_name=GROUP_LOCK_NAME)
        except (OSError, StagewrightError) as error:
            _logger.info("%s: it was left by a crash and cannot be removed: %s", folder, error)


def _is_left_unopened(folder: Path) -> bool:
    """Whether a process made a group here, and died before there was a log."""
    if not is_run_id(folder.name) or folder.is_symlink() or not folder.is_dir():
        return False
    names = {one.name for one in folder.iterdir() if not one.name.endswith(PART_SUFFIX)}
    if not names <= {GROUP_LOCK_NAME, INPUTS_NAME}:
        return False
    if is_locked(folder, GROUP_LOCK_NAME):
        return False
    # The lock file names the process that has held it; before that, the folder may be brand new.
    has_died = lock_holder(folder, GROUP_LOCK_NAME) is not None
    return has_died or time.time() - folder.stat().st_mtime > _MAKING_S


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
