"""The options of a server during a run: read once, pinned, and put back at the end."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec

from ....events.codec import json_values
from ....events.model import BackendDescription
from ....statemachine.errors import BackendAnswerError, BackendError
from ....statemachine.stages import StageConfig
from ..http.errors import RequestRefusedError, ServerFailureError
from ..registry import EarlierRun, RunPreparation
from .detailer_payload import OPTIONS_OF_PASSES
from .lists import OPTIONS
from .names import NameKind
from .pass_through import REFINER_PASS, overridden_options
from .payload import Payload
from .progress import ServerProgress
from .server import Server, job_of
from .spellings import loosely, modules_of, vae_stem

VAE = "sd_vae"
CLIP_SKIP = "CLIP_stop_at_last_layers"
MODULES = "forge_additional_modules"
FORMAT = "samples_format"
PINNED = (
    *(VAE, CLIP_SKIP, MODULES, REFINER_PASS),
    *("sd_vae_overrides_per_model_preferences", "sd_vae_encode_method", "sd_vae_decode_method"),
    *("sd_unet", "forge_unet_storage_dtype", "emphasis", "comma_padding_backtrack"),
    *("use_old_emphasis_implementation", "enable_batch_seeds", "lora_functional"),
    *("randn_source", "eta_noise_seed_delta", "eta_ancestral", "eta_ddim", "ddim_discretize"),
    *("s_churn", "s_tmin", "s_tmax", "s_noise", "sigma_min", "sigma_max", "rho"),
    *("always_discard_next_to_last_sigma", "sgm_noise_multiplier", "skip_early_cond"),
    *("uni_pc_variant", "uni_pc_skip_type", "uni_pc_order", "uni_pc_lower_order_final"),
    *("sd_noise_schedule", "beta_dist_alpha", "beta_dist_beta", "use_old_scheduling"),
    *("use_old_karras_scheduler_sigmas", "use_downcasted_alpha_bar"),
    *("no_dpmpp_sde_batch_determinism", "dont_fix_second_order_samplers_schedule"),
    *("refiner_switch_by_sample_steps", "hires_fix_use_firstpass_conds"),
    *("use_old_hires_fix_width_height", "upscaler_for_img2img", "initial_noise_multiplier"),
    *("img2img_extra_noise", "img2img_color_correction", "img2img_fix_steps"),
    *("img2img_background_color", "inpainting_mask_weight", "overlay_inpaint"),
    *("sdxl_crop_top", "sdxl_crop_left", "sd3_enable_t5"),
    *("sdxl_refiner_low_aesthetic_score", "sdxl_refiner_high_aesthetic_score"),
    *("token_merging_ratio", "token_merging_ratio_img2img", "token_merging_ratio_hr"),
    *("s_min_uncond", "s_min_uncond_all", "pad_cond_uncond", "pad_cond_uncond_v0"),
    *("token_merging_stride", "token_merging_downsample", "token_merging_no_rand"),
    *("tiling", "face_restoration", "face_restoration_model", "code_former_weight"),
    *("sd_lora", "extra_networks_default_multiplier", "forge_try_reproduce", "sdxl_zero_neg"),
    *("scaling_factor", "klein_no_reference", "qwen_vae_resize", "use_dynamic_shifting"),
    *("neta_template_positive", "neta_template_negative", "refiner_use_steps", "refiner_fast_sd"),
    *("refiner_lora_replacement", "svdq_cache_threshold", "invert_sigmas", "use_karras_sigmas"),
    *("use_exponential_sigmas", "use_beta_sigmas", "stochastic_sampling"),
)
"""The options that change pixels; ``docs/servers.md`` lists them."""

_SHOWN_BY = {
    NameKind.LORA: "lora_add_hashes_to_infotext",
    NameKind.EMBEDDING: "textual_inversion_add_hashes_to_infotext",
}

QUIET_WAIT_S = 3.0
"""How long to wait for a moment without a job; a job shows its own settings as the server's."""
_LOOK_AGAIN_S = 0.05
_NOT_OFFERED = (RequestRefusedError, BackendAnswerError, ServerFailureError)

options_logger = logging.getLogger("stagewright.webui.options")
"""Warns where options of the server are not pinned, or not put back."""


