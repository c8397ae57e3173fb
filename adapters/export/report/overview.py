"""The head of a report: the main facts of a run, and notices about problems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from itertools import islice
from typing import Any

import msgspec

from ....events.errors import LogCorruptError
from ....events.model import BackendDescription, ErrorDetail, RunState
from ....events.result import MissingImage
from ....statemachine.config.schema import Conflict
from ....statemachine.files.recorded_files import FileState, RecordedFile, WrongFile
from ...text import count, state_text
from .calls import CALL_WORDS, DONE, CallState
from .logged_run import EpochEnvironment, LoggedRun
from .pictures import ImageInspector
from .quantities import byte_size, day_and_time, ranges, span_text

_MAX_MISSING = 200
_MAX_LINES = 200
_MAX_LINE = 2_000


class Fact(msgspec.Struct, frozen=True):
    """One fact about a run, with its name."""

    name: str
    value: str


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


class Overview(msgspec.Struct, frozen=True):
    """The head of a report. ``mood`` names the colour of the state."""

    name: str
    run_id: str
    state: str
    mood: str
    summary: str
    facts: tuple[Fact, ...]
    error: ErrorDetail | None
    missing: tuple[MissingImage, ...]
    more_missing: int


def overview_of(run: LoggedRun, missing: Sequence[MissingImage]) -> Overview:
    """The head of a run's report."""
    opened = run.fold.opened
    return Overview(
        name=str(opened.config.get("name") or "")[:_MAX_LINE] if opened else "",
        run_id=run.fold.run_id or run.folder.resolve().name,
        state=_state(run),
        mood=_mood(run),
        summary=str(run.fold.plan.get("summary", ""))[:_MAX_LINE],
        facts=tuple(_facts(run)) if opened else (),
        error=run.fold.error,
        missing=tuple(missing[:_MAX_MISSING]),
        more_missing=max(0, len(missing) - _MAX_MISSING),
    )


def _state(run: LoggedRun) -> str:
    if run.corruption is not None:
        return "CORRUPT"
    if run.fold.state == RunState.RUNNING:
        return "RUNNING" if run.alive else "RUNNING in the log, but its process died"
    return state_text(run.fold.state, run.fold.outcome)


def _mood(run: LoggedRun) -> str:
    if run.corruption is not None or run.died:
        return "error"
    moods = {
        RunState.COMPLETED: "good",
        RunState.ERROR: "error",
        RunState.CANCELLED: "warning",
        RunState.RUNNING: "busy",
    }
    return moods.get(run.fold.state, "plain")


def _facts(run: LoggedRun) -> Iterator[Fact]:
    fold, call_timeline = run.fold, run.call_timeline
    assert fold.opened is not None
    assert run.opened_at is not None
    assert run.ended_at is not None
    yield Fact("Opened", day_and_time(run.opened_at))
    yield Fact("Last event", day_and_time(run.ended_at))
    if run.corruption is not None:
        yield Fact("State so far", str(fold.state))
    yield Fact("Duration", _duration(run))
    yield Fact("Images", _images(run))
    yield Fact("Calls", _calls(run))
    yield Fact("Resumes", str(fold.resumes))
    yield Fact("Seeds", ranges(fold.seeds))
    for name, values in _environment_rows(run.environments):
        yield Fact(name, "; ".join(values))
    yield Fact("Log", f"{count(len(run.timeline), 'event')}, {_end(run)}")
    if call_timeline.clock.set_back:
        yield Fact(
            "Clock", f"set back during the run: {count(call_timeline.clock.set_back, 'event')}"
        )
    labels = {
        "Label": fold.plan.get("run_id"),
        "Action": fold.plan.get("one_click_action"),
        "Group": fold.opened.group_id,
        "Variant": fold.opened.variant_index,
    }
    for name, label in labels.items():
        if label is not None:
            yield Fact(name, str(label)[:_MAX_LINE])


def _duration(run: LoggedRun) -> str:
    epochs = run.call_timeline.epochs
    worked = sum(one.ended_s - one.began_s for one in epochs)
    whole = run.call_timeline.clock.now_s
    if len(epochs) < 2:
        return span_text(whole)
    return f"{span_text(worked)} of work in {len(epochs)} epochs, within {span_text(whole)}"


