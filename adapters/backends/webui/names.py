"""Collects the names that a plan uses on a server; a pure function."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import msgspec

from ....statemachine.plan.plan import StageExecutionPlan
from ....statemachine.stages import (
    AdetailerConfig,
    AdetailerPass,
    HiresConfig,
    Img2ImgConfig,
    RefinerConfig,
    Txt2ImgConfig,
    UpscaleConfig,
)

_LONGEST_SHOWN = 200
"""A name is cut to this in messages."""


class NameKind(StrEnum):
    """The kind of a name; each kind has its own lists on the server."""

    CHECKPOINT = "checkpoint"
    VAE = "vae"
    SAMPLER = "sampler"
    SCHEDULER = "scheduler"
    UPSCALER = "upscaler"
    HIRES_UPSCALER = "hires upscaler"
    DETECTOR = "detector"
    STYLE = "style"


class NameUse(msgspec.Struct, frozen=True):
    """A name that is sent to a server, and the key of the configuration that it comes from.

    ``partner`` is the scheduler of a sampler, or the sampler of a scheduler, because old servers
    take both as one name. ``exact`` says that aliases are not accepted.
    """

    kind: NameKind
    key: str
    name: str
    partner: str | None = None
    exact: bool = False


class Verdict(StrEnum):
    """The result of a check; ``NOT_CHECKED`` if the server does not offer the list."""

    FOUND = "found"
    MISSING = "missing"
    NOT_CHECKED = "not_checked"


class NameCheck(msgspec.Struct, frozen=True):
    """The check of one name; ``nearest`` are similar names if it is missing."""

    kind: NameKind
    key: str
    name: str
    verdict: Verdict
    nearest: tuple[str, ...] = ()

    def complaint(self) -> str:
        """The error message for a missing name."""
        shown = self.name[:_LONGEST_SHOWN]
        return f'{self.key} = "{shown}" is not on the server{self.suggestion()}'

    def suggestion(self) -> str:
        """``; did you mean "base.safetensors"?``, or "" without a similar name."""
        quoted = " or ".join(f'"{name[:_LONGEST_SHOWN]}"' for name in self.nearest)
        return f"; did you mean {quoted}?" if quoted else ""


AUTOMATIC = "automatic"
"""The scheduler that leaves the choice to the sampler, in lower case."""

NO_VAE = frozenset(["Automatic", "None"])
"""Values that leave the choice of a VAE to the server or the model."""

_KNOWN_EVERYWHERE = {
    NameKind.VAE: NO_VAE,
    NameKind.UPSCALER: frozenset(["None"]),
    NameKind.HIRES_UPSCALER: frozenset(["None"]),
}
SAME_CHECKPOINT = "Use same checkpoint"
SAME_AS_THE_STAGE = frozenset(
    [SAME_CHECKPOINT, "Use same VAE", "Use same sampler", "Use same scheduler"]
)
"""Values of a pass that stand for the setting of the stage."""


def names_used(plan: StageExecutionPlan) -> tuple[NameUse, ...]:
    """The names that ``plan`` uses on a server, in the order of its stages.

    An inherited name appears once, with the key that it comes from. Names that every server
    knows (VAE "None", scheduler "Automatic") are left out.
    """
    found: list[NameUse] = []
    base: Txt2ImgConfig | None = None
    for stage in plan.stages:
        match stage.config:
            case Txt2ImgConfig() as config:
                base = config
                found += _of_txt2img(config)
            case Img2ImgConfig() as config:
                found += _of_sampling(config, "img2img", base)
            case UpscaleConfig() as config:
                found += _of_upscale(config)
            case AdetailerConfig() as config:
                # Everything except its passes is inherited from earlier stages.
                for place, one in enumerate(config.passes):
                    found += _of_pass(one, f"adetailer.passes.{place}")
    return tuple(dict.fromkeys(use for use in found if not _known_everywhere(use)))


def _known_everywhere(use: NameUse) -> bool:
    if use.kind is NameKind.SCHEDULER:
        return use.name.casefold() == AUTOMATIC
    return use.name in _KNOWN_EVERYWHERE.get(use.kind, ())


def _use(
    kind: NameKind, key: str, name: str | None, partner: str | None = None, *, exact: bool = False
) -> Iterator[NameUse]:
    """One use, or none for an empty name, which leaves the choice to the server."""
    if name is not None and name.strip():
        yield NameUse(kind, key, name, partner, exact)


def _of_txt2img(config: Txt2ImgConfig) -> Iterator[NameUse]:
    yield from _of_sampling(config, "txt2img", None)
    for place, style in enumerate(config.styles or ()):
        yield from _use(NameKind.STYLE, f"txt2img.styles.{place}", style)
    if config.hires is not None and config.hires.enabled:
        yield from _of_hires(config.hires, config.refiner)


def _of_sampling(
    config: Txt2ImgConfig | Img2ImgConfig, stage: str, base: Txt2ImgConfig | None
) -> Iterator[NameUse]:
    def key(name: str) -> str:
        inherited = base is not None and getattr(config, name) == getattr(base, name)
        return f"{'txt2img' if inherited else stage}.{name}"

    yield from _use(NameKind.CHECKPOINT, key("model"), config.model)
    yield from _use(NameKind.VAE, key("vae"), config.vae)
    yield from _use(NameKind.SAMPLER, key("sampler"), config.sampler, config.scheduler)
    yield from _use(NameKind.SCHEDULER, key("scheduler"), config.scheduler, config.sampler)
    refiner = config.refiner
    if refiner is not None and refiner.enabled:
        yield from _use(NameKind.CHECKPOINT, f"{stage}.refiner.model", refiner.model)


def _of_hires(hires: HiresConfig, refiner: RefinerConfig | None) -> Iterator[NameUse]:
    key = "txt2img.hires"
    yield from _use(NameKind.HIRES_UPSCALER, f"{key}.upscaler", hires.upscaler)
    yield from _use(NameKind.SAMPLER, f"{key}.sampler", hires.sampler, exact=True)
    yield from _use(NameKind.SCHEDULER, f"{key}.scheduler", hires.scheduler)
    inherited = refiner is not None and refiner.enabled and hires.model == refiner.model
    if not inherited and hires.model not in SAME_AS_THE_STAGE:
        yield from _use(NameKind.CHECKPOINT, f"{key}.model", hires.model)


def _of_upscale(config: UpscaleConfig) -> Iterator[NameUse]:
    yield from _use(NameKind.UPSCALER, "upscale.upscaler", config.upscaler)
    yield from _use(NameKind.UPSCALER, "upscale.upscaler_2", config.upscaler_2)


def _of_pass(one: AdetailerPass, key: str) -> Iterator[NameUse]:
    named = (
        (NameKind.DETECTOR, "model"),
        (NameKind.CHECKPOINT, "checkpoint"),
        (NameKind.VAE, "vae"),
        (NameKind.SAMPLER, "sampler"),
        (NameKind.SCHEDULER, "scheduler"),
    )
    for kind, name in named:
        value: str | None = getattr(one, name)
        if value not in SAME_AS_THE_STAGE:
            yield from _use(kind, f"{key}.{name}", value)
