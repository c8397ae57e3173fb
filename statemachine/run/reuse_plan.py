"""What a run could use again, stage by stage, and why not the rest; nothing is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ...events.folds import Fold
from ...events.log.reader import read_log
from ...events.model import Artifact, BackendDescription, InputRecord, RunOpened
from ...events.origins import input_of
from ..config.schema import Reuse
from ..config.validation import list_values
from ..errors import ConfigurationError, show_value
from ..files.recorded_files import check_file
from ..plan.plan import StageExecution, StageExecutionPlan
from ..resume.recorded_plan import recorded_plan
from .requests import (
    for_image,
    input_records,
    request_breaks,
    request_seed,
    request_spans,
    span_of,
    wanted_request,
)
from .reuse import OF_ANOTHER_GROUP, EarlierAnswer, EarlierImages

_FROM_ANOTHER_IMAGE = "made from images that are made anew"
_NOT_FOUND = "not finished there, or made from another image"
_SHOWN = 5
_BY_IMAGE = ("prompt", "negative_prompt")


class StageReuse(msgspec.Struct, frozen=True, kw_only=True):
    """How many images of a stage would be reused, how many made, and why, by reason.

    ``requests`` are those that would be sent, at most: an image that is made anew may come out as
    it was, and the next stage then finds its own. ``not_checked`` are files without a known hash.
    Images of inputs that cannot be used are left out.
    """

    stage_id: str
    stage_type: str
    reused: int
    to_make: int
    requests: int
    reasons: Mapping[str, int]
    not_checked: tuple[str, ...] = ()


class ComparedRun(NamedTuple):
    """A run that is repeated, or that a new one is compared with.

    ``backend`` is the last that worked on it.
    """

    folder: Path
    opened: RunOpened
    plan: StageExecutionPlan
    backend: BackendDescription

    @classmethod
    def read(cls, folder: Path) -> ComparedRun:
        """Raises RunNotFoundError, LogCorruptError, OSError.

        Raises ResumeRefusedError for a run whose plan this version does not understand.
        """
        fold = Fold()
        read_log(folder, fold.apply_all)
        assert fold.opened is not None
        return cls(folder, fold.opened, recorded_plan(fold), fold.backend or fold.opened.backend)


def plan_reuse(
    plan: StageExecutionPlan, opened: RunOpened, earlier: EarlierImages, other: ComparedRun
) -> tuple[StageReuse, ...]:
    """What a run that would begin with ``opened`` could use again."""
    sources: dict[int, Artifact | None] = {}
    found: list[StageReuse] = []
    for stage in plan.stages:
        look = _StageLook(stage, plan, opened, other)
        counts: Counter[str] = Counter()
        made: dict[int, Artifact | None] = {}
        requests, not_checked = 0, set[str]()
        for span in request_spans(stage, plan, request_breaks(opened)):
            record = input_of(opened, span.start)
            if record is not None and record.refusal:
                continue
            answer, reason = look.find(span, earlier, sources)
            if answer is None:
                requests += 1
                counts[reason] += len(span)
            else:
                not_checked.update(answer.not_checked)
            for place, index in enumerate(span):
                made[index] = answer.artifacts[place] if answer else None
        reused = sum(one is not None for one in made.values())
        found.append(
            StageReuse(
                stage_id=stage.stage_id,
                stage_type=stage.stage_type,
                reused=reused,
                to_make=len(made) - reused,
                requests=requests,
                reasons=dict(counts),
                not_checked=tuple(sorted(not_checked)),
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
            images = "1 image" if stage.to_make == 1 else f"{stage.to_make} images"
            why = "; ".join(f"{reason} ({count})" for reason, count in stage.reasons.items())
            raise ConfigurationError(
                f"--from {from_stage}: {images} of {stage.stage_id} cannot be "
                f"reused: {why}; without --from they are made anew"
            )


class _StageLook:
    """Looks for the images of one stage, and says why one is not reused."""

    def __init__(
        self,
        stage: StageExecution,
        plan: StageExecutionPlan,
        opened: RunOpened,
        other: ComparedRun,
    ) -> None:
        self._stage, self._plan, self._opened, self._other = stage, plan, opened, other
        there = [one for one in other.plan.stages if one.stage_type == stage.stage_type]
        self._there = there[0] if there else None
        self._changes = list(_changes(self._there, stage)) if self._there else []

    def find(
        self, span: range, earlier: EarlierImages, sources: Mapping[int, Artifact | None]
    ) -> tuple[EarlierAnswer | None, str]:
        """The answer whose images a request would reuse, or why there is none."""
        source = None
        if self._stage.input_source not in ("prompt", "file"):
            before = sources.get(span.start)
            if before is None:
                return None, _FROM_ANOTHER_IMAGE
            source = before.source_sha256
        wanted = wanted_request(self._stage, span, self._plan, self._opened, source)
        reason = ""
        for answer in earlier.find(wanted.request_sha256, wanted.config):
            if answer.refusal or len(answer.artifacts) != len(span):
                if answer.refusal != OF_ANOTHER_GROUP:
                    reason = reason or answer.refusal
                continue
            files = ((one.path, one.sha256) for one in answer.artifacts)
            if all(check_file(answer.folder, *one) is None for one in files):
                return answer, ""
            reason = "its file is missing or altered"
        if earlier.mode is Reuse.NONE:
            reason = 'run.reuse = "none"'
        return None, reason or "; ".join(self._differences(span)) or _NOT_FOUND

    def _differences(self, span: range) -> Iterator[str]:
        """How the request of some images differs from the one in the other run."""
        index, plan, opened = span.start, self._other.plan, self._other.opened
        parents = self._opened.parent_images
        places = [parents[one] if isinstance(parents, tuple) else one for one in span]
        if self._there is None:
            yield f"{self._stage.stage_type} was not in that run"
            return
        if places[-1] >= plan.total_images:
            yield f"that run has {plan.total_images} images"
            return
        shown = self._changes[:_SHOWN]
        if len(self._changes) > _SHOWN:
            shown.append(f"and {len(self._changes) - _SHOWN} more settings")
        yield from shown
        now, then = for_image(self._stage, index, self._opened), for_image(
            self._there, places[0], opened
        )  # fmt: skip
        for key in _BY_IMAGE:
            named = f"{self._stage.stage_type}.{key} "
            is_told = any(one.startswith(named) for one in shown)
            if not is_told and getattr(now.config, key, None) != getattr(then.config, key, None):
                yield f"another {key.replace('_', ' ')}"
        for what, here, before in zip(
            ("input image", "mask"),
            input_records(self._stage, index, self._plan, self._opened),
            input_records(self._there, places[0], plan, opened),
            strict=True,
        ):
            if _digest(here) != _digest(before):
                yield f"another {what}"
        batch = span_of(self._there, places[0], plan, request_breaks(opened))
        if list(batch) != places:
            yield "made there in a batch of other images"
        elif request_seed(now.config, index, self._opened) != request_seed(
            then.config, places[0], opened
        ):
            yield "another seed"


def _changes(before: StageExecution, now: StageExecution) -> Iterator[str]:
    """How the settings of a stage differ, but for what images have of their own."""
    old, new = _settings(before), _settings(now)
    by_image = [f"{now.stage_type}.{key}" for key in _BY_IMAGE]
    # What the seed and the mask give each image is compared instead.
    not_compared = [f"{now.stage_type}.{key}" for key in ("seed", "mask")]
    for key in dict.fromkeys([*old, *new]):
        values = old.get(key), new.get(key)
        is_by_image = key in by_image and None in values
        if values[0] != values[1] and not is_by_image and key not in not_compared:
            yield f"{key} {show_value(values[0])} -> {show_value(values[1])}"


def _settings(stage: StageExecution) -> dict[str, Any]:
    return dict(list_values(msgspec.to_builtins(stage.config), stage.stage_type))


def _digest(record: InputRecord | None) -> str:
    return record.source_sha256 if record else ""
