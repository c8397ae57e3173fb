"""What stands at the head of a report: the run at a glance, and what is not well with it."""

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
from ...text import count
from .calls import CALL_WORDS, DONE, CallState
from .logged_run import Hand, LoggedRun
from .pictures import PictureShop
from .quantities import byte_size, day_and_time, ranges, span

_MAX_MISSING = 200
_MAX_LINES = 200
_MAX_LINE = 2_000


class Fact(msgspec.Struct, frozen=True):
    """Something to know of a run, by name."""

    name: str
    value: str


class Gravity(StrEnum):
    """How much a notice matters."""

    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"


class Notice(msgspec.Struct, frozen=True):
    """Something that the reader must know first."""

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
        return "RUNNING" if run.alive else "RUNNING when its process died"
    outcome = run.fold.outcome
    told = outcome is not None and outcome.upper() != run.fold.state
    return f"{run.fold.state}, {outcome}" if told else str(run.fold.state)


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
    fold, book = run.fold, run.book
    assert fold.opened is not None
    assert run.opened_at is not None
    assert run.ended_at is not None
    yield Fact("Opened", day_and_time(run.opened_at))
    yield Fact("Last event", day_and_time(run.ended_at))
    if run.corruption is not None:
        yield Fact("State so far", str(fold.state))
    yield Fact("Took", _took(run))
    yield Fact("Images", _images(run))
    yield Fact("Calls", _calls(run))
    yield Fact("Resumes", str(fold.resumes))
    yield Fact("Seeds", ranges(fold.seeds))
    for name, values in _hands(run.hands):
        yield Fact(name, "; ".join(values))
    yield Fact("Log", f"{count(len(run.timeline), 'event')}, {_end(run)}")
    if book.clock.set_back:
        yield Fact("Clock", f"set back during the run: {count(book.clock.set_back, 'event')}")
    labels = {
        "Label": fold.plan.get("run_id"),
        "Action": fold.plan.get("one_click_action"),
        "Group": fold.opened.group_id,
        "Variant": fold.opened.variant_index,
    }
    for name, label in labels.items():
        if label is not None:
            yield Fact(name, str(label)[:_MAX_LINE])


def _took(run: LoggedRun) -> str:
    epochs = run.book.epochs
    worked = sum(one.ended_s - one.began_s for one in epochs)
    whole = run.book.clock.now_s
    if len(epochs) < 2:
        return span(whole)
    return f"{span(worked)} of work in {len(epochs)} epochs, over {span(whole)}"


def _images(run: LoggedRun) -> str:
    stage_ids = run.fold.planned_stage_ids()
    finished = [
        len(run.fold.stages[one].finished) if one in run.fold.stages else 0 for one in stage_ids
    ]
    total = len(run.fold.seeds)
    last = finished[-1] if finished else 0
    through = f"{last:,} of {total:,} through the last stage"
    if len(stage_ids) < 2:
        return through
    return f"{through}; {sum(finished):,} of {total * len(stage_ids):,} in all stages"


def _calls(run: LoggedRun) -> str:
    """``14: 12 completed (2 of them at a later attempt), 1 failed, tried again; 1 never ...``."""
    counts = run.book.counts
    done, later = sum(counts[state] for state in DONE), counts[CallState.RETRIED]
    told = [f"{done:,} completed" + (f" ({later:,} of them at a later attempt)" if later else "")]
    told += [
        f"{counts[state]:,} {CALL_WORDS[state]}"
        for state in CallState
        if state not in DONE and counts[state]
    ]
    return f"{run.book.total_calls:,}" + (f": {'; '.join(told)}" if run.book.total_calls else "")


def _hands(hands: Sequence[Hand]) -> Iterator[tuple[str, list[str]]]:
    """Backends, software and machines, each once, in the order in which they came."""
    backends = dict.fromkeys(backend_words(one.backend) for one in hands)
    hosts = dict.fromkeys(f"{one.host} (process {one.pid})" for one in hands)
    software = dict.fromkeys(one.software for one in hands)
    for name, values in (("Backend", backends), ("Software", software), ("Host", hosts)):
        if values:
            yield f"{name}s" if len(values) > 1 and name != "Software" else name, list(values)


def backend_words(backend: BackendDescription) -> str:
    """A backend in a few words: what it is, its version, where it is."""
    parts = (backend.product or backend.kind, backend.version, backend.url)
    return " ".join(part for part in parts if part)


def _end(run: LoggedRun) -> str:
    if run.corruption is not None:
        return "corrupt behind them"
    return "sealed" if run.fold.sealed else "not sealed"


def notices(run: LoggedRun, shop: PictureShop, *, left_out: Sequence[str]) -> list[Notice]:
    """What is not well with a run and its files, and what this page leaves out."""
    found = [*_log_notices(run), *_file_notices(shop.wrong)]
    if shop.bundled:
        words = f"{count(shop.bundled, 'image')} shown by the thumbnails that are in it."
        found.append(Notice(Gravity.NOTE, "This is a bundle, without the images themselves", words))
    found += _plan_notices("conflicts", Gravity.ERROR, run.fold.plan)
    found += _plan_notices("warnings", Gravity.WARNING, run.fold.plan)
    if left_out:
        found.append(Notice(Gravity.NOTE, "This page leaves something out", lines=tuple(left_out)))
    return found


def _log_notices(run: LoggedRun) -> Iterator[Notice]:
    corruption = run.corruption
    if corruption is not None:
        yield Notice(Gravity.ERROR, "The log is corrupt", _corruption_words(corruption))
    torn = getattr(run.timeline, "torn", None)
    if run.alive:
        words = "A process works on it; this page shows it as it was when the page was made."
        yield Notice(Gravity.NOTE, "This run goes on", words)
    elif run.died and corruption is None:
        words = "It died, or its machine did. A resume goes on where it stopped."
        yield Notice(Gravity.WARNING, "Nobody runs this run any more", words)
    if torn is not None and not run.alive:
        words = f"{byte_size(torn.bytes)} at byte {torn.offset} are no whole record."
        yield Notice(Gravity.WARNING, "The log ends in a torn record", words)


def _corruption_words(error: LogCorruptError) -> str:
    before = f"This page tells what the {count(error.seq, 'event')} before it say."
    return (
        f"At byte {error.offset} (record {error.seq}): {error.reason}. "
        f"{before if error.seq else 'Nothing stands before it.'} "
        "stagewright salvage copies what is sound into a new run."
    )


def _file_notices(wrong: Sequence[tuple[RecordedFile, WrongFile]]) -> Iterator[Notice]:
    states = {
        FileState.ALTERED: ("not what was recorded", Gravity.ERROR),
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
        lines = tuple(_told(one) for one in islice(listed, _MAX_LINES))
        title = count(len(listed), key.removesuffix("s"))
        yield Notice(gravity, f"{title} of the plan", lines=lines)


def _told(value: Any) -> str:
    """A warning, or a conflict of two keys, as a line."""
    with suppress(msgspec.ValidationError):  # a warning, or what a foreign log has in its place
        value = msgspec.convert(value, Conflict)
    return str(value)[:_MAX_LINE]
