"""Compares the settings that a server reports with those of the request.

A server that does not know a name answers 200 and uses another one, so each answer is compared
with its request. Settings that the answer does not report cannot be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, cast

from msgspec.structs import replace

from ....statemachine.ports import GenerateRequest
from ....statemachine.stages import AdetailerConfig, Img2ImgConfig, RefinerConfig, Txt2ImgConfig
from ....statemachine.stages.sizes import GRID, Dimensions, NextSize, max_pixels
from ..infotext_settings import infotext_values
from .features import FORGE, SD_NEXT, ServerFeatures
from .names import NameKind, named_in_text
from .payloads import HIRES_PASSES
from .spellings import NO_VAE, SAME_CHECKPOINT, same_name, same_sampler, stem, vae_stem

MAX_ANSWER_BYTES = 1 << 30
MAX_WORDS_BYTES = 1 << 24
_COARSER_GRID, _COARSEST_GRID = 16, 64
"""The steps of the grids on which servers put the sizes for some models."""
_NO_MODULE = frozenset(["Built-in"])
"""What Forge reports of a hires pass without modules."""
_ORDINALS = ("", " 2nd", " 3rd")
_SKIPPED_IMG2IMG = (("width", 128), ("height", 128), ("steps", 1))
"""The values that a server reports when ADetailer skips img2img, as requested."""

_Sampled = Txt2ImgConfig | Img2ImgConfig | AdetailerConfig
HASHES = {NameKind.LORA: "Lora hashes", NameKind.EMBEDDING: "TI hashes"}
"""By kind, where an answer names those that were used."""
Shown = Callable[[Any], Any]
"""Removes secrets from a value for a message; the comparison uses the value itself."""


def differences(
    request: GenerateRequest, info: Mapping[str, Any], features: ServerFeatures, shown: Shown
) -> Iterator[str]:
    """A message for each setting in ``info`` that differs from the request.

    Values of the server pass through ``shown``.
    """
    config = request.config
    compare = _COMPARISONS.get(config.stage_type)
    if compare is None:
        return
    yield from _models(cast(_Sampled, config), info, features, shown)
    yield from _seeds(request, info, shown)
    extra = info.get("extra_generation_params")
    extra_parameters = extra if isinstance(extra, Mapping) else {}
    yield from compare(config, info, extra_parameters, features, shown)


def unused_fields(
    request: GenerateRequest, info: Mapping[str, Any], body: Mapping[str, Any], shown: Shown
) -> Iterator[str]:
    """A message for each value of the ``body`` that the plan does not set and that was not used."""
    extra = info.get("extra_generation_params")
    extra_parameters = extra if isinstance(extra, Mapping) else {}
    overrides = body.get("override_settings") or {}
    is_planned = getattr(request.config, "clip_skip", None) is not None
    clip_skip = None if is_planned else overrides.get("CLIP_stop_at_last_layers")
    pairs = (
        ("clip skip", clip_skip, info.get("clip_skip")),
        ("hires CFG scale", body.get("hr_cfg"), extra_parameters.get("Hires CFG Scale")),
        *_distilled_scales(body, infotext_values(info)),
    )
    yield from _mistaken_scale(request.config, infotext_values(info))
    for name, sent, used in pairs:
        if sent and used is not None and used != sent:
            yield f"{name} {sent} was sent, but {shown(used)} was used"


def _distilled_scales(
    body: Mapping[str, Any], reported: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """What was sent and what was used; a model without such a scale reports none."""
    sent = body.get("distilled_cfg_scale")
    for name in ("Distilled CFG Scale", "Shift"):
        yield name, sent, _number(reported.get(name))
    used = _number(reported.get("Hires Distilled CFG Scale"))
    yield "Hires Distilled CFG Scale", body.get("hr_distilled_cfg"), used


def _mistaken_scale(config: Any, reported: Mapping[str, Any]) -> Iterator[str]:
    """A message if the model took a distilled CFG scale as its shift, or the other way round."""
    pairs = (("distilled_cfg_scale", "Distilled CFG Scale"), ("shift", "Shift"))
    for (key, name), (_, other) in (pairs, pairs[::-1]):
        sent = getattr(config, key, None)
        if sent is not None and name not in reported and other in reported:
            yield f"{key} {sent} was requested, but the model used it as its {other}"


def _number(text: str | None) -> float | None:
    """The number in a value of an infotext; None for anything else."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def skipped_names(
    request: GenerateRequest, info: Mapping[str, Any], kinds: Collection[NameKind]
) -> Iterator[str]:
    """A message for each LoRA and embedding of the prompts that the server did not use.

    The server reports the hashes of these ``kinds``.
    """
    found = info.get("extra_generation_params")
    extra_parameters = found if isinstance(found, Mapping) else {}
    for kind in kinds:
        reported = str(extra_parameters.get(HASHES[kind]) or "")
        used = {pair.rpartition(":")[0].strip().casefold() for pair in reported.split(",")}
        if not reported and isinstance(request.config, AdetailerConfig):
            continue  # It is not known whether the request around ADetailer reports any.
        for name in _reported_names(request, info, kind):
            if name.replace(",", "").casefold() not in used:
                yield f"{kind} {name} was requested, but the server skipped it"


