"""Compares the model, VAE and clip skip of the images of a stage with each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ....statemachine.ports import GenerateRequest
from ..infotext_settings import infotext_values

_NAMES: Mapping[str, str] = {
    "sd_model_name": "model",
    "sd_model_hash": "model hash",
    "sd_vae_name": "vae",
    "sd_vae_hash": "vae hash",
    "clip_skip": "clip skip",
}
_MODULE = "Module "
"""How Forge names a VAE or text encoder in an infotext: ``Module 1``."""


def differences_in_stage(request: GenerateRequest, info: Mapping[str, Any]) -> Iterator[str]:
    """A message for each setting that differs from the first answer of the stage, in any epoch.

    ``info`` is without credentials, like that of the first answer.
    """
    if request.first_answer is None:
        return
    index, recorded = request.first_answer
    first, used = _settings(recorded), _settings(info)
    for name in first:
        if name in used and used[name] != first[name]:
            yield (
                f"image {request.image_index + 1} was made with {name} {used[name]}, "
                f"image {index + 1} of this stage with {first[name]}; "
                "another client changed the server's settings"
            )


def _settings(info: Mapping[str, Any]) -> dict[str, Any]:
    """What an answer reports; a hash that the server has not computed is left out."""
    used = {
        name: info[key]
        for key, name in _NAMES.items()
        if key in info and not (info[key] is None and key != "sd_vae_name")
    }
    values = infotext_values(info)
    if values:
        modules = [value for name, value in values.items() if name.startswith(_MODULE)]
        used["modules"] = ", ".join(map(str, modules))
    return used
