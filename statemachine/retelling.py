"""The sound records of a corrupt log told as the log of a new run, and what is left out."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec

from ..events.codec import CODEC, json_values
from ..events.folding import recorded_stages
from ..events.model import (
    Artifact,
    CallCompleted,
    CallFailed,
    CallRequested,
    LifecycleChanged,
    LogRepaired,
    RunOpened,
    RunSealed,
    RunState,
    StageEnd,
    StageEvent,
    StageImageProgress,
    StageStart,
)
from ..events.rescue import Choice, CopiedFile, RescuedLog, RescuedRecord, Tally, readdressed
from .plan import StageExecution, StageExecutionPlan
from .ports import SourceImage
from .resume.verify import Flaw
from .run.recorded_files import check_file
from .spans import request_digest, stage_metadata, stage_seed
from .stage_configs import Img2ImgConfig
from .states import TRANSITIONS

_FOLDERS = ("inputs/", "images/")
_LAST_EPOCH = 2**53 - 1
_MOST_DIGITS = 15
"""Of a number in a call id; more stand in no log of ours."""


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """What of the old log is not in the new one: so many, and the first byte of the first."""

    what: str
    count: int
    bytes: int
    offset: int | None


class OldFiles:
    """The files of the old run that its records tell of; ``sound`` holds path and digest."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._wrong: dict[str, str] = {}
        self.sound: dict[str, str] = {}

    def is_there(self, artifact: Artifact) -> bool:
        """Whether an image is what was recorded."""
        return self.wrong(artifact.path, artifact.sha256) is None

    def wrong(self, path: str, digest: str) -> str | None:
        """What is wrong with a recorded file, or None."""
        known = self.sound.get(path)
        if known == digest:
            return None
        if not path.startswith(_FOLDERS):
            return self._wrong.setdefault(path, "it lies where no run keeps its files")
        found = check_file(self._folder, path, digest) if known is None else "it was replaced"
        if found is not None:
            return self._wrong.setdefault(path, str(found))
        self.sound[path] = digest
        return None

    @property
    def flaws(self) -> tuple[Flaw, ...]:
        """The files that fit no record of them."""
        lost = self._wrong.items()
        return tuple(Flaw(place=path, what=what) for path, what in lost if path not in self.sound)


_SEALS = "seals of the old log"
_TRANSITIONS = "changes of state that do not follow from what is left"
_ENDS = "ends of stages of which nothing is left"
_IMAGES = "records of images that are not there as recorded"
_OPENINGS = "further beginnings of the run"


