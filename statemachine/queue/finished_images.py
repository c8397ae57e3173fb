"""How many images of a job are finished, from the logs of its runs."""

from __future__ import annotations

from pathlib import Path

from ...events.errors import LogCorruptError, RunNotFoundError
from ...events.folds import Fold
from ...events.groups.fold import GroupFold
from ...events.groups.log import read_group_log
from ...events.log.reader import read_log
from ...events.queue.jobs import Job
from ..files.run_folder import ARCHIVE_NAME
from ..groups.folder import GROUPS_NAME, variant_folders


def count_finished_images(runs: Path, job: Job) -> int:
    """The finished images of all stages of a job's runs; logs that cannot be read have none."""
    if job.group_id is not None:
        fold = GroupFold()
        try:
            read_group_log(runs / GROUPS_NAME / job.group_id, fold.apply_all)
        except (RunNotFoundError, LogCorruptError, OSError):
            return 0
        folders = variant_folders(runs, job.group_id, fold.run_ids).values()
        return sum(map(_count, folders))
    if job.run_id is None:
        return 0
    return max(_count(runs / job.run_id), _count(runs / ARCHIVE_NAME / job.run_id))


def _count(folder: Path) -> int:
    fold = Fold()
    try:
        read_log(folder, fold.apply_all)
    except (RunNotFoundError, LogCorruptError, OSError):
        return 0
    return sum(len(stage.finished) for stage in fold.stages.values())
