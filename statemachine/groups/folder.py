"""The folders of groups, found by name; the runs of a group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from ...events.errors import GroupNotFoundError, RunNotFoundError
from ...events.groups.log import GROUP_LOG_NAME
from ...events.log.kind import LOG_NAME
from ...events.log.storage import is_regular
from ..errors import ResumeRefusedError
from ..files.run_folder import (
    ARCHIVE_NAME,
    RunFinder,
    is_run_id,
    read_first_record,
    run_folders,
)

GROUPS_NAME = "groups"
"""The folder beside the runs that holds the groups."""
LAST_GROUP = "last-group"
"""The name of the group that was opened last."""
_SHOWN = 4


class RunOrGroup(NamedTuple):
    """What a name stands for: the folder of a run, or that of a group."""

    folder: Path
    is_group: bool


def group_folders(runs: Path) -> list[Path]:
    """Every folder of a group below ``runs``, oldest first."""
    place = runs / GROUPS_NAME
    every = place.iterdir() if place.is_dir() else ()
    found = [one for one in every if _holds(one, GROUP_LOG_NAME)]
    return sorted(found, key=lambda one: (_id_by_name(one), one.name))


def recorded_group_id(folder: Path) -> str:
    """The id of the group in a folder, which may have been renamed; its name if that is lost."""
    return _read_head(folder / GROUP_LOG_NAME).group_id or folder.absolute().name


def group_folder(runs: Path, group_id: str) -> Path | None:
    """The folder of the group that has this id, also a renamed one; None where there is none."""
    place = runs / GROUPS_NAME / group_id
    if is_run_id(group_id) and _holds(place, GROUP_LOG_NAME):
        return place
    renamed = (one for one in group_folders(runs) if recorded_group_id(one) == group_id)
    return next(renamed, None)


def _id_by_name(folder: Path) -> str:
    """The id of a group; the log is read only where the folder's name is no id."""
    return folder.name if is_run_id(folder.name) else recorded_group_id(folder)


def find_group(runs: Path, name: str) -> Path:
    """The folder of one group.

    ``name`` is the path of the folder or of its log, ``last-group``, or a group id, the six digits
    at its end, or a unique prefix of it: of the folder's name or, where none fits, of the id in
    the log. Raises GroupNotFoundError.
    """
    fitting = fitting_groups(runs, name)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        named = ", ".join(folder.name for folder in fitting[:_SHOWN])
        more = f", and {len(fitting) - _SHOWN} more" if len(fitting) > _SHOWN else ""
        raise GroupNotFoundError(f"{name!r} fits {len(fitting)} groups in {runs}: {named}{more}")
    what = "no group yet" if name == LAST_GROUP else f"no group {name!r}"
    raise GroupNotFoundError(f"there is {what} in {runs}")


def fitting_groups(runs: Path, name: str) -> list[Path]:
    """The folders of the groups that a name fits, by the first way in which it fits any."""
    path = Path(name)
    if name and _holds(path, GROUP_LOG_NAME):
        return [path]
    if path.name == GROUP_LOG_NAME and _holds(path.parent, GROUP_LOG_NAME):
        return [path.parent]
    found = group_folders(runs) if name and path.name == name else []
    if name == LAST_GROUP:
        return found[-1:]
    return _fitting(found, name, lambda one: one.name) or _fitting(found, name, recorded_group_id)


def _fitting(found: Sequence[Path], name: str, id_of: Callable[[Path], str]) -> list[Path]:
    ids = {folder: id_of(folder) for folder in found}
    exact = [one for one, own in ids.items() if own == name]
    digits = [one for one, own in ids.items() if is_run_id(own) and own[-6:] == name]
    return exact or digits or [one for one, own in ids.items() if own.startswith(name)]


def find_run_or_group(runs: Path, name: str, finder: RunFinder | None = None) -> RunOrGroup:
    """The folder of a run or of a group that a name stands for.

    A run that the name fits exactly takes precedence. Raises RunNotFoundError where neither is
    found, or the name fits a run and a group.
    """
    if name == LAST_GROUP:
        return RunOrGroup(find_group(runs, name), is_group=True)
    groups = fitting_groups(runs, name)
    if groups and (
        groups[0] == Path(name) or name in (groups[0].name, recorded_group_id(groups[0]))
    ):
        return RunOrGroup(groups[0], is_group=True)
    try:
        run = (finder or RunFinder(runs)).find(name, noun="run or group")
    except RunNotFoundError:
        if not groups:
            raise
        return RunOrGroup(find_group(runs, name), is_group=True)
    if groups:
        raise RunNotFoundError(
            f"{name!r} fits the run {run.name} and the group {groups[0].name} in {runs}"
        )
    return RunOrGroup(run, is_group=False)


def runs_around(group: Path, runs: Path) -> Path:
    """The folder of the runs of the group in this folder: ``runs``, unless it is within another.

    A group that is named by its path has its runs in the folder around it.
    """
    place = group.absolute().parent
    if place.name == GROUPS_NAME and place.parent.resolve() != runs.resolve():
        return place.parent
    return runs


def variant_folders(runs: Path, group_id: str, run_ids: Mapping[int, str]) -> dict[int, Path]:
    """The folders of a group's runs by variant, also of those renamed or archived.

    ``run_ids`` are those that the group's log has; a run whose own log says otherwise is none of
    the group. A run that only its own log ascribes to the group counts as well, for a power loss
    may have taken the group's last record; of two for one variant, the older one does.
    """
    found: dict[int, Path] = {}
    for variant, run_id in run_ids.items():
        places = (runs / run_id, runs / ARCHIVE_NAME / run_id) if is_run_id(run_id) else ()
        folder = next((one for one in places if _holds(one, LOG_NAME)), None)
        if folder is not None and _read_head(folder / LOG_NAME) in (
            _Head(),
            _Head(run_id, group_id, variant),
        ):
            found[variant] = folder
    known = set(found.values())
    for folder in run_folders(runs):
        if folder not in known and (head := _read_head(folder / LOG_NAME)).group_id == group_id:
            index = head.variant_index
            if index is not None and run_ids.get(index, head.run_id) == head.run_id:
                found.setdefault(index, folder)
    return found


def check_new_run(runs: Path, group_id: str, run_id: str) -> None:
    """Raise ResumeRefusedError unless a recorded id can be that of a run that is to be made."""
    if not is_run_id(run_id):
        raise ResumeRefusedError(
            f"group {group_id}: its log names {run_id!r} as a run, and no run has such an id"
        )
    if (runs / run_id).is_symlink():
        raise ResumeRefusedError(f"group {group_id}: the folder of its run {run_id} is a link")
    if _holds(runs / run_id, LOG_NAME):
        raise ResumeRefusedError(
            f"group {group_id}: its log names the run {run_id}, which is that of another variant, "
            "or of no group"
        )


class _Head(msgspec.Struct, frozen=True):
    """What the first record of a run, or of a group, says of the group."""

    run_id: str = ""
    group_id: str | None = None
    variant_index: int | None = None


def _read_head(log: Path) -> _Head:
    """Empty where the log cannot be read: then it is nothing that could continue."""
    try:
        return read_first_record(log, _Head)
    except OSError:
        return _Head()


def _holds(folder: Path, log_name: str) -> bool:
    try:
        return is_regular(folder / log_name)
    except OSError:
        return False


def groups_of(runs: Path) -> Iterator[str]:
    """The ids of all groups below ``runs``, newest first, for completion."""
    return map(_id_by_name, reversed(group_folders(runs)))
