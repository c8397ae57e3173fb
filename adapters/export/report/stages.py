"""The stages of a run for the report: durations, settings and images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from statistics import median
from typing import Any, NamedTuple

import msgspec

from ....events.folds import StageFold, recorded_stages
from ....events.log.timeline import FileTimeline
from ....events.model import Artifact, CallCompleted, InputRecord, Outcome, StageEvent
from ....events.result import artifact_in
from ....statemachine.files.recorded_files import RecordedFile
from ...text import count
from .calls import DONE, NOT_DONE, Call
from .logged_run import LoggedRun
from .pictures import ImageInspector, Picture
from .quantities import byte_size, span_text
from .settings_table import SettingRow, differing, setting_rows

SHEET_IMAGES = 60
MAX_STAGES = 32
MAX_IMAGES = 10_000
"""Images shown in all stages together; further ones are only counted."""
MAX_INPUTS = 500
_DIGEST = 12


class Tile(msgspec.Struct, frozen=True):
    """One image with its thumbnail; ``seq`` is the event that recorded it.

    ``flaw`` says what is wrong with its file, ``remark`` what else is unusual.
    """

    title: str
    seed: int | None
    size: str
    digest: str
    made: str
    path: str
    source: str
    words: str
    flaw: str
    remark: str
    seq: int


class Sheet(msgspec.Struct, frozen=True):
    """Some consecutive images; ``title`` is "" if there is only one sheet."""

    title: str
    tiles: tuple[Tile, ...]


class StageView(msgspec.Struct, frozen=True):
    """A stage without its images; ``differences`` counts settings not used as requested."""

    stage_id: str
    stage_type: str
    made_from: str
    outcome: Outcome | None
    finished: int
    total: int
    pace: tuple[tuple[str, str], ...]
    settings: tuple[SettingRow, ...]
    answers: int
    differences: int
    not_shown: int


class _Finished(NamedTuple):
    """A finished image, and the event that recorded it."""

    artifact: Artifact
    event: StageEvent
    attempts: int
    unchanged: bool


def stage_ids(run: LoggedRun) -> list[str]:
    """The planned stages, then other stages in the log; at most ``MAX_STAGES``."""
    return list(dict.fromkeys([*run.fold.planned_stage_ids(), *run.fold.stages]))[:MAX_STAGES]


def images_shown(run: LoggedRun) -> int:
    """How many images of each stage are shown."""
    return MAX_IMAGES // max(1, len(stage_ids(run)))


def caption_of(run: LoggedRun, stage_id: str) -> str:
    """A short description of a stage, shown beside its lane."""
    stage = run.fold.stages.get(stage_id)
    if stage is None:
        return "not started"
    worked_ms = _worked_ms(stage)
    lasted = [span_text(worked_ms / 1000)] if worked_ms else []
    images = count(len(stage.finished), "image")
    return ", ".join([images, *lasted, str(stage.outcome or "not finished")])


def stage_view(run: LoggedRun, stage_id: str) -> StageView:
    """What the page shows of a stage, besides its images."""
    stage = run.fold.stages.get(stage_id)
    planned = _planned(run).get(stage_id, {})
    used = run.used.get(stage_id)
    rows = setting_rows(planned.get("config", {}), used)
    finished = len(stage.finished) if stage else 0
    return StageView(
        stage_id=stage_id,
        stage_type=str(planned.get("stage_type") or (stage.stage_type if stage else "")),
        made_from=str(planned.get("input_source", "")),
        outcome=stage.outcome if stage else None,
        finished=finished,
        total=len(run.fold.seeds),
        pace=tuple(_pace(run, stage_id, stage)),
        settings=tuple(rows),
        answers=used.answers if used else 0,
        differences=sum(1 for _ in differing(rows)),
        not_shown=max(0, finished - images_shown(run)),
    )


def _planned(run: LoggedRun) -> Mapping[str, Mapping[str, Any]]:
    return {stage["stage_id"]: stage for stage in recorded_stages(run.fold.plan)}


def _pace(run: LoggedRun, stage_id: str, stage: StageFold | None) -> Iterator[tuple[str, str]]:
    calls = [call for call in run.call_timeline.calls if call.stage_id == stage_id]
    if stage is not None and (worked_ms := _worked_ms(stage)):
        yield "duration", span_text(worked_ms / 1000)
    answered = [one for one in calls if one.state in DONE]
    lengths = sorted(map(_length, answered))
    if lengths:
        yield "median call", span_text(median(lengths))
        yield "fastest", span_text(lengths[0])
        yield "slowest", span_text(lengths[-1])
    failed = sum(call.state in NOT_DONE for call in calls)
    if failed:
        yield "failed attempts", f"{failed:,}"
    if stage is not None and stage.unchanged:
        yield "came back unchanged", f"{len(stage.unchanged):,}"


def _worked_ms(stage: StageFold) -> float:
    """As in a run's result: includes calls answered before a process died in the stage."""
    return stage.duration_ms + stage.open_ms


