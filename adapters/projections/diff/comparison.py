"""Compares two runs: their configurations, plans, used settings and images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ....events.model import Outcome, RunOpened, RunState
from ....events.origins import varied_of
from ...text import ranges_of, ranges_text
from .answers import StageAnswers, compare_answers
from .recorded import RecordedRun
from .values import Difference, differences

_NO_SETTINGS = ("stage_id", "stage_type", "order_index", "config", "input_source")
"""Keys of a planned stage that are compared elsewhere."""
_NOT_COMPARED = ("stages", "summary", "run_id", "prompts")
"""Keys of a plan that are compared elsewhere, or always differ."""


class ComparedRun(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two runs; ``host`` is the machine that started it."""

    run_id: str
    folder: str
    host: str
    state: RunState
    outcome: Outcome | None
    events: int


class Durations(msgspec.Struct, frozen=True, kw_only=True):
    """A duration in both runs, in milliseconds."""

    what: str
    left_ms: float
    right_ms: float


class StageComparison(msgspec.Struct, frozen=True, kw_only=True):
    """A stage that both runs planned, matched by its type, and its answers."""

    stage: str
    left_stage_id: str
    right_stage_id: str
    answers: StageAnswers


class RunComparison(msgspec.Struct, frozen=True, kw_only=True):
    """The differences between two runs.

    ``varied`` compares the varied values of two variants of one group, ``configuration`` the given
    configurations, and ``plan`` the resolved plans, with stages matched by type. ``same`` says that
    nothing differs, apart from ``durations``. Image indexes count from 0.
    """

    left: ComparedRun
    right: ComparedRun
    same: bool
    varied: tuple[Difference, ...] = ()
    configuration: tuple[Difference, ...]
    plan: tuple[Difference, ...]
    inputs: tuple[Difference, ...]
    backend: tuple[Difference, ...]
    outcome: tuple[Difference, ...]
    stages: tuple[StageComparison, ...]
    durations: tuple[Durations, ...]


def compare_runs(left: Path, right: Path) -> RunComparison:
    """Compare the runs in two folders by their logs, in bounded memory; writes nothing.

    Images are opened only where equal requests gave different files. A torn tail is ignored.
    Raises RunNotFoundError, LogCorruptError.
    """
    one, other = RecordedRun(left), RecordedRun(right)
    lists = {
        "varied": tuple(_varied_differences(one.opened, other.opened)),
        "configuration": tuple(differences(one.opened.config, other.opened.config)),
        "plan": tuple(_plan_differences(one, other)),
        "inputs": tuple(differences(_inputs(one), _inputs(other), "inputs")),
        "backend": tuple(differences(_backends(one), _backends(other))),
        "outcome": tuple(differences(_outcome(one), _outcome(other))),
    }
    stages = tuple(_stages(one, other))
    return RunComparison(
        left=_compared(one),
        right=_compared(other),
        same=not any(lists.values()) and not any(map(_differs, stages)),
        stages=stages,
        durations=tuple(_durations(one, other)),
        **lists,
    )


def _varied_differences(left: RunOpened, right: RunOpened) -> Iterator[Difference]:
    if left.group_id is not None and left.group_id == right.group_id:
        yield from differences(dict(varied_of(left)), dict(varied_of(right)))


def _compared(run: RecordedRun) -> ComparedRun:
    return ComparedRun(
        run_id=run.opened.run_id,
        folder=str(run.folder),
        host=run.opened.host,
        state=run.log.fold.state,
        outcome=run.log.fold.outcome,
        events=len(run.log.timeline),
    )


def _differs(stage: StageComparison) -> bool:
    answers, images = stage.answers, stage.answers.images
    return bool(
        answers.used
        or images.different
        or images.only_left
        or images.only_right
        or images.other_request
    )


def _plan_differences(left: RecordedRun, right: RecordedRun) -> Iterator[Difference]:
    ours, theirs = dict(left.stages()), dict(right.stages())
    yield from differences({"stages": list(ours)}, {"stages": list(theirs)})
    yield from differences(_plan(left), _plan(right))
    for label in [name for name in ours if name in theirs]:
        yield from differences(_settings(left, ours[label]), _settings(right, theirs[label]), label)


