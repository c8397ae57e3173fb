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
    folders = [runs / job.run_id, runs / ARCHIVE_NAME / job.run_id] if job.run_id else []
    if job.group_id is not None:
        try:
            fold = fold_group(runs / GROUPS_NAME / job.group_id)
        except (GroupNotFoundError, LogCorruptError, OSError):
            return 0
        folders = list(variant_folders(runs, job.group_id, fold.run_ids).values())
    found = (run.fold.stages for run in map(read_variant_run, folders) if not run.damage)
    return sum(len(stage.finished) for stages in found for stage in stages.values())
