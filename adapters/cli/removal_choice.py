"""The runs and groups that ``rm`` and ``archive`` are given, checked and measured."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from ...events.errors import LogCorruptError, LogLockedError
from ...events.groups.log import GROUP_LOCK_NAME
from ...events.log.lock import LOCK_NAME, is_locked, lock_holder
from ...events.model import RunState
from ...statemachine.groups.folder import recorded_group_id, variant_folders
from ...statemachine.groups.removal import Claim, claim_of, group_of_run
from ...statemachine.groups.result import GroupResult, fold_group, result_of
from ...statemachine.resume.removal import earlier_images, finish_removals
from ..bootstrap import new_storage
from ..projections.catalogue import CORRUPT, DIED, Catalogue, CatalogueEntry, catalogue_entry
from ..text import byte_size
from .options import check_runs_folder
from .output import count, one_line, print_line
from .run_lookup import Found, find_runs_or_groups, runs_around_run
from .statuses import EXIT_COMPLETED, print_error


class ChosenRun(msgspec.Struct, frozen=True):
    """A run, and the number and size in bytes of the files that are to be removed or moved.

    ``group`` is the folder of the group whose log has to know of the run's removal.
    """

    folder: Path
    entry: CatalogueEntry
    files: int
    size: int
    group: Path | None = None

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.entry.run_id


class Chosen(msgspec.Struct, frozen=True):
    """The runs, those of groups included, and the folders of the groups that are named.

    The runs of ``damaged`` groups, whose logs are corrupt, are not known and stay.
    """

    runs: Sequence[ChosenRun]
    groups: Sequence[Path]
    damaged: frozenset[Path] = frozenset()

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(one.size for one in self.runs)

    def text(self) -> str:
        """``3 runs``, or ``1 group with 18 runs``."""
        runs = count(len(self.runs), "run")
        return f"{count(len(self.groups), 'group')} with {runs}" if self.groups else runs


def choose(
    names: Iterable[str],
    runs: Path,
    *,
    keep: bool,
    removes: bool,
    warning: str,
    with_damaged: bool = False,
) -> Chosen:
    """What is named, each once, and print what it is; all of it or nothing.

    Where it ``removes`` images, each rerun that is not finished and may need them is named.

    ``keep`` measures the images of earlier stages only; ``warning`` is added where a group still
    needs a run. With ``with_damaged`` a group whose log is corrupt is chosen without its runs.
    Raises LogLockedError where a process works on one of the runs or on its group,
    RunNotFoundError, LogCorruptError.
    """
    check_runs_folder(runs)
    finish_removals(runs, storage=new_storage())
    named = {one.folder.resolve(): one for one in find_runs_or_groups(runs, names)}
    groups = [one for one in named.values() if one.is_group]
    chosen: dict[Path, ChosenRun] = {}
    damaged: set[Path] = set()
    for group in groups:
        try:
            own = list(_runs_of(group, keep=keep, warning=warning))
        except LogCorruptError as error:
            if not with_damaged:
                raise
            damaged.add(group.folder)
            _show_damaged(group.folder, error)
            continue
        chosen |= {one.folder.resolve(): one for one in own}
    for place, one in named.items():
        if not one.is_group and place not in chosen:
            chosen[place] = _choose_run(one.folder, keep=keep, warning=warning)
    if removes:
        _name_reruns({one.run_id: one.folder for one in chosen.values()})
    return Chosen(tuple(chosen.values()), tuple(one.folder for one in groups), frozenset(damaged))


def _show_damaged(group: Path, error: LogCorruptError) -> None:
    print_line(f"{one_line(recorded_group_id(group))}  a group, CORRUPT: {error}")
    print_line("  its runs stay: remove them by their names")


def _name_reruns(folders: Mapping[str, Path]) -> None:
    """A line for each rerun of these runs that is not finished, and that is none of them."""
    places = {runs_around_run(folder) for folder in folders.values()}
    for entry in (one for place in places for one in Catalogue(place).entries()):
        parent = entry.parent_run_id
        if parent in folders and entry.state != RunState.COMPLETED and entry.run_id not in folders:
            print_line(
                f"  {entry.run_id} is a rerun of {parent} and {entry.shown_state}: resume would "
                "make anew what it has not reused yet"
            )


def _runs_of(group: Found, *, keep: bool, warning: str) -> Iterator[ChosenRun]:
    """The runs that belong to the group: by their own logs, or by the group's if these are lost."""
    _check_unlocked(group.folder, GROUP_LOCK_NAME, "group")
    fold = fold_group(group.folder)
    folders = variant_folders(group.runs, fold.group_id, fold.run_ids)
    found = []
    for variant_index, folder in folders.items():
        one = _measured(folder, group.folder, keep=keep)
        if one.entry.group_id is None and one.entry.state == CORRUPT:
            one = _claimed(one, Claim(fold.group_id, variant_index))
        if one.entry.group_id == fold.group_id:
            found.append(one)
    files = _files_text(sum(one.files for one in found), keep=keep)
    result = result_of(fold, group.runs)
    size = byte_size(sum(one.size for one in found))
    state = f"{_shown_state(result)}: {count(len(found), 'run')}, {files}, {size}"
    print_line(f"{one_line(fold.group_id)}  a group, {state}")
    if need := _need(result, warning):
        print_line(f"  {need}")
    yield from found


