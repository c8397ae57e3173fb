"""How many images of a job are finished, from the logs of its runs."""

from __future__ import annotations

from pathlib import Path

from ...events.errors import GroupNotFoundError, LogCorruptError
from ...events.queue.jobs import Job
from ..files.run_folder import ARCHIVE_NAME
from ..groups.folder import GROUPS_NAME, variant_folders
from ..groups.result import fold_group, read_variant_run


def count_finished_images(runs: Path, job: Job) -> int:
    """The finished images of all stages of a job's runs; logs that cannot be read have none."""
    if job.group_id is not None:
        try:
            fold = fold_group(runs / GROUPS_NAME / job.group_id)
        except (GroupNotFoundError, LogCorruptError, OSError):
            return 0
        return sum(map(_count, variant_folders(runs, job.group_id, fold.run_ids).values()))
    if job.run_id is None:
        return 0
    return max(_count(runs / job.run_id), _count(runs / ARCHIVE_NAME / job.run_id))


def _count(folder: Path) -> int:
    run = read_variant_run(folder)
    return 0 if run.damage else sum(len(stage.finished) for stage in run.fold.stages.values())