def _length(call: Call) -> float:
    return call.ended_s - call.began_s


def stage_sheets(run: LoggedRun, stage_id: str, inspector: ImageInspector) -> Iterator[Sheet]:
    """The images of a stage in sheets, in bounded memory. Raises LogCorruptError."""
    stage = run.fold.stages.get(stage_id)
    if stage is None:
        return
    shown = min(len(stage.finished), images_shown(run))
    finished = islice(_finished(run, stage), shown)

    def recorded(one: _Finished) -> RecordedFile:
        artifact = one.artifact
        return RecordedFile(artifact.path, artifact.sha256, stage_id, artifact.image_index)

    tiles: list[Tile] = []
    for one, picture in inspector.inspect(finished, recorded):
        tiles.append(_tile(one, picture))
        if len(tiles) == SHEET_IMAGES:
            yield _sheet(tiles, several=shown > SHEET_IMAGES)
            tiles = []
    if tiles:
        yield _sheet(tiles, several=shown > SHEET_IMAGES)


def _finished(run: LoggedRun, stage: StageFold) -> Iterator[_Finished]:
    if not isinstance(run.timeline, FileTimeline):
        return
    finished = stage.finished_in_order()
    events = run.timeline.select(seq for _, seq in finished)
    for (index, _), event in zip(finished, events, strict=True):
        first = index
        if isinstance(event, CallCompleted):
            first = min(artifact.image_index for artifact in event.artifacts)
        attempts = stage.attempts.get(first, 0)
        yield _Finished(artifact_in(event, index), event, attempts, index in stage.unchanged)


def _sheet(tiles: list[Tile], *, several: bool) -> Sheet:
    title = f"{tiles[0].title} \N{EN DASH} {tiles[-1].title}" if several else ""
    return Sheet(title, tuple(tiles))


def _tile(one: _Finished, picture: Picture) -> Tile:
    artifact, event = one.artifact, one.event
    side_by_side = f"{artifact.width}\N{MULTIPLICATION SIGN}{artifact.height}"
    made = span_text(event.duration_ms / 1000) if isinstance(event, CallCompleted) else ""
    if one.attempts > 1:
        made = f"{made}, {one.attempts} attempts".removeprefix(", ")
    return Tile(
        title=str(artifact.image_index + 1),
        seed=artifact.seed,
        size=f"{side_by_side}, {byte_size(artifact.bytes)}",
        digest=artifact.sha256[:_DIGEST],
        made=made,
        path=artifact.path,
        source=picture.source,
        words=picture.words,
        flaw=str(picture.wrong or ""),
        remark=", ".join(_remarks(one, picture)),
        seq=event.seq,
    )


def _remarks(one: _Finished, picture: Picture) -> Iterator[str]:
    if one.unchanged:
        yield "unchanged: nothing was detected"
    if picture.bundled:
        yield "the file is not in the bundle"


def input_tiles(run: LoggedRun, inspector: ImageInspector) -> Iterator[tuple[Tile, InputRecord]]:
    """The input images and the mask, as tiles, with their records."""
    opened = run.fold.opened
    inputs = list(enumerate(opened.inputs))[:MAX_INPUTS] if opened else []

    def recorded(one: tuple[int, InputRecord]) -> RecordedFile:
        return RecordedFile(one[1].path, one[1].sha256, "", one[0])

    for (place, record), picture in inspector.inspect(inputs, recorded):
        tile = Tile(
            title=f"input {place + 1}",
            seed=None,
            size="",
            digest=record.sha256[:_DIGEST],
            made="",
            path=record.path,
            source=picture.source,
            words=picture.words,
            flaw=str(picture.wrong or ""),
            remark=f"from run {record.parent_run_id}" if record.parent_run_id else "",
            seq=0,
        )
        yield tile, record
