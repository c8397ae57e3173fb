"""Compares the settings that a server reports with those of the request.

A server that does not know a name answers 200 and uses another one, so each answer is compared
with its request. Settings that the answer does not report cannot be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

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
_MODULE, _HIRES_MODULE = "Module ", "Hires Module "
"""How Forge names a VAE or text encoder in an infotext: ``Module 1``."""
_ORDINALS = ("", " 2nd", " 3rd")
_SKIPPED_IMG2IMG = (("width", 128), ("height", 128), ("steps", 1))
"""The values that a server reports when ADetailer skips img2img, as requested."""
HASHES = {NameKind.LORA: "Lora hashes", NameKind.EMBEDDING: "TI hashes"}
"""By kind, where an answer names those that were used."""
_SAME_IN_STAGE: Mapping[str, str] = {
    "sd_model_name": "model",
    "sd_model_hash": "model hash",
    "sd_vae_name": "vae",
    "sd_vae_hash": "vae hash",
    "clip_skip": "clip skip",
}
"""What the images of a stage have in common, by where an answer reports it."""

_Generating = Txt2ImgConfig | Img2ImgConfig
_Sampled = _Generating | AdetailerConfig


class AnswerComparison:
    """Compares an answer's ``info`` with its request; each method gives messages.

    Values of the server pass through ``shown``, which removes secrets; the values themselves are
    compared.
    """

    def __init__(
        self,
        request: GenerateRequest,
        info: Mapping[str, Any],
        features: ServerFeatures,
        shown: Callable[[Any], Any],
    ) -> None:
        self._request = request
        self._info = info
        self._extra = extra_parameters(info)
        self._texts = infotext_values(info)
        self._features = features
        self._shown = shown

    def differences(self) -> Iterator[str]:
        """The settings that differ from the request; of an upscale none are reported."""
        config = self._request.config
        if not isinstance(config, _Sampled):
            return
        yield from self._models(config)
        yield from self._seeds()
        if isinstance(config, AdetailerConfig):
            yield from self._passes(config)
        else:
            yield from self._sampler(config)
            yield from self._refining(config)

    def unused_fields(self, body: Mapping[str, Any]) -> Iterator[str]:
        """The values of the ``body`` that the plan does not set and that were not used."""
        overrides = body.get("override_settings") or {}
        is_planned = getattr(self._request.config, "clip_skip", None) is not None
        clip_skip = None if is_planned else overrides.get("CLIP_stop_at_last_layers")
        distilled, hires_scale = body.get("distilled_cfg_scale"), "Hires Distilled CFG Scale"
        yield from self._mistaken_scale()
        # A model without such a scale reports none.
        for name, sent, used in (
            ("clip skip", clip_skip, self._info.get("clip_skip")),
            ("hires CFG scale", body.get("hr_cfg"), self._extra.get("Hires CFG Scale")),
            ("Distilled CFG Scale", distilled, self._number("Distilled CFG Scale")),
            ("Shift", distilled, self._number("Shift")),
            (hires_scale, body.get("hr_distilled_cfg"), self._number(hires_scale)),
        ):
            if sent and used is not None and used != sent:
                yield f"{name} {sent} was sent, but {self._shown(used)} was used"

    def skipped_names(self, kinds: Collection[NameKind]) -> Iterator[str]:
        """The LoRAs and embeddings of the prompts that the server did not use.

        The server reports the hashes of these ``kinds``.
        """
        for kind in kinds:
            reported = str(self._extra.get(HASHES[kind]) or "")
            used = {pair.rpartition(":")[0].strip().casefold() for pair in reported.split(",")}
            if not reported and isinstance(self._request.config, AdetailerConfig):
                continue  # It is not known whether the request around ADetailer reports any.
            for name in self._names_to_report(kind):
                if name.replace(",", "").casefold() not in used:
                    yield f"{kind} {name} was requested, but the server skipped it"

    def differences_in_stage(self) -> Iterator[str]:
        """The settings that differ from the first answer of the stage, in any epoch.

        Both answers are without credentials.
        """
        request = self._request
        if request.first_answer is None:
            return
        index, recorded = request.first_answer
        first, used = _settings_in_stage(recorded), _settings_in_stage(self._shown(self._info))
        for name in first:
            if name in used and used[name] != first[name]:
                yield (
                    f"image {request.image_index + 1} was made with {name} {used[name]}, "
                    f"image {index + 1} of this stage with {first[name]}; "
                    "another client changed the server's settings"
                )

    def _other(self, what: str, used: object) -> str:
        return f"{what} was requested, but {self._shown(used)} was used"

    def _number(self, name: str) -> float | None:
        """The number in a value of the infotext; None for anything else."""
        try:
            return float(self._texts[name])
        except (KeyError, ValueError):
            return None

    def _mistaken_scale(self) -> Iterator[str]:
        """A message if the model took a distilled CFG scale as its shift, or the other way."""
        pairs = (("distilled_cfg_scale", "Distilled CFG Scale"), ("shift", "Shift"))
        for (key, name), (_, other) in (pairs, pairs[::-1]):
            sent = getattr(self._request.config, key, None)
            if sent is not None and name not in self._texts and other in self._texts:
                yield f"{key} {sent} was requested, but the model used it as its {other}"

    def _names_to_report(self, kind: NameKind) -> Iterable[str]:
        """The LoRAs or embeddings in the prompts whose hashes an answer reports.

        A server before 1.10 reports the LoRAs of the hires pass instead of those of the first. It
        reports the embeddings of the first only.
        """
        config = self._request.config
        hires = config.hires if isinstance(config, Txt2ImgConfig) else None
        if kind is NameKind.LORA and hires is not None and hires.enabled:
            of_hires = _names_in(kind, hires.prompt)
            if of_hires:
                return of_hires
        if not isinstance(config, _Sampled):
            return ()
        # The latter with its styles.
        texts = [config.prompt, *_first(self._info.get("all_prompts"))]
        if kind is NameKind.EMBEDDING:
            texts += [config.negative_prompt, *_first(self._info.get("all_negative_prompts"))]
        return _names_in(kind, *texts)

    def _stem(self, name: object) -> str:
        """The stem that the server reports for a model requested by any of its names."""
        return (self._features.stems or {}).get(str(name)) or stem(name)

    def _models(self, config: _Sampled) -> Iterator[str]:
        used = self._info.get("sd_model_name")
        if config.model and used and stem(used) != self._stem(config.model):
            yield self._other(f"model {config.model}", used)
        yield from self._loaded_modules("modules", config.modules, self._texts, _MODULE)
        if config.vae is None or config.vae in NO_VAE:
            return
        is_forge = self._features.product == FORGE
        modules = _starting(self._texts, _MODULE)
        if is_forge and self._texts and vae_stem(config.vae) not in map(vae_stem, modules):
            yield self._other(f"vae {config.vae}", ", ".join(modules) or "no module")
        if "sd_vae_name" not in self._info:
            return
        vae = self._info["sd_vae_name"]
        # Forge loads VAEs as modules and does not report them here.
        if vae_stem(vae) != vae_stem(config.vae) and not (vae is None and is_forge):
            yield self._other(f"vae {config.vae}", vae)

    def _loaded_modules(
        self, key: str, wanted: tuple[str, ...] | None, reported: Mapping[str, Any], start: str
    ) -> Iterator[str]:
        """A message if the server loaded other VAEs and text encoders; their order is free."""
        if wanted is None or not reported:
            return
        used = _starting(reported, start)
        if {*map(stem, wanted)} - _NO_MODULE != {*map(stem, used)} - _NO_MODULE:
            loaded, asked = (", ".join(map(str, names)) or "no module" for names in (used, wanted))
            yield f"{key} {asked} were requested, but {self._shown(loaded)} were used"

    def _seeds(self) -> Iterator[str]:
        request, info = self._request, self._info
        used = info.get("all_seeds")
        wanted = [request.seed + place for place in range(request.count)]
        if isinstance(used, list) and used and used[: len(wanted)] != wanted:
            found = self._shown(used[: len(wanted)])
            yield f"seeds {wanted} were requested, but {found} were used"
        subseed, reported = getattr(request.config, "subseed", None), info.get("subseed")
        if subseed is not None and reported not in (None, subseed):
            yield self._other(f"subseed {subseed}", reported)

    def _sampler(self, config: _Generating) -> Iterator[str]:
        # A fallback appears in the infotext only.
        schedule = self._extra.get("Schedule type") or self._texts.get("Schedule type")
        sampler, scheduler = config.sampler, config.scheduler
        used = self._info.get("sampler_name")
        if sampler and used and not same_sampler(sampler, scheduler, str(used), schedule):
            yield self._other(f"sampler {sampler}", used)
        if scheduler and schedule and not same_name(scheduler, str(schedule)):
            yield self._other(f"scheduler {scheduler}", schedule)
        clip_skip = self._info.get("clip_skip")
        if config.clip_skip and clip_skip and clip_skip != config.clip_skip:
            yield self._other(f"clip_skip {config.clip_skip}", clip_skip)

    def _refining(self, config: _Generating) -> Iterator[str]:
        hires = config.hires if isinstance(config, Txt2ImgConfig) else None
        model, refiner = config.model, config.refiner
        if hires is not None and hires.enabled:
            if hires.model not in (None, SAME_CHECKPOINT):
                if refiner is None or refiner.acts_in in (None, "second"):
                    model = hires.model
                yield from self._evidence("Hires checkpoint", hires.model)
            modules = hires.modules
            yield from self._loaded_modules("hires modules", modules, self._extra, _HIRES_MODULE)
        # A server does not switch to a refiner whose model is already loaded.
        if refiner is None or not refiner.enabled or self._stem(refiner.model) == self._stem(model):
            return
        yield from self._refiner(refiner)
        acted, wanted = self._extra.get("Hires refiner"), HIRES_PASSES.get(refiner.acts_in or "")
        if hires is not None and wanted and acted not in (None, wanted):
            yield self._other(f"refiner pass {wanted}", acted)

    def _refiner(self, refiner: RefinerConfig) -> Iterator[str]:
        yield from self._evidence("Refiner", refiner.model)
        switch_at = self._extra.get("Refiner switch at")
        if isinstance(switch_at, int | float) and switch_at != refiner.switch_at:
            yield self._other(f"refiner switch_at {refiner.switch_at}", switch_at)

    def _evidence(self, name: str, asked: str | None) -> Iterator[str]:
        used = self._extra.get(name)
        if used is None:
            if self._features.product != SD_NEXT:  # SD.Next uses other names, if any.
                yield (
                    f"{name} {asked} was requested, but the server does not report that it used one"
                )
        elif stem(used) != self._stem(asked):
            yield self._other(f"{name} {asked}", used)

    def _passes(self, config: AdetailerConfig) -> Iterator[str]:
        for name, value in _SKIPPED_IMG2IMG:
            if self._info.get(name) != value:
                yield (
                    f"ADetailer alone was requested, but the server reports {name} "
                    f"{self._shown(self._info.get(name))} instead of {value}: it may have "
                    "repainted the whole image"
                )
        for place, one in enumerate(config.passes):
            ordinal = _ORDINALS[place] if place < len(_ORDINALS) else f" {place + 1}th"
            used = self._extra.get(f"ADetailer model{ordinal}")
            if used is None:
                yield f"ADetailer pass {place + 1} ({one.model}) was requested, but did not run"
            elif stem(used) != stem(one.model):
                yield (
                    f"ADetailer model {one.model} was requested in pass {place + 1}, "
                    f"but {self._shown(used)} was used"
                )


def extra_parameters(info: Mapping[str, Any]) -> Mapping[str, Any]:
    """What scripts and extensions add to an answer's ``info``."""
    found = info.get("extra_generation_params")
    return found if isinstance(found, Mapping) else {}


def _first(prompts: object) -> list[str]:
    return prompts[:1] if isinstance(prompts, list) else []


def _names_in(kind: NameKind, *texts: str | None) -> Iterable[str]:
    uses = (use for text in texts for use in named_in_text(str(text or ""), "prompt"))
    return dict.fromkeys(use.name for use in uses if use.kind is kind)


def _starting(reported: Mapping[str, Any], start: str) -> list[Any]:
    return [value for name, value in reported.items() if name.startswith(start)]


def _settings_in_stage(info: Mapping[str, Any]) -> dict[str, Any]:
    """What an answer reports; a hash that the server has not computed is left out."""
    used = {
        name: info[key]
        for key, name in _SAME_IN_STAGE.items()
        if key in info and not (info[key] is None and key != "sd_vae_name")
    }
    values = infotext_values(info)
    if values:
        used["modules"] = ", ".join(_starting(values, _MODULE))
    return used


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
