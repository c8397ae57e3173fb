"""The groups below a folder of runs, from their own logs and the catalogue of runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from ...events.errors import GroupNotFoundError, LogCorruptError
from ...events.groups.fold import GroupFold
from ...events.groups.log import GROUP_LOCK_NAME, read_group_log
from ...events.groups.model import SweepAxis, Variant
from ...events.log.lock import is_locked
from ...events.model import RunState
from ...statemachine.files.run_folder import name_in_run_id
from ...statemachine.groups.folder import group_folders
from ...statemachine.groups.result import REMOVED, VariantResult, state_of_group
from .catalogue import CORRUPT, DIED, UNREADABLE, CatalogueEntry


class GroupEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One group: what its log says of it, and the states of its variants by the catalogue.

    ``state`` is CORRUPT if the group's log is corrupt, and UNREADABLE if it cannot be read;
    ``error`` says why, and ``variants`` may be empty then. ``alive`` says whether a process works
    on it; a group that is RUNNING and not alive has died. ``opened`` is RFC 3339.
    """

    group_id: str
    folder: Path
    name: str
    state: str
    opened: str = ""
    axes: tuple[SweepAxis, ...] = ()
    variants: tuple[VariantResult, ...] = ()
    models: tuple[str, ...] = ()
    alive: bool = False
    error: str = ""

    @property
    def completed(self) -> int:
        """The variants that are COMPLETED."""
        return sum(one.state == RunState.COMPLETED for one in self.variants)

    @property
    def images(self) -> int:
        """The images of all runs that have finished the last stage."""
        return sum(one.images for one in self.variants)

    @property
    def total_images(self) -> int:
        """The images that all runs end with."""
        return sum(one.total_images for one in self.variants if one.state != REMOVED)

    @property
    def resumable(self) -> bool:
        """Whether something of the group is missing, and no process works on it."""
        return not self.alive and self.state not in (RunState.COMPLETED, CORRUPT, UNREADABLE)


def group_entries(runs: Path, entries: Iterable[CatalogueEntry]) -> list[GroupEntry]:
    """The groups below ``runs``, oldest first; ``entries`` are all their runs."""
    of_group = by_group(entries)
    return [group_entry(folder, of_group) for folder in group_folders(runs)]


def by_group(entries: Iterable[CatalogueEntry]) -> Mapping[str, Sequence[CatalogueEntry]]:
    """Runs by the ids of their groups."""
    found: defaultdict[str, list[CatalogueEntry]] = defaultdict(list)
    for entry in entries:
        if entry.group_id is not None:
            found[entry.group_id].append(entry)
    return found


def group_entry(folder: Path, entries: Mapping[str, Sequence[CatalogueEntry]]) -> GroupEntry:
    """The group in a folder; ``entries`` are runs by the ids of their groups."""
    fold = GroupFold()
    state, error = "", ""
    try:
        read_group_log(folder, fold.apply_all)
    except LogCorruptError as found:
        state, error = CORRUPT, str(found)
    except (OSError, GroupNotFoundError) as found:
        state, error = UNREADABLE, str(found)
    opened = fold.opened
    group_id = fold.group_id or folder.name
    own = entries.get(group_id, ())
    variants = tuple(_variants(fold, opened.variants if opened else (), own))
    return GroupEntry(
        group_id=group_id,
        folder=folder,
        name=(opened.name if opened else "") or name_in_run_id(folder.name),
        opened=opened.ts.isoformat() if opened else "",
        axes=opened.axes if opened else (),
        variants=variants,
        state=state or state_of_group(fold, (one.state for one in variants)),
        models=tuple(sorted({model for entry in own for model in entry.models})),
        alive=is_locked(folder, GROUP_LOCK_NAME),
        error=error,
    )


def _variants(
    fold: GroupFold, variants: Iterable[Variant], entries: Iterable[CatalogueEntry]
) -> Iterator[VariantResult]:
    """A run that only its own log ascribes to the group counts as well."""
    found: dict[int, CatalogueEntry] = {}
    for entry in entries:
        index = entry.variant_index
        if index is not None and fold.run_ids.get(index, entry.run_id) == entry.run_id:
            found.setdefault(index, entry)
    for variant in variants:
        index = variant.variant_index
        run = found.get(index)
        state = REMOVED if index in fold.removed else str(RunState.IDLE)
        if run is not None:
            state = DIED if run.died else run.state
        yield VariantResult(
            variant_index=index,
            values=variant.values,
            run_id=run.run_id if run else fold.run_ids.get(index),
            state=state,
            outcome=run.outcome if run else None,
            images=run.images if run else 0,
            total_images=run.total_images if run else variant.total_images,
        )