def _images(run: LoggedRun) -> str:
    stage_ids = run.fold.planned_stage_ids()
    finished = [
        len(run.fold.stages[one].finished) if one in run.fold.stages else 0 for one in stage_ids
    ]
    total = len(run.fold.seeds)
    last = finished[-1] if finished else 0
    through = f"{last:,} of {total:,} finished"
    if len(stage_ids) < 2:
        return through
    return f"{through}; {sum(finished):,} of {total * len(stage_ids):,} in all stages"


def _calls(run: LoggedRun) -> str:
    """``14: 12 completed (2 of them after a retry); 1 failed, retried; 1 unanswered``."""
    counts = run.call_timeline.counts
    done, later = sum(counts[state] for state in DONE), counts[CallState.RETRIED]
    parts = [f"{done:,} completed" + (f" ({later:,} of them after a retry)" if later else "")]
    parts += [
        f"{counts[state]:,} {CALL_WORDS[state]}"
        for state in CallState
        if state not in DONE and counts[state]
    ]
    total = run.call_timeline.total_calls
    return f"{total:,}" + (f": {'; '.join(parts)}" if total else "")


def _environment_rows(environments: Sequence[EpochEnvironment]) -> Iterator[tuple[str, list[str]]]:
    """Backends, software and hosts, each once, in the order of their first use."""
    backends = dict.fromkeys(backend_words(one.backend) for one in environments)
    hosts = dict.fromkeys(f"{one.host} (process {one.pid})" for one in environments)
    software = dict.fromkeys(one.software for one in environments)
    for name, values in (("Backend", backends), ("Software", software), ("Host", hosts)):
        if values:
            yield f"{name}s" if len(values) > 1 and name != "Software" else name, list(values)


def backend_words(backend: BackendDescription) -> str:
    """The product, version and address of a backend."""
    parts = (backend.product or backend.kind, backend.version, backend.url)
    return " ".join(part for part in parts if part)


def _end(run: LoggedRun) -> str:
    if run.corruption is not None:
        return "corrupt after these"
    return "sealed" if run.fold.sealed else "not sealed"


def notices(run: LoggedRun, inspector: ImageInspector, *, left_out: Sequence[str]) -> list[Notice]:
    """The problems of a run and its files, and what this page leaves out."""
    found = [*_log_notices(run), *_file_notices(inspector.wrong)]
    if inspector.bundled:
        words = f"{count(inspector.bundled, 'image')} shown by the thumbnails of the bundle."
        found.append(Notice(Gravity.NOTE, "This is a bundle without the image files", words))
    found += _plan_notices("conflicts", Gravity.ERROR, run.fold.plan)
    found += _plan_notices("warnings", Gravity.WARNING, run.fold.plan)
    if left_out:
        found.append(Notice(Gravity.NOTE, "This page leaves out", lines=tuple(left_out)))
    return found


def _log_notices(run: LoggedRun) -> Iterator[Notice]:
    corruption = run.corruption
    if corruption is not None:
        yield Notice(Gravity.ERROR, "The log is corrupt", _corruption_words(corruption))
    torn = getattr(run.timeline, "torn", None)
    if run.alive:
        words = "A process is executing it. This page shows the state when the page was made."
        yield Notice(Gravity.NOTE, "This run is still running", words)
    elif run.died and corruption is None:
        words = "`stagewright resume` continues it where it stopped."
        yield Notice(Gravity.WARNING, "The process of this run died", words)
    if torn is not None and not run.alive:
        words = f"The {byte_size(torn.bytes)} from byte {torn.offset} on are an incomplete record."
        yield Notice(Gravity.WARNING, "The last record of the log is incomplete", words)


def _corruption_words(error: LogCorruptError) -> str:
    before = f"This page shows the {count(error.seq, 'event')} before it."
    return (
        f"At byte {error.offset} (record {error.seq}): {error.reason}. "
        f"{before if error.seq else 'There is no event before it.'} "
        "`stagewright salvage` copies the sound parts into a new run."
    )


def _file_notices(wrong: Sequence[tuple[RecordedFile, WrongFile]]) -> Iterator[Notice]:
    states = {
        FileState.ALTERED: ("altered", Gravity.ERROR),
        FileState.MISSING: ("missing", Gravity.WARNING),
        FileState.UNREADABLE: ("unreadable", Gravity.WARNING),
    }
    for state, (words, gravity) in states.items():
        files = [(file, why) for file, why in wrong if why.state is state]
        if files:
            verb = "is" if len(files) == 1 else "are"
            lines = tuple(f"{file.path}: {why}" for file, why in files[:_MAX_LINES])
            yield Notice(gravity, f"{count(len(files), 'file')} {verb} {words}", lines=lines)


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