def _reported_names(
    request: GenerateRequest, info: Mapping[str, Any], kind: NameKind
) -> Iterable[str]:
    """The LoRAs or embeddings in the prompts whose hashes an answer reports.

    A server before 1.10 reports the LoRAs of the hires pass instead of those of the first. It
    reports the embeddings of the first only.
    """
    config = request.config
    hires = config.hires if isinstance(config, Txt2ImgConfig) else None
    if kind is NameKind.LORA and hires is not None and hires.enabled:
        of_hires = _names_in(kind, hires.prompt)
        if of_hires:
            return of_hires
    if not isinstance(config, Txt2ImgConfig | Img2ImgConfig | AdetailerConfig):
        return ()
    texts = [config.prompt, *_first(info.get("all_prompts"))]  # The latter with its styles.
    if kind is NameKind.EMBEDDING:
        texts += [config.negative_prompt, *_first(info.get("all_negative_prompts"))]
    return _names_in(kind, *texts)


def _first(prompts: object) -> list[str]:
    return prompts[:1] if isinstance(prompts, list) else []


def _names_in(kind: NameKind, *texts: str | None) -> Iterable[str]:
    uses = (use for text in texts for use in named_in_text(str(text or ""), "prompt"))
    return dict.fromkeys(use.name for use in uses if use.kind is kind)


def size_difference(
    request: GenerateRequest, size: Dimensions, info: Mapping[str, Any]
) -> str | None:
    """A message if the size of an image differs from the request, else None.

    A server with a model of a coarser grid reports the size that it works at in ``info``.
    """
    wanted, _, exact = _next_size(request)
    if wanted is None or size in (wanted, _size_on_grid(request, info)):
        return None
    if request.mask is not None and size == (request.inputs[0].width, request.inputs[0].height):
        return None  # With a mask, the result is pasted into the input image.
    if exact is not None and all(map(_rounded_down, exact, wanted, size)):
        return None
    return f"size {wanted[0]}x{wanted[1]} was requested, but {size[0]}x{size[1]} came back"


def _size_on_grid(request: GenerateRequest, info: Mapping[str, Any]) -> Dimensions | None:
    """The size of an image whose stated size the server has put on its own grid, if it has."""
    config = request.config
    if not isinstance(config, Txt2ImgConfig | Img2ImgConfig):
        return None
    asked = config.model_size(_source_size(request))
    used = (info.get("width"), info.get("height"))
    if asked is None or not all(map(_is_on_grid, used, asked)):
        return None
    return replace(config, width=used[0], height=used[1]).size_after(None).size


def _is_on_grid(used: Any, asked: int) -> bool:
    is_near = isinstance(used, int) and abs(used - asked) < _COARSEST_GRID
    return is_near and (used == asked or used % _COARSER_GRID == 0)


