"""A new run from what is sound of a corrupt one; the old folder is read and never written to.

The new log is written through the ordinary journal: ``start``, then each stage with the request,
answer and announcement of every image that is kept, then ``fail``, so that ``resume`` makes the
rest. Earlier attempts, failures and times stay in the damaged log, which the new folder holds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from ...events.errors import LogCorruptError, LogLockedError, LogWriteError, StagewrightError
from ...events.folds import Fold
from ...events.log.file_log import FileEventLog
from ...events.log.intact_records import SoundRecords
from ...events.log.kind import LOG_NAME
from ...events.log.lock import is_locked, lock_holder
from ...events.log.reader import log_path, read_log
from ...events.log.storage import Storage
from ...events.model import (
    Artifact,
    CallCompleted,
    CallRequested,
    CallReused,
    ErrorDetail,
    ImagesRemoved,
    InputRecord,
    LogRepaired,
    Outcome,
)
from ..files.recorded_files import check_file, sha256_of
from ..files.run_folder import RunFolder, new_folder, unused_id
from ..plan.plan import StageExecution
from ..ports import Clock, RandomBelow
from ..run.journal import RunJournal, recordable
from ..run.requests import call_id
from ..run.stage_records import StageRecords
from .recorded_answers import RecordedAnswer, RecordedAnswers
from .recorded_plan import recorded_plan
from .verify import Flaw, verify_run

CORRUPT_NAME = f"{LOG_NAME}.corrupt"
"""The corrupt log's copy in the run that was made from it."""
_DRAFT_NAME = "draft"
"""The folder in which the new log is written. Without a log, the new folder is no run yet."""


class SalvageRefusedError(StagewrightError, ValueError):
    """A run whose log is not corrupt: there is nothing to salvage, and nothing was written."""


class SalvagedRun(msgspec.Struct, frozen=True, kw_only=True):
    """The new run, and what of the old one is in it.

    ``corrupt_at`` is the first byte at which the old log fails, ``reason`` says how, and
    ``lost_records`` of its records are lost. ``images`` were kept; ``lost_files`` are recorded
    images and inputs that are not there as recorded. ``copied_to`` is the old log's copy in the
    new folder. ``advice`` says what a resume would do.
    """

    run_id: str
    folder: str
    salvaged_from: str
    old_folder: str
    images: int
    corrupt_at: int
    reason: str
    lost_records: int
    copied_to: str
    lost_files: tuple[Flaw, ...]
    advice: str


def salvage_run(
    folder: Path,
    runs: Path,
    *,
    clock: Clock,
    random_below: RandomBelow,
    storage: Storage | None = None,
) -> SalvagedRun:
    """Copy what is sound of the corrupt run in ``folder`` into a new run below ``runs``.

    An image is kept if a sound record names it, before or after the damage, and its file has
    the recorded digest; the images of one request are kept together or not at all. The new
    log appears when all of this is durable; before that the new folder is no run.

    Raises RunNotFoundError, LogLockedError, SalvageRefusedError for a log that is not corrupt,
    PlanLostError (a LogCorruptError) where RunOpened is lost, ResumeRefusedError for a plan
    that this version does not understand, LogWriteError where the new run cannot be written
    (what was made of it is removed), OSError where the old cannot be read.
    """
    storage = storage or Storage()
    path = log_path(folder)
    if is_locked(folder):
        raise LogLockedError(str(lock_holder(folder) or "unknown"), path=path)
    corruption = _corruption(folder)
    records = SoundRecords(path, storage=storage)
    fold = Fold()
    fold.apply(records.opened)
    answers = RecordedAnswers(records, recorded_plan(fold))
    name = "-".join(records.opened.run_id.split("-")[1:-1])
    run_id = unused_id(runs, name, clock.now(), random_below)
    with new_folder(runs / run_id, storage) as (new, lock):
        salvage = _Salvage(records, answers, new, clock)
        salvage.write(corruption)
        lock.release()
    verified = verify_run(new.path)
    return SalvagedRun(
        run_id=new.path.name,
        folder=str(new.path),
        salvaged_from=records.opened.run_id,
        old_folder=str(folder),
        images=verified.images,
        corrupt_at=corruption.offset,
        reason=corruption.reason,
        lost_records=records.lost,
        copied_to=CORRUPT_NAME,
        lost_files=tuple(salvage.lost_files),
        advice=verified.advice,
    )


def _corruption(folder: Path) -> LogCorruptError:
    """What is wrong with the log. Raises SalvageRefusedError if nothing is."""
    try:
        timeline = read_log(folder, lambda _events: None)
    except LogCorruptError as error:
        return error
    if timeline.torn is None:
        raise SalvageRefusedError(f"{folder}: its log is sound: there is nothing to salvage")
    raise SalvageRefusedError(
        f"{folder}: its log is not corrupt, only its tail is torn: resume repairs it"
    )


