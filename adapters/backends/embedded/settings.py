"""What of a stage's configuration decides on the look of a picture, and how."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from ....statemachine.config.stage_configs import (
    AdetailerConfig,
    AdetailerPass,
    HiresConfig,
    Img2ImgConfig,
    RefinerConfig,
    StageConfig,
    Txt2ImgConfig,
)

# What an API request that leaves them out gets from a WebUI.
DEFAULT_STEPS = 50
DEFAULT_SIDE = 512
DEFAULT_DENOISE = 0.75
DEFAULT_PASS_DENOISE = 0.4
DEFAULT_CONFIDENCE = 0.3
DEFAULT_DILATION = 4
DEFAULT_MASK_BLUR = 4
DEFAULT_PADDING = 32

# These act by themselves, or only say where and how much: no part of the style.
_NO_STYLE = frozenset(
    [
        *("enabled", "seed", "prompt", "negative_prompt", "batch_size", "width", "height"),
        *("hires", "refiner", "denoise", "resize_mode", "mask", "passes", "confidence"),
        *("mask_filter", "mask_k", "mask_min_ratio", "mask_max_ratio", "dilate_erode"),
        *("x_offset", "y_offset", "merge", "mask_blur"),
    ]
)

Style = dict[str, Any]


class Scene(NamedTuple):
    """What is to be painted: everything but the size.

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


def scene_of(config: Txt2ImgConfig | Img2ImgConfig | AdetailerConfig, seed: int) -> Scene:
    """What a stage's configuration paints; of txt2img with hires its first pass."""
    refiner = None if isinstance(config, AdetailerConfig) else config.refiner
    if hires_of(config) is not None:
        refiner = None  # As in a WebUI, it takes part in the second pass instead.
    style = _style(config)
    return _scene(config.prompt, config.negative_prompt, seed, style, refiner)


def second_scene_of(config: Txt2ImgConfig, hires: HiresConfig, seed: int) -> Scene:
    """What the high-resolution pass paints: what hires does not set is as in the first."""
    fields = Txt2ImgConfig.__struct_fields__
    own = {key: value for key, value in _style(hires).items() if key in fields and value}
    return _scene(
        hires.prompt or config.prompt,
        hires.negative_prompt or config.negative_prompt,
        seed,
        _style(config) | own,
        config.refiner,
    )


def pass_scene_of(config: AdetailerConfig, one: AdetailerPass, seed: int) -> Scene:
    """What a detailing pass paints; its own settings override those of its stage."""
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


def hires_of(config: StageConfig) -> HiresConfig | None:
    """The second pass, where there is one."""
    hires = config.hires if isinstance(config, Txt2ImgConfig) else None
    return hires if hires is not None and hires.enabled else None


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
        switch_step = int(steps * (refiner.switch_at or 0))
        refined = {**style, "refiner": _canonical(msgspec.to_builtins(refiner))}
    return Scene(prompt or "", negative_prompt or "", seed, steps, style, refined, switch_step)


def _style(table: msgspec.Struct) -> Style:
    settings: Style = msgspec.to_builtins(table)
    return {key: _canonical(settings[key]) for key in sorted(settings) if key not in _NO_STYLE}


def _canonical(value: Any) -> Any:
    """Equal settings in one spelling: 7.0 is 7."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _canonical(part) for key, part in value.items()}
    return [_canonical(part) for part in value] if isinstance(value, list | tuple) else value
