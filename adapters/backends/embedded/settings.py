"""The settings of a stage that decide how a picture looks."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from ....statemachine.stages import (
    AdetailerConfig,
    AdetailerPass,
    HiresConfig,
    Img2ImgConfig,
    RefinerConfig,
    StageConfig,
    Txt2ImgConfig,
)

# Defaults of a WebUI's API.
DEFAULT_STEPS = 50
DEFAULT_SIDE = 512
DEFAULT_DENOISE = 0.75
DEFAULT_PASS_DENOISE = 0.4
DEFAULT_CONFIDENCE = 0.3
DEFAULT_DILATION = 4
DEFAULT_MASK_BLUR = 4
DEFAULT_PADDING = 32

# Settings with their own effect, which are not part of the style.
_NO_STYLE = frozenset(
    [
        *("enabled", "seed", "prompt", "negative_prompt", "batch_size", "width", "height"),
        *("hires", "refiner", "denoise", "resize_mode", "mask", "passes", "confidence"),
        *("mask_filter", "mask_k", "mask_min_ratio", "mask_max_ratio", "dilate_erode"),
        *("x_offset", "y_offset", "merge", "mask_blur", "mask_invert"),
        *("override_settings", "alwayson_scripts", "subseed"),
    ]
)

_SERVER_DEFAULTS: dict[str, Any] = {
    "vae": "Automatic", "clip_skip": 1, "styles": [], "subseed_strength": 0, "eta": 1,
    "s_noise": 1, "mask_content": "original", "mask_area": "whole", "mask_padding": 32,
    "modules": [],
}  # fmt: skip
"""Values that mean the same as none: a run sends a server's defaults explicitly."""

Style = dict[str, Any]


class Scene(NamedTuple):
    """The content of a picture: everything except the size.

    The prompts choose the colours, the seed the figure, ``style`` (all other settings) the
    decoration; from step ``switch_step`` on it is ``refined_style`` that decorates.
    """

    prompt: str
    negative_prompt: str
    seed: int
    steps: int
    style: Style
    refined_style: Style
    switch_step: int


def passes_of(config: StageConfig) -> list[int]:
    """The steps of each pass over a picture, in order; one step for a stage without passes."""
    return [steps or DEFAULT_STEPS for steps in config.sampling_passes()] or [1]


def scene_of(config: Txt2ImgConfig | Img2ImgConfig, seed: int) -> Scene:
    """The content for a stage; for txt2img with hires, that of the first pass."""
    refiner = config.refiner
    has_hires = len(config.sampling_passes()) > 1
    if refiner is not None and has_hires and not _acts_in("first", refiner):
        refiner = None
    style = _style(config)
    return _scene(config.prompt, config.negative_prompt, seed, style, refiner)


def second_scene_of(config: Txt2ImgConfig, hires: HiresConfig, seed: int) -> Scene:
    """The content for the hires pass; settings it lacks are those of the first pass."""
    fields = Txt2ImgConfig.__struct_fields__
    own = {key: value for key, value in _style(hires).items() if key in fields and value}
    refiner = config.refiner
    if refiner is not None and not _acts_in("second", refiner):
        refiner = None
    return _scene(
        hires.prompt or config.prompt,
        hires.negative_prompt or config.negative_prompt,
        seed,
        _style(config) | own,
        refiner,
    )


def _acts_in(number: str, refiner: RefinerConfig) -> bool:
    """Whether a refiner acts in this pass; a WebUI's default is the second."""
    return (refiner.acts_in or "second") in (number, "both")


def pass_scene_of(config: AdetailerConfig, one: AdetailerPass, seed: int) -> Scene:
    """The content for a detailing pass, whose settings override those of its stage."""
    own = {f"pass {key}": value for key, value in _style(one).items()}
    own["size"] = [one.width, one.height]
    style = _style(config) | own
    style["steps"] = one.steps or config.steps or DEFAULT_STEPS
    return _scene(
        one.prompt or config.prompt,
        one.negative_prompt or config.negative_prompt,
        seed,
        style,
        None,
    )


def hires_of(config: Txt2ImgConfig) -> HiresConfig | None:
    """The second pass, where there is one."""
    return config.hires if config.hires is not None and config.hires.enabled else None


def _scene(
    prompt: str | None,
    negative_prompt: str | None,
    seed: int,
    style: Style,
    refiner: RefinerConfig | None,
) -> Scene:
    steps = style.get("steps") or DEFAULT_STEPS
    switch_step, refined = steps, style
    if refiner is not None and refiner.enabled:
        settings = msgspec.to_builtins(msgspec.structs.replace(refiner, acts_in=None))
        switch_step = int(steps * (refiner.switch_at or 0))
        refined = {**style, "refiner": _canonical(settings)}
    return Scene(prompt or "", negative_prompt or "", seed, steps, style, refined, switch_step)


def _style(table: msgspec.Struct) -> Style:
    settings: Style = msgspec.to_builtins(table)
    if settings.get("subseed_strength"):
        settings["variation"] = settings.get("subseed")
    return {
        key: value
        for key in sorted(settings)
        if key not in _NO_STYLE
        and (value := _canonical(settings[key])) != _SERVER_DEFAULTS.get(key)
    }


def _canonical(value: Any) -> Any:
    """Normalise equal values: 7.0 becomes 7."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _canonical(part) for key, part in value.items()}
    return [_canonical(part) for part in value] if isinstance(value, list | tuple) else value