class _Salvage:
    """Writes the new run while its lock is held; ``lost_files`` could not be copied."""

    def __init__(
        self,
        records: SoundRecords,
        answers: RecordedAnswers,
        new: RunFolder,
        clock: Clock,
    ) -> None:
        self.lost_files: list[Flaw] = []
        self._removed: list[Artifact] = []
        self._records = records
        self._answers = answers
        self._old = records.path.parent
        self._new = new.path
        self._clock = clock
        self._storage = new.storage

    def write(self, corruption: LogCorruptError) -> None:
        """Raises OSError, LogWriteError, and LogCorruptError if the old log changes meanwhile."""
        for record in self._records.opened.inputs:
            # A forged record may name any path.
            if not record.refusal and record.path.startswith("inputs/") and self._is_sound(record):
                self._copy_recorded(record)
        draft = self._new / _DRAFT_NAME
        self._storage.make_folder(draft)
        self._write_log(draft, corruption)
        # Last: the log makes the folder a run, and every file that it names must be durable.
        self._storage.rename(draft / LOG_NAME, self._new / LOG_NAME)
        self._storage.sync_folder(self._new)
        self._storage.remove_tree(draft)

    def _write_log(self, draft: Path, corruption: LogCorruptError) -> None:
        copy = self._new / CORRUPT_NAME
        digest = self._copy(self._records.path, copy)
        opened = msgspec.structs.replace(
            self._records.opened,
            run_id=self._new.name,
            ts=self._clock.now(),
            backend=self._answers.backend,
        )
        fold = Fold()
        fold.apply(opened)
        log = FileEventLog.create(draft, opened, storage=self._storage)
        journal = RunJournal(log, fold, epoch=0, clock=self._clock)
        try:
            journal.record(
                lambda at: LogRepaired(
                    **at,
                    offset=corruption.offset,
                    bytes=copy.stat().st_size,
                    sha256=digest,
                    copied_to=CORRUPT_NAME,
                )
            )
            journal.move("start")
            for stage in self._answers.plan.stages:
                self._write_stage(journal, stage)
            if self._removed:
                reason = "their files were removed before the salvage"
                journal.record(
                    lambda at: ImagesRemoved(**at, artifacts=tuple(self._removed), reason=reason)
                )
            reason = recordable(
                f"salvaged from {self._records.opened.run_id}, whose log is corrupt at byte "
                f"{corruption.offset}; it is kept as {CORRUPT_NAME}"
            )
            journal.move("fail", reason, ErrorDetail(kind="Salvaged", message=reason))
            journal.record_seal()
        finally:
            journal.close()

    def _write_stage(self, journal: RunJournal, stage: StageExecution) -> None:
        """Copy and record the images of a stage that are kept; without any it leaves no trace."""
        kept = [answer for answer in self._answers.of_stage(stage) if self._is_whole(answer)]
        if not kept:
            return
        total = self._answers.plan.total_images
        records = StageRecords(journal, stage, total)
        records.start()
        for answer in kept:
            self._write_answer(journal, stage, records, answer)
        written = journal.fold.stages[stage.stage_id]
        count = len(written.finished)
        # The sum of forged durations may be infinite, which JSON cannot hold.
        duration_ms = min(written.open_ms, sys.float_info.max)
        records.end(count, duration_ms, Outcome.COMPLETED if count == total else Outcome.PARTIAL)

    def _write_answer(
        self,
        journal: RunJournal,
        stage: StageExecution,
        records: StageRecords,
        answer: RecordedAnswer,
    ) -> None:
        """Copy the images of a request, then record request, answer and announcements.

        Images that were reused are recorded as such: their request was never sent.
        """
        artifacts = [answer.artifacts[index] for index in sorted(answer.artifacts)]
        for artifact in artifacts:
            if artifact.path in self._answers.removed:
                self._removed.append(artifact)
            else:
                self._copy_recorded(artifact)
        event = None if answer.place is None else self._records[answer.place].event
        if isinstance(event, CallReused):
            records.reused_images(
                artifacts,
                request_sha256=event.request_sha256,
                info=event.info,
                origin=event.origin,
                inputs=event.inputs,
                not_checked=event.not_checked,
            )
            return
        first, request = artifacts[0].image_index, answer.request
        call = call_id(self._new.name, stage.stage_id, first, 0)
        journal.record(
            lambda at: CallRequested(
                **at,
                call_id=call,
                stage_id=stage.stage_id,
                image_index=first,
                count=len(artifacts),
                attempt=0,
                request_sha256=request.request_sha256,
                inputs=request.inputs,
                server=request.server,
            )
        )
        old = event if isinstance(event, CallCompleted) else None
        records.images(
            call,
            artifacts,
            endpoint=old.endpoint if old else "",
            info=old.info if old else {},
            duration_ms=old.duration_ms if old else 0.0,
        )

    def _is_whole(self, answer: RecordedAnswer) -> bool:
        """Whether all images of a request are as recorded; each that is not is noted."""
        are_sound = [self._is_sound(artifact) for artifact in answer.artifacts.values()]
        return all(are_sound)

    def _is_sound(self, file: Artifact | InputRecord) -> bool:
        if file.path in self._answers.removed:
            return True
        wrong = check_file(self._old, file.path, file.sha256)
        if wrong is not None:
            self.lost_files.append(Flaw(place=file.path, what=str(wrong)))
        return wrong is None

    def _copy_recorded(self, file: Artifact | InputRecord) -> None:
        digest = self._copy(self._old / file.path, self._new / file.path)
        if digest != file.sha256:
            raise LogWriteError("it changed while it was being copied", path=self._old / file.path)

    def _copy(self, source: Path, target: Path) -> str:
        """Copy a file durably, in bounded memory; the digest of the copy."""
        self._storage.make_folder(target.parent)
        with self._storage.open_read(source) as stream:
            copy = self._storage.copy_part(stream, target)
        with self._storage.open_read(copy) as stream:
            digest = sha256_of(stream)
        self._storage.rename(copy, target)
        self._storage.sync_folder(target.parent)
        return digest
