"""What a run could use again, stage by stage, and why not the rest; nothing is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ...events.model import Artifact, RunOpened
from ..config.validation import list_values
from ..errors import ConfigurationError, show_value
from ..files.recorded_files import check_file
from ..plan.plan import StageExecution, StageExecutionPlan
from .requests import WantedRequest, request_breaks, request_spans, request_to_find
from .reuse import EarlierImages

_FROM_ANOTHER_IMAGE = "made from images that are made anew"
_NOT_FOUND = "not finished there, or made from another image"
_SHOWN = 5
_BY_IMAGE = (".prompt", ".negative_prompt", ".seed")


class StageReuse(msgspec.Struct, frozen=True, kw_only=True):
    """How many images of a stage would be reused, how many made, and why, by reason.

    ``requests`` are those that would be sent.
    """

    stage_id: str
    stage_type: str
    reused: int
    to_make: int
    requests: int
    reasons: Mapping[str, int]


def plan_reuse(
    plan: StageExecutionPlan,
    opened: RunOpened,
    earlier: EarlierImages,
    other: StageExecutionPlan | None = None,
) -> tuple[StageReuse, ...]:
    """What a run that would begin with ``opened`` could use again.

    ``other`` is the plan that it is compared with, for the reasons.
    """
    sources: dict[int, Artifact | None] = {}
    found: list[StageReuse] = []
    for stage in plan.stages:
        changes = "; ".join(_changes(stage, other))
        counts: Counter[str] = Counter()
        made: dict[int, Artifact | None] = {}
        requests = 0
        for span in request_spans(stage, plan, request_breaks(opened)):
            artifacts, reason = _find(stage, span, plan, opened, earlier, sources)
            if artifacts is None:
                requests += 1
                is_own = reason == _NOT_FOUND and bool(changes)
                counts[changes if is_own else reason] += len(span)
            for place, index in enumerate(span):
                made[index] = artifacts[place] if artifacts else None
        reused = sum(one is not None for one in made.values())
        found.append(
            StageReuse(
                stage_id=stage.stage_id,
                stage_type=stage.stage_type,
                reused=reused,
                to_make=len(made) - reused,
                requests=requests,
                reasons=dict(counts),
            )
        )
        sources = made
    return tuple(found)


def require_reuse(stages: Sequence[StageReuse], from_stage: str) -> None:
    """Raise ConfigurationError unless all images of the stages before one can be reused."""
    types = [stage.stage_type for stage in stages]
    if from_stage not in types:
        known = ", ".join(types)
        raise ConfigurationError(f"--from {from_stage}: the plan has no such stage; it has {known}")
    for stage in stages[: types.index(from_stage)]:
        if stage.to_make:
            why = "; ".join(f"{reason} ({count})" for reason, count in stage.reasons.items())
            raise ConfigurationError(
                f"--from {from_stage}: {stage.to_make} images of {stage.stage_id} cannot be "
                f"reused: {why}; without --from they are made anew"
            )


def _find(
    stage: StageExecution,
    span: range,
    plan: StageExecutionPlan,
    opened: RunOpened,
    earlier: EarlierImages,
    sources: Mapping[int, Artifact | None],
) -> tuple[tuple[Artifact, ...] | None, str]:
    """The images that a request of a stage would reuse, or why there are none."""
    source = None
    if stage.input_source not in ("prompt", "file"):
        before = sources.get(span.start)
        if before is None:
            return None, _FROM_ANOTHER_IMAGE
        source = before.source_sha256
    wanted: WantedRequest = request_to_find(stage, span, plan, opened, source)
    reason = _NOT_FOUND
    for answer, refusal in earlier.look(wanted.request_sha256, wanted.config):
        if refusal or len(answer.artifacts) != len(span):
            reason = refusal or reason
            continue
        wrong = [
            f"{one.path}: {what}"
            for one in answer.artifacts
            if (what := check_file(answer.folder, one.path, one.sha256)) is not None
        ]
        if not wrong:
            return answer.artifacts, ""
        reason = "its file is missing or altered"
    return None, reason


def _changes(stage: StageExecution, other: StageExecutionPlan | None) -> Iterator[str]:
    """How the settings of a stage differ from those of the same stage in another plan."""
    before = [one for one in other.stages if one.stage_type == stage.stage_type] if other else []
    if other is None:
        return
    if not before:
        yield f"{stage.stage_type} was not in that run"
        return
    old, new = _settings(before[0]), _settings(stage)
    changed = [
        key
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
        # A plan with prompts or seeds by image has none in its stages.
        and not (key.endswith(_BY_IMAGE) and None in (old.get(key), new.get(key)))
    ]
    # The seeds of chosen images are others than those of the first ones.
    changed = [key for key in changed if not key.endswith(".seed")] or changed
    for key in changed[:_SHOWN]:
        yield f"{key} {show_value(old.get(key))} -> {show_value(new.get(key))}"
    if len(changed) > _SHOWN:
        yield f"and {len(changed) - _SHOWN} more settings"


def _settings(stage: StageExecution) -> dict[str, Any]:
    return dict(list_values(msgspec.to_builtins(stage.config), stage.stage_type))
