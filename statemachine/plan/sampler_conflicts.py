"""Conflicts of a sampler, whose name may end in a schedule, with the scheduler beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..config.schema import Conflict
from ..config.stage_configs import AdetailerConfig, StageConfig, Txt2ImgConfig, UpscaleConfig

_SCHEDULES = ("karras", "exponential", "polyexponential", "sgmuniform")
"""What names of samplers ended in before a WebUI had schedulers, as ``_plain`` writes it."""
_BETWEEN_WORDS = re.compile(r"[\W_]+")


def sampler_conflicts(stage: str, config: StageConfig) -> Iterator[Conflict]:
    """A conflict for each sampler of a stage that names another schedule than its scheduler."""
    pairs: list[tuple[str, str | None, str | None]] = []
    if not isinstance(config, UpscaleConfig):
        pairs.append((stage, config.sampler, config.scheduler))
    if isinstance(config, Txt2ImgConfig) and config.hires is not None:
        pairs.append((f"{stage}.hires", config.hires.sampler, config.hires.scheduler))
    if isinstance(config, AdetailerConfig):
        pairs += [
            (f"{stage}.passes.{place}", one.sampler, one.scheduler)
            for place, one in enumerate(config.passes)
        ]
    for table, sampler, scheduler in pairs:
        if sampler and scheduler and _disagree(sampler, scheduler):
            yield Conflict(
                stage=stage,
                flat_key=f"{table}.sampler",
                flat_value=sampler,
                nested_key=f"{table}.scheduler",
                nested_value=scheduler,
            )


def _disagree(sampler: str, scheduler: str) -> bool:
    wanted = _plain(scheduler)
    words = sampler.split()
    tails = {_plain(" ".join(words[place:])) for place in (-1, -2) if len(words) > -place}
    return wanted != "automatic" and not tails.isdisjoint(_SCHEDULES) and wanted not in tails


def _plain(name: str) -> str:
    return _BETWEEN_WORDS.sub("", name).casefold()
