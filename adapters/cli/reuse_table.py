"""What a run would reuse of an earlier one, as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ...statemachine.run.reuse_plan import StageReuse
from ..text import count


def reuse_document(run_id: str, stages: Sequence[StageReuse]) -> dict[str, Any]:
    """The same as JSON; ``run_id`` is that of the earlier run."""
    return {"run_id": run_id, "stages": stages, "requests": _requests(stages)}


def reuse_lines(stages: Sequence[StageReuse]) -> Iterator[str]:
    """A line for each stage, with the reasons below it; the requests that would be sent."""
    width = max(len(stage.stage_id) for stage in stages)
    for stage in stages:
        yield f"{stage.stage_id:<{width}}  {stage.reused:>6} reused  {stage.to_make:>6} to make"
        for reason, images in stage.reasons.items():
            yield f"{'':<{width}}  {count(images, 'image')}: {reason}"
        if stage.not_checked:
            yield f"{'':<{width}}  not checked: {', '.join(stage.not_checked)}"
    yield f"{count(_requests(stages), 'request')} to send"


def _requests(stages: Sequence[StageReuse]) -> int:
    return sum(stage.requests for stage in stages)
