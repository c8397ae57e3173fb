"""Maps the body of a request to a stage's configuration: the reverse of our client's mapping."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeVar

from ...statemachine.config.stage_configs import (
    AdetailerConfig,
    AdetailerPass,
    HiresConfig,
    Img2ImgConfig,
    RefinerConfig,
    Txt2ImgConfig,
)
from .api_errors import server_error
from .bodies import CommonBody, Img2ImgBody, Txt2ImgBody
from .body_schema import DecodedBody
from .model_catalogue import LATENT_MODES, UPSCALERS, Checkpoint, Checkpoints
from .samplers import SAMPLERS, Sampling, sampling_of, scheduler_label
from .settings import Loaded

Value = TypeVar("Value")

_MOST_STEPS = 100_000
_MOST_IMAGES = 1_000
_LEAST_SIDE = 8
_SEEDS = 4_294_967_294
_NO_MODEL = ("", "None", "none")
_SAME_MODEL = "Use same checkpoint"


class ResolvedRequest(NamedTuple):
    """A txt2img or img2img request with models, sampler and seed resolved.

    ``seed`` is drawn where the request says -1; image k has ``seed`` + k. ``refiner`` and
    ``hires_model`` are None where they do not take part.
    """

    loaded: Loaded
    sampling: Sampling
    seed: int
    iterations: int
    batch_size: int
    refiner: Checkpoint | None
    hires_model: Checkpoint | None

    @property
    def images(self) -> int:
        """The number of requested images."""
        return self.iterations * self.batch_size


def resolve_request(
    body: CommonBody, given: CommonBody, loaded: Loaded, models: Checkpoints
) -> ResolvedRequest:
    """Resolve the models, the sampler and the seed of a request.

    Raises ApiError, 500, for unknown models and for numbers out of bounds.
    """
    _check_numbers(body)
    hires_model = None
    if isinstance(body, Txt2ImgBody) and body.enable_hr:
        hires_model = _model(body.hr_checkpoint_name, models)
    return ResolvedRequest(
        loaded=loaded,
        sampling=sampling_of(given.sampler_name or given.sampler_index, given.scheduler),
        seed=_seed(body),
        iterations=_or(body.n_iter, 1),
        batch_size=_or(body.batch_size, 1),
        refiner=_model(body.refiner_checkpoint, models),
        hires_model=hires_model,
    )


def _seed(body: CommonBody) -> int:
    seed = body.seed
    return secrets.randbelow(_SEEDS) if seed is None or seed == -1 else seed


def _check_numbers(body: CommonBody) -> None:
    steps = _or(body.steps, 50)
    if steps < 1:
        raise server_error("ZeroDivisionError", f"cannot sample with {steps} steps")
    if steps > _MOST_STEPS:
        raise server_error("RuntimeError", f"{steps} steps are more than {_MOST_STEPS}")
    count = _or(body.batch_size, 1) * _or(body.n_iter, 1)
    if not 1 <= count <= _MOST_IMAGES or _or(body.batch_size, 1) < 1:
        raise server_error("RuntimeError", f"{count} images are not within 1 to {_MOST_IMAGES}")
    if min(_or(body.width, 512), _or(body.height, 512)) < _LEAST_SIDE:
        raise server_error("RuntimeError", f"{body.width}x{body.height} is not a valid size")


def _model(name: str | None, models: Checkpoints) -> Checkpoint | None:
    if name is None or name in _NO_MODEL or name == _SAME_MODEL:
        return None
    found = models.closest(name)
    if found is None:
        raise server_error("Exception", f"Could not find checkpoint with name {name}")
    return found


def _sampling(body: CommonBody, given: CommonBody, resolved: ResolvedRequest) -> dict[str, Any]:
    """The settings that all sampling stages share."""
    return {
        "prompt": body.prompt or "",
        "negative_prompt": given.negative_prompt,
        "seed": resolved.seed,
        "model": resolved.loaded.model,
        "vae": resolved.loaded.vae,
        "clip_skip": resolved.loaded.clip_skip,
        "sampler": resolved.sampling.sampler,
        "scheduler": resolved.sampling.scheduler,
        "steps": given.steps,
        "cfg_scale": given.cfg_scale,
    }


def txt2img_config(asked: DecodedBody[Txt2ImgBody], resolved: ResolvedRequest) -> Txt2ImgConfig:
    """The stage's configuration. Raises ApiError, 500, for an unknown hires upscaler."""
    body, given = asked
    return Txt2ImgConfig(
        **_sampling(body, given, resolved),
        width=body.width,
        height=body.height,
        tiling=given.tiling,
        restore_faces=given.restore_faces,
        styles=None if given.styles is None else tuple(given.styles),
        refiner=_refiner(given, resolved),
        hires=_hires(body) if body.enable_hr else None,
    )


