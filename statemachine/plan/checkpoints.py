"""The checkpoints that the run of a plan loads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, repeat

from .plan import StageExecution, StageExecutionPlan


def checkpoints(plan: StageExecutionPlan) -> Iterator[str]:
    """The checkpoints that a run loads, in order, by name; nothing where no stage has a model.

    A stage whose requests switch between checkpoints gives them for every request. Where prompts
    end a batch early there are a few more.
    """
    for stage in plan.stages:
        loaded = [name for name in stage.config.checkpoints() if name]
        times = count_requests(stage, plan) if len(set(loaded)) > 1 else 1
        yield from chain.from_iterable(repeat(loaded, times))


def first_and_last_checkpoint(
    plans: Iterable[StageExecutionPlan],
) -> tuple[str | None, str | None]:
    """What runs of these plans, one after the other, load first, and what they end with."""
    loaded = chain.from_iterable(map(checkpoints, plans))
    first = next(loaded, None)
    return first, next(iter(deque(loaded, maxlen=1)), first)


def count_requests(stage: StageExecution, plan: StageExecutionPlan) -> int:
    """How many requests make the images of a stage, unless prompts end a batch early."""
    alike = {"prompt": plan.total_images, "file": plan.images_per_input}
    group = alike.get(stage.input_source, 1)
    return plan.total_images // group * -(-group // (stage.config.batch_size or 1))
