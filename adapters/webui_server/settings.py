"""The options of the server, and the ``override_settings`` of requests."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

from .api_errors import server_error
from .offered_names import LISTS, VAES, Checkpoint, Checkpoints, find_module, module_name
from .product import Product

DEFAULTS: Mapping[str, Any] = LISTS["/sdapi/v1/options"]
"""Options of a WebUI that clients read; most of them have no effect."""

_MODEL, _VAE, _CLIP_SKIP = "sd_model_checkpoint", "sd_vae", "CLIP_stop_at_last_layers"
_PASSES = "ad_max_models"
_MODULES = "forge_additional_modules"
_REFINED: Mapping[str | None, Literal["first", "both"]] = {
    "first pass": "first",
    "both passes": "both",
}
"""The passes in which a refiner acts, unless it is the second only."""
_VAE_NAMES = frozenset({"Automatic", "None", *VAES, *(vae.rpartition(".")[0] for vae in VAES)})


class Loaded(NamedTuple):
    """The options that a request uses.

    ``model``, ``vae``, ``clip_skip`` and ``modules`` are as a client asked for them, None where
    none ever did; ``checkpoint`` is the model that is really loaded. ``refined_passes`` are those
    in which a refiner acts beside hires, None for the second only.
    """

    checkpoint: Checkpoint
    model: str | None
    vae: str | None
    clip_skip: int | None
    modules: tuple[str, ...] | None
    refined_passes: Literal["first", "both"] | None
    detailer_passes: int


class Settings:
    """The options of one server. Safe from any thread.

    A request's overrides are the server's options while it runs. Afterwards the server restores
    those that it has stored: the model, and whatever was posted or overridden before. The others
    stay, as on a fresh WebUI.
    """

    def __init__(self, checkpoints: Checkpoints, product: Product) -> None:
        self._checkpoints = checkpoints
        every = {**DEFAULTS, **product.options}
        self._defaults = {key: every[key] for key in every.keys() - product.without}
        self._lock = threading.Lock()
        self._stored: dict[str, Any] = {_MODEL: DEFAULTS[_MODEL]}
        self._overrides: dict[str, Any] = {}

    def values(self) -> dict[str, Any]:
        """All options; the loaded model is given by its title."""
        with self._lock:
            values = {**self._defaults, **self._stored, **self._overrides}
        checkpoint = self._checkpoint(values[_MODEL])
        return values | {_MODEL: checkpoint.title, "sd_checkpoint_hash": checkpoint.sha256}

    def update(self, changes: Mapping[str, Any]) -> None:
        """Set options permanently.

        Raises ApiError, 500, for an unknown option, model or VAE, and sets nothing then.
        """
        ignored = [key for key in changes if key not in self.accepted(changes)]
        for key in ignored:
            if changes[key] is not None:
                raise server_error("RuntimeError", f"{key}: {changes[key]!r} not found")
        with self._lock:
            self._stored.update(changes)

    @contextmanager
    def overridden(self, overrides: Mapping[str, Any], *, restores: bool) -> Iterator[Loaded]:
        """The options of a request with these ``override_settings``, which runs in the block.

        A model or VAE that is not known is silently ignored. Raises ApiError, 500, for an
        option that is not known.
        """
        accepted = self.accepted(overrides)
        with self._lock:
            self._overrides = accepted
            loaded = self._loaded(self._stored | accepted)
        try:
            yield loaded
        finally:
            with self._lock:
                self._overrides = {}
                # Forge restores no modules, stored or not.
                restored = self._stored.keys() - {_MODULES} if restores else set()
                lingering = accepted.keys() - restored
                self._stored |= {key: accepted[key] for key in lingering}

    def _loaded(self, values: Mapping[str, Any]) -> Loaded:
        # A client may send the defaults explicitly; they change no picture.
        values = {key: value for key, value in values.items() if value != self._defaults[key]}
        model, vae, clip_skip = values.get(_MODEL), values.get(_VAE), values.get(_CLIP_SKIP)
        return Loaded(
            self._checkpoint(model),
            None if model is None else str(model),
            None if vae is None else str(vae),
            clip_skip if isinstance(clip_skip, int) else None,
            tuple(map(module_name, values.get(_MODULES) or ())) or None,
            _REFINED.get(values.get("hires_fix_refiner_pass")),
            int(values.get(_PASSES, DEFAULTS[_PASSES])),
        )

    def accepted(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """The overrides that take effect. Raises ApiError, 500, for an unknown option."""
        for key in overrides:
            if key not in self._defaults:
                raise server_error("KeyError", repr(key))
        asked = dict(overrides)
        if self._checkpoints.find(asked.get(_MODEL)) is None:
            asked.pop(_MODEL, None)
        if asked.get(_VAE) not in _VAE_NAMES:
            asked.pop(_VAE, None)
        if isinstance(asked.get(_MODULES), list):
            known = map(find_module, asked[_MODULES])
            asked[_MODULES] = sorted(one["filename"] for one in known if one is not None)
        return asked

    def _checkpoint(self, name: object) -> Checkpoint:
        return self._checkpoints.find(name) or self._checkpoints.every[0]