class Retelling:
    """Tells sound records as the log of a new run, one after the other.

    ``images`` and ``asides`` are path and digest of the files that the last one told of.
    """

    def __init__(self, opened: RunOpened, run_id: str, choice: Choice) -> None:
        self._run_id = run_id
        self._choice = choice
        plan = _understood_plan(opened)
        self._planned = _planned_starts(opened, plan)
        self._lost_requests = _LostRequests(opened, plan, choice.orphans)
        self._pending: dict[str, str] = {}
        self._started: set[str] = set()
        self._state = RunState.IDLE
        self._next_seq = 0
        self._unfit: dict[str, Tally] = {}
        self.epoch = 0
        self.copied = 0
        self.rebuilt = 0
        self.images: list[tuple[str, str]] = []
        self.asides: list[tuple[str, str]] = []

    def retold(self, record: RescuedRecord) -> list[bytes]:
        """The bytes of the events that stand for a record in the new log: none, one or more."""
        event = record.event
        self.images, self.asides = [], []
        unfit = self._unfit_as(event)
        if unfit is not None:
            self._unfit.setdefault(unfit, Tally()).add(record.offset, record.size)
            return []
        self.epoch = max(self.epoch, event.epoch)
        bodies = self._lost_before(event)
        self.rebuilt += len(bodies)
        bodies.append(
            readdressed(record.body, run_id=self._run_id, seq=self._take_seq(), epoch=self.epoch)
        )
        self.copied += 1
        self._note(event)
        return bodies

    def provenance(self, at: datetime, offset: int, copy: CopiedFile, name: str) -> LogRepaired:
        """The last event: where the log that this one was made from is to be found."""
        return LogRepaired(
            run_id=self._run_id,
            seq=self._take_seq(),
            ts=at,
            epoch=min(self.epoch + 1, _LAST_EPOCH),
            offset=offset,
            bytes=copy.bytes,
            sha256=copy.sha256,
            copied_to=name,
        )

    def left_out(self, rescued: RescuedLog) -> tuple[LeftOut, ...]:
        """What of the old log was of no use, by kind."""
        kinds = {
            "places without a sound record": rescued.damage,
            "records of another run": rescued.foreign,
            "records that stood there before": rescued.repeated,
            **self._unfit,
        }
        return tuple(
            LeftOut(what=what, count=tally.count, bytes=tally.bytes, offset=tally.offset)
            for what, tally in kinds.items()
            if tally.count
        )

    def _take_seq(self) -> int:
        self._next_seq += 1
        return self._next_seq - 1

    def _unfit_as(self, event: StageEvent) -> str | None:
        if isinstance(event, RunOpened) and self._next_seq:
            return _OPENINGS
        if isinstance(event, RunSealed):
            return _SEALS
        if isinstance(event, LifecycleChanged):
            move = (event.trigger, event.source, event.dest)
            return None if event.source == self._state and move in TRANSITIONS else _TRANSITIONS
        if isinstance(event, StageEnd) and event.stage_id not in self._started:
            return _ENDS
        return _IMAGES if self._choice.drops(event) else None

    def _lost_before(self, event: StageEvent) -> list[bytes]:
        """What must have stood before an event and is lost, as the plan has it."""
        lost: list[StageEvent] = []
        if isinstance(event, CallCompleted):
            request = self._lost_requests.request_of(event)
            if request is not None:
                lost.append(request)
        about = lost[0] if lost else event
        if isinstance(about, CallRequested | StageImageProgress):
            planned = self._planned.get(about.stage_id)
            if planned is not None and about.stage_id not in self._started:
                lost.insert(0, planned)
        return [self._told_anew(one, event.ts) for one in lost]

    def _told_anew(self, lost: StageEvent, at: datetime) -> bytes:
        event = msgspec.structs.replace(
            lost, run_id=self._run_id, seq=self._take_seq(), ts=at, epoch=self.epoch
        )
        self._note(event)
        return CODEC.encode(event)

    def _note(self, event: StageEvent) -> None:
        if isinstance(event, LifecycleChanged):
            self._state = event.dest
        elif isinstance(event, StageStart):
            self._started.add(event.stage_id)
        elif isinstance(event, CallRequested):
            self._pending[event.call_id] = event.stage_id
        elif isinstance(event, CallCompleted):
            self._note_images(self._pending.pop(event.call_id, None), event.artifacts)
        elif isinstance(event, StageImageProgress):
            self._note_images(event.stage_id, (event.artifact,))
        elif isinstance(event, CallFailed):
            self._pending.pop(event.call_id, None)
        elif isinstance(event, LogRepaired):
            self.asides = [(event.copied_to, event.sha256)]

    def _note_images(self, stage_id: str | None, artifacts: tuple[Artifact, ...]) -> None:
        self.images = [(artifact.path, artifact.sha256) for artifact in artifacts]
        if stage_id is not None:
            for artifact in artifacts:
                self._lost_requests.note(stage_id, artifact)


