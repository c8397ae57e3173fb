"""The head of a report: the main facts of a run, and notices about problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from itertools import islice
from typing import Any

import msgspec

from ....events.errors import LogCorruptError
from ....events.model import ErrorDetail, RunOpened, RunResumed
from ....events.result import MissingImage
from ....statemachine.config.schema import Conflict
from ....statemachine.files.recorded_files import FileState, RecordedFile
from ...event_text import backend_text, state_text
from ...projections.log_walk import Call, CallState, LogWalk
from ...projections.server_work import work_text
from ...text import (
    byte_size,
    count,
    duration,
    ranges_of,
    ranges_text,
)
from .gantt import CALL_WORDS
from .image_facts import StagePrompts
from .page import MOOD_OF
from .pictures import InspectedImage
from .run_content import RunContent

_MAX_MISSING = 200
_MAX_LINES = 200
_MAX_LINE = 2_000
_MAX_RANGES = 12
_MAX_OPENINGS = 50
_MAX_SERVERS = 32


class Gravity(StrEnum):
    """How serious a notice is."""

    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"


class Notice(msgspec.Struct, frozen=True):
    """A message at the head of the page."""

    gravity: Gravity
    title: str
    words: str = ""
    lines: tuple[str, ...] = ()


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """The head of a report. ``mood`` names the colour of the state; facts have a name each."""

    name: str
    run_id: str
    state: str
    mood: str
    summary: str
    facts: tuple[tuple[str, str | datetime], ...]
    error: ErrorDetail | None
    missing: tuple[MissingImage, ...]
    more_missing: int


def overview_of(run: RunContent) -> Overview:
    """The head of a run's report."""
    fold = run.log.fold
    missing = fold.missing()
    return Overview(
        name=str(fold.opened.config.get("name") or "")[:_MAX_LINE] if fold.opened else "",
        run_id=run.run_id,
        state=_state(run.log),
        mood=_mood(run.log),
        summary=str(fold.plan.get("summary", ""))[:_MAX_LINE],
        facts=tuple(_facts(run, fold.opened)) if fold.opened else (),
        error=fold.error,
        missing=tuple(missing[:_MAX_MISSING]),
        more_missing=max(0, len(missing) - _MAX_MISSING),
    )


def _state(log: LogWalk) -> str:
    if log.corruption is not None:
        return "CORRUPT"
    if log.died:
        return "RUNNING in the log, but its process died"
    return state_text(log.fold.state, log.fold.outcome)


def _mood(log: LogWalk) -> str:
    if log.corruption is not None or log.died:
        return "error"
    return MOOD_OF.get(log.fold.state, "plain")


def _prompt(run: RunContent, opened: RunOpened) -> str:
    """The prompt of all images, or how many there are; "" for a run without any."""
    if isinstance(opened.prompts, tuple):
        return f"{count(len(set(opened.prompts)), 'prompt')}; each image names its own"
    planned = run.log.fold.planned_stage_ids()
    return StagePrompts(opened).of(planned[-1], 0)[:_MAX_LINE] if planned else ""


def _facts(run: RunContent, opened: RunOpened) -> Iterator[tuple[str, str | datetime]]:
    log, fold = run.log, run.log.fold
    if prompt := _prompt(run, opened):
        yield "Prompt", prompt
    yield "Opened", opened.ts
    if log.ended_at is not None:
        yield "Last event", log.ended_at
    if log.corruption is not None:
        yield "State so far", str(fold.state)
    yield "Duration", _duration(log)
    yield "Images", _images(run)
    yield "Calls", _calls(log.calls)
    yield "Resumes", str(fold.resumes)
    yield "Seeds", _seeds(fold.seeds)
    yield from _processes(log.openings[:_MAX_OPENINGS])
    for server in run.servers.work()[:_MAX_SERVERS]:
        yield f"Server {server.url}"[:_MAX_LINE], work_text(server)[:_MAX_LINE]
    seal = "sealed" if fold.sealed else "not sealed"
    end = seal if log.corruption is None else "corrupt after these"
    yield "Log", f"{count(len(log.timeline), 'event')}, {end}"
    if log.clock.set_back:
        yield "Clock", f"set back during the run: {count(log.clock.set_back, 'event')}"
    labels = {
        "Label": fold.plan.get("run_id"),
        "Action": fold.plan.get("one_click_action"),
        "Group": opened.group_id,
        "Variant": opened.variant_index,
    }
    for name, label in labels.items():
        if label is not None:
            yield name, str(label)[:_MAX_LINE]


def _duration(log: LogWalk) -> str:
    worked_s = sum(one.ended_s - one.began_s for one in log.epochs)
    whole = duration(log.clock.now_s * 1000)
    if len(log.epochs) < 2:
        return whole
    return f"{duration(worked_s * 1000)} of work in {len(log.epochs)} epochs, within {whole}"


def _images(run: RunContent) -> str:
    finished, total = run.finished_counts(), len(run.log.fold.seeds)
    through = f"{finished[-1] if finished else 0:,} of {total:,} finished"
    if len(finished) > 1:
        through += f"; {sum(finished):,} of {total * len(finished):,} in all stages"
    reused = run.reused_count()
    return f"{through}; {reused:,} reused from earlier runs" if reused else through


