"""Which names a plan makes a server look up. Pure: a plan in, names out."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import msgspec

from ....statemachine.config.stage_configs import (
    AdetailerConfig,
    AdetailerPass,
    HiresConfig,
    Img2ImgConfig,
    RefinerConfig,
    Txt2ImgConfig,
    UpscaleConfig,
)
from ....statemachine.plan.plan import StageExecutionPlan

_LONGEST_SHOWN = 200
"""A name is cut to this in messages."""


class NameKind(StrEnum):
    """What a name is a name of; each kind is looked up in lists of its own."""

    CHECKPOINT = "checkpoint"
    VAE = "vae"
    SAMPLER = "sampler"
    SCHEDULER = "scheduler"
    UPSCALER = "upscaler"
    HIRES_UPSCALER = "hires upscaler"
    DETECTOR = "detector"
    STYLE = "style"


class NameUse(msgspec.Struct, frozen=True):
    """A name that a server is sent, and the configuration's key that it comes from.

    ``partner`` is the scheduler that goes with a sampler, or the sampler that goes with a
    scheduler: old servers take both as one name. ``exact`` says that no alias will do.
    """

    kind: NameKind
    key: str
    name: str
    partner: str | None = None
    exact: bool = False


class Verdict(StrEnum):
    """What became of looking for a name; ``NOT_CHECKED`` where the server offers no list."""

    FOUND = "found"
    MISSING = "missing"
    NOT_CHECKED = "not_checked"


class NameCheck(msgspec.Struct, frozen=True):
    """One name that a configuration uses, and the server's ``nearest`` where it lacks it."""

    kind: NameKind
    key: str
    name: str
    verdict: Verdict
    nearest: tuple[str, ...] = ()

    def complaint(self) -> str:
        """What is wrong with a missing name, in words."""
        shown = self.name[:_LONGEST_SHOWN]
        return f'{self.key} = "{shown}" is not on the server{self.suggestion()}'

    def suggestion(self) -> str:
        """``; did you mean "base.safetensors"?``, or nothing."""
        quoted = " or ".join(f'"{name[:_LONGEST_SHOWN]}"' for name in self.nearest)
        return f"; did you mean {quoted}?" if quoted else ""


AUTOMATIC = "automatic"
"""The scheduler that leaves the choice to the sampler, in lower case."""

NO_VAE = frozenset(["Automatic", "None"])
"""What leaves the choice of a VAE to the server, or to the model."""

_KNOWN_EVERYWHERE = {
    NameKind.VAE: NO_VAE,
    NameKind.UPSCALER: frozenset(["None"]),
    NameKind.HIRES_UPSCALER: frozenset(["None"]),
}
SAME_CHECKPOINT = "Use same checkpoint"
SAME_AS_THE_STAGE = frozenset(
    [SAME_CHECKPOINT, "Use same VAE", "Use same sampler", "Use same scheduler"]
)
"""What a pass may say instead of a name."""


def names_used(plan: StageExecutionPlan) -> tuple[NameUse, ...]:
    """The names that ``plan`` has a server look up, in the order of its stages.

    A name that a stage inherits is there once, at the key that it comes from. Names that
    every server knows (VAE "None", scheduler "Automatic") are left out.
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
                # All but its passes it has from the stages before.
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
    """One use, or none: an empty name stands for the server's own choice."""
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
