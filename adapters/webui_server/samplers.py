"""Names of samplers and schedulers, and how a WebUI replaces unknown ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

SAMPLERS: Mapping[str, tuple[str, ...]] = {
    "DPM++ 2M": ("k_dpmpp_2m",),
    "DPM++ SDE": ("k_dpmpp_sde",),
    "DPM++ 2M SDE": ("k_dpmpp_2m_sde",),
    "DPM++ 2M SDE Heun": ("k_dpmpp_2m_sde_heun",),
    "DPM++ 2S a": ("k_dpmpp_2s_a",),
    "DPM++ 3M SDE": ("k_dpmpp_3m_sde",),
    "Euler a": ("k_euler_a", "k_euler_ancestral"),
    "Euler": ("k_euler",),
    "LMS": ("k_lms",),
    "Heun": ("k_heun",),
    "DPM2": ("k_dpm_2",),
    "DPM2 a": ("k_dpm_2_a",),
    "DPM fast": ("k_dpm_fast",),
    "DPM adaptive": ("k_dpm_ad",),
    "Restart": ("restart",),
    "DDIM": ("ddim",),
    "DDIM CFG++": ("ddim_cfgpp",),
    "PLMS": ("plms",),
    "UniPC": ("unipc",),
    "LCM": ("k_lcm",),
}
"""Samplers with their aliases; a request accepts only the first names, case-sensitive."""

SCHEDULERS: Mapping[str, str] = {
    "automatic": "Automatic",
    "uniform": "Uniform",
    "karras": "Karras",
    "exponential": "Exponential",
    "polyexponential": "Polyexponential",
    "sgm_uniform": "SGM Uniform",
    "kl_optimal": "KL Optimal",
    "align_your_steps": "Align Your Steps",
    "simple": "Simple",
    "normal": "Normal",
    "ddim": "DDIM",
    "beta": "Beta",
}
"""Names and labels; a request accepts both."""

OWN_SCHEDULERS: Mapping[str, str] = {
    "DPM++ 2M": "karras",
    "DPM++ SDE": "karras",
    "DPM++ 2M SDE": "exponential",
    "DPM++ 2M SDE Heun": "exponential",
    "DPM++ 2S a": "karras",
    "DPM++ 3M SDE": "exponential",
    "DPM2": "karras",
    "DPM2 a": "karras",
}
"""What Automatic means for these samplers."""

_FIRST = "DPM++ 2M"
_AUTOMATIC = "Automatic"


class Sampling(NamedTuple):
    """The sampler and scheduler to render with (None if not set), and those in ``info``."""

    sampler: str | None
    scheduler: str | None
    shown_sampler: str
    shown_scheduler: str | None


def scheduler_label(name: str) -> str | None:
    """The label of the scheduler that goes by this name."""
    return next((label for key, label in SCHEDULERS.items() if name in (key, label)), None)


def sampling_of(sampler: str | None, scheduler: str | None) -> Sampling:
    """An unknown sampler silently becomes DPM++ 2M, an unknown scheduler Automatic.

    A known name stays as it was sent; ``DPM++ 2M Karras`` is known as two names in one.
    """
    plain, tail = _split(sampler or "Euler")
    known = plain in SAMPLERS
    shown = plain if known else _FIRST
    label = scheduler_label(scheduler) if scheduler else None
    used = tail or label or _AUTOMATIC
    if used == _AUTOMATIC:
        used = SCHEDULERS.get(OWN_SCHEDULERS.get(shown, ""), _AUTOMATIC)
    return Sampling(
        sampler if known or not sampler else _FIRST,
        scheduler if label or not scheduler else _AUTOMATIC,
        shown,
        None if used == _AUTOMATIC else used,
    )


def _split(name: str) -> tuple[str, str | None]:
    """Split a joint name into the sampler and the label of the scheduler."""
    for key, label in SCHEDULERS.items():
        for tail in (label, key):
            if name.endswith(f" {tail}"):
                return name.removesuffix(f" {tail}"), label
    return name, None
