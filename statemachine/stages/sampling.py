"""Settings that the stages with a diffusion model share, and what is wrong with some of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from ..errors import FieldError, field_error

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


def batch_size_of(batch_size: int | None, subseed_strength: float | None) -> int | None:
    """The size of a batch: with subseeds 1, for a server gives the whole batch one seed then."""
    return 1 if batch_size and subseed_strength else batch_size


class SampledStage(Protocol):
    """A stage that makes or changes images with a diffusion model."""

    @property
    def stage_type(self) -> str: ...
    @property
    def negative_prompt(self) -> str | None: ...
    @property
    def modules(self) -> tuple[str, ...] | None: ...
    @property
    def cfg_scale(self) -> float | None: ...
    @property
    def distilled_cfg_scale(self) -> float | None: ...
    @property
    def shift(self) -> float | None: ...
    @property
    def override_settings(self) -> Mapping[str, Any] | None: ...
    @property
    def alwayson_scripts(self) -> Mapping[str, Any] | None: ...


def sampling_errors(stage: SampledStage) -> Iterator[FieldError]:
    """Settings that a server would take and that cannot be meant."""
    name = stage.stage_type
    is_distilled = (stage.modules, stage.distilled_cfg_scale, stage.shift) != (None, None, None)
    if is_distilled and stage.cfg_scale == 0:
        reason = "ignores the prompt; this kind of model needs at least 1"
        yield field_error(f"{name}.cfg_scale", reason, stage.cfg_scale)
    for script, given in (stage.alwayson_scripts or {}).items():
        arguments = given.get("args", []) if isinstance(given, Mapping) else None
        if not isinstance(arguments, list | tuple) or given.keys() - {"args"}:
            reason = "would be ignored by the server: a script takes a table with one list, args"
            yield field_error(f"{name}.alwayson_scripts.{script}", reason)
    for option in stage.override_settings or ():
        if (key := _KEYS_OF_OPTIONS.get(option)) is not None:
            reason = f"has a key of its own: set {name}.{key} instead"
            yield field_error(f"{name}.override_settings.{option}", reason)


def sampling_warnings(stage: SampledStage, given: SampledStage) -> Iterator[str]:
    """What has no effect in a resolved stage; ``given`` is its table as written."""
    if (getattr(given, "batch_size", None) or 1) > 1 and getattr(stage, "batch_size", None) == 1:
        yield f"{stage.stage_type}.batch_size has no effect with subseed_strength"
    if stage.cfg_scale == 1 and stage.negative_prompt:
        yield f"{stage.stage_type}: with cfg_scale = 1 the negative prompt has no effect"
