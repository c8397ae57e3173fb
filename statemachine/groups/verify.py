"""Checks the log of a group, and says what a resume would do; writes nothing."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ...events.errors import LogCorruptError
from ...events.groups.fold import GroupFold
from ...events.groups.log import GROUP_LOCK_NAME, GROUP_LOG, GROUP_LOG_NAME
from ...events.log.lock import is_locked, lock_holder
from ...events.log.storage import Storage
from ...events.log.verified_scan import RecordScan
from ...events.model import RunState
from .folder import variant_folders
from .result import REMOVED, read_variant_run, state_of_group, state_without_run


class GroupVerification(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of a group.

    ``corrupt`` says where its log is corrupt, "" if it is sound. ``state`` is that of the group
    with its runs, as in ``GroupResult``.
    ``advice`` says what a resume would do, "" if nothing. ``running`` is the process that works
    on the group. ``runs`` are the folders of its runs, by the indexes of their variants.
    """

    group_id: str
    folder: str
    events: int
    variants: int = 0
    state: str = ""
    corrupt: str = ""
    torn_bytes: int = 0
    advice: str = ""
    running: str = ""
    runs: dict[int, str] = {}

    @property
    def sound(self) -> bool:
        """Whether no record fails its check."""
        return not self.corrupt

    @property
    def finished(self) -> bool:
        """Whether a resume would do nothing."""
        return self.sound and not self.advice


def verify_group(folder: Path, runs: Path) -> GroupVerification:
    """Check the log of the group in ``folder``. Raises OSError."""
    fold = GroupFold()
    path = folder / GROUP_LOG_NAME
    with Storage().open_read(path) as stream:
        scan = RecordScan(GROUP_LOG, stream, path=path)
        try:
            for batch in scan.batches():
                fold.apply_all(batch)
        except LogCorruptError as error:
            group_id = fold.group_id or folder.name
            return GroupVerification(
                group_id=group_id,
                folder=str(folder),
                events=scan.count,
                corrupt=str(error),
                runs=_texts(variant_folders(runs, group_id, fold.run_ids)),
            )
    folders = variant_folders(runs, fold.group_id, fold.run_ids)
    torn = scan.torn.bytes if scan.torn else 0
    states, advice = _check_variants(fold, folders, torn)
    held = is_locked(folder, GROUP_LOCK_NAME)
    return GroupVerification(
        group_id=fold.group_id,
        folder=str(folder),
        events=scan.count,
        variants=len(fold.opened.variants) if fold.opened else 0,
        state=state_of_group(fold, states),
        torn_bytes=torn,
        advice=advice,
        running=str(lock_holder(folder, GROUP_LOCK_NAME) or "a process") if held else "",
        runs=_texts(folders),
    )


def _texts(folders: dict[int, Path]) -> dict[int, str]:
    return {index: str(place) for index, place in sorted(folders.items())}


def _check_variants(fold: GroupFold, folders: dict[int, Path], torn: int) -> tuple[list[str], str]:
    """The states of the variants, and what a resume would do, in words after ``resume would``."""
    states: list[str] = []
    unfinished = begun = 0
    for variant in fold.opened.variants if fold.opened else ():
        folder = folders.get(variant.variant_index)
        if folder is None:
            states.append(state_without_run(fold, variant.variant_index))
            begun += states[-1] != REMOVED
            continue
        run = read_variant_run(folder)
        unfinished += not run.is_finished
        states.append(run.state)
    parts = [f"finish {_runs(unfinished)}"] if unfinished else []
    parts += [f"begin {_runs(begun)}"] if begun else []
    if not parts and fold.state != RunState.COMPLETED:
        parts = ["seal the log"]
    if parts and torn:
        parts.insert(0, f"cut {torn} torn bytes off the log")
    return states, ", ".join(parts)


def _runs(number: int) -> str:
    return "1 run" if number == 1 else f"{number} runs"
