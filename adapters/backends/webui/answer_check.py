"""What a server really used, beside what it was asked for.

A server answers 200 and does something else where a name is unknown to it, so each answer
is held against its request. What the answer does not say cannot be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ....statemachine.config.stage_configs import (
    AdetailerConfig,
    Img2ImgConfig,
    RefinerConfig,
    Txt2ImgConfig,
    UpscaleConfig,
)
from ....statemachine.plan.sizes import GRID, MAX_PIXELS, Dimensions, SizeTrack
from ....statemachine.ports import GenerateRequest
from .features import FORGE, SD_NEXT, ServerFeatures
from .spellings import NO_VAE, SAME_CHECKPOINT, same_name, same_sampler, stem

MAX_ANSWER_BYTES = 1 << 30
MAX_WORDS_BYTES = 1 << 24
_ORDINALS = ("", " 2nd", " 3rd")
_THROWN_AWAY = (("width", 128), ("height", 128), ("steps", 1))
"""What ADetailer makes of the picture around it when it is skipped, as it was asked to be."""

Shown = Callable[[Any], Any]
"""Makes of a server's value what may be shown of it. What is compared is the value itself."""


def differences(
    request: GenerateRequest, info: Mapping[str, Any], features: ServerFeatures, shown: Shown
) -> Iterator[str]:
    """Each thing that the answer's ``info`` says otherwise than the request, in words.

    The server's values in the words are ``shown``.
    """
    config = request.config
    if isinstance(config, UpscaleConfig):
        return
    yield from _models(config, info, features, shown)
    yield from _seeds(request, info, shown)
    extra = info.get("extra_generation_params")
    told = extra if isinstance(extra, Mapping) else {}
    if isinstance(config, AdetailerConfig):
        yield from _detailing(config, info, told, shown)
        return
    yield from _sampling(config, info, told, shown)
    yield from _refining(config, told, features, shown)


def size_difference(request: GenerateRequest, size: Dimensions) -> str | None:
    """What is wrong with the size of an image that came back, or None."""
    wanted = expected_size(request)
    if wanted is None or wanted == size:
        return None
    if request.mask is not None and size == (request.inputs[0].width, request.inputs[0].height):
        return None  # What is painted into a mask is pasted into the picture as it was.
    product = _product(request)
    if product and all(map(_rounded_down, product, wanted, size)):
        return None
    return f"size {wanted[0]}x{wanted[1]} was asked for, {size[0]}x{size[1]} came back"


def _product(request: GenerateRequest) -> tuple[float, float] | None:
    """The size before it is put on the grid, where it follows from a factor."""
    config = request.config
    if isinstance(config, UpscaleConfig):
        image = request.inputs[0]
        factor = config.factor
        if factor is None and config.crop is False and config.width and config.height:
            factor = max(config.width / image.width, config.height / image.height)
        return (image.width * factor, image.height * factor) if factor else None
    if isinstance(config, Txt2ImgConfig) and config.hires and config.hires.enabled:
        scale = config.hires.scale or 0
        return (config.width or 0) * scale, (config.height or 0) * scale
    return None


