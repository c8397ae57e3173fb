"""What must hold of a simulated run after every crash, and at its end."""

from __future__ import annotations

from collections.abc import Callable, Collection
from hashlib import sha256
from pathlib import Path
from typing import Any

from stagewright.events import LogCorruptError, StageEvent
from stagewright.events.folds import Fold
from stagewright.events.log.lock import is_locked
from stagewright.events.log.reader import read_log
from stagewright.events.log.timeline import FileTimeline
from stagewright.events.model import CallRequested, RunState
from stagewright.statemachine.plan.plan import StageExecutionPlan
from stagewright.statemachine.resume.verify import verify_run
from stagewright.statemachine.run.requests import request_spans

from .simulated_backend import Server, source_digest
from .simulated_world import History

_PATIENCE = 400
"""So many seeds at most until the lack of a barrier must have shown."""


class Violation(AssertionError):  # noqa: N818 - what it is, not how it is told
    """A promise that a simulated run did not keep."""


def first_loss(
    simulate: Callable[[int], object], simulate_without: Callable[[int], object], first: int
) -> tuple[int, str]:
    """The first seed that keeps every promise, and breaks one without a barrier; which one."""
    for seed in range(first, first + _PATIENCE):
        try:
            simulate_without(seed)
        except Violation as violation:
            try:
                simulate(seed)
            except Violation:
                continue  # lost with the barrier, too: it proves nothing of it
            return seed, str(violation)
    raise AssertionError(f"nothing was lost in {_PATIENCE} seeds without the barrier")


def demand(kept: object, promise: str | Callable[[], str]) -> None:
    """Raise Violation unless a promise was kept."""
    if not kept:
        raise Violation(promise if isinstance(promise, str) else promise())


def check_facts(folder: Path, history: History, *, power_lost: bool) -> tuple[Fold, FileTimeline]:
    """Every fact that was recorded is in the log, in its place; what the log folds to.

    A power loss may take what was behind the last barrier. At most one record is there whose
    recording was never reported. ``history`` is brought up to what is there.
    """
    events: list[StageEvent] = []
    try:
        timeline = read_log(folder, events.extend)
    except LogCorruptError as error:
        raise Violation(f"the log is corrupt: {error}") from error
    facts = history.events
    least = history.durable if power_lost else len(facts)
    demand(
        least <= len(events) <= len(facts) + 1,
        f"{len(facts)} facts were recorded, {history.durable} durably; the log has {len(events)}",
    )
    for fact, event in zip(facts, events, strict=False):
        demand(fact == event, f"the log has {event} instead of {fact}")
    history.events = events
    if power_lost:
        history.durable = len(events)
    fold = Fold()
    fold.apply_all(events)
    return fold, timeline


def check_files(folder: Path, fold: Fold, timeline: FileTimeline, spoilt: Collection[str]) -> None:
    """Every recorded file is what was recorded, but for those that somebody ``spoilt``."""
    assert fold.opened is not None
    recorded = [(one.path, one.sha256) for one in fold.opened.inputs]
    for stage in fold.result(timeline).stages:
        recorded += [(image.path, image.sha256) for image in stage.images]
    for path, digest in recorded:
        if path not in spoilt:
            demand((folder / path).is_file(), f"{path} is recorded, but it is not there")
            found = sha256((folder / path).read_bytes()).hexdigest()
            demand(found == digest, f"{path} is recorded, but its bytes are others")


def check_requests(server: Server, history: History) -> None:
    """Every request that reached the server is in the log, and reached it once."""
    recorded = {event.call_id for event in history.events if isinstance(event, CallRequested)}
    for call_id, times in server.received.items():
        demand(call_id in recorded, f"{call_id} was sent, and the log knows nothing of it")
        demand(times == 1, f"{call_id} was sent {times} times")


def check_unlocked(folder: Path) -> None:
    """A process that is no more holds no lock."""
    demand(not is_locked(folder), "the lock of a dead process is still held")


def check_rebuilt(worked_with: Fold, events: list[StageEvent]) -> None:
    """A replay of the facts comes to the very state that the runner worked with."""
    rebuilt = Fold()
    rebuilt.apply_all(events)
    ours, theirs = portrait(rebuilt), portrait(worked_with)
    wrong = [name for name in ours if ours[name] != theirs.get(name)]
    demand(
        ours == theirs,
        lambda: f"replay gives other {wrong} than the runner had: {ours} instead of {theirs}",
    )


def portrait(fold: Fold) -> dict[str, Any]:
    """All that a fold holds, as values that can be compared."""
    shown = {name: value for name, value in vars(fold).items() if name != "_handlers"}
    shown["stages"] = {
        stage_id: {name: _plain(value) for name, value in vars(stage).items()}
        for stage_id, stage in fold.stages.items()
    }
    return shown


def _plain(value: Any) -> Any:
    return list(value.items()) if hasattr(value, "items") else value


def planned_requests(plan: StageExecutionPlan, made_before: Collection[str] = ()) -> int:
    """How many requests a run makes to which nothing happens.

    The images of the stages ``made_before`` are those of an earlier run.
    """
    stages = (stage for stage in plan.stages if stage.stage_id not in made_before)
    return sum(1 for stage in stages for _ in request_spans(stage, plan))


def check_end(folder: Path, fold: Fold, timeline: FileTimeline) -> None:
    """The run is complete, sound and sealed, and its images are an uninterrupted run's."""
    demand(fold.state is RunState.COMPLETED, f"the run ended {fold.state}: {fold.error}")
    found = verify_run(folder)
    demand(found.sound, f"verify: {found.flaws}")
    demand(found.finished, f"verify: not finished: {found.advice}")
    plan = StageExecutionPlan.from_document(fold.plan)
    expected = expected_sources(fold, plan)
    made = {
        (image.stage_id, image.image_index): image.source_sha256
        for stage in fold.result(timeline).stages
        for image in stage.images
    }
    demand(made == expected, lambda: f"images: {made} instead of {expected}")


def expected_sources(fold: Fold, plan: StageExecutionPlan) -> dict[tuple[str, int], str]:
    """By stage and index, the sources of the images of a run to which nothing happens."""
    assert fold.opened is not None
    expected: dict[tuple[str, int], str] = {}
    for index, seed in enumerate(fold.opened.seeds):
        source = ""
        if plan.stages[0].input_source == "file":
            source = fold.opened.inputs[index // plan.images_per_input].source_sha256
        for stage in plan.stages:
            source = source_digest(stage.stage_id, seed, source)
            expected[stage.stage_id, index] = source
    return expected
