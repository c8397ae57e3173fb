"""How a WebUI writes names, and whether two spellings mean the same thing."""

from __future__ import annotations

import re
from collections.abc import Sequence

AUTOMATIC = "automatic"
"""The scheduler that leaves the choice to the sampler, in lower case."""
AUTOMATIC_VAE = "Automatic"
NO_VAE = frozenset([AUTOMATIC_VAE, "None"])
"""Values that leave the choice of a VAE to the server or the model."""
SAME_CHECKPOINT = "Use same checkpoint"
SAME_AS_THE_STAGE = frozenset(
    [SAME_CHECKPOINT, "Use same VAE", "Use same sampler", "Use same scheduler"]
)
"""Values of a pass that stand for the setting of the stage."""

HASH = re.compile(r"\s\[[0-9a-fA-F]+\]$")
"""What the title of a model ends with."""
_DIGITS = 10
_LONG_HASH = re.compile(r"[0-9a-fA-F]{10,64}")
_SUFFIX = re.compile(r"\.(safetensors|ckpt|pth?|sft|gguf|bin)$", re.IGNORECASE)
_VAE_SUFFIX = re.compile(r"\.vae$", re.IGNORECASE)
_SEPARATORS = re.compile(r"[\\/_\-\s]+")
_SLASHES = re.compile(r"[/\\]")
_SCHEDULES_IN_NAMES = ("karras", "exponential", "polyexponential", "sgmuniform")
_BETWEEN_WORDS = re.compile(r"[\W_]+")


def file_of(path: str) -> str:
    """The last part of a path on any system."""
    return _SLASHES.split(path)[-1]


def stem(name: object) -> str:
    """A model's name without folder, hash and suffix, by which models are compared."""
    return _SUFFIX.sub("", HASH.sub("", file_of(str(name))))


def without_suffix(name: str) -> str:
    """A model's path in the server's folder, without hash and suffix."""
    return _SUFFIX.sub("", HASH.sub("", name)).replace("\\", "/")


def known_digits(text: object) -> str:
    """The digits of a SHA-256 that every list and answer shows; "" if it is none.

    The hash of 8 digits that old releases show is made of a part of the file.
    """
    return text[:_DIGITS].lower() if isinstance(text, str) and _LONG_HASH.fullmatch(text) else ""


def vae_stem(name: object) -> str:
    """A VAE's name without folder and suffixes: that of ``x.vae.pt`` is ``x``."""
    return _VAE_SUFFIX.sub("", stem(name))


def modules_of(modules: Sequence[str] | None, vae: str | None) -> Sequence[str] | None:
    """The list in which Forge takes VAE and text encoders; a VAE "None" leaves it empty."""
    if modules is not None or vae is None:
        return modules
    return [] if vae in NO_VAE else [vae]


def loosely(name: str) -> str:
    """A name without separators, and in lower case, by which spellings are compared."""
    return _SEPARATORS.sub("", name).casefold()


def same_sampler(asked: str, scheduler: str | None, used: str, schedule: object) -> bool:
    """Whether two sampler names are equal; before 1.9 a name could include the schedule.

    ``scheduler`` was requested with ``asked``; ``schedule`` is what the server reports, if any.
    """
    asked, used = loosely(asked), loosely(used)
    if used in (asked, asked + loosely(scheduler or "")):
        return True
    if not asked.startswith(used):
        return False
    rest = asked.removeprefix(used)
    return same_name(rest, str(schedule)) if schedule else rest in _SCHEDULES_IN_NAMES


def same_name(asked: str, used: str) -> bool:
    """Whether a scheduler's name and label are equal: ``sgm_uniform``, ``SGM Uniform``."""
    plain, label = (_BETWEEN_WORDS.sub("", name).casefold() for name in (asked, used))
    return plain == label or asked.casefold() == AUTOMATIC
