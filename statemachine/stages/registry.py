"""The stages that there are, in canonical order; other packages add theirs.

A package adds stages with ``register_stage``. An entry point in the group ``stagewright.stages``
names a function without arguments that calls it. Entry points are loaded when a configuration
or a log names a stage that is not registered, so that runs without such stages do not wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec

from ..errors import ConfigurationError
from .adetailer import AdetailerConfig
from .img2img import Img2ImgConfig
from .stage import StageConfig
from .txt2img import Txt2ImgConfig
from .upscale import UpscaleConfig

ENTRY_POINTS = "stagewright.stages"

_stages: list[type[StageConfig]] = [Txt2ImgConfig, Img2ImgConfig, UpscaleConfig, AdetailerConfig]


def register_stage(
    kind: type[StageConfig], *, after: str | None = None, before: str | None = None
) -> None:
    """Add a stage, directly ``after`` or ``before`` a registered one; without either, last.

    To register the same class again changes nothing. Raises ConfigurationError for a name that
    another class has, and for an unknown neighbour.
    """
    if kind in _stages:
        return
    names = list(stage_types())
    if kind.stage_type in names:
        raise ConfigurationError(f"another stage is registered as {kind.stage_type!r}")
    neighbour = after or before
    if neighbour is None:
        _stages.append(kind)
    elif neighbour not in names:
        raise ConfigurationError(
            f"{kind.stage_type!r} is to stand next to {neighbour!r}, which is not registered"
        )
    else:
        _stages.insert(names.index(neighbour) + (after is not None), kind)


def stage_types() -> Mapping[str, type[StageConfig]]:
    """The registered stages by name, in canonical order."""
    return {kind.stage_type: kind for kind in _stages}


def find_stage(name: str) -> type[StageConfig] | None:
    """The stage of this name, of this package or another; None if there is none.

    Raises ConfigurationError for a package whose stage cannot be loaded.
    """
    if name not in stage_types():
        load_stages()
    return stage_types().get(name)


@cache
def load_stages() -> None:
    """Register the stages of all installed packages. Raises ConfigurationError."""
    from importlib.metadata import entry_points  # noqa: PLC0415 - 15 ms that few runs need

    for found in sorted(entry_points(group=ENTRY_POINTS), key=lambda found: found.name):
        try:
            found.load()()
        except Exception as error:
            raise ConfigurationError(
                f"the stage {found.name!r} ({found.value}) cannot be loaded: {error}"
            ) from error


def read_config(name: str, config: Any) -> StageConfig:
    """The configuration of a stage as a log recorded it.

    Raises ConfigurationError for a stage that is not registered, msgspec.ValidationError.
    """
    kind = find_stage(name)
    if kind is None:
        raise ConfigurationError(
            f"no stage {name!r} is registered here; install the package that adds it"
        )
    return msgspec.convert(config, kind)
