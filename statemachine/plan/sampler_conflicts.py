"""Conflicts of a sampler, whose name may end in a schedule, with the scheduler beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..config.schema import Conflict
from ..stages.stage import StageConfig, list_tables

_SCHEDULES = ("karras", "exponential", "polyexponential", "sgmuniform")
"""What names of samplers ended in before a WebUI had schedulers, as ``_plain`` writes it."""
_BETWEEN_WORDS = re.compile(r"[\W_]+")


def sampler_conflicts(config: StageConfig) -> Iterator[Conflict]:
    """A conflict for each sampler of a stage that names another schedule than its scheduler."""
    stage = config.stage_type
    for key, table in list_tables(config, stage):
        sampler, scheduler = (getattr(table, name, None) for name in ("sampler", "scheduler"))
        if sampler and scheduler and _disagree(sampler, scheduler):
            yield Conflict(
                stage=stage,
                flat_key=f"{key}.sampler",
                flat_value=sampler,
                nested_key=f"{key}.scheduler",
                nested_value=scheduler,
            )


def _disagree(sampler: str, scheduler: str) -> bool:
    wanted = _plain(scheduler)
    words = sampler.split()
    tails = {_plain(" ".join(words[place:])) for place in (-1, -2) if len(words) > -place}
    return wanted != "automatic" and not tails.isdisjoint(_SCHEDULES) and wanted not in tails


def _plain(name: str) -> str:
    return _BETWEEN_WORDS.sub("", name).casefold()