class _LostRequests:
    """The requests that are lost and whose answers are not: the plan decides what they were."""

    def __init__(self, opened: RunOpened, plan: StageExecutionPlan | None, calls: set[str]) -> None:
        self._opened = opened
        self._plan = plan
        self._stages = {stage.stage_id: stage for stage in plan.stages} if plan else {}
        self._calls = {call: place for call in calls if (place := self._place(call)) is not None}
        self._sources = {
            (stage.input_source, index): "" for stage, index, _ in self._calls.values()
        }

    def note(self, stage_id: str, artifact: Artifact) -> None:
        """Keep in mind what the image is that one of the requests was made from."""
        place = (stage_id, artifact.image_index)
        if place in self._sources:
            self._sources[place] = artifact.source_sha256

    def request_of(self, event: CallCompleted) -> CallRequested | None:
        """The request of an answer, but for its envelope; None where it was not lost.

        None too where it cannot be told: a call of another form, a source that is lost.
        """
        place = self._calls.get(event.call_id)
        if place is None or self._plan is None:
            return None
        stage, index, attempt = place
        inputs = self._inputs(stage, index)
        if inputs is None or not event.artifacts or event.artifacts[0].image_index != index:
            return None
        mask = stage.config.mask if isinstance(stage.config, Img2ImgConfig) else None
        masks = [_source(one.source_sha256) for one in self._opened.inputs if one.path == mask]
        digest = request_digest(
            stage.stage_type,
            stage.config,
            seed=stage_seed(stage.config, self._opened.seeds[0]) + index,
            count=len(event.artifacts),
            inputs=tuple(map(_source, inputs)),
            mask=masks[0] if masks and stage.input_source != "prompt" else None,
        )
        return CallRequested(
            run_id="",
            seq=0,
            ts=event.ts,
            call_id=event.call_id,
            stage_id=stage.stage_id,
            image_index=index,
            count=len(event.artifacts),
            attempt=attempt,
            request_sha256=digest,
            inputs=inputs,
        )

    def _place(self, call: str) -> tuple[StageExecution, int, int] | None:
        """Stage, first image index and attempt, as every call id ends in them."""
        stage_id, *numbers = call.split(".")[-3:]
        stage = self._stages.get(stage_id)
        plain = all(one.isdecimal() and len(one) <= _MOST_DIGITS for one in numbers)
        if stage is None or not plain or len(numbers) != 2:
            return None
        index, attempt = map(int, numbers)
        return (stage, index, attempt) if index < len(self._opened.seeds) else None

    def _inputs(self, stage: StageExecution, index: int) -> tuple[str, ...] | None:
        """The source digests that a request was made from, or None where they are not known."""
        assert self._plan is not None
        if stage.input_source == "prompt":
            return ()
        if stage.input_source == "file":
            place = index // max(1, self._plan.images_per_input)
            known = self._opened.inputs[place : place + 1]
            return tuple(one.source_sha256 for one in known) or None
        source = self._sources.get((stage.input_source, index))
        return (source,) if source else None


def _source(digest: str) -> SourceImage:
    """An image of which only the digest matters."""
    return SourceImage(data=b"", source_sha256=digest, media_type="", width=0, height=0)


def _understood_plan(opened: RunOpened) -> StageExecutionPlan | None:
    """The plan, if this version knows all that its stages say."""
    try:
        plan = StageExecutionPlan.from_document(opened.plan)
        json_values([plan, opened.seeds])
    except (msgspec.ValidationError, OverflowError):  # a number that no JSON of ours holds
        return None
    return plan


def _planned_starts(opened: RunOpened, plan: StageExecutionPlan | None) -> dict[str, StageStart]:
    """By stage, the StageStart that follows from the plan, but for its envelope.

    A plan of a newer version says what the stages are, and not all that they set out with.
    """
    metadata = {stage.stage_id: stage_metadata(stage) for stage in plan.stages} if plan else {}
    starts = {}
    for stage in recorded_stages(opened.plan):
        known = {"v": 1, "seq": 0, "epoch": 0, "run_id": "", "ts": opened.ts}
        known |= {
            "total_images": len(opened.seeds),
            "metadata": metadata.get(stage["stage_id"], {}),
        }
        try:
            start = msgspec.convert({"type": "StageStart", **stage, **known}, StageStart)
        except msgspec.ValidationError:
            continue
        starts[start.stage_id] = start
    return starts
