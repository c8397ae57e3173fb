"""What the stages with a diffusion model have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

import msgspec

from ..errors import FieldError, field_error, show_value
from .constraints import (
    ClipSkip,
    Count,
    Fraction,
    InnerFraction,
    NonNegative,
    Seed,
    Steps,
)
from .sizes import Dimensions
from .stage import StageConfig, Table

EXCLUSIVE = (("modules", "vae"), ("shift", "distilled_cfg_scale"))
"""``modules`` hold the VAE. A model has a shift or a distilled CFG scale, in one field."""

INHERITED = (
    *("prompt", "negative_prompt", "seed", "model", "vae", "modules", "clip_skip"),
    *("sampler", "scheduler", "cfg_scale", "distilled_cfg_scale", "shift"),
)
"""The settings that a stage takes from the generation stage before it."""

_KEYS_OF_OPTIONS = {
    "sd_model_checkpoint": "model",
    "sd_vae": "vae",
    "CLIP_stop_at_last_layers": "clip_skip",
    "forge_additional_modules": "modules",
    "hires_fix_refiner_pass": "refiner.pass",
}
"""Options of a server for which a configuration has a key."""


def _shown(name: str) -> str:
    """A name within a key, in characters that fit one line."""
    return name if name.isprintable() else show_value(name)


class SampledConfig(StageConfig, frozen=True, kw_only=True):
    """The settings of a stage that makes or changes images with a diffusion model."""

    exclusive = EXCLUSIVE

    model: str | None = None
    vae: str | None = None
    modules: tuple[str, ...] | None = None
    clip_skip: ClipSkip | None = None
    sampler: str | None = None
    scheduler: str | None = None
    steps: Steps | None = None
    cfg_scale: NonNegative | None = None
    distilled_cfg_scale: NonNegative | None = None
    shift: NonNegative | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    seed: Seed | None = None
    override_settings: Mapping[str, Any] | None = None
    alwayson_scripts: Mapping[str, Any] | None = None

    def find_errors(self) -> Iterator[FieldError]:
        """And settings that a server would take, and that cannot be meant."""
        yield from super().find_errors()
        name = self.stage_type
        is_distilled = (self.modules, self.distilled_cfg_scale, self.shift) != (None, None, None)
        if is_distilled and self.cfg_scale == 0:
            reason = "ignores the prompt; this kind of model needs at least 1"
            yield field_error(f"{name}.cfg_scale", reason, self.cfg_scale)
        for script, given in (self.alwayson_scripts or {}).items():
            arguments = given.get("args", []) if isinstance(given, Mapping) else None
            if not isinstance(arguments, list | tuple) or given.keys() - {"args"}:
                reason = "is ignored by servers: a script takes a table with one list, args"
                yield field_error(f"{name}.alwayson_scripts.{_shown(script)}", reason)
        for option in self.override_settings or ():
            if (key := _KEYS_OF_OPTIONS.get(option)) is not None:
                reason = f"has a key of its own: set {name}.{key} instead"
                yield field_error(f"{name}.override_settings.{option}", reason)

    def checkpoints(self) -> Iterator[str | None]:
        yield self.model

    def warnings(self, given: Self) -> Iterator[str]:
        yield from super().warnings(given)
        if self.cfg_scale == 1 and self.negative_prompt:
            yield f"{self.stage_type}: with cfg_scale = 1 the negative prompt has no effect"


class RefinerConfig(Table, frozen=True, kw_only=True, rename={"acts_in": "pass"}):
    """A second model that takes over at ``switch_at`` of the sampling steps.

    ``acts_in``, which users write as ``pass``, says in which pass it acts where there is a
    hires pass; None, in a plan of an older release, leaves that to the server.
    """

    required = ("model", "switch_at")

    model: str | None = None
    switch_at: InnerFraction | None = None
    acts_in: Literal["first", "second", "both"] | None = None


class GeneratingConfig(SampledConfig, frozen=True, kw_only=True):
    """The settings of a stage from which later ones inherit."""

    generates = True

    refiner: RefinerConfig | None = None
    styles: tuple[str, ...] | None = None
    batch_size: Count | None = None
    subseed: Seed | None = None
    subseed_strength: Fraction | None = None
    eta: NonNegative | None = None
    s_noise: NonNegative | None = None

    def resolve(self, inherited: Mapping[str, Any], model_size: Dimensions | None) -> Self:
        """With subseeds a request makes one image: a server gives a whole batch one seed then."""
        config = super().resolve(inherited, model_size)
        batch_size = 1 if config.batch_size and config.subseed_strength else config.batch_size
        return msgspec.structs.replace(config, batch_size=batch_size)

    def checkpoints(self) -> Iterator[str | None]:
        yield from super().checkpoints()
        if self.refiner is not None:
            yield self.refiner.model

    def warnings(self, given: Self) -> Iterator[str]:
        yield from super().warnings(given)
        if (given.batch_size or 1) > 1 and self.batch_size == 1:
            yield f"{self.stage_type}.batch_size has no effect with subseed_strength"
