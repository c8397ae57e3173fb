"""The options of the server, and the ``override_settings`` of requests."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from .api_errors import server_error
from .model_catalogue import VAES, Checkpoint, Checkpoints

DEFAULTS: Mapping[str, Any] = {
    "samples_save": True,
    "samples_format": "png",
    "samples_filename_pattern": "",
    "save_images_add_number": True,
    "grid_save": True,
    "grid_format": "png",
    "grid_only_if_multiple": True,
    "return_grid": True,
    "enable_pnginfo": True,
    "jpeg_quality": 80,
    "img_downscale_threshold": 4.0,
    "outdir_txt2img_samples": "outputs/txt2img-images",
    "outdir_img2img_samples": "outputs/img2img-images",
    "outdir_extras_samples": "outputs/extras-images",
    "upscaling_max_images_in_cache": 5,
    "upscaler_for_img2img": None,
    "face_restoration": False,
    "face_restoration_model": "CodeFormer",
    "code_former_weight": 0.5,
    "sd_model_checkpoint": None,
    "sd_checkpoint_hash": "",
    "sd_checkpoints_limit": 1,
    "sd_vae": "Automatic",
    "sd_vae_overrides_per_model_preferences": True,
    "CLIP_stop_at_last_layers": 1,
    "tiling": False,
    "randn_source": "GPU",
    "hires_fix_refiner_pass": "second pass",
    "initial_noise_multiplier": 1.0,
    "img2img_color_correction": False,
    "img2img_fix_steps": False,
    "eta_ancestral": 1.0,
    "eta_noise_seed_delta": 0,
    "live_previews_enable": False,
    "show_progress_every_n_steps": 10,
    "s_churn": 0.0,
    "s_tmin": 0.0,
    "s_tmax": 0.0,
    "s_noise": 1.0,
    "ad_max_models": 4,
    "ad_save_previews": False,
    "ad_save_images_before": False,
}
"""Options of a WebUI that clients read; most of them have no effect."""

_MODEL, _VAE, _CLIP_SKIP = "sd_model_checkpoint", "sd_vae", "CLIP_stop_at_last_layers"
_VAE_WORDS = ("Automatic", "None")


class Loaded(NamedTuple):
    """The options that a request uses.

    ``model``, ``vae`` and ``clip_skip`` are as a client asked for them, None where none
    ever did, and so is ``refiner_pass``; ``checkpoint`` is the model that is really loaded.
    """

    checkpoint: Checkpoint
    model: str | None
    vae: str | None
    clip_skip: int | None
    refiner_pass: str | None
    detailer_passes: int


class Settings:
    """The options of one server. Safe from any thread."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self._lock = threading.Lock()
        self._set: dict[str, Any] = {}

    def values(self) -> dict[str, Any]:
        """All options; the loaded model is given by its title."""
        with self._lock:
            values = {**DEFAULTS, **self._set}
        checkpoint = self._checkpoint(values[_MODEL])
        return values | {_MODEL: checkpoint.title, "sd_checkpoint_hash": checkpoint.sha256}

    def update(self, changes: Mapping[str, Any]) -> None:
        """Set options permanently.

        Raises ApiError, 500, for an unknown option, model or VAE, and sets nothing then.
        """
        self._check_keys(changes)
        model, vae = changes.get(_MODEL), changes.get(_VAE)
        if model is not None and self._checkpoints.find(str(model)) is None:
            raise server_error("RuntimeError", f"model {model!r} not found")
        if vae is not None and not _is_vae(vae):
            raise server_error("RuntimeError", f"VAE {vae!r} not found")
        with self._lock:
            self._set.update(changes)

    def loaded(self, overrides: Mapping[str, Any] | None) -> Loaded:
        """The options of a request with these ``override_settings``.

        A model or VAE that is not known is silently ignored. Raises ApiError, 500, for an
        option that is not known.
        """
        with self._lock:
            values = self._set | self.accepted(overrides)
        # A client may send the defaults explicitly; they change no picture.
        values = {key: value for key, value in values.items() if value != DEFAULTS[key]}
        model, vae = values.get(_MODEL), values.get(_VAE)
        clip_skip = values.get(_CLIP_SKIP)
        return Loaded(
            self._checkpoint(model),
            None if model is None else str(model),
            None if vae is None else str(vae),
            clip_skip if isinstance(clip_skip, int) else None,
            values.get("hires_fix_refiner_pass"),
            int(values.get("ad_max_models", DEFAULTS["ad_max_models"])),
        )

    def accepted(self, overrides: Mapping[str, Any] | None) -> dict[str, Any]:
        """The overrides that take effect. Raises ApiError, 500, for an unknown option."""
        asked = dict(overrides or {})
        self._check_keys(asked)
        if asked.get(_MODEL) is None or self._checkpoints.find(str(asked[_MODEL])) is None:
            asked.pop(_MODEL, None)
        if not _is_vae(asked.get(_VAE)):
            asked.pop(_VAE, None)
        return asked

    def keep(self, overrides: Mapping[str, Any] | None) -> None:
        """Keep the overrides of a request, if it asks for that."""
        accepted = self.accepted(overrides)
        with self._lock:
            self._set.update(accepted)

    def _checkpoint(self, name: object) -> Checkpoint:
        found = None if name is None else self._checkpoints.find(str(name))
        return found or self._checkpoints.every[0]

    def _check_keys(self, keys: Mapping[str, Any]) -> None:
        for key in keys:
            if key not in DEFAULTS:
                raise server_error("KeyError", repr(key))


def _is_vae(name: object) -> bool:
    stems = (vae.rpartition(".")[0] for vae in VAES)
    return name in (*VAES, *_VAE_WORDS, *stems)
