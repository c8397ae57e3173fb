"""The plan of a run: which stages, in which order, with which settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from ..config.schema import Conflict
from ..stages.registry import read_config
from ..stages.stage import StageConfig

PER_IMAGE: Literal["per_image"] = "per_image"


class StageExecution(msgspec.Struct, frozen=True, kw_only=True):
    """One stage of a plan.

    ``stage_id`` is unique in the plan (``00-txt2img``), ``order_index`` counts from 0.
    ``input_source`` is ``prompt``, ``file`` or the id of the stage before. ``output_size``
    is the width and height in pixels that the stage will give, where that is known.
    """

    stage_id: str
    stage_type: str
    order_index: int
    config: StageConfig
    requires_input_image: bool
    produces_output_image: bool
    input_source: str
    output_size: tuple[int, int] | None = None
    learning_mode: bool = False
    variant_index: int | None = None
    farm_hint: str | None = None


class StageExecutionPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The stages of a run in canonical order, and what can be told of it beforehand.

    Every stage makes ``total_images`` images: ``images_per_input`` for each of
    ``input_count`` inputs (one where there is none). ``total_steps`` are the sampling steps
    of the whole run, hires and ADetailer passes (one find each) included. ``run_id`` is a
    label from the metadata, not the name of the run folder. With ``prompts``, a stage without
    a prompt or a seed of its own takes those that RunOpened has for each image.
    """

    run_id: str | None
    one_click_action: str | None
    stages: tuple[StageExecution, ...]
    input_count: int
    images_per_input: int
    total_images: int
    total_steps: int
    summary: str
    conflicts: tuple[Conflict, ...] = ()
    warnings: tuple[str, ...] = ()
    prompts: Literal["per_image"] | msgspec.UnsetType = msgspec.UNSET

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> StageExecutionPlan:
        """The plan that a log recorded.

        Raises ConfigurationError for a stage that is not registered, msgspec.ValidationError.
        """
        stages = []
        for stage in msgspec.convert(document.get("stages"), list[dict[str, Any]]):
            planned = msgspec.convert({**stage, "config": {}}, StageExecution)
            config = read_config(planned.stage_type, stage.get("config"))
            stages.append(msgspec.structs.replace(planned, config=config))
        plan = msgspec.convert({**document, "stages": []}, cls)
        return msgspec.structs.replace(plan, stages=tuple(stages))
