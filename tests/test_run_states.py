"""A run in any order of starts, ends, crashes, torn tails and resumes, against a plain model."""

from __future__ import annotations

import copy
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from stagewright.adapters import PillowInputReader
from stagewright.events import (
    CallCompleted,
    CallFailed,
    CallRequested,
    CancelMode,
    CancelRequested,
    ErrorDetail,
    LogRepaired,
    Outcome,
    RunState,
    StageEnd,
    StageEvent,
    StageImageProgress,
    StageStart,
    StageType,
    iterate,
    replay,
)
from stagewright.events.folds import Fold
from stagewright.statemachine import (
    BackendError,
    CancelToken,
    GenerateRequest,
    InvalidTransitionError,
    build_stage_execution_plan,
)
from stagewright.statemachine.config.inputs import resolve_config
from stagewright.statemachine.errors import ResumeRefusedError
from stagewright.statemachine.ports import GeneratedImage, SystemClock
from stagewright.statemachine.resume.reopen import ReopenedRun, reopen_run
from stagewright.statemachine.resume.verify import verify_run
from stagewright.statemachine.run.creation import create_run, resolve_choices
from stagewright.statemachine.run.image_files import ImageFiles, ImageOrigin
from stagewright.statemachine.run.journal import RunJournal
from stagewright.statemachine.states import FRUITLESS_EPOCHS, Trigger

from .run_model import (
    FINAL,
    LEGAL,
    TRIGGERS,
    WHOLE,
    Model,
    assert_legal,
    begun_record,
    drawing,
    lost_sectors,
    lost_tail,
    records_before,
    scanned,
)
from .support import ScriptedBackend, controller, document, png

IMAGES = 3
STAGE = "00-txt2img"
STAGE_FIELDS: dict[str, Any] = {"stage_id": STAGE, "stage_type": StageType.TXT2IMG}
INDEXES = st.integers(0, IMAGES - 1)
SHARES = st.tuples(st.integers(0, WHOLE), st.integers(0, WHOLE))
READER = PillowInputReader()
QUICK = Path("/dev/shm")  # it syncs at once, where there is one


class Writer:
    """What the process that works on the run has in its memory."""

    def __init__(self, journal: RunJournal) -> None:
        self.journal = journal
        self.stage_begun = False
        self.asked: dict[int, GenerateRequest] = {}


