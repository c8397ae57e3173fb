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
    another class has, and for a neighbour that is not registered.
    """
    if kind in _stages:
        return
    name, names, neighbour = kind.stage_type, list(stage_types()), after or before
    if name in names:
        raise ConfigurationError(f"another stage is registered as {name!r}")
    if neighbour is not None and neighbour not in names:
        raise ConfigurationError(f"stage {name!r}: its neighbour {neighbour!r} is not registered")
    place = names.index(neighbour) + (after is not None) if neighbour else len(names)
    _stages.insert(place, kind)


def stage_types() -> Mapping[str, type[StageConfig]]:
    """The registered stages by name, in canonical order."""
    return {kind.stage_type: kind for kind in _stages}


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
    if name not in stage_types():
        load_stages()
    if (kind := stage_types().get(name)) is None:
        raise ConfigurationError(f"no stage {name!r} is registered; install the package with it")
    return msgspec.convert(config, kind)
