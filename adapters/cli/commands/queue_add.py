"""``queue add``: adds runs, sweeps, reruns and resumes to the queue."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from ....events.queue.jobs import Job, JobState
from ....statemachine.errors import ConfigurationError, FieldError
from ....statemachine.queue.job_queue import JobQueue
from ....statemachine.queue.new_jobs import NewJob, plan_job, plan_rerun_job, plan_resume_job
from ....statemachine.stages import stage_types
from ...inputs import PillowInputReader
from ...projections.queue_estimate import JobEstimates
from ...text import rough_duration
from ..completion import complete_run, complete_run_or_group
from ..configuration import confirm_count, read_document
from ..image_choice import ImageChoice, chosen_indexes, only_option
from ..options import (
    fail_fast_option,
    json_option,
    profile_option,
    runs_option,
    set_option,
    vary_option,
    zip_option,
)
from ..output import count, print_json, print_line, print_note
from ..queues import default_servers, job_label, moment_option, open_queue, shown_job
from ..run_lookup import find_run
from ..styles import warning_mark


class _Choice(msgspec.Struct, frozen=True):
    """What the command line says of the jobs to add."""

    configs: tuple[Path, ...]
    rerun: str | None
    resume: str | None
    overrides: tuple[str, ...]
    vary: tuple[str, ...]
    zip_axes: bool
    fail_fast: bool
    yes: bool
    profile: str | None
    from_stage: str | None
    only: ImageChoice | None

    def check(self) -> None:
        """Raise UsageError for options that do not belong together."""
        kinds = [bool(self.configs), self.rerun is not None, self.resume is not None]
        if sum(kinds) != 1:
            raise click.UsageError("queue add needs CONFIG..., --rerun RUN or --resume RUN")
        if self.rerun is None and (self.from_stage is not None or self.only is not None):
            raise click.UsageError("--from and --only belong to --rerun")
        if not self.configs and (self.vary or self.zip_axes or self.fail_fast or self.profile):
            raise click.UsageError("--vary, --zip, --fail-fast and --profile belong to CONFIG")
        if self.resume is not None and self.overrides:
            raise click.UsageError("--set does not belong to --resume: a run keeps its settings")


@click.command("add")
@click.argument("configs", nargs=-1, metavar="[CONFIG]...", type=click.Path(path_type=Path))
@click.option(
    "--rerun", metavar="RUN", shell_complete=complete_run, help="Add a rerun of RUN, as `rerun`."
)
@click.option(
    "--resume",
    metavar="RUN",
    shell_complete=complete_run_or_group,
    help="Add the resume of a run or group.",
)
@set_option
@vary_option
@zip_option
@click.option("--yes", is_flag=True, help="Add more than 1,000 variants without a question.")
@fail_fast_option
@click.option(
    "--from",
    "from_stage",
    type=click.Choice(list(stage_types())),
    metavar="STAGE",
    help="With --rerun: begin only if all images of the stages before STAGE can be reused.",
)
@only_option
@click.option(
    "--priority",
    type=click.IntRange(-1_000_000, 1_000_000),
    default=0,
    metavar="N",
    help="Jobs of a higher priority begin first.  [default: 0]",
)
@moment_option("--not-before", "not_before", "Begin no earlier: 23:30, or 2026-11-20T23:30.")
@profile_option
@runs_option
@json_option
def add_command(
    configs: tuple[Path, ...],
    rerun: str | None,
    resume: str | None,
    overrides: tuple[str, ...],
    vary: tuple[str, ...],
    zip_axes: bool,
    yes: bool,
    fail_fast: bool,
    from_stage: str | None,
    only: ImageChoice | None,
    priority: int,
    not_before: datetime | None,
    profile: str | None,
    runs: Path,
    as_json: bool,
) -> None:
    """Add a job for each CONFIG; all are checked first.

    Invalid configurations are refused (exit 2), and then none is added. The prompts are drawn and
    the input images copied now: a file that is edited later changes nothing.
    """
    choice = _Choice(
        configs, rerun, resume, overrides, vary, zip_axes, fail_fast, yes, profile, from_stage, only
    )
    choice.check()
    queue = open_queue(runs, check=not configs)
    jobs = list(_plan(choice, runs))
    added = queue.add(jobs, priority=priority, not_before=not_before)
    if as_json:
        print_json([shown_job(job) for job in added])
        return
    for job, new in zip(added, jobs, strict=True):
        for warning in new.warnings:
            print_note(warning_mark(), f" {new.name}: {warning}")
        print_line(_added_text(queue, job, runs))
    if queue.refresh().paused is not None:
        print_note("the queue is paused; `stagewright queue resume` lets jobs begin")


def _plan(choice: _Choice, runs: Path) -> Iterator[NewJob]:
    """The jobs to add. Raises ConfigurationError with the errors of all configurations."""
    if choice.resume is not None:
        yield plan_resume_job(choice.resume, runs=runs)
        return
    if choice.rerun is not None:
        yield _plan_rerun(choice, choice.rerun, runs)
        return
    errors: list[FieldError] = []
    jobs = []
    for config in choice.configs:
        try:
            jobs.append(_plan_config(choice, config, runs))
        except ConfigurationError as error:
            errors += error.errors
    if errors:
        raise ConfigurationError(errors=errors)
    yield from jobs


def _plan_config(choice: _Choice, config: Path, runs: Path) -> NewJob:
    document = read_document(config, overrides=choice.overrides, profile=choice.profile)
    confirm_count(document, choice.vary, zip_axes=choice.zip_axes, yes=choice.yes)
    return plan_job(
        document,
        vary=choice.vary,
        zip_axes=choice.zip_axes,
        fail_fast=choice.fail_fast,
        inputs=PillowInputReader(),
        runs=runs,
        random_below=secrets.randbelow,
    )


def _plan_rerun(choice: _Choice, run: str, runs: Path) -> NewJob:
    folder = find_run(runs, run)
    return plan_rerun_job(
        str(folder),
        images=chosen_indexes(runs, folder, choice.only),
        overrides=choice.overrides,
        from_stage=choice.from_stage,
        inputs=PillowInputReader(),
        runs=runs,
        random_below=secrets.randbelow,
    )


def _added_text(queue: JobQueue, job: Job, runs: Path) -> str:
    images = f": {count(job.total_images, 'image')}" if job.total_images else ""
    servers = default_servers(queue.refresh().servers)
    now = datetime.now(UTC)
    seconds = JobEstimates(runs, servers).estimate_s(job, now)
    about = f", about {rough_duration(seconds)}" if seconds is not None and seconds >= 1 else ""
    if job.state is not JobState.WAITING:
        return f"added {job_label(job)}{images}{about}"
    if job.not_before is not None and not job.is_due(now):
        when = f"{job.not_before.astimezone():%Y-%m-%d %H:%M}"
        return f"added {job_label(job)}{images}{about}; not before {when}"
    ahead = queue.place_of(job)
    place = f"; {count(ahead, 'job')} before it" if ahead else "; it is the next one"
    return f"added {job_label(job)}{images}{about}{place}"