class RunStates(RuleBasedStateMachine):
    """Drives one run in a folder of its own; ``sound`` are the images whose files are intact."""

    def __init__(self) -> None:
        super().__init__()
        self._temporary = tempfile.TemporaryDirectory(dir=QUICK if QUICK.is_dir() else None)
        self.runs = Path(self._temporary.name)
        self.model = Model()
        self.after: dict[int, Model] = {}
        self.sound: set[int] = set()
        self.kept = b""
        self.torn = False
        self.writer: Writer | None = None

    @initialize()
    def open(self) -> None:
        config = resolve_config(
            document(images=IMAGES, server={"retries": 0}), inputs=READER, runs=self.runs
        )
        backend = ScriptedBackend()
        resolved = resolve_choices(config, lambda _: 7)
        plan = build_stage_execution_plan(resolved)
        clock = SystemClock()
        new = create_run(
            self.runs,
            resolved,
            plan,
            backend.description,
            inputs=READER,
            clock=clock,
            random_below=lambda _: 7,
        )
        self.stage_config = plan.stages[0].config
        self.run, self.folder = new.folder.path, new.folder
        self.images = ImageFiles(new.folder, READER)
        self.images.prepare(STAGE)
        journal = RunJournal(new.log, new.fold, epoch=0, clock=clock)
        self.writer = Writer(journal)
        self.note()

    def note(self) -> None:
        """What has been acknowledged may not disappear from now on."""
        self.kept = self.log.read_bytes()
        self.after[scanned(self.kept)[0].count] = copy.deepcopy(self.model)

    @property
    def log(self) -> Path:
        return self.run / "events.jsonl"

    @property
    def standing(self) -> set[int]:
        return self.model.finished & self.sound

    @precondition(lambda self: self.writer is not None)
    @rule(trigger=st.sampled_from(TRIGGERS))
    def fire(self, trigger: Trigger) -> None:
        journal = self.writer.journal  # type: ignore[union-attr]  # the precondition
        reason = ("why",) if trigger in ("fail", "cancel") else ()
        dest = LEGAL.get((trigger, self.model.state))
        if dest is None:
            with pytest.raises(InvalidTransitionError):
                journal.move(trigger, *reason)
            assert self.log.read_bytes() == self.kept
            return
        journal.move(trigger, *reason)
        self.model.move(dest)
        self.note()

    def works(self) -> bool:
        return self.writer is not None and self.model.state is RunState.RUNNING

    def record(self, kind: type[StageEvent], **fields: Any) -> None:
        assert self.writer is not None
        self.writer.journal.record(lambda at: kind(**at, **fields))
        self.model.sealed = False

    @precondition(works)
    @rule(begin=st.booleans())
    def begin_or_end_the_stage(self, begin: bool) -> None:
        assert self.writer is not None
        if begin:
            self.record(StageStart, **STAGE_FIELDS, order_index=0, total_images=IMAGES, metadata={})
            self.model.staged = True
        elif self.writer.stage_begun:
            self.record(
                StageEnd, **STAGE_FIELDS, image_count=0, duration_ms=1.0, outcome=Outcome.PARTIAL
            )
        self.writer.stage_begun = begin
        self.note()

    @precondition(lambda self: self.works() and self.writer.stage_begun)
    @rule(index=INDEXES)
    def request(self, index: int) -> None:
        assert self.writer is not None
        if index in self.standing or index in self.writer.asked:
            return
        attempt = self.model.attempts.get(index, 0)
        call_id = f"{self.run.name}.{STAGE}.{index:05d}.{attempt}"
        self.record(
            CallRequested, call_id=call_id, stage_id=STAGE, image_index=index, count=1,
            attempt=attempt, request_sha256="d" * 64,
        )  # fmt: skip
        self.writer.asked[index] = GenerateRequest(
            call_id=call_id, run_id=self.run.name, **STAGE_FIELDS, image_index=index, count=1,
            total_images=IMAGES, attempt=attempt, seed=100 + index, config=self.stage_config,
        )  # fmt: skip
        self.model.request(index)
        self.note()

    @precondition(lambda self: self.works() and self.writer.asked)
    @rule(index=INDEXES, steps=st.integers(1, 4))
    def receive(self, index: int, steps: int) -> None:
        """An answer is written, put in place, recorded and announced, or only in part."""
        assert self.writer is not None
        request = self.writer.asked.pop(index, None)
        if request is None:
            return
        answer = GeneratedImage(data=png(request.seed))
        written = self.images.write([answer], request, [ImageOrigin(request.seed)])
        if steps > 1:
            artifacts = self.images.place(written)
            self.sound.discard(index)
        if steps > 2:
            self.record(
                CallCompleted, call_id=request.call_id, endpoint="x", artifacts=artifacts,
                info={}, duration_ms=1.0,
            )  # fmt: skip
            self.model.finish(index)
            self.sound.add(index)
            self.note()
        if steps > 3:
            self.record(
                StageImageProgress, **STAGE_FIELDS, image_index=index, total_images=IMAGES,
                artifact=artifacts[0],
            )  # fmt: skip
            self.note()

    @precondition(lambda self: self.works() and self.writer.asked)
    @rule(index=INDEXES)
    def refuse(self, index: int) -> None:
        assert self.writer is not None
        request = self.writer.asked.pop(index, None)
        if request is None:
            return
        error = ErrorDetail(kind="BackendError", message="no")
        self.record(
            CallFailed, call_id=request.call_id, endpoint="x", error=error, will_retry=False
        )
        self.note()

    @precondition(works)
    @rule()
    def cancel(self) -> None:
        self.record(CancelRequested, reason="enough", mode=CancelMode.NOW)
        self.note()
        self.fire("cancel")

    @precondition(lambda self: self.writer is not None and self.model.state in FINAL)
    @rule()
    def seal(self) -> None:
        assert self.writer is not None
        self.writer.journal.record_seal()
        self.model.sealed = True
        self.note()
        self.crash()

    @precondition(lambda self: self.writer is not None)
    @rule()
    def crash(self) -> None:
        """Lock and descriptors go, as with a killed process, and nothing is written."""
        assert self.writer is not None
        self.writer.journal.close()
        self.writer = None

    def lies(self) -> bool:
        return self.writer is None and not self.torn

    @precondition(lies)
    @rule(shares=SHARES, how=st.sampled_from(["cut", "zeros", "half a record"]))
    def tear(self, shares: tuple[int, int], how: str) -> None:
        """What was not synced is lost in part, or the next record has been begun."""
        draw = drawing(shares)
        content = self.log.read_bytes()
        scan, synced = scanned(content)
        if how == "half a record":
            torn = begun_record(content, draw)
        else:
            torn = (lost_tail if how == "cut" else lost_sectors)(content, synced, draw)
        self.log.write_bytes(torn)
        count, end = records_before(torn, content, scan)
        self.kept = content[:end]
        self.torn = torn != self.kept
        self.model = copy.deepcopy(self.after[count])

    @precondition(lambda self: self.writer is None and self.standing)
    @rule(index=INDEXES, delete=st.booleans())
    def damage(self, index: int, delete: bool) -> None:
        if index not in self.standing:
            return
        file = self.run / "images" / STAGE / f"{index:05d}-{100 + index}.png"
        if delete:
            file.unlink()
        else:
            file.write_bytes(file.read_bytes() + b"!")
        self.sound.discard(index)

    @precondition(lambda self: self.writer is None)
    @rule(force=st.booleans())
    def resume(self, force: bool) -> None:
        if not self.is_complete() and self.is_refused(force):
            with pytest.raises(ResumeRefusedError):
                reopen_run(self.run, wait_s=0, force=force)
            return
        reopened = reopen_run(self.run, wait_s=0, force=force)
        assert reopened.is_complete == self.is_complete()
        if self.is_complete():
            self.end_what_is_complete(reopened)
            return
        journal = RunJournal(reopened.log, reopened.fold, epoch=reopened.epoch, clock=SystemClock())
        self.writer = Writer(journal)
        reopened.begin(journal, reopened.backend)
        journal.move("start")
        self.model.resume(self.sound)
        told = [one.epoch for one in iterate(self.run) if isinstance(one, LogRepaired)]
        assert (self.model.epoch in told) == self.torn
        self.torn = False
        self.note()

    def is_complete(self) -> bool:
        return self.model.state is RunState.COMPLETED and len(self.standing) == IMAGES

    def is_refused(self, force: bool) -> bool:
        tired = self.model.fruitless >= FRUITLESS_EPOCHS
        return tired and not force and len(self.standing) < IMAGES

    def end_what_is_complete(self, reopened: ReopenedRun) -> None:
        """Only a seal may be missing."""
        assert reopened.needs_seal == (self.torn or not self.model.sealed)
        reopened.end(SystemClock())
        if reopened.needs_seal:
            self.model.close(torn=self.torn)
            self.torn = False
        self.note()

    @precondition(lambda self: self.writer is None)
    @rule()
    def resume_until_it_is_refused(self) -> None:
        for _ in range(FRUITLESS_EPOCHS + 1):
            self.whole_epoch(0, force=False)

    @precondition(lambda self: self.writer is None)
    @rule(images=st.integers(0, IMAGES), force=st.booleans())
    def whole_epoch(self, images: int, force: bool) -> None:
        """An epoch of the controller, whose backend fails for good after so many images."""
        if not self.is_complete() and self.is_refused(force):
            with pytest.raises(ResumeRefusedError):
                self.resumed(images, force)
            return
        if self.is_complete():
            self.model.close(torn=self.torn)
        else:
            to_make = sorted(set(range(IMAGES)) - self.standing)
            self.model.whole_epoch(self.sound, to_make, images)
            self.sound |= set(to_make[:images])
        self.resumed(images, force)
        self.torn = False
        self.note()

    def resumed(self, images: int, force: bool) -> None:
        made = 0

        def script(_request: GenerateRequest, _cancel: CancelToken) -> None:
            nonlocal made
            made += 1
            if made > images:
                raise BackendError("no more")

        controller(self.runs, ScriptedBackend(script)).resume(self.run.name, force=force).wait(30)

    @invariant()
    def the_log_says_what_the_model_says(self) -> None:
        fold = Fold()
        events = list(iterate(self.run))
        fold.apply_all(events)
        self.model.assert_equals(fold, STAGE)
        assert_legal(events)

    @invariant()
    def nothing_acknowledged_is_lost(self) -> None:
        assert self.log.read_bytes().startswith(self.kept)

    def teardown(self) -> None:
        """Whatever happened, a resume ends with the images that an uninterrupted run gives."""
        if hasattr(self, "run"):
            if self.writer is not None:
                self.crash()
            self.resumed(IMAGES, force=True)
            found = verify_run(self.run)
            assert (found.flaws, found.finished, found.state) == ((), True, RunState.COMPLETED)
            expected = [sha256(png(100 + index)).hexdigest() for index in range(IMAGES)]
            assert [one.source_sha256 for one in replay(self.run).images] == expected
        self._temporary.cleanup()


TestRunStates = RunStates.TestCase
TestRunStates.settings = settings(deadline=None, max_examples=25, stateful_step_count=30)
