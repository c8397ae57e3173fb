"""Builds the request to a server for each stage; pure functions.

Read it beside the WebUI's own schema. A field stands in a body only where the plan sets it,
or where leaving it out would let the server do something else than the plan says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ....statemachine.config.script_images import map_strings
from ....statemachine.ports import GenerateRequest
from ....statemachine.stages import (
    AdetailerConfig,
    HiresConfig,
    Img2ImgConfig,
    RefinerConfig,
    Txt2ImgConfig,
)
from ....statemachine.stages.sizes import floor_to_grid
from ..http.errors import RequestRefusedError
from .detailer_payload import pass_arguments
from .features import EXTRA_SINGLE_IMAGE, FORGE, IMG2IMG, SD_NEXT, TXT2IMG, ServerFeatures
from .payload import DETAILER, SAME_MODULES, Body, Payload, encoded_image, set_fields
from .spellings import modules_of
from .upscale_payload import upscale_body, vary_upscale

_MASK_CONTENTS = {"fill": 0, "original": 1, "noise": 2, "nothing": 3}
_MASK_AREAS = {"whole": False, "masked": True}
"""What the server calls the area of an inpainting: whether it is made at full resolution."""
HIRES_PASSES = {"first": "first pass", "second": "second pass", "both": "both passes"}
"""What the server calls the passes in which a refiner acts."""
_DROPPED = frozenset(["force_task_id", "save_images", "send_images"])
"""Fields that a server may lack, because they do not affect the picture."""


class ServedStage(NamedTuple):
    """How requests of a stage are sent; ``vary`` changes a field for another key in a cache."""

    endpoint: str
    body: Callable[[GenerateRequest, Any, ServerFeatures], Body]
    vary: Callable[[GenerateRequest, Any], Body] | None = None


def payload_of(
    request: GenerateRequest,
    features: ServerFeatures | None = None,
    *,
    varied: bool = False,
    options: Mapping[str, Any] | None = {},
) -> Payload:
    """The HTTP request for ``request``.

    ``options`` are those of the server that the plan leaves open; the plan's own settings come
    before them. None stands for a log of an older release, which left hires CFG to the server.
    ``varied`` is set after an interrupt of our own: a server keeps the half-made picture of
    an interrupted upscale and would give it again. Raises RequestRefusedError where the
    server takes no field that the plan needs.
    """
    known, config = features or ServerFeatures(), request.config
    stage = STAGES.get(config.stage_type)
    if stage is None:
        raise RequestRefusedError(f"a WebUI server does not serve the stage {config.stage_type!r}")
    body = stage.body(request, config, known)
    if varied and stage.vary is not None:
        body |= stage.vary(request, config)
    payload = Payload(stage.endpoint, body)
    if isinstance(config, Txt2ImgConfig):
        _complete_hires(body, config, known, is_old=options is None)
    if stage.endpoint != EXTRA_SINGLE_IMAGE and options:
        body["override_settings"] = {**options, **payload.overrides}
        body["override_settings_restore_afterwards"] = True
    return _known_fields_only(payload, known)


def _txt2img(request: GenerateRequest, config: Txt2ImgConfig, features: ServerFeatures) -> Body:
    return (
        _sampling(request, config, features)
        | {"batch_size": request.count, "width": config.width, "height": config.height}
        | set_fields(tiling=config.tiling, restore_faces=config.restore_faces)
        | _generation(config)
        | _refiner(config.refiner, features)
        | _hires(config, features)
    )


def _hires(config: Txt2ImgConfig, features: ServerFeatures) -> Body:
    hires = config.hires
    if hires is None or not hires.enabled:
        return {}
    model = hires.model
    if features.product == SD_NEXT and config.refiner and config.refiner.model == model:
        model = None  # the refiner acts in the second pass anyway
    body: Body = {"enable_hr": True} | set_fields(
        denoising_strength=hires.denoise,
        hr_scale=hires.scale,
        hr_resize_x=hires.resize_x,
        hr_resize_y=hires.resize_y,
        hr_upscaler=hires.upscaler,
        hr_second_pass_steps=hires.steps,
        hr_sampler_name=hires.sampler,
        hr_scheduler=hires.scheduler,
        hr_checkpoint_name=model,
        hr_prompt=hires.prompt,
        hr_negative_prompt=hires.negative_prompt,
        hr_distilled_cfg=_distilled_cfg_scale(hires),
        hr_additional_modules=hires.modules,
    )
    if features.product == FORGE and features.takes(TXT2IMG, "hr_additional_modules"):
        # Its own default, null, makes it raise a TypeError.
        body.setdefault("hr_additional_modules", SAME_MODULES)
    return body


def _complete_hires(
    body: Body, config: Txt2ImgConfig, features: ServerFeatures, *, is_old: bool
) -> None:
    """Add the CFG scale of the hires pass, which Forge would set to 1."""
    hires = config.hires
    if hires is None or not hires.enabled:
        return
    is_forge = features.product == FORGE and features.takes(TXT2IMG, "hr_cfg")
    if is_forge and not is_old:
        body |= set_fields(hr_cfg=config.cfg_scale)
        if "hr_distilled_cfg" not in body and features.takes(TXT2IMG, "hr_distilled_cfg"):
            body |= set_fields(hr_distilled_cfg=_distilled_cfg_scale(config))
    if is_forge or hires.cfg_scale != config.cfg_scale:
        body |= set_fields(hr_cfg=hires.cfg_scale)


def _img2img(request: GenerateRequest, config: Img2ImgConfig, features: ServerFeatures) -> Body:
    image = request.inputs[0]
    width, height = floor_to_grid((config.width or image.width, config.height or image.height))
    return (
        _sampling(request, config, features)
        | {
            "init_images": [encoded_image(image)],
            "denoising_strength": config.denoise,
            "width": width,
            "height": height,
        }
        | set_fields(
            resize_mode=config.resize_mode,
            mask=None if request.mask is None else encoded_image(request.mask),
            inpainting_fill=_MASK_CONTENTS.get(config.mask_content or ""),
            inpaint_full_res=_MASK_AREAS.get(config.mask_area or ""),
            inpaint_full_res_padding=config.mask_padding,
            inpainting_mask_invert=None if config.mask_invert is None else int(config.mask_invert),
            mask_blur=config.mask_blur,
            batch_size=request.count if request.count > 1 else None,
        )
        | _generation(config)
        | _refiner(config.refiner, features)
    )


def _adetailer(request: GenerateRequest, config: AdetailerConfig, features: ServerFeatures) -> Body:
    if features.product == SD_NEXT:
        raise RequestRefusedError(
            "SD.Next has no ADetailer, and its own detailer cannot work on a finished image "
            "alone; leave the adetailer stage out, or use another server",
            endpoint=IMG2IMG,
            settled=True,
        )
    image = request.inputs[0]
    passes = [
        pass_arguments(one, config.sampler, features, f"adetailer.passes.{place}")
        for place, one in enumerate(config.passes)
    ]
    return _sampling(request, config, features) | {
        "init_images": [encoded_image(image)],
        # Bounds the damage if the server should repaint the whole image after all.
        "denoising_strength": 0,
        "width": image.width,
        "height": image.height,
        # Enabled, and without the img2img around it; with 1 for true it would repaint.
        "alwayson_scripts": {
            **_scripts(request, config.alwayson_scripts or {}),
            DETAILER: {"args": [True, True, *passes]},
        },
    }


def _sampling(
    request: GenerateRequest,
    config: Txt2ImgConfig | Img2ImgConfig | AdetailerConfig,
    features: ServerFeatures,
) -> Body:
    """The fields that all sampling requests share."""
    body = set_fields(
        prompt=config.prompt,
        negative_prompt=config.negative_prompt,
        steps=config.steps,
        cfg_scale=config.cfg_scale,
    ) | {
        "seed": request.seed,
        "n_iter": 1,
        "send_images": True,
        "save_images": False,
        "force_task_id": request.call_id,
    }
    body |= set_fields(distilled_cfg_scale=_distilled_cfg_scale(config))
    settings = set_fields(
        sd_model_checkpoint=config.model, CLIP_stop_at_last_layers=config.clip_skip
    )
    settings |= _modules(config, features)
    refiner: RefinerConfig | None = getattr(config, "refiner", None)
    if refiner is not None and refiner.acts_in and features.product != SD_NEXT:
        settings["hires_fix_refiner_pass"] = HIRES_PASSES[refiner.acts_in]
    if features.product == SD_NEXT and refiner is not None and refiner.enabled:
        settings["sd_model_refiner"] = refiner.model
    settings |= config.override_settings or {}
    if config.alwayson_scripts:
        body["alwayson_scripts"] = _scripts(request, config.alwayson_scripts)
    if settings:
        body |= {
            "override_settings": settings,
            "override_settings_restore_afterwards": True,
        }
    return body | sampler_fields(config.sampler, config.scheduler, features)


def _generation(config: Txt2ImgConfig | Img2ImgConfig) -> Body:
    """The fields that only stages that generate have."""
    return set_fields(
        styles=config.styles,
        subseed=config.subseed,
        subseed_strength=config.subseed_strength,
        eta=config.eta,
        s_noise=config.s_noise,
    )


def _scripts(request: GenerateRequest, scripts: Mapping[str, Any]) -> Body:
    """The arguments of scripts, with the bytes of images in the place of their paths."""
    images = {path: encoded_image(image) for path, image in request.script_images.items()}
    body: Body = map_strings(scripts, lambda _key, text: images.get(text, text))
    return body


def _modules(
    config: Txt2ImgConfig | Img2ImgConfig | AdetailerConfig, features: ServerFeatures
) -> Body:
    """The option for the VAE and the text encoders; Forge keeps both in one list."""
    if features.product == FORGE:
        return set_fields(forge_additional_modules=modules_of(config.modules, config.vae))
    if config.modules is not None:
        raise RequestRefusedError(
            f"only Forge servers take modules, and this one is {features.product or 'none'}; "
            f"set {config.stage_type}.vae instead",
            endpoint=TXT2IMG,
            settled=True,
        )
    return set_fields(sd_vae=config.vae)


def _distilled_cfg_scale(
    table: Txt2ImgConfig | Img2ImgConfig | AdetailerConfig | HiresConfig,
) -> float | None:
    """A model with a shift takes it in the same field."""
    return table.distilled_cfg_scale if table.shift is None else table.shift


def sampler_fields(sampler: str | None, scheduler: str | None, features: ServerFeatures) -> Body:
    """Sampler and scheduler; before 1.9 a WebUI had one name for both."""
    if features.takes(TXT2IMG, "scheduler"):
        return set_fields(sampler_name=sampler, scheduler=scheduler)
    if scheduler is None or scheduler.casefold() == "automatic" or sampler is None:
        return set_fields(sampler_name=sampler)
    if features.product == SD_NEXT:
        raise RequestRefusedError(
            f"SD.Next takes no scheduler by request; leave scheduler = {scheduler!r} out",
            endpoint=TXT2IMG,
            settled=True,
        )
    return {"sampler_name": f"{sampler} {scheduler}"}


def _refiner(refiner: RefinerConfig | None, features: ServerFeatures) -> Body:
    if refiner is None or not refiner.enabled:
        return {}
    if features.product != SD_NEXT:
        return {"refiner_checkpoint": refiner.model, "refiner_switch_at": refiner.switch_at}
    # Its refiner is an option (see _sampling), and the switch a field of another name.
    return {"refiner_start": refiner.switch_at} if features.takes(TXT2IMG, "refiner_start") else {}


def _known_fields_only(payload: Payload, features: ServerFeatures) -> Payload:
    endpoint = payload.endpoint
    unknown = [key for key in payload.body if not features.takes(endpoint, key)]
    needed = [key for key in unknown if key not in _DROPPED]
    if needed:
        product = " ".join(part for part in (features.product, features.version) if part)
        raise RequestRefusedError(
            f"this server ({product}) takes no {', '.join(needed)} in {endpoint}; it is too old "
            "for this plan, or of another kind",
            endpoint=endpoint,
            settled=True,
        )
    if not unknown:
        return payload
    kept = {key: value for key, value in payload.body.items() if key not in unknown}
    return Payload(endpoint, kept)


STAGES: Mapping[str, ServedStage] = {
    "txt2img": ServedStage(TXT2IMG, _txt2img),
    "img2img": ServedStage(IMG2IMG, _img2img),
    "upscale": ServedStage(EXTRA_SINGLE_IMAGE, upscale_body, vary_upscale),
    "adetailer": ServedStage(IMG2IMG, _adetailer),
}
"""The stages that a WebUI server serves, by name."""


def has_task_id(stage_type: str) -> bool:
    """Whether the requests of a stage carry a task id; those of extras take none."""
    stage = STAGES.get(stage_type)
    return stage is None or stage.endpoint != EXTRA_SINGLE_IMAGE
