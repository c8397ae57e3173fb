"""Resolves a txt2img or img2img request to the work that it asks for, or refuses it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ...statemachine.stages import StageConfig
from ..backends.embedded.infotext import extra_parameters
from ..backends.embedded.settings import passes_of
from .api_errors import ApiError, client_error, server_error
from .bodies import Body
from .offered_names import (
    DETAILER_VERSION,
    SCRIPTS,
    Checkpoint,
    Checkpoints,
    Sampling,
    sampling_of,
)
from .request_mapping import (
    NO_MODEL,
    DetailerPass,
    adetailer_config,
    check_hires_modules,
    img2img_config,
    refiner_config,
    sampling_settings,
    txt2img_config,
    with_known_detectors,
)
from .schema import ApiSchema
from .settings import Loaded

if TYPE_CHECKING:
    from PIL.Image import Image

_BOUNDS = {
    "steps": (1, 100_000),
    "hr_second_pass_steps": (0, 100_000),
    "batch_size": (1, 1_000),
    "images": (1, 1_000),
    "width": (8, 100_000),
    "height": (8, 100_000),
}
"""The least and the largest value of each number; the backend limits the pixels."""

_SEEDS = 4_294_967_294
_ADETAILER = "adetailer"
_DETAILER_SCHEMA = "ADetailerArgs"
_FLAGS = 2


class Work(NamedTuple):
    """A request with models, sampler and seed resolved, and the work for each of its images.

    ``seed`` is drawn where the request says -1; image k has ``seed`` + k. ``refiner`` and
    ``hires_model`` are None where they do not take part. Each of ``configs`` works on the picture
    of the one before. ``skips`` says that ADetailer replaces the img2img; ``claims`` is what
    ADetailer reports about itself.
    """

    asked: Body
    loaded: Loaded
    sampling: Sampling
    seed: int
    refiner: Checkpoint | None
    hires_model: Checkpoint | None
    configs: tuple[StageConfig, ...]
    source: Image | None
    mask: Image | None
    skips: bool = False
    claims: Mapping[str, Any] = {}

    @property
    def images(self) -> int:
        """The number of requested images."""
        return int(self.asked.all["n_iter"] * self.asked.all["batch_size"])

    @property
    def phases(self) -> list[int]:
        """The steps of each pass over an image, in order."""
        return [steps for config in self.configs for steps in passes_of(config)]


def check_scripts(asked: Body) -> None:
    """Raises ApiError, 422, for scripts that the server does not have."""
    for name in (*asked.all["alwayson_scripts"], asked.all["script_name"]):
        if name and name.lower() not in SCRIPTS:
            raise client_error(422, f"Script '{name}' not found")


def work_of(
    asked: Body,
    loaded: Loaded,
    models: Checkpoints,
    schema: ApiSchema,
    source: Image | None,
    mask: Image | None,
) -> Work:
    """The work of a request; with ``source`` it is an img2img.

    Raises ApiError, 500, for unknown models and for numbers out of bounds.
    """
    fields = asked.all
    _check_numbers(fields)
    sampler = asked.given.get("sampler_name") or asked.given.get("sampler_index")
    sampling = sampling_of(sampler, fields["scheduler"])
    seed = secrets.randbelow(_SEEDS) if fields["seed"] == -1 else fields["seed"]
    refiner = _model(fields["refiner_checkpoint"], models)
    hires_model = _model(fields["hr_checkpoint_name"], models) if fields.get("enable_hr") else None
    if fields.get("enable_hr") and schema.product.needs_hires_modules:
        check_hires_modules(asked)
    settings = sampling_settings(asked, loaded, sampling, seed, schema.product)
    config_of = txt2img_config if source is None else img2img_config
    refined = None if refiner is None else refiner_config(asked, loaded)
    config = config_of(asked, settings, refined)
    work = Work(asked, loaded, sampling, seed, refiner, hires_model, (config,), source, mask)
    arguments = _detailer_arguments(fields["alwayson_scripts"])
    passes = _detailer_passes(arguments, loaded.detailer_passes, schema)
    skips = source is not None and len(arguments) > 1 and arguments[1] is True
    # ADetailer does not skip an inpainting; it does nothing then.
    if not passes or (skips and mask is not None):
        return work
    detail = adetailer_config(settings, passes)
    return work._replace(
        configs=(*(() if skips else (config,)), with_known_detectors(detail)),
        skips=skips,
        claims=extra_parameters(detail) | {"ADetailer version": DETAILER_VERSION},
    )


def _check_numbers(fields: Mapping[str, Any]) -> None:
    numbers = {**fields, "images": fields["n_iter"] * fields["batch_size"]}
    for name, (least, most) in _BOUNDS.items():
        if not least <= numbers.get(name, least) <= most:
            words = f"{name} is {numbers[name]}; it must be within {least} to {most}"
            raise server_error("RuntimeError", words)


def _model(name: str | None, models: Checkpoints) -> Checkpoint | None:
    if name is None or name in NO_MODEL:
        return None
    found = models.closest(name)
    if found is None:
        raise server_error("Exception", f"Could not find checkpoint with name {name}")
    return found


def _detailer_arguments(scripts: Mapping[str, Any]) -> list[Any]:
    """ADetailer's arguments; none unless it is named."""
    for name, table in scripts.items():
        arguments = table.get("args") if isinstance(table, dict) else None
        if name.lower() == _ADETAILER and isinstance(arguments, list):
            return arguments
    return []


def _detailer_passes(
    arguments: list[Any], most_passes: int, schema: ApiSchema
) -> list[DetailerPass]:
    """The passes in the arguments; none if ADetailer ignores them for any reason.

    It does so silently if it is switched off, if no pass names a detector, and if
    any pass fails validation. Flags that are not booleans mean: enabled, nothing skipped.
    Passes beyond ``most_passes`` are dropped.
    """
    arguments = arguments[: _FLAGS + most_passes]
    tables = [one for one in arguments if isinstance(one, dict)][:most_passes]
    if not tables or arguments[0] is False:
        return []
    known = schema.defaults(_DETAILER_SCHEMA)
    if not all(table.keys() <= known.keys() for table in tables):
        return []
    try:
        filled = [known | schema.valid_fields(table, _DETAILER_SCHEMA, ()) for table in tables]
    except ApiError:
        return []
    return [
        (fields, table)
        for fields, table in zip(filled, tables, strict=True)
        if fields["ad_model"] != "None" and fields["ad_tab_enable"]
    ]
