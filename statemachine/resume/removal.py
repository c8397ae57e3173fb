"""Removal of runs, and of the images of their earlier stages; the archive.

A run is removed or archived by one rename, so that it is there entire or not at all. Images are
removed once the log says so; whoever removes them again completes what a crash interrupted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ...events.errors import LogWriteError
from ...events.folds import Fold
from ...events.log.reader import iterate, read_log
from ...events.log.storage import Storage
from ...events.model import Artifact, Durability, ImagesRemoved, RunState, StageEvent
from ...events.result import FinishedImage
from ..errors import RemovalRefusedError
from ..files.recorded_files import OnFile, check_file
from ..files.removed_folders import REMOVED_NAME, move_folder, remove_folder, remove_tree
from ..files.run_folder import ARCHIVE_NAME
from ..groups.folder import GROUPS_NAME
from ..ports import Clock
from ..run.journal import RunJournal, recordable
from .reopen import ReopenedRun, reopen_run


def earlier_images(folder: Path) -> list[FinishedImage]:
    """The images of all stages but the last whose files are still in the run's folder.

    Raises RemovalRefusedError unless the run is COMPLETED, RunNotFoundError, LogCorruptError,
    OSError.
    """
    fold = Fold()
    timeline = read_log(folder, fold.apply_all)
    return [image for image in _of_earlier_stages(fold, timeline) if (folder / image.path).exists()]


def remove_earlier_images(
    folder: Path,
    *,
    reason: str,
    clock: Clock,
    storage: Storage | None = None,
    on_file: OnFile | None = None,
) -> None:
    """Remove the files of all stages but the last, once ``ImagesRemoved`` is durable.

    Every recorded file is checked first, and ``on_file`` called after each. A file that is not
    the recorded one stays. Raises RemovalRefusedError unless the run is COMPLETED and its files
    are as recorded, LogLockedError, LogCorruptError, ResumeRefusedError, LogWriteError.
    """
    storage = storage or Storage()
    run = _open_sealed(folder, clock, storage, on_file)
    journal = RunJournal(run.log, run.fold, epoch=run.epoch, clock=clock)
    try:
        images = _of_earlier_stages(run.fold, run.log.timeline())
        new = [image for image in images if not _is_removed(run.fold, image)]
        left = [image for image in images if _is_removed(run.fold, image)]
        if new:
            run.log.begin_epoch(run.epoch, Durability.CHECKPOINT)
            artifacts = tuple(map(_as_artifact, new))
            journal.record(
                lambda at: ImagesRemoved(**at, artifacts=artifacts, reason=recordable(reason))
            )
            journal.record_seal()
        # After a crash, a user may have put another file in the place of a removed one.
        left = [one for one in left if check_file(folder, one.path, one.sha256) is None]
        for image in (*left, *new):
            storage.remove(folder / image.path, durable=False)
        for place in {(folder / image.path).parent for image in (*left, *new)}:
            storage.sync_folder(place)
    except OSError as error:
        raise LogWriteError(f"images cannot be removed: {error}", path=folder) from error
    finally:
        journal.close()


def remove_run(folder: Path, *, storage: Storage | None = None) -> None:
    """Remove a run's folder with everything in it.

    Raises LogLockedError, RemovalRefusedError, LogWriteError.
    """
    remove_folder(folder, storage or Storage())


def archive_run(folder: Path, *, storage: Storage | None = None) -> Path:
    """Move a run to ``archive/<run_id>`` beside it; the new folder. An archived run stays.

    Raises LogLockedError, RemovalRefusedError, LogCorruptError, LogWriteError, OSError.
    """
    if Path(os.path.abspath(folder)).parent.name == ARCHIVE_NAME:  # noqa: PTH100 - keeps links
        return folder
    run_id = next(iterate(folder)).run_id
    return move_folder(folder, ARCHIVE_NAME, run_id, storage or Storage())


def finish_removals(runs: Path, *, storage: Storage | None = None) -> None:
    """Remove the files of what was being removed when a process died.

    Raises LogWriteError, OSError.
    """
    for place in (runs, runs / ARCHIVE_NAME, runs / GROUPS_NAME):
        removed = place / REMOVED_NAME
        for folder in removed.iterdir() if removed.is_dir() else ():
            remove_tree(folder, storage or Storage())


def _of_earlier_stages(fold: Fold, timeline: Sequence[StageEvent]) -> list[FinishedImage]:
    if fold.state != RunState.COMPLETED:
        raise RemovalRefusedError(
            f"{fold.run_id}: it is {fold.state}, and a resume may need the images of all stages; "
            "only of a COMPLETED run the last stage alone can be kept"
        )
    last = fold.planned_stage_ids()[-1]
    stages = fold.result(timeline).stages
    return [image for stage in stages if stage.stage_id != last for image in stage.images]


def _open_sealed(
    folder: Path, clock: Clock, storage: Storage, on_file: OnFile | None
) -> ReopenedRun:
    """The run with its lock held: COMPLETED, sealed, and every file as recorded."""
    run = reopen_run(folder, storage=storage, on_file=on_file)
    if run.is_complete and run.needs_seal:  # a process died before the seal
        run.end(clock)
        run = reopen_run(folder, storage=storage, on_file=on_file)
    if run.is_complete:
        return run
    try:
        _of_earlier_stages(run.fold, run.log.timeline())
        wrong = "; ".join(f"{file.path}: {wrong}" for file, wrong in run.damaged[:1])
        raise RemovalRefusedError(
            f"{run.fold.run_id}: {wrong or 'its images are not complete'}; resume it first"
        )
    finally:
        run.log.close()


def _is_removed(fold: Fold, image: FinishedImage) -> bool:
    return image.image_index in fold.stages[image.stage_id].removed


def _as_artifact(image: FinishedImage) -> Artifact:
    return Artifact(**{name: getattr(image, name) for name in Artifact.__struct_fields__})