def _rounded_down(product: float, wanted: int, side: int) -> bool:
    """Whether a server with rounding errors (31.999999 gives 31) would give this side."""
    return side in (wanted, int(product) // GRID * GRID)


def expected_size(request: GenerateRequest) -> Dimensions | None:
    """The expected size of a request's images, in pixels."""
    return _next_size(request).size


def _next_size(request: GenerateRequest) -> NextSize:
    return request.config.size_after(_source_size(request))


def _source_size(request: GenerateRequest) -> Dimensions | None:
    source = request.inputs[0] if request.inputs else None
    return (source.width, source.height) if source else None


def answer_limit(request: GenerateRequest) -> int:
    """The largest possible size in bytes of a valid answer to ``request``.

    That is base64 of uncompressed images with four channels of 16 bits, plus
    ``MAX_WORDS_BYTES`` for the rest.
    """
    size = expected_size(request)
    pixels = max_pixels() if size is None else size[0] * size[1]
    return min(pixels * request.count * 12, MAX_ANSWER_BYTES) + MAX_WORDS_BYTES


def _known_stem(name: str, features: ServerFeatures) -> str:
    """The stem that the server reports for a model requested by any of its names."""
    return (features.stems or {}).get(name) or stem(name)


def _models(
    config: _Sampled,
    info: Mapping[str, Any],
    features: ServerFeatures,
    shown: Shown,
) -> Iterator[str]:
    used = info.get("sd_model_name")
    if config.model and used and stem(used) != _known_stem(config.model, features):
        yield f"model {config.model} was requested, but {shown(used)} was used"
    yield from _loaded_modules("modules", config.modules, "Module ", infotext_values(info), shown)
    if config.vae is None or config.vae in NO_VAE:
        return
    values = infotext_values(info)
    modules = [value for name, value in values.items() if name.startswith("Module ")]
    if features.product == FORGE and values and vae_stem(config.vae) not in map(vae_stem, modules):
        loaded = ", ".join(modules) or "no module"
        yield f"vae {config.vae} was requested, but {shown(loaded)} was used"
    if "sd_vae_name" not in info:
        return
    vae = info["sd_vae_name"]
    # Forge loads VAEs as modules and does not report them here.
    if vae_stem(vae) != vae_stem(config.vae) and not (vae is None and features.product == FORGE):
        yield f"vae {config.vae} was requested, but {shown(vae)} was used"


def _loaded_modules(
    key: str,
    wanted: tuple[str, ...] | None,
    start: str,
    reported: Mapping[str, Any],
    shown: Shown,
) -> Iterator[str]:
    """A message if the server loaded other VAEs and text encoders; their order is free."""
    if wanted is None or not reported:
        return
    used = [value for name, value in reported.items() if name.startswith(start)]
    if {stem(name) for name in wanted} - _NO_MODULE != {stem(name) for name in used} - _NO_MODULE:
        loaded, asked = (", ".join(map(str, names)) or "no module" for names in (used, wanted))
        yield f"{key} {asked} were requested, but {shown(loaded)} were used"


def _seeds(request: GenerateRequest, info: Mapping[str, Any], shown: Shown) -> Iterator[str]:
    used = info.get("all_seeds")
    wanted = [request.seed + place for place in range(request.count)]
    if isinstance(used, list) and used and used[: len(wanted)] != wanted:
        yield f"seeds {wanted} were requested, but {shown(used[: len(wanted)])} were used"
    subseed, reported = getattr(request.config, "subseed", None), info.get("subseed")
    if subseed is not None and reported not in (None, subseed):
        yield f"subseed {subseed} was requested, but {shown(reported)} was used"


def _sampling(
    config: Txt2ImgConfig | Img2ImgConfig,
    info: Mapping[str, Any],
    extra_parameters: Mapping[str, Any],
    features: ServerFeatures,
    shown: Shown,
) -> Iterator[str]:
    yield from _sampler(config, info, extra_parameters, shown)
    yield from _refining(config, extra_parameters, features, shown)


def _sampler(
    config: Txt2ImgConfig | Img2ImgConfig,
    info: Mapping[str, Any],
    extra_parameters: Mapping[str, Any],
    shown: Shown,
) -> Iterator[str]:
    # A fallback appears in the infotext only.
    schedule = extra_parameters.get("Schedule type") or infotext_values(info).get("Schedule type")
    used = info.get("sampler_name")
    if (
        config.sampler
        and used
        and not same_sampler(config.sampler, config.scheduler, str(used), schedule)
    ):
        yield f"sampler {config.sampler} was requested, but {shown(used)} was used"
    if config.scheduler and schedule and not same_name(config.scheduler, str(schedule)):
        yield f"scheduler {config.scheduler} was requested, but {shown(schedule)} was used"
    clip_skip = info.get("clip_skip")
    if config.clip_skip and clip_skip and clip_skip != config.clip_skip:
        yield f"clip_skip {config.clip_skip} was requested, but {shown(clip_skip)} was used"


def _refining(
    config: Txt2ImgConfig | Img2ImgConfig,
    extra_parameters: Mapping[str, Any],
    features: ServerFeatures,
    shown: Shown,
) -> Iterator[str]:
    hires = getattr(config, "hires", None)
    model = config.model
    if hires is not None and hires.enabled and hires.model not in (None, SAME_CHECKPOINT):
        if config.refiner is None or config.refiner.acts_in in (None, "second"):
            model = hires.model
        yield from _evidence("Hires checkpoint", hires.model, extra_parameters, features, shown)
    if hires is not None and hires.enabled:
        start = "Hires Module "
        yield from _loaded_modules("hires modules", hires.modules, start, extra_parameters, shown)
    refiner = config.refiner
    # A server does not switch to a refiner whose model is already loaded.
    if refiner is None or not refiner.enabled:
        return
    if _known_stem(str(refiner.model), features) != _known_stem(str(model), features):
        yield from _refiner_evidence(refiner, extra_parameters, features, shown)
        acted = extra_parameters.get("Hires refiner")
        wanted = HIRES_PASSES.get(refiner.acts_in or "")
        if hires is not None and wanted and acted not in (None, wanted):
            yield f"refiner pass {wanted} was requested, but {shown(acted)} was used"


def _refiner_evidence(
    refiner: RefinerConfig,
    extra_parameters: Mapping[str, Any],
    features: ServerFeatures,
    shown: Shown,
) -> Iterator[str]:
    yield from _evidence("Refiner", refiner.model, extra_parameters, features, shown)
    switch_at = extra_parameters.get("Refiner switch at")
    if isinstance(switch_at, int | float) and switch_at != refiner.switch_at:
        yield f"refiner switch_at {refiner.switch_at} was requested, but {switch_at} was used"


def _evidence(
    name: str,
    asked: str | None,
    extra_parameters: Mapping[str, Any],
    features: ServerFeatures,
    shown: Shown,
) -> Iterator[str]:
    used = extra_parameters.get(name)
    if used is None:
        if features.product != SD_NEXT:  # SD.Next uses other names, if any.
            yield f"{name} {asked} was requested, but the server does not report that it used one"
    elif stem(used) != _known_stem(str(asked), features):
        yield f"{name} {asked} was requested, but {shown(used)} was used"


def _detailing(
    config: AdetailerConfig,
    info: Mapping[str, Any],
    extra_parameters: Mapping[str, Any],
    _: ServerFeatures,
    shown: Shown,
) -> Iterator[str]:
    for name, value in _SKIPPED_IMG2IMG:
        if info.get(name) != value:
            yield (
                f"ADetailer alone was requested, but the server reports {name} "
                f"{shown(info.get(name))} instead of {value}: it may have repainted the whole image"
            )
    for place, one in enumerate(config.passes):
        ordinal = _ORDINALS[place] if place < len(_ORDINALS) else f" {place + 1}th"
        used = extra_parameters.get(f"ADetailer model{ordinal}")
        if used is None:
            yield f"ADetailer pass {place + 1} ({one.model}) was requested, but did not run"
        elif stem(used) != stem(one.model):
            yield (
                f"ADetailer model {one.model} was requested in pass {place + 1}, "
                f"but {shown(used)} was used"
            )


_Comparison = Callable[
    [Any, Mapping[str, Any], Mapping[str, Any], ServerFeatures, Shown], Iterator[str]
]
_COMPARISONS: Mapping[str, _Comparison] = {
    "txt2img": _sampling,
    "img2img": _sampling,
    "adetailer": _detailing,
}
"""By stage, what its answers report; of an upscale they report no settings."""