def _choose_run(folder: Path, *, keep: bool, warning: str) -> ChosenRun:
    one = _measured(folder, None, keep=keep)
    if one.entry.group_id is None and one.entry.state == CORRUPT:
        one = _claimed(one, claim_of(folder))
    entry, size = one.entry, byte_size(one.size)
    what = _files_text(one.files, keep=keep)
    print_line(f"{entry.run_id}  {entry.name}, {entry.shown_state}: {what}, {size}")
    if entry.group_id is not None:
        print_line(f"  it belongs to group {entry.group_id}, whose other runs may need its images")
    group = group_of_run(folder, entry.group_id)
    if group is None:
        return one
    _check_unlocked(group, GROUP_LOCK_NAME, "group")
    try:
        fold = fold_group(group)
        result = result_of(fold, group.parent.parent)
    except LogCorruptError as error:
        print_error(f"{error}; the removal is not recorded there", EXIT_COMPLETED)
        return one
    if need := _need(result, warning):
        print_line(f"  {need}")
    return msgspec.structs.replace(one, group=group)


def _claimed(one: ChosenRun, claim: Claim | None) -> ChosenRun:
    """A run whose log has lost its beginning, with what the log of its group says of it."""
    if claim is None:
        return one
    entry = msgspec.structs.replace(
        one.entry, group_id=claim.group_id, variant_index=claim.variant_index
    )
    return msgspec.structs.replace(one, entry=entry)


def _files_text(number: int, *, keep: bool) -> str:
    return f"{count(number, 'image')} of earlier stages" if keep else count(number, "file")


def _need(result: GroupResult, warning: str) -> str:
    """What a group that is not COMPLETED loses."""
    if result.state == RunState.COMPLETED:
        return ""
    left = len(result.variants) - result.counts.get(RunState.COMPLETED, 0)
    of_all = count(len(result.variants), "variant")
    return f"the group is {_shown_state(result)}: {left} of {of_all} not COMPLETED; {warning}"


def _shown_state(result: GroupResult) -> str:
    """The state of a group that no process works on."""
    return DIED if result.state == RunState.RUNNING else result.state


def _measured(folder: Path, group: Path | None, *, keep: bool) -> ChosenRun:
    _check_unlocked(folder, LOCK_NAME, "run")
    measure: Callable[[Path], tuple[int, int]] = _measure_images if keep else _measure_folder
    files, size = measure(folder)
    return ChosenRun(folder, catalogue_entry(folder), files, size, group)


def _check_unlocked(folder: Path, name: str, noun: str) -> None:
    if is_locked(folder, name):
        raise LogLockedError(str(lock_holder(folder, name) or "unknown"), path=folder, noun=noun)


def _measure_images(folder: Path) -> tuple[int, int]:
    sizes = [image.bytes for image in earlier_images(folder)]
    return len(sizes), sum(sizes)


def _measure_folder(folder: Path) -> tuple[int, int]:
    sizes = [
        os.lstat(os.path.join(place, name)).st_size  # noqa: PTH118 - what os.walk gives
        for place, _, names in os.walk(folder)
        for name in names
    ]
    return len(sizes), sum(sizes)
