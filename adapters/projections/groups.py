"""The groups of runs below a folder, from their own logs and the catalogue of runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from ...events.errors import LogCorruptError, RunNotFoundError
from ...events.groups.fold import GroupFold
from ...events.groups.log import GROUP_LOCK_NAME, read_group_log
from ...events.log.lock import is_locked
from ...events.model import RunState
from ...statemachine.groups.folder import GROUPS_NAME, group_folders
from ...statemachine.groups.result import CORRUPT, REMOVED, UNREADABLE, state_of_group
from .catalogue import CatalogueEntry


class GroupEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One group: ``runs`` are those of its variants that have begun, by variant.

    ``state`` is CORRUPT or UNREADABLE if the group's own log is; ``error`` says why then, and
    nothing else is known. ``alive`` says whether a process works on the group. ``left`` counts the
    variants that a resume would work on, of which ``cancelled`` runs were cancelled alone.
    ``opened`` is RFC 3339.
    """

    group_id: str
    folder: str
    name: str
    state: str
    opened: str = ""
    variants: int = 0
    completed: int = 0
    left: int = 0
    cancelled: int = 0
    runs: tuple[CatalogueEntry, ...] = ()
    alive: bool = False
    error: str = ""

    @property
    def resumable(self) -> bool:
        """Whether a resume has something to do."""
        return self.left > 0 and not self.alive

    @property
    def waits(self) -> bool:
        """Whether it can be resumed, and what is left was not cancelled."""
        return self.resumable and self.state != RunState.CANCELLED and self.left > self.cancelled


def group_entries(runs: Path, entries: Sequence[CatalogueEntry]) -> list[GroupEntry]:
    """The groups below ``runs``, newest first; ``entries`` are all runs there."""
    by_group: dict[str, dict[str, CatalogueEntry]] = {}
    for entry in entries:
        if entry.group_id is not None:
            by_group.setdefault(entry.group_id, {})[entry.run_id] = entry
    return [_entry(folder, by_group) for folder in reversed(group_folders(runs))]


def _entry(folder: Path, by_group: dict[str, dict[str, CatalogueEntry]]) -> GroupEntry:
    place = f"{GROUPS_NAME}/{folder.name}"
    fold = GroupFold()
    try:
        read_group_log(folder, fold.apply_all)
    except (LogCorruptError, OSError, RunNotFoundError) as error:
        state = CORRUPT if isinstance(error, LogCorruptError) else UNREADABLE
        return GroupEntry(
            group_id=folder.name, folder=place, name=folder.name, state=state, error=str(error)
        )
    assert fold.opened is not None
    own = _by_variant(fold, by_group.get(fold.group_id, {}))
    indexes = [one.variant_index for one in fold.opened.variants]
    states = [
        own[index].state if index in own else REMOVED if index in fold.removed else RunState.IDLE
        for index in indexes
    ]
    left = list(_left(fold, own, indexes))
    return GroupEntry(
        group_id=fold.group_id,
        folder=place,
        name=fold.opened.name or folder.name,
        state=state_of_group(fold, states),
        opened=fold.opened.ts.isoformat(),
        variants=len(indexes),
        completed=states.count(RunState.COMPLETED),
        left=len(left),
        cancelled=sum(index in own and own[index].cancelled for index in left),
        runs=tuple(own[index] for index in indexes if index in own),
        alive=is_locked(folder, GROUP_LOCK_NAME),
    )


def _by_variant(fold: GroupFold, entries: dict[str, CatalogueEntry]) -> dict[int, CatalogueEntry]:
    """The runs of a group by variant; also one that only its own log ascribes to the group."""
    own = {index: entries[one] for index, one in fold.run_ids.items() if one in entries}
    known = set(fold.run_ids.values())
    for entry in entries.values():
        index = entry.variant_index
        if index is not None and index not in fold.run_ids and entry.run_id not in known:
            own.setdefault(index, entry)
    return own


def _left(fold: GroupFold, own: dict[int, CatalogueEntry], indexes: list[int]) -> Iterator[int]:
    """The variants that have not begun, or whose runs can be resumed."""
    for index in indexes:
        if index in own:
            if own[index].resumable and not own[index].is_archived:
                yield index
        elif index not in fold.removed:
            yield index