def _plan(run: RecordedRun) -> dict[str, Any]:
    opened = run.opened
    kept = {name: part for name, part in opened.plan.items() if name not in _NOT_COMPARED}
    return {
        **kept,
        "seeds": ranges_text(ranges_of(opened.seeds)),
        **_prompts(opened),
        "group_id": opened.group_id,
        "variant_index": opened.variant_index,
    }


def _prompts(opened: RunOpened) -> dict[str, Any]:
    """By the number of an image its own prompts, where a run has such."""
    prompts = opened.prompts if isinstance(opened.prompts, tuple) else ()
    named = enumerate(map(msgspec.structs.asdict, prompts), start=1)
    return {"prompts": {str(number): one for number, one in named}} if prompts else {}


def _settings(run: RecordedRun, stage: Mapping[str, Any]) -> dict[str, Any]:
    """The settings and other keys of a planned stage; its input stage is named by type."""
    kinds = {str(one["stage_id"]): label for label, one in run.stages()}
    rest = {name: part for name, part in stage.items() if name not in _NO_SETTINGS}
    source = stage.get("input_source")
    return {**rest, "input_source": kinds.get(str(source), source), **stage["config"]}


def _inputs(run: RecordedRun) -> list[dict[str, Any]]:
    return [
        {"source_sha256": one.source_sha256, "parent_run_id": one.parent_run_id}
        for one in run.opened.inputs
    ]


def _backends(run: RecordedRun) -> dict[str, Any]:
    """The first backend by its own keys, and those of later processes below ``later``."""
    first, *later = run.backends
    return {**first, **{f"later.{place}": one for place, one in enumerate(later)}}


def _outcome(run: RecordedRun) -> dict[str, Any]:
    fold = run.log.fold
    labels = {str(stage["stage_id"]): label for label, stage in run.stages()}
    error: dict[str, Any] | None = None
    if fold.error is not None:
        error = {
            "kind": fold.error.kind,
            "message": fold.error.message,
            "stage": labels.get(fold.error.stage_id or "", fold.error.stage_id),
            "image_index": fold.error.image_index,
        }
    return {
        "state": fold.state,
        "outcome": fold.outcome,
        "error": error,
        "missing": dict(_missing(run, labels)),
        "resumes": fold.resumes,
        "failed_attempts": run.failed_attempts,
    }


def _missing(run: RecordedRun, labels: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """By stage, the indexes of the missing images and the kinds of their errors."""
    missing = run.log.fold.missing()
    for stage_id in dict.fromkeys(gap.stage_id for gap in missing):
        gaps = [gap for gap in missing if gap.stage_id == stage_id]
        errors = Counter(gap.error.kind for gap in gaps if gap.error is not None)
        indexes = ranges_text(ranges_of(gap.image_index for gap in gaps))
        yield labels.get(stage_id, stage_id), {"images": indexes, "errors": dict(errors)}


def _stages(left: RecordedRun, right: RecordedRun) -> Iterator[StageComparison]:
    theirs = dict(right.stages())
    for label, stage in left.stages():
        if label in theirs:
            ours, other = str(stage["stage_id"]), str(theirs[label]["stage_id"])
            yield StageComparison(
                stage=label,
                left_stage_id=ours,
                right_stage_id=other,
                answers=compare_answers(left, ours, right, other),
            )


def _durations(left: RecordedRun, right: RecordedRun) -> Iterator[Durations]:
    yield Durations(what="whole run", left_ms=left.elapsed_ms, right_ms=right.elapsed_ms)
    theirs = dict(right.stages())
    for label, stage in left.stages():
        ours = left.log.fold.stages.get(str(stage["stage_id"]))
        other = right.log.fold.stages.get(str(theirs.get(label, {}).get("stage_id")))
        if ours is not None and other is not None:
            yield Durations(what=label, left_ms=ours.duration_ms, right_ms=other.duration_ms)
