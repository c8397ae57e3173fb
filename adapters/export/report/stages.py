"""The stages of a run for the report: durations, settings and images."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from statistics import median

import msgspec

from ....events.log.timeline import events_at
from ....events.model import CallCompleted, CallReused, InputRecord, Outcome, StageEvent
from ....events.origins import input_name, input_of, prompt_of
from ....events.result import artifact_in
from ....events.stage_fold import StageFold
from ....statemachine.files.recorded_files import RecordedFile
from ...event_text import why_unchanged
from ...text import byte_size, count, duration
from .image_facts import StagePrompts
from .run_content import RunContent
from .settings_table import Agreement, SettingRow, UsedValues, setting_rows

MAX_IMAGES = 10_000
"""Images shown in all stages together; further ones are only counted."""
MAX_INPUTS = 500
_DIGEST = 12
_MAX_PROMPT = 500
_MAX_SERVER = 300


class Tile(msgspec.Struct, frozen=True, kw_only=True):
    """One image; ``seq`` is the event that recorded it, ``remark`` says what is unusual.

    ``origin`` is the name of the input file that it comes from, ``prompt`` the image's own,
    ``prompt_index`` the place of what it was made from in the page's table, ``source_digest`` is
    equal for equal images, ``rating`` is what a person thinks of it.
    """

    file: RecordedFile
    title: str
    origin: str = ""
    prompt: str = ""
    prompt_index: int | None = None
    source_digest: str = ""
    seed: int | None = None
    size: str = ""
    made: str = ""
    remark: str = ""
    rating: str = ""
    seq: int = 0

    @property
    def digest(self) -> str:
        """The beginning of the digest of the file."""
        return self.file.sha256[:_DIGEST]


class StageView(msgspec.Struct, frozen=True, kw_only=True):
    """A stage on the page; ``differences`` counts settings not used as requested."""

    stage_id: str
    made_from: str
    outcome: Outcome | None
    finished: int
    total: int
    pace: tuple[tuple[str, str], ...]
    settings: tuple[SettingRow, ...]
    answers: int
    differences: int
    tiles: tuple[Tile, ...]


def images_shown(run: RunContent) -> int:
    """How many images of each stage are shown."""
    return MAX_IMAGES // max(1, len(run.stage_ids()))


def caption_of(run: RunContent, stage_id: str) -> str:
    """A short description of a stage, shown beside its lane."""
    stage = run.log.fold.stages.get(stage_id)
    if stage is None:
        return "not started"
    worked_ms = _worked_ms(stage)
    lasted = [duration(worked_ms)] if worked_ms else []
    images = count(len(stage.finished), "image")
    if stage.reused:
        images = f"{images} ({len(stage.reused):,} reused)"
    return ", ".join([images, *lasted, str(stage.outcome or "not finished")])


def stage_view(run: RunContent, stage_id: str) -> StageView:
    """What the page shows of a stage. Raises LogCorruptError."""
    stage = run.log.fold.stages.get(stage_id)
    planned = run.planned(stage_id)
    used = run.used.get(stage_id, UsedValues())
    rows = setting_rows(planned.get("config", {}), used)
    return StageView(
        stage_id=stage_id,
        made_from=str(planned.get("input_source", "")),
        outcome=stage.outcome if stage else None,
        finished=len(stage.finished) if stage else 0,
        total=len(run.log.fold.seeds),
        pace=tuple(_pace(run, stage_id, stage)),
        settings=tuple(rows),
        answers=used.answers,
        differences=sum(row.agreement is Agreement.DIFFERENT for row in rows),
        tiles=tuple(islice(_tiles(run, stage), images_shown(run))) if stage else (),
    )


def _pace(run: RunContent, stage_id: str, stage: StageFold | None) -> Iterator[tuple[str, str]]:
    calls = [call for call in run.log.calls if call.stage_id == stage_id]
    if stage is not None and (worked_ms := _worked_ms(stage)):
        yield "duration", duration(worked_ms)
    lengths = sorted(1000 * (one.ended_s - one.began_s) for one in calls if one.state.is_done)
    if lengths:
        yield "median call", duration(median(lengths))
        yield "fastest", duration(lengths[0])
        yield "slowest", duration(lengths[-1])
    failed = sum(call.state.has_failed for call in calls)
    if failed:
        yield "failed attempts", f"{failed:,}"
    if stage is not None and stage.unchanged:
        yield "came back unchanged", f"{len(stage.unchanged):,}"
    if stage is not None and stage.reused:
        yield "reused from earlier runs", f"{len(stage.reused):,}"


def _worked_ms(stage: StageFold) -> float:
    """As in a run's result: includes calls answered before a process died in the stage."""
    return stage.duration_ms + stage.open_ms


def _tiles(run: RunContent, stage: StageFold) -> Iterator[Tile]:
    finished = stage.finished_in_order()
    prompts = StagePrompts(run.log.fold.opened)
    events = events_at(run.log.timeline, (seq for _, seq in finished))
    for (index, _), event in zip(finished, events, strict=True):
        opened = run.log.fold.opened
        origin = input_of(opened, index) if opened else None
        own = prompt_of(opened, index) if opened else None
        prompt = own.prompt[:_MAX_PROMPT] if own else ""
        server = run.servers.server_of(stage.stage_id, index)
        rating = run.rating_of(artifact_in(event, index))
        tile = _tile(stage, index, event, origin, server)
        made_from = run.prompts.place_of(prompts.of(stage.stage_id, index))
        yield msgspec.structs.replace(tile, prompt=prompt, rating=rating, prompt_index=made_from)


def _tile(
    stage: StageFold, index: int, event: StageEvent, origin: InputRecord | None, server: str
) -> Tile:
    artifact = artifact_in(event, index)
    first, made = index, []
    if isinstance(event, CallCompleted):
        first = min(one.image_index for one in event.artifacts)
        made.append(duration(event.duration_ms))
    if isinstance(event, CallReused):
        made.append(f"reused from run {event.origin.run_id}")
    elif (attempts := stage.attempts.get(first, 0)) > 1:
        made.append(f"{attempts} attempts")
    if server:
        made.append(f"on {server[:_MAX_SERVER]}")
    side_by_side = f"{artifact.width}\N{MULTIPLICATION SIGN}{artifact.height}"
    return Tile(
        file=RecordedFile(
            artifact.path, artifact.sha256, stage.stage_id, index, index in stage.removed
        ),
        title=str(index + 1),
        origin=input_name(origin) if origin else "",
        source_digest=artifact.source_sha256[:_DIGEST],
        seed=artifact.seed,
        size=f"{side_by_side}, {byte_size(artifact.bytes)}",
        made=", ".join(made),
        remark=f"unchanged: {why_unchanged(stage.stage_type)}" if index in stage.unchanged else "",
        seq=event.seq,
    )


def input_tiles(run: RunContent) -> list[tuple[Tile, InputRecord]]:
    """The input images and the mask, as tiles, with their records."""
    opened = run.log.fold.opened
    return [
        (
            Tile(
                file=RecordedFile(record.path, record.sha256, "", index),
                title=f"input {index + 1}",
                origin=input_name(record),
                source_digest=record.source_sha256[:_DIGEST],
                remark=f"from run {record.parent_run_id}" if record.parent_run_id else "",
            ),
            record,
        )
        for index, record in enumerate(opened.inputs[:MAX_INPUTS] if opened else ())
        if not record.refusal
    ]