_PASSES: Mapping[str | None, Literal["first", "both"]] = {
    "first pass": "first",
    "both passes": "both",
}
"""The passes in which a refiner acts, unless it is the second only."""


def _refiner(given: CommonBody, resolved: ResolvedRequest) -> RefinerConfig | None:
    if resolved.refiner is None:
        return None
    return RefinerConfig(
        model=given.refiner_checkpoint,
        switch_at=given.refiner_switch_at,
        acts_in=_PASSES.get(resolved.loaded.refiner_pass),
    )


def _hires(body: Txt2ImgBody) -> HiresConfig:
    _check_hires(body)
    width, height = body.hr_resize_x or None, body.hr_resize_y or None
    scheduler = body.hr_scheduler
    if scheduler is not None and scheduler_label(scheduler) is None:
        scheduler = None
    model = body.hr_checkpoint_name
    return HiresConfig(
        upscaler=body.hr_upscaler,
        scale=None if width or height else _or(body.hr_scale, 2.0),
        resize_x=width,
        resize_y=height,
        steps=body.hr_second_pass_steps or None,
        denoise=body.denoising_strength,
        sampler=body.hr_sampler_name,
        scheduler=scheduler,
        model=None if model in _NO_MODEL or model == _SAME_MODEL else model,
        prompt=body.hr_prompt or None,
        negative_prompt=body.hr_negative_prompt or None,
    )


def _check_hires(body: Txt2ImgBody) -> None:
    upscaler = body.hr_upscaler
    if upscaler is not None and upscaler not in (*LATENT_MODES, *UPSCALERS):
        raise server_error("Exception", f"could not find upscaler named {upscaler}")
    if body.denoising_strength is None:
        words = "'>' not supported between instances of 'NoneType' and 'float'"
        raise server_error("TypeError", words)
    sampler = body.hr_sampler_name
    if sampler is not None and sampler not in SAMPLERS:
        raise server_error("AssertionError", f"bad sampler name: {sampler}")
    if not 0 <= _or(body.hr_second_pass_steps, 0) <= _MOST_STEPS:
        raise server_error("RuntimeError", f"{body.hr_second_pass_steps} steps are out of bounds")


def img2img_config(asked: DecodedBody[Img2ImgBody], resolved: ResolvedRequest) -> Img2ImgConfig:
    """The stage's configuration. Raises ApiError, 500, for a denoise outside 0 to 1."""
    body, given = asked
    strength = body.denoising_strength
    if strength is not None and not 0 <= strength <= 1:
        raise server_error("AssertionError", "can only work with strength in [0.0, 1.0]")
    return Img2ImgConfig(
        **_sampling(body, given, resolved),
        denoise=given.denoising_strength,
        width=_or(body.width, 512),
        height=_or(body.height, 512),
        resize_mode=given.resize_mode,
        refiner=_refiner(given, resolved),
    )


def adetailer_config(
    body: CommonBody,
    given: CommonBody,
    resolved: ResolvedRequest,
    passes: tuple[AdetailerPass, ...],
) -> AdetailerConfig:
    """ADetailer's configuration: the settings of the request, and its passes."""
    return AdetailerConfig(**_sampling(body, given, resolved), passes=passes)


def _or(value: Value | None, default: Value) -> Value:
    return default if value is None else value