def _rounded_down(product: float, wanted: int, side: int) -> bool:
    """Whether a server that takes 31.999999 for 31 would come to this side."""
    return side in (wanted, int(product) // GRID * GRID)


def expected_size(request: GenerateRequest) -> Dimensions | None:
    """The size that a request's images must have, in pixels."""
    config = request.config
    track = SizeTrack(warnings=[])
    if request.inputs:
        track.now = (request.inputs[0].width, request.inputs[0].height)
    if isinstance(config, UpscaleConfig):
        track.upscale(config)
    elif not isinstance(config, AdetailerConfig):
        track.state(config.width, config.height)
        if isinstance(config, Txt2ImgConfig) and config.hires and config.hires.enabled:
            track.hires(config.hires)
    return track.now


def answer_limit(request: GenerateRequest) -> int:
    """The most bytes that an honest answer to ``request`` can take.

    That is base64 of four channels of 16 bits without any compression, for each of its images,
    and as much again as a server may say beside them.
    """
    size = expected_size(request)
    pixels = MAX_PIXELS if size is None else size[0] * size[1]
    return min(pixels * request.count * 12, MAX_ANSWER_BYTES) + MAX_WORDS_BYTES


def _known_stem(name: str, features: ServerFeatures) -> str:
    """The stem by which the server names a model that was asked for by any of its names."""
    return (features.stems or {}).get(name) or stem(name)


def _models(
    config: Txt2ImgConfig | Img2ImgConfig | AdetailerConfig,
    info: Mapping[str, Any],
    features: ServerFeatures,
    shown: Shown,
) -> Iterator[str]:
    used = info.get("sd_model_name")
    if config.model and used and stem(used) != _known_stem(config.model, features):
        yield f"model {config.model} was asked for, {shown(used)} was used"
    if config.vae is None or config.vae in NO_VAE or "sd_vae_name" not in info:
        return
    vae = info["sd_vae_name"]
    # Forge loads VAEs as modules and says nothing of them here.
    if stem(vae) != stem(config.vae) and not (vae is None and features.product == FORGE):
        yield f"vae {config.vae} was asked for, {shown(vae)} was used"


def _seeds(request: GenerateRequest, info: Mapping[str, Any], shown: Shown) -> Iterator[str]:
    used = info.get("all_seeds")
    wanted = [request.seed + place for place in range(request.count)]
    if isinstance(used, list) and used and used[: len(wanted)] != wanted:
        yield f"seeds {wanted} were asked for, {shown(used[: len(wanted)])} were used"


def _sampling(
    config: Txt2ImgConfig | Img2ImgConfig,
    info: Mapping[str, Any],
    told: Mapping[str, Any],
    shown: Shown,
) -> Iterator[str]:
    used, schedule = info.get("sampler_name"), told.get("Schedule type")
    if (
        config.sampler
        and used
        and not same_sampler(config.sampler, config.scheduler, str(used), schedule)
    ):
        yield f"sampler {config.sampler} was asked for, {shown(used)} was used"
    if config.scheduler and schedule and not same_name(config.scheduler, str(schedule)):
        yield f"scheduler {config.scheduler} was asked for, {shown(schedule)} was used"
    clip_skip = info.get("clip_skip")
    if config.clip_skip and clip_skip and clip_skip != config.clip_skip:
        yield f"clip_skip {config.clip_skip} was asked for, {shown(clip_skip)} was used"


def _refining(
    config: Txt2ImgConfig | Img2ImgConfig,
    told: Mapping[str, Any],
    features: ServerFeatures,
    shown: Shown,
) -> Iterator[str]:
    hires = config.hires if isinstance(config, Txt2ImgConfig) else None
    model = config.model
    if hires is not None and hires.enabled and hires.model not in (None, SAME_CHECKPOINT):
        model = hires.model
        yield from _evidence("Hires checkpoint", hires.model, told, features, shown)
    refiner = config.refiner
    # Where the refiner's own model is at work already, a server has nothing to switch to.
    if refiner is None or not refiner.enabled:
        return
    if _known_stem(str(refiner.model), features) != _known_stem(str(model), features):
        yield from _refiner_evidence(refiner, told, features, shown)


def _refiner_evidence(
    refiner: RefinerConfig, told: Mapping[str, Any], features: ServerFeatures, shown: Shown
) -> Iterator[str]:
    yield from _evidence("Refiner", refiner.model, told, features, shown)
    switch_at = told.get("Refiner switch at")
    if isinstance(switch_at, int | float) and switch_at != refiner.switch_at:
        yield f"refiner switch_at {refiner.switch_at} was asked for, {switch_at} was used"


def _evidence(
    name: str,
    asked: str | None,
    told: Mapping[str, Any],
    features: ServerFeatures,
    shown: Shown,
) -> Iterator[str]:
    used = told.get(name)
    if used is None:
        if features.product != SD_NEXT:  # It names them otherwise, if at all.
            yield f"{name} {asked} was asked for, and the server does not say that it used one"
    elif stem(used) != _known_stem(str(asked), features):
        yield f"{name} {asked} was asked for, {shown(used)} was used"


def _detailing(
    config: AdetailerConfig, info: Mapping[str, Any], told: Mapping[str, Any], shown: Shown
) -> Iterator[str]:
    for name, value in _THROWN_AWAY:
        if info.get(name) != value:
            yield (
                f"ADetailer was to work alone, and the server says {name} {shown(info.get(name))} "
                f"instead of {value}: it may have repainted the whole image"
            )
    for place, one in enumerate(config.passes):
        ordinal = _ORDINALS[place] if place < len(_ORDINALS) else f" {place + 1}th"
        used = told.get(f"ADetailer model{ordinal}")
        if used is None:
            yield f"ADetailer pass {place + 1} ({one.model}) was asked for, and did not run"
        elif stem(used) != stem(one.model):
            yield (
                f"ADetailer model {one.model} was asked for in pass {place + 1}, "
                f"{shown(used)} was used"
            )
