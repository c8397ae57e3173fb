"""Which stages run, in which order, with what they inherit; and what is wrong with that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from ..errors import FieldError, InvalidStagePlanError, field_error
from ..stages.constraints import LAST_SEED
from ..stages.registry import stage_types
from ..stages.sizes import Dimensions, size_refusal
from ..stages.stage import StageConfig
from ..variants.prompt_files import PromptRow
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
    inherited = _top_values(config)
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
        stages.append(ResolvedStage(_without_unset(stage), _common(sizes)))
    errors += [*too_large[:1], *_combination_errors(config)]
    errors += [*_prompt_errors(config), *_total_errors(config)]
    return Resolution(tuple(stages), tuple(warnings), tuple(errors))


def input_count(config: RunConfig) -> int | None:
    """How many inputs a run has; None where the first stage makes images from the prompt.

    0 where they have not been looked for.
    """
    first = next(iter(config.stages.values()), None)
    return None if first is None or first.takes_prompt else len(config.inputs)


def count_images(config: RunConfig) -> int:
    """How many images each stage makes, as far as it is known before all prompts are drawn."""
    if config.drawn_prompts is not None:
        return len(config.drawn_prompts.prompts)
    inputs = input_count(config)
    rows = len(prompt_rows(config) or ()) if inputs is None else inputs
    return max(1, rows) * config.images


def uses_prompts(config: RunConfig) -> bool:
    """Whether images may differ in their prompts, or in seeds that do not follow each other."""
    return config.prompts is not None or bool(config.dynamic_prompts)


def prompt_rows(config: RunConfig) -> Sequence[PromptRow] | None:
    """The rows of ``prompts`` as written; None without any, and where a file was not read."""
    if config.prompt_source is not None:
        return config.prompt_source.rows
    if config.prompts is None or isinstance(config.prompts, str):
        return None
    return [PromptRow(prompt=one) if isinstance(one, str) else one for one in config.prompts]


def _top_values(config: RunConfig) -> dict[str, Any]:
    """What the first stage inherits; UNSET where each image has its own."""
    values = {name: getattr(config, name) for name in ("prompt", "negative_prompt", "seed")}
    drawn = config.drawn_prompts
    differ = uses_prompts(config) if drawn is None else has_own_prompts(config)
    if differ:
        values |= {"prompt": msgspec.UNSET, "negative_prompt": msgspec.UNSET}
    if drawn is not None and has_own_seeds(config):
        values["seed"] = msgspec.UNSET
    return values


def has_own_prompts(config: RunConfig) -> bool:
    """Whether an image was given other prompts than those of the top level."""
    top = config.prompt, config.negative_prompt
    drawn = config.drawn_prompts
    return drawn is not None and any(
        (one.prompt, one.negative_prompt) != top for one in drawn.prompts
    )


def has_own_seeds(config: RunConfig) -> bool:
    """Whether an image was given another seed than that of the top level and its index."""
    drawn, first = config.drawn_prompts, max(0, config.seed)
    return drawn is not None and any(
        seed != first + index for index, seed in enumerate(drawn.seeds)
    )


def _without_unset(stage: StageConfig) -> StageConfig:
    values = msgspec.structs.asdict(stage)
    return msgspec.structs.replace(
        stage, **{name: None for name in values if values[name] is msgspec.UNSET}
    )


def _prompt_errors(config: RunConfig) -> Iterator[FieldError]:
    if not uses_prompts(config):
        return
    rows, stages = prompt_rows(config), config.stages.values()
    if stages and not any(stage.inherits("prompt") for stage in stages):
        if rows and not any(row.prompt or row.negative_prompt for row in rows):
            return  # seeds alone, which every stage takes
        reason = f"has no effect: {' and '.join(config.stages)} takes no prompt"
        yield field_error("prompts" if config.prompts else "dynamic_prompts", reason)
    if config.prompts is None and config.prompt is None:
        yield field_error("prompt", "is missing; dynamic_prompts needs it, or prompts")
    lacking = [number for number, row in enumerate(rows or ()) if row.prompt is None]
    if lacking and config.prompt is None:
        reason = f"has no prompt in row {lacking[0] + 1}, and there is none at the top level"
        yield field_error("prompts", reason)
    if rows and not lacking and config.prompt is not None:
        reason = "is not used, because every row of prompts has its own: remove one of them"
        yield field_error("prompt", reason, config.prompt)
    inputs = input_count(config)
    if inputs and rows and len(rows) != inputs and config.dynamic_prompts != "all":
        reason = f"must give one row for each input: it gives {len(rows)}, and there are {inputs}"
        yield field_error("prompts", reason)
    last = LAST_SEED - config.images + 1
    too_large = (number for number, row in enumerate(rows or ()) if (row.seed or 0) > last)
    for number in islice(too_large, 1):
        reason = f"has a seed above {last} in row {number + 1}, for {config.images} images"
        yield field_error("prompts", reason)


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
    total = count_images(config)
    if total > MAX_IMAGES:
        each = f"{total // config.images} {'prompts' if uses_prompts(config) else 'inputs'}"
        reason = f"for {each} must make {MAX_IMAGES} at most"
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
