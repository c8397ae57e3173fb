"""Which stages run, in which order, with what they inherit; and what is wrong with that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import msgspec

from ..errors import FieldError, InvalidStagePlanError, field_error
from ..stages.constraints import LAST_SEED
from ..stages.registry import stage_types
from ..stages.sizes import Dimensions, size_refusal
from ..stages.stage import StageConfig
from .schema import RunConfig

MAX_IMAGES = 1_000_000
"""Images of one run, at most: its first record lists a seed for each."""
_NO_STAGES = "No pipeline stages enabled"


class ResolvedStage(NamedTuple):
    """A stage with what it inherits, and the size of its images, None if it is not known."""

    config: StageConfig
    size: Dimensions | None


class Resolution(NamedTuple):
    """The enabled stages in canonical order. If there are errors, the rest is not complete."""

    stages: tuple[ResolvedStage, ...]
    warnings: tuple[str, ...]
    errors: tuple[FieldError, ...]


def resolve_stages(config: RunConfig) -> Resolution:
    """The stages of ``config``: the sizes of its ``inputs`` are followed through them."""
    stages: list[ResolvedStage] = []
    warnings: list[str] = []
    errors: list[FieldError] = []
    too_large: list[FieldError] = []
    inherited = {name: getattr(config, name) for name in ("prompt", "negative_prompt", "seed")}
    usable = [(one.width, one.height) for one in config.inputs if not one.refusal]
    sizes: list[Dimensions | None] = [*usable] or [None]
    first_size: Dimensions | None = None
    for table in config.stages.values():
        try:
            stage = table.resolve(inherited, first_size)
        except InvalidStagePlanError as error:
            errors += error.errors
            stage = table
        warnings += stage.warnings(table)
        if (stage.batch_size or 1) > 1 and stages:
            name = f"{stage.stage_type}.batch_size"
            warnings.append(f"{name} has no effect: each image is made from its own")
        worked = [stage.model_size(size) for size in sizes]
        if stage.generates:
            own = msgspec.structs.asdict(stage)
            # What it lacks is its own error, and none of the stages that would inherit it.
            lacking = {name: msgspec.UNSET for name in stage.required if own[name] is None}
            inherited |= own | lacking
            first_size = first_size or _common(worked)
        reached = [stage.size_after(size) for size in dict.fromkeys(sizes)]
        sizes = list(dict.fromkeys(one.size for one in reached))
        # What follows from images that are too large is no further error.
        too_large = too_large or list(_pixel_errors(stage.stage_type, [*worked, *sizes]))
        warnings += [one.warning for one in reached if one.warning]
        stages.append(ResolvedStage(stage, _common(sizes)))
    errors += [*too_large[:1], *_combination_errors(config), *_total_errors(config)]
    return Resolution(tuple(stages), tuple(warnings), tuple(errors))


def count_inputs(config: RunConfig) -> int:
    """How many inputs a run has: one where the first stage makes images from the prompt."""
    first = next(iter(config.stages.values()), None)
    return 1 if first is None or first.takes_prompt else max(1, len(config.inputs))


def _pixel_errors(name: str, sizes: Iterable[Dimensions | None]) -> Iterator[FieldError]:
    """Images beyond the limit are refused before a server makes them, also in a first pass."""
    for width, height in filter(None, sizes):
        if refusal := size_refusal((width, height)):
            yield field_error(name, f"makes images of {width}x{height}: {refusal}")


def _common(sizes: Iterable[Dimensions | None]) -> Dimensions | None:
    """The size that all images have, or None where it is unknown or they differ."""
    different = set(sizes)
    return different.pop() if len(different) == 1 else None


def _combination_errors(config: RunConfig) -> Iterator[FieldError]:
    stages = config.stages
    if not stages:
        yield FieldError(message=_NO_STAGES, reason=_NO_STAGES)
        return
    generating = _names_of(lambda kind: kind.generates)
    before: list[StageConfig] = []
    for name, stage in stages.items():
        if stage.needs_base and not any(one.generates for one in before):
            yield field_error(name, f"needs {generating} before it, and none of them is enabled")
        if stage.takes_prompt and before:
            yield field_error(name, "makes images from the prompt, so no stage can come before it")
        before.append(stage)
    first = next(iter(stages))
    if not stages[first].takes_prompt and not (config.input_image or config.inputs):
        prompted = _names_of(lambda kind: kind.takes_prompt)
        reason = f"{first} without {prompted} needs an input image: set input_image"
        yield FieldError(key="input_image", message=reason, reason=reason)
    if config.images > 1 and not any(stage.generates for stage in stages.values()):
        alone = f"{' and '.join(stages)} alone"
        reason = f"must be 1 for {alone}: it gives one image for each input"
        yield field_error("images", reason, config.images)


def _total_errors(config: RunConfig) -> Iterator[FieldError]:
    inputs = count_inputs(config)
    total = inputs * config.images
    if total > MAX_IMAGES:
        reason = f"for {inputs} inputs must make {MAX_IMAGES} at most"
        yield field_error("images", reason, config.images)
    seeds = {f"{name}.seed": stage.seed for name, stage in config.stages.items()}
    for key, seed in {"seed": config.seed, **seeds}.items():
        if seed is not None and seed + total - 1 > LAST_SEED:
            reason = f"must be at most {LAST_SEED - total + 1} for {total} images"
            yield field_error(
                key, f"{reason}: the last image has the seed {seed + total - 1}", seed
            )


def _names_of(condition: Callable[[type[StageConfig]], bool]) -> str:
    """The registered stages that meet a condition, for a message."""
    return " or ".join(name for name, kind in stage_types().items() if condition(kind))