def _calls(calls: Sequence[Call]) -> str:
    """``14: 12 completed (2 of them after a retry); 1 failed, retried; 1 unanswered``."""
    counts = Counter(call.state for call in calls)
    later = counts[CallState.RETRIED]
    done = f"{counts[CallState.COMPLETED] + later:,} completed"
    parts = [done + (f" ({later:,} of them after a retry)" if later else "")]
    parts += [
        f"{counts[state]:,} {CALL_WORDS[state]}"
        for state in CallState
        if not state.is_done and counts[state]
    ]
    return f"{len(calls):,}" + (f": {'; '.join(parts)}" if calls else "")


def _seeds(seeds: Sequence[int]) -> str:
    ranges = ranges_of(seeds)
    return ranges_text(ranges[:_MAX_RANGES]) + (", ..." if len(ranges) > _MAX_RANGES else "")


def _processes(openings: Sequence[RunOpened | RunResumed]) -> Iterator[tuple[str, str]]:
    """Backends, software and hosts, each once, in the order of their first use."""
    backends = dict.fromkeys(backend_text(one.backend) for one in openings)
    yield "Backends" if len(backends) > 1 else "Backend", "; ".join(backends)
    yield "Software", "; ".join(dict.fromkeys(one.software for one in openings))
    hosts = dict.fromkeys(f"{one.host} (process {one.pid})" for one in openings)
    yield "Hosts" if len(hosts) > 1 else "Host", "; ".join(hosts)


def notices(
    run: RunContent,
    images: Mapping[RecordedFile, InspectedImage],
    *,
    left_out: Sequence[str],
) -> list[Notice]:
    """The problems of a run and its files, and what this page leaves out."""
    found = [*_log_notices(run.log), *_file_notices(images)]
    bundled = sum(image.bundled for image in images.values())
    if bundled:
        words = f"{count(bundled, 'image')} shown by the thumbnails of the bundle."
        found.append(Notice(Gravity.NOTE, "This is a bundle without the image files", words))
    plan = run.log.fold.plan
    found += _plan_notices("conflicts", Gravity.ERROR, plan)
    found += _plan_notices("warnings", Gravity.WARNING, plan)
    if left_out:
        found.append(Notice(Gravity.NOTE, "This page leaves out", lines=tuple(left_out)))
    return found


def _log_notices(log: LogWalk) -> Iterator[Notice]:
    corruption = log.corruption
    if corruption is not None:
        yield Notice(Gravity.ERROR, "The log is corrupt", _corruption_words(corruption))
    torn = getattr(log.timeline, "torn", None)
    if log.alive:
        words = "A process is executing it. This page shows the state when the page was made."
        yield Notice(Gravity.NOTE, "This run is still running", words)
    elif log.died and corruption is None:
        words = "`stagewright resume` continues it where it stopped."
        yield Notice(Gravity.WARNING, "The process of this run died", words)
    if torn is not None and not log.alive:
        words = f"The {byte_size(torn.bytes)} from byte {torn.offset} on are an incomplete record."
        yield Notice(Gravity.WARNING, "The last record of the log is incomplete", words)


def _corruption_words(error: LogCorruptError) -> str:
    before = f"This page shows the {count(error.seq, 'event')} before it."
    return (
        f"At byte {error.offset} (record {error.seq}): {error.reason}. "
        f"{before if error.seq else 'There is no event before it.'} "
        "`stagewright salvage` copies the sound parts into a new run."
    )


def _file_notices(images: Mapping[RecordedFile, InspectedImage]) -> Iterator[Notice]:
    states = {
        FileState.ALTERED: ("altered", Gravity.ERROR),
        FileState.MISSING: ("missing", Gravity.WARNING),
        FileState.UNREADABLE: ("unreadable", Gravity.WARNING),
    }
    wrong = [(file.path, image.wrong) for file, image in images.items() if image.wrong]
    for state, (words, gravity) in states.items():
        lines = [f"{path}: {why}" for path, why in wrong if why.state is state]
        if lines:
            verb = "is" if len(lines) == 1 else "are"
            title = f"{count(len(lines), 'file')} {verb} {words}"
            yield Notice(gravity, title, lines=tuple(lines[:_MAX_LINES]))


def _plan_notices(key: str, gravity: Gravity, plan: Mapping[str, Any]) -> Iterator[Notice]:
    listed = plan.get(key)
    if isinstance(listed, list | tuple) and listed:
        lines = tuple(_line(one) for one in islice(listed, _MAX_LINES))
        title = count(len(listed), key.removesuffix("s"))
        yield Notice(gravity, f"{title} of the plan", lines=lines)


def _line(value: Any) -> str:
    """A warning, or a conflict of two keys, as one line."""
    with suppress(msgspec.ValidationError):  # a warning, or another value in a foreign log
        value = msgspec.convert(value, Conflict)
    return str(value)[:_MAX_LINE]
