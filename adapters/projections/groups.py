"""The groups of runs below a folder, from their own logs and the catalogue of runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from ...events.errors import LogCorruptError, RunNotFoundError
from ...events.groups.fold import GroupFold
from ...events.groups.log import GROUP_LOCK_NAME, read_group_log
from ...events.groups.model import SweepAxis, Variant
from ...events.log.lock import is_locked
from ...events.model import RunState
from ...statemachine.files.run_folder import name_in_run_id
from ...statemachine.groups.folder import GROUPS_NAME, group_folders
from ...statemachine.groups.result import (
    CORRUPT,
    REMOVED,
    UNREADABLE,
    VariantResult,
    state_of_group,
    state_without_run,
)
from .catalogue import CatalogueEntry

EntriesByGroup = Mapping[str, Mapping[str, CatalogueEntry]]
"""Runs by the id of their group, then by their own."""


class GroupEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One group: ``results`` are its variants, ``runs`` the runs of those that have begun.

    ``state`` is CORRUPT or UNREADABLE if the group's own log is. Then ``error`` says why, ``runs``
    is empty, and ``results`` may be incomplete. ``alive`` says whether a process works on the
    group. ``left`` counts the variants that a resume would work on; ``cancelled`` of their runs
    were cancelled alone. ``folder`` is relative to that of the runs, and ``opened`` is RFC 3339.
    """

    group_id: str
    folder: str
    name: str
    state: str
    opened: str = ""
    axes: tuple[SweepAxis, ...] = ()
    results: tuple[VariantResult, ...] = ()
    left: int = 0
    cancelled: int = 0
    runs: tuple[CatalogueEntry, ...] = ()
    alive: bool = False
    error: str = ""

    @property
    def variants(self) -> int:
        """How many variants there are."""
        return len(self.results)

    @property
    def completed(self) -> int:
        """The variants that are COMPLETED."""
        return sum(one.state == RunState.COMPLETED for one in self.results)

    @property
    def images(self) -> int:
        """The images of all runs that have finished the last stage."""
        return sum(one.images for one in self.results)

    @property
    def total_images(self) -> int:
        """The images that all runs have when they are complete."""
        return sum(one.total_images for one in self.results if one.state != REMOVED)

    @property
    def resumable(self) -> bool:
        """Whether a resume has something to do."""
        return self.left > 0 and not self.alive

    @property
    def waits(self) -> bool:
        """Whether it can be resumed, and what is left was not cancelled."""
        return self.resumable and self.state != RunState.CANCELLED and self.left > self.cancelled


def group_entries(runs: Path, entries: Iterable[CatalogueEntry]) -> list[GroupEntry]:
    """The groups below ``runs``, newest first; ``entries`` are all runs there."""
    of_groups = by_group(entries)
    return [group_entry(folder, of_groups) for folder in reversed(group_folders(runs))]


def by_group(entries: Iterable[CatalogueEntry]) -> EntriesByGroup:
    """Runs by the ids of their groups."""
    found: dict[str, dict[str, CatalogueEntry]] = {}
    for entry in entries:
        if entry.group_id is not None:
            found.setdefault(entry.group_id, {})[entry.run_id] = entry
    return found


def group_entry(folder: Path, entries: EntriesByGroup) -> GroupEntry:
    """The group in a folder."""
    fold = GroupFold()
    state = error = ""
    try:
        read_group_log(folder, fold.apply_all)
    except (LogCorruptError, OSError, RunNotFoundError) as failure:
        state = CORRUPT if isinstance(failure, LogCorruptError) else UNREADABLE
        error = str(failure)
    opened = fold.opened
    group_id = fold.group_id or folder.name
    own = _by_variant(fold, entries.get(group_id, {}))
    variants = opened.variants if opened else ()
    results = tuple(_result(fold, one, own.get(one.variant_index)) for one in variants)
    indexes = [one.variant_index for one in results]
    left = [] if error else list(_left(fold, own, indexes))
    return GroupEntry(
        group_id=group_id,
        folder=f"{GROUPS_NAME}/{folder.name}",
        name=(opened.name if opened else "") or name_in_run_id(folder.name),
        state=state or state_of_group(fold, (one.state for one in results)),
        opened=opened.ts.isoformat() if opened else "",
        axes=opened.axes if opened else (),
        results=results,
        left=len(left),
        cancelled=sum(index in own and own[index].cancelled for index in left),
        runs=() if error else tuple(own[index] for index in indexes if index in own),
        alive=is_locked(folder, GROUP_LOCK_NAME),
        error=error,
    )


def _result(fold: GroupFold, variant: Variant, run: CatalogueEntry | None) -> VariantResult:
    index = variant.variant_index
    state = state_without_run(fold, index)
    if run is not None:
        state = run.shown_state
    return VariantResult(
        variant_index=index,
        values=variant.values,
        run_id=run.run_id if run else fold.run_ids.get(index),
        state=state,
        outcome=run.outcome if run else None,
        images=run.images if run else 0,
        total_images=run.total_images if run else variant.total_images,
    )


def _by_variant(
    fold: GroupFold, entries: Mapping[str, CatalogueEntry]
) -> dict[int, CatalogueEntry]:
    """The runs of a group by variant, also a run that only its own log assigns to the group."""
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
