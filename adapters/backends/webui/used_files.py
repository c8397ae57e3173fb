"""The files that a stage makes a server use: models, VAEs, LoRAs, upscalers, detectors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from ....statemachine.ports import GenerateRequest
from ....statemachine.stages import AdetailerConfig, StageConfig, UpscaleConfig
from .features import FORGE, ServerFeatures
from .lists import ServerLists
from .names import (
    NameKind,
    NameUse,
    is_known_everywhere,
    named_in_text,
    names_of_stage,
    prompts_of_stage,
)
from .spellings import AUTOMATIC_VAE, file_of, stem

PLAIN_UPSCALERS = (None, "None", "Lanczos", "Nearest")
"""Upscalers that are no files."""
_FILES = frozenset(
    [
        *(NameKind.CHECKPOINT, NameKind.VAE, NameKind.MODULE, NameKind.UPSCALER),
        *(NameKind.HIRES_UPSCALER, NameKind.DETECTOR, NameKind.LORA, NameKind.EMBEDDING),
        NameKind.STYLE,
    ]
)
_OPTIONS: Mapping[str, NameKind] = {
    "forge_additional_modules": NameKind.MODULE,
    "upscaler_for_img2img": NameKind.UPSCALER,
    "sd_lora": NameKind.LORA,
}
_OTHER_OPTIONS = ("sd_unet", "sd_hypernetwork", "sd_model_refiner")
_NO_FILE: tuple[Any, ...] = (None, "", "None", "Automatic", [])
_OTHER_NETWORK = re.compile(r"<(?!lora:|lyco:)(\w+):([^:<>]+)")
_TOKENS = re.compile(r"[^\W\d_]+|\d|[^\w\s]|_")


class UsedFile(NamedTuple):
    """A file of a server, by ``name`` as it was asked for; ``kind`` None has no list of names."""

    kind: NameKind | None
    name: str
    label: str

    @classmethod
    def of(cls, kind: NameKind, name: str) -> UsedFile:
        label = "model" if kind is NameKind.CHECKPOINT else kind.value
        return cls(kind, name, "upscaler" if kind is NameKind.HIRES_UPSCALER else label)


class UsedFiles:
    """Finds the files that stages use, with the names that a server lists."""

    def __init__(self, lists: ServerLists, features: Callable[[], ServerFeatures]) -> None:
        self._lists = lists
        self._features = features
        self._embeddings: list[tuple[str, str]] | None = None

    def of_stage(self, config: StageConfig, options: Mapping[str, Any]) -> Iterator[UsedFile]:
        """The files that a request of a stage uses, where it is sent with these ``options``.

        Raises ServerError where a list cannot be read.
        """
        uses = [use for use in names_of_stage(config) if self._is_of_file(use)]
        yield from (UsedFile.of(use.kind, use.name) for use in uses)
        yield from (UsedFile(None, name, "script") for name in config.alwayson_scripts or ())
        if isinstance(config, UpscaleConfig):
            yield from _restorers_of_upscale(config)
            return
        styled = self._lists.prompts_of_styles(getattr(config, "styles", None) or ())
        yield from self.in_texts([*prompts_of_stage(config), *styled])
        options = {**options, **(getattr(config, "override_settings", None) or {})}
        yield from self._of_options(config, options)
        yield from _more_of_detailer(config)

    def in_texts(self, texts: Iterable[str]) -> Iterator[UsedFile]:
        """The files that prompts name."""
        for text in texts:
            for use in named_in_text(text, "prompt"):
                yield UsedFile.of(use.kind, use.name)
            for network in _OTHER_NETWORK.finditer(text):
                yield UsedFile(None, network[2].strip(), network[1])
            for name in self._embeddings_in(text):
                yield UsedFile.of(NameKind.EMBEDDING, name)

    def _embeddings_in(self, text: str) -> Iterator[str]:
        """The embeddings that a prompt may use; a server may have thousands."""
        if self._embeddings is None:
            known = [entry.name for entry in self._lists.names(NameKind.EMBEDDING) or ()]
            self._embeddings = [
                (tokens[0], name) for name in known if (tokens := _TOKENS.findall(name.lower()))
            ]
        lowered = text.lower()
        for first, name in self._embeddings:
            if first in lowered and _is_token_in(name, text):
                yield name

    def _is_of_file(self, use: NameUse) -> bool:
        if use.kind not in _FILES or is_known_everywhere(use) or not use.name.strip():
            return False
        if use.kind not in (NameKind.UPSCALER, NameKind.HIRES_UPSCALER):
            return True
        if use.name in PLAIN_UPSCALERS:
            return False
        modes = self._lists.names(NameKind.HIRES_UPSCALER) if ".hires." in use.key else ()
        return not any(use.name in mode.forms for mode in modes or ())

    def _of_options(self, config: StageConfig, options: Mapping[str, Any]) -> Iterator[UsedFile]:
        for key, kind in _OPTIONS.items():
            if key == "forge_additional_modules" and getattr(config, "modules", None) is not None:
                continue
            values = options.get(key)
            for value in values if isinstance(values, list | tuple) else [values]:
                if value not in _NO_FILE and value not in PLAIN_UPSCALERS:
                    yield UsedFile.of(kind, file_of(str(value)))
        for key in _OTHER_OPTIONS:
            if options.get(key) not in _NO_FILE:
                yield UsedFile(None, str(options[key]), key)
        restores = getattr(config, "restore_faces", None) or options.get("face_restoration")
        restores = restores or any(one.restore_face for one in getattr(config, "passes", ()))
        if restores:
            yield UsedFile(None, str(options.get("face_restoration_model")), "face restorer")
        if getattr(config, "vae", None) is None:
            vae = options.get("sd_vae") or AUTOMATIC_VAE
            if vae not in _NO_FILE:
                yield UsedFile.of(NameKind.VAE, str(vae))
        yield from self._beside_models(config, options)

    def _beside_models(self, config: StageConfig, options: Mapping[str, Any]) -> Iterator[UsedFile]:
        """The VAEs that a server takes by itself: those named like the checkpoint."""
        vae = getattr(config, "vae", None) or options.get("sd_vae") or AUTOMATIC_VAE
        if vae != AUTOMATIC_VAE or self._features().product == FORGE:
            return
        known = self._lists.names(NameKind.VAE)
        if known is None:
            yield UsedFile.of(NameKind.VAE, AUTOMATIC_VAE)
        models = [stem(model).casefold() for model in config.checkpoints() if model]
        for entry in known or ():
            if entry.name.casefold().startswith(tuple(models)):
                yield UsedFile.of(NameKind.VAE, entry.name)


def _restorers_of_upscale(config: UpscaleConfig) -> Iterator[UsedFile]:
    if config.gfpgan_visibility:
        yield UsedFile(None, "GFPGAN", "face restorer")
    if config.codeformer_visibility:
        yield UsedFile(None, "CodeFormer", "face restorer")


def _more_of_detailer(config: StageConfig) -> Iterator[UsedFile]:
    for one in config.passes if isinstance(config, AdetailerConfig) else ():
        for name in (one.controlnet_model, one.controlnet_module):
            if name not in _NO_FILE:
                yield UsedFile(None, str(name), "ControlNet")


def _is_token_in(name: str, text: str) -> bool:
    """Whether a prompt may use an embedding, which a server finds by the tokens of its name."""
    pattern = _pattern_of_tokens(name)
    return pattern is not None and pattern.search(text) is not None


@cache
def _pattern_of_tokens(name: str) -> re.Pattern[str] | None:
    """A pattern of the tokens; they may be the end of another word, and stand before a digit."""
    tokens = r"\s*".join(map(re.escape, _TOKENS.findall(name)))
    return re.compile(tokens + r"(?![^\W\d_])", re.IGNORECASE) if tokens else None


def restores_faces_only(request: GenerateRequest) -> bool:
    """Whether pixels show if a face restorer changed the image, because the upscaler is plain."""
    config = request.config
    return (
        isinstance(config, UpscaleConfig)
        and bool(config.gfpgan_visibility or config.codeformer_visibility)
        and config.upscaler in PLAIN_UPSCALERS
        and config.upscaler_2 in PLAIN_UPSCALERS
        and config.crop is None
    )
