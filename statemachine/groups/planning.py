"""The plan of a sweep: every variant is checked and planned before anything is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ...events.groups.model import SweepAxis, Variant
from ...events.log.format import MAX_BODY_BYTES
from ...events.model import Durability, ImagePrompt
from ..config.document import check_config, without_sweep
from ..config.inputs import ConfigDocument
from ..config.prompts import draw_prompts, draw_row_seeds
from ..config.resolution import MAX_IMAGES, uses_prompts
from ..config.schema import RunConfig, ServerTable
from ..config.sweeps import sweep_of
from ..errors import ConfigurationError, FieldError, InvalidStagePlanError
from ..plan.builder import build_stage_execution_plan
from ..plan.checkpoints import checkpoints, first_and_last_checkpoint
from ..plan.plan import StageExecutionPlan
from ..ports import InputReader, RandomBelow
from ..variants.order import count_changes, order_variants
from ..variants.sweep import Sweep
from .found_files import FoundFiles
from .variant_config import GroupChoices

SEED_END = 2**31 - MAX_IMAGES
"""A group's seed is below this, so that each image of a run has a seed below 2**31."""
_OTHER_BYTES = 65536
"""Bytes of a group's first record beside what is counted, at most."""
_MOST_ERRORS = 10
_GIVEN_TO_FIND = ("input_image", "prompts", "dynamic_prompts", "wildcards", "server")


class PlannedVariant(NamedTuple):
    """One variant of a sweep: its place in the order of the group, its values by key, its plan.

    ``found`` is the place of what was found for it in the ``found`` of its group.
    """

    variant_index: int
    values: Mapping[str, Any]
    plan: StageExecutionPlan
    found: int

    @property
    def total_images(self) -> int:
        """The images in each stage of its run."""
        return self.plan.total_images

    @property
    def total_steps(self) -> int:
        """The sampling steps of its run."""
        return self.plan.total_steps

    def record(self) -> Variant:
        """What a log holds of it."""
        return Variant(
            variant_index=self.variant_index,
            values=self.values,
            total_images=self.total_images,
            total_steps=self.total_steps,
            found=self.found,
        )


class GroupPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A sweep that can be run: its ``variants`` in the order in which they run.

    ``document`` is the configuration without its sweep, ``seed`` stands in for every seed that is
    left to chance, and ``found`` is what was found outside the configuration, each once.
    """

    document: Mapping[str, Any]
    name: str | None
    axes: tuple[SweepAxis, ...] = ()
    random: int | None = None
    random_seed: int | None = None
    seed: int
    variants: tuple[PlannedVariant, ...]
    found: tuple[FoundFiles, ...]
    server: ServerTable
    preflight: bool
    durability: Durability
    warnings: tuple[str, ...] = ()

    def with_server(self, url: str | tuple[str, ...]) -> GroupPlan:
        """The plan for this server, or these, which the configuration does not name."""
        server = msgspec.structs.replace(self.server, url=url)
        document = {**self.document, "server": {**self.document.get("server", {}), "url": url}}
        return msgspec.structs.replace(self, server=server, document=document)

    @property
    def total_images(self) -> int:
        """The images that all runs end with."""
        return sum(one.total_images for one in self.variants)

    @property
    def total_steps(self) -> int:
        """The sampling steps of all runs."""
        return sum(one.total_steps for one in self.variants)

    @property
    def checkpoint_changes(self) -> int:
        """How often a server loads another checkpoint."""
        return count_changes(name for one in self.variants for name in checkpoints(one.plan))

    @property
    def union(self) -> StageExecutionPlan:
        """A plan with every stage of every variant, for the check of names."""
        stages = {
            msgspec.json.encode((stage.stage_type, stage.config)): stage
            for one in self.variants
            for stage in one.plan.stages
        }
        return msgspec.structs.replace(self.variants[0].plan, stages=tuple(stages.values()))

    @property
    def prompts(self) -> tuple[ImagePrompt, ...]:
        """The prompts of single images."""
        drawn = (one.prompts.prompts for one in self.found if one.prompts)
        return tuple(dict.fromkeys(prompt for prompts in drawn for prompt in prompts))


def plan_group(
    document: ConfigDocument,
    *,
    vary: Sequence[str] = (),
    zip_axes: bool = False,
    or_alone: bool = False,
    inputs: InputReader,
    runs: Path,
    random_below: RandomBelow,
) -> GroupPlan:
    """Plan every variant of the sweep of ``document`` and of ``vary``.

    With ``or_alone``, a document without a sweep is its own only variant. Raises
    ConfigurationError with the errors of all variants, up to some; TypeError.
    """
    if isinstance(vary, str):  # whose letters would each be an axis
        raise TypeError(f"vary is a list of axes, not {vary!r}")
    sweep = sweep_of(document, vary, zip=zip_axes)
    if sweep is None and not or_alone:
        raise ConfigurationError(
            "there is nothing to vary: add [[sweep.axes]] or --vary KEY=V1,V2", key="sweep"
        )
    sweep = sweep or Sweep(axes=())
    if sweep.random is not None and sweep.seed is None:
        sweep = msgspec.structs.replace(sweep, seed=random_below(SEED_END))
    return _Planning(document, sweep, random_below(SEED_END), inputs, runs).plan()


class _Planning:
    """Plans the variants of one sweep."""

    def __init__(
        self, document: ConfigDocument, sweep: Sweep, seed: int, inputs: InputReader, runs: Path
    ) -> None:
        self._document = document
        self._sweep = sweep
        self._seed = seed
        self._inputs = inputs
        self._runs = runs
        self._found: dict[bytes, tuple[int, FoundFiles]] = {}
        self._variants: list[PlannedVariant] = []
        self._errors: dict[str, FieldError] = {}
        self._warnings: dict[str, None] = {}
        self._first: RunConfig | None = None

    def plan(self) -> GroupPlan:
        """The plan, with the variants in order. Raises ConfigurationError."""
        for values in self._sweep.variants():
            try:
                self._plan(values)
            except ConfigurationError as error:
                for one in error.errors:
                    self._errors.setdefault(one.message, one)
                if len(self._errors) >= _MOST_ERRORS:
                    break
        if self._errors:
            raise InvalidStagePlanError(errors=self._errors.values())
        assert self._first is not None
        order = order_variants([first_and_last_checkpoint([one.plan]) for one in self._variants])
        variants = tuple(
            self._variants[place]._replace(variant_index=index) for index, place in enumerate(order)
        )
        plan = GroupPlan(
            document=without_sweep(self._document.document),
            name=self._first.name,
            axes=tuple(one.axis for one in self._sweep.axes),
            random=self._sweep.random,
            random_seed=self._sweep.seed,
            seed=self._seed,
            variants=variants,
            found=tuple(one for _, one in self._found.values()),
            server=self._first.server_settings,
            preflight=self._first.run.preflight,
            durability=self._first.run.durability,
            warnings=tuple(self._warnings),
        )
        _check_first_record(plan)
        return plan

    def _plan(self, values: Mapping[str, Any]) -> None:
        document = self._document.with_values(values, self._sweep.axes)
        config = document.parse()
        if config.seed == -1:
            config = msgspec.structs.replace(config, seed=self._seed)
        place, found = self._find(document, config)
        config = found.apply_to(config)
        plan = build_stage_execution_plan(config)
        if plan.conflicts:
            raise ConfigurationError("; ".join(map(str, plan.conflicts)))
        self._warnings |= dict.fromkeys(plan.warnings)
        self._first = self._first or config
        self._variants.append(PlannedVariant(len(self._variants), values, plan, place))

    def _find(self, document: ConfigDocument, config: RunConfig) -> tuple[int, FoundFiles]:
        """What was found for ``config``: searched once for all variants that name the same."""
        key = msgspec.json.encode(list(_what_is_named(config)))
        if key not in self._found:
            ready = document.find(config, inputs=self._inputs, runs=self._runs)
            rows = draw_row_seeds(check_config(ready), GroupChoices(self._seed + 1), SEED_END)
            found = FoundFiles.of(draw_prompts(rows))
            self._found[key] = (len(self._found), found)
        return self._found[key]


def _what_is_named(config: RunConfig) -> Iterator[Any]:
    """The values on which it depends what is found for a configuration."""
    yield [getattr(config, name) for name in _GIVEN_TO_FIND]
    yield config.run.on_image_error
    yield [(name, one.mask, one.alwayson_scripts) for name, one in config.stages.items()]
    if uses_prompts(config):
        yield config.prompt, config.negative_prompt, config.seed, config.images


def _check_first_record(plan: GroupPlan) -> None:
    """Refuse what the group's log could not record as GroupOpened."""
    encode = msgspec.json.encode
    variants = [one.values for one in plan.variants]
    parts = {
        "the variants": len(encode(variants)) + 90 * len(variants) + len(encode(plan.axes)),
        "the inputs and prompts": len(encode(plan.found)),
        "the configuration": len(encode(plan.document)) + _OTHER_BYTES,
    }
    size = sum(parts.values())
    if size > MAX_BODY_BYTES:
        largest = max(parts, key=lambda name: parts[name])
        raise InvalidStagePlanError(
            f"{len(plan.variants)} variants would make the group's first record {size} bytes "
            f"long, most of it for {largest}, and a record holds {MAX_BODY_BYTES}: use fewer",
            key="sweep",
        )