class PinnedOptions:
    """The options of one server for one run; used by one thread at a time.

    ``recorded`` are those that the run records, None where nothing is known of them. ``sent`` are
    those of them that the server has: each request carries them. The server's infotexts
    have the hashes of the names of the kinds ``shown``. ``checkpoint`` was
    loaded when they were read.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._client = server.client
        self.recorded: Mapping[str, Any] | None = None
        self.sent: Mapping[str, Any] = {}
        self._before: Mapping[str, Any] = {}
        self._overridden: dict[str, list[Any]] = {}
        self._to_restore: frozenset[str] = frozenset()
        self._earlier: Iterable[EarlierRun] = ()
        self._stages: Sequence[StageConfig] = ()
        self._is_secured = True
        self._is_of_older_release = False
        self.shown: frozenset[NameKind] = frozenset()
        self.checkpoint = ""

    @property
    def to_send(self) -> Mapping[str, Any] | None:
        """What requests carry; None for a run of an older release, which pinned nothing."""
        return None if self._is_of_older_release else self.sent

    def pin(self, run: RunPreparation, given: Mapping[str, Any] | None = None) -> None:
        """Take the options of a resumed run, or read those for a new one.

        A new run's are ``given`` where another server comes first. Raises ServerError where the
        server cannot be reached.
        """
        self._earlier = run.earlier(self._server.url)
        self._stages = [stage.config for stage in run.plan.stages]
        if run.recorded is not None:
            self._take(run.recorded, json_values(run.plan))
            return
        # What a run that died left there is undone before, and the server keeps its options.
        self.recorded = {}  # Also where none can be read; a log of an older release has nothing.
        self._server.look_or_fail()
        self._secure()
        own = {key: self._before[key] for key in PINNED if key in self._before}
        self.recorded = own if given is None else given
        sent = {key: value for key, value in self.recorded.items() if key in own}
        self.sent = {**sent, **self._as_png(self._before)}

    def _take(self, recorded: BackendDescription, plan: Mapping[str, Any]) -> None:
        """Take the options that a resumed run recorded; a log of an older release has none.

        The server may still work on a request of the run, so it is asked to keep its options
        before the next request, by ``secure``. Raises ServerError.
        """
        died = EarlierRun(backend=recorded, plan=plan, is_alive=False)
        self._earlier = chain([died], self._earlier)
        self._is_secured = False
        self._is_of_older_release = recorded.options is msgspec.UNSET
        if recorded.options is not msgspec.UNSET:
            self.recorded = recorded.options
            present = self._present() or {}
            pinned = {key: value for key, value in self.recorded.items() if key in present}
            self.sent = {**pinned, **self._as_png(present)}

    @property
    def lacking(self) -> Sequence[str]:
        """The options of the run that the server does not have."""
        return [key for key in self.recorded or {} if key not in self.sent]

    def secure(self) -> None:
        """Do what has to be done before the first request, unless it has been done."""
        if not self._is_secured:
            self._secure()
            self._is_secured = True

    def _secure(self) -> None:
        """Undo what a dead run left, and have the server keep its options. Raises ServerError."""
        present, is_quiet = self._read()
        if present is None:
            return
        if is_quiet:
            present = self._without_leftovers(present)
        living = {} if is_quiet else self._options_of_living()
        present = {**present, **living}
        scrub = self._client.credentials.scrub_values
        own = [key for config in self._stages for key in overridden_options(config)]
        self._before = {
            key: present[key]
            for key in dict.fromkeys((*PINNED, *self._as_png(present), *own))
            if present.get(key) is not None and scrub(present[key]) == present[key]
        }
        if FORMAT in self._before:
            options_logger.warning(
                "%s answers in %s (samples_format); where it does not give PNG on request, quality "
                "is lost from stage to stage; set samples_format to png in its settings",
                self._server.url,
                self._before[FORMAT],
            )
        is_kept = self._keep() if is_quiet else bool(living)
        self._to_restore = frozenset([MODULES] if is_kept else self._before)

    def note_overrides(self, payload: Payload) -> None:
        """Remember what a request that is about to be sent overrides, also in its passes."""
        found = [*payload.overrides.items()]
        for name, option in OPTIONS_OF_PASSES.items():
            found += [(option, one[key]) for one in payload.detailer_passes
                      if (key := f"ad_{name}") in one]  # fmt: skip
        for key, value in found:
            if key in self._to_restore and value not in self._overridden.setdefault(key, []):
                self._overridden[key].append(value)

    def restore(self) -> None:
        """Put back what the server does not put back itself, unless it was changed elsewhere."""
        changed = {
            key: values
            for key, values in self._overridden.items()
            if not all(_is_same(value, self._before[key]) for value in values)
        }
        self._overridden = {}
        if not changed:
            return
        try:
            present = self._client.get(OPTIONS)
            due = {
                key: self._before[key]
                for key, values in changed.items()
                if _is_left(present.get(key), values, self._before[key])
            }
            if due:
                self._client.post(OPTIONS, due)
        except BackendError as error:
            options_logger.warning(
                "the options %s may still be as the run set them: %s", ", ".join(changed), error
            )

    def _present(self) -> Mapping[str, Any] | None:
        """The present options; None where the server does not tell them. Raises ServerError."""
        try:
            found = self._client.get(OPTIONS)
        except _NOT_OFFERED as error:
            options_logger.warning("the server's options are not pinned: %s", error)
            return None
        if not isinstance(found, Mapping):
            return None
        self.checkpoint = str(found.get("sd_model_checkpoint") or "")
        self.shown = frozenset(kind for kind, key in _SHOWN_BY.items() if found.get(key) is True)
        return found

    def _as_png(self, present: Mapping[str, Any]) -> dict[str, str]:
        """The option that asks for PNGs, where the server would answer in another format."""
        return {} if present.get(FORMAT) in (None, "png") else {FORMAT: "png"}

    def _read(self) -> tuple[Mapping[str, Any] | None, bool]:
        """The present options, and whether no job ran meanwhile."""
        deadline = time.monotonic() + QUIET_WAIT_S
        before = self._server.last_look
        while True:
            found = self._present()
            if found is None or not self._server.tells_progress:
                return found, found is not None
            after = self._server.look()
            # What a person changes meanwhile would be undone by the POST that follows.
            if _no_job_between(before, after) and _are_same(found, self._present()):
                return found, True
            if time.monotonic() > deadline:
                return found, False
            time.sleep(_LOOK_AGAIN_S)
            before = after

    def _options_of_living(self) -> Mapping[str, Any]:
        """The options that a run which works on the server now has recorded."""
        self._earlier = list(self._earlier)
        for run in self._earlier:
            if run.is_alive and run.backend.options is not msgspec.UNSET and run.backend.options:
                return run.backend.options
        options_logger.warning(
            "%s: other clients use it now; their settings may be taken for the server's own",
            self._server.url,
        )
        return {}

    def _keep(self) -> bool:
        """Store the options at the server, so that it restores them after each request."""
        try:
            self._client.post(OPTIONS, self._before)
        except BackendError as error:
            options_logger.warning(
                "the server does not store its options, so the run restores them at its end: %s",
                error,
            )
            return False
        return True

    def _without_leftovers(self, present: Mapping[str, Any]) -> Mapping[str, Any]:
        """The options with the modules from before those that another run has left there.

        A run that is alive sends its own again with its next request.
        """
        if MODULES not in present:
            return present
        now = present[MODULES]
        for run in self._earlier:
            for sent, before in _modules_of(run):
                now = before if _is_left(now, sent, before) else now
        if now is present[MODULES]:
            return present
        self._client.post(OPTIONS, {MODULES: now})
        return {**present, MODULES: now}


def _no_job_between(one: ServerProgress | None, other: ServerProgress | None) -> bool:
    """Whether the server was idle at two looks, and ran nothing meanwhile."""
    if one is None or other is None or not (one.idle and other.idle):
        return False
    return job_of(one) == job_of(other)


def _are_same(one: Mapping[str, Any], other: Mapping[str, Any] | None) -> bool:
    """Whether two readings agree in the options that a run pins."""
    return other is not None and all(one.get(key) == other.get(key) for key in (*PINNED, FORMAT))


def _modules_of(run: EarlierRun) -> Iterator[tuple[Sequence[Any], Any]]:
    """The modules that a run set, in any stage or pass, and those that were there before it."""
    options = {} if run.backend.options is msgspec.UNSET else run.backend.options
    stages = run.plan.get("stages")
    configs = [one.get("config") or {} for one in stages] if isinstance(stages, Sequence) else []
    tables = [one for config in configs for one in (config, *(config.get("passes") or ()))]
    loaded = (modules_of(table.get("modules"), table.get("vae")) for table in tables)
    sent = [modules for modules in loaded if modules is not None]
    if MODULES in options and sent:
        yield sent, options[MODULES]


def _is_left(present: Any, sent: Sequence[Any], before: Any) -> bool:
    """Whether an option is still as a request set it, and was something else before."""
    return not _is_same(present, before) and any(_is_same(present, value) for value in sent)


def _is_same(one: Any, other: Any) -> bool:
    """Whether two values of an option are equal; a server reports files by full paths, sorted."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return sorted(map(_file, one)) == sorted(map(_file, other))
    if isinstance(one, str) and isinstance(other, str):
        return vae_stem(one) == vae_stem(other)
    return bool(one == other)


def _file(name: Any) -> str:
    """What files are compared by."""
    return loosely(vae_stem(name))
