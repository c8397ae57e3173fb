"""The checkpoints that the run of a plan loads, in order."""

from __future__ import annotations

from typing import Any

import pytest
from stagewright.statemachine import build_stage_execution_plan
from stagewright.statemachine.plan.checkpoints import checkpoints, count_requests
from stagewright.statemachine.run.requests import request_spans

from .support import STAGE_TABLES, TXT2IMG, document

REFINER = {"model": "r", "switch_at": 0.8}
HIRES = {"scale": 2.0, "denoise": 0.5}


def loaded(config: dict[str, Any]) -> list[str]:
    """The checkpoints of a configuration."""
    return list(checkpoints(build_stage_execution_plan(config)))


def txt2img(**keys: Any) -> dict[str, Any]:
    """A configuration of one stage with the model m, and these keys."""
    return document(txt2img={**TXT2IMG, "model": "m", **keys})


def test_a_stage_loads_its_model_once_and_later_stages_their_own() -> None:
    config = txt2img() | {"img2img": {**STAGE_TABLES["img2img"], "model": "n"}, "images": 3}
    config |= {"upscale": STAGE_TABLES["upscale"], "adetailer": STAGE_TABLES["adetailer"]}
    assert loaded(config) == ["m", "n", "n", "n"]


def test_a_refiner_switches_back_for_every_request() -> None:
    assert loaded(txt2img(refiner=REFINER) | {"images": 2}) == ["m", "r", "m", "r"]
    assert loaded(txt2img(refiner=REFINER, batch_size=2) | {"images": 3}) == ["m", "r"] * 2


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"hires": HIRES}, ["m", "m"]),
        ({"hires": {**HIRES, "model": "h"}}, ["m", "h"]),
        ({"hires": HIRES, "refiner": REFINER}, ["m", "r", "r"]),
        ({"hires": {**HIRES, "model": "h"}, "refiner": REFINER}, ["m", "r", "h"]),
        (
            {"hires": {**HIRES, "model": "h"}, "refiner": {**REFINER, "pass": "second"}},
            ["m", "h", "r"],
        ),
        (
            {"hires": {**HIRES, "model": "h"}, "refiner": {**REFINER, "pass": "both"}},
            ["m", "r", "h", "r"],
        ),
        ({"hires": {**HIRES, "enabled": False, "model": "h"}}, ["m"]),
    ],
)
def test_a_hires_pass_loads_its_model_and_the_refiner_acts_in_its_pass(
    keys: dict[str, Any], expected: list[str]
) -> None:
    assert loaded(txt2img(**keys)) == expected


def test_passes_of_adetailer_load_their_checkpoints_for_each_image() -> None:
    passes = [{"model": "face.pt", "checkpoint": "c"}, {"model": "hand.pt"}]
    config = txt2img() | {"adetailer": {"passes": passes}, "images": 2}
    assert loaded(config) == ["m", *["m", "c", "m"] * 2]


def test_without_a_model_nothing_is_loaded() -> None:
    config = {"input_image": "x.png", "upscale": STAGE_TABLES["upscale"]}
    assert loaded(config) == []


@pytest.mark.parametrize(("images", "batch_size"), [(1, 1), (7, 3), (4, 8), (6, 2)])
def test_requests_are_counted_as_they_are_made(images: int, batch_size: int) -> None:
    tables = {**STAGE_TABLES["img2img"], "batch_size": batch_size}
    one = txt2img(batch_size=batch_size) | {"img2img": tables, "images": images}
    other = {**one, "input_image": "x.png"}
    del other["txt2img"]
    other["img2img"] = {**other["img2img"], **{key: TXT2IMG[key] for key in ("sampler", "model")}}
    other["img2img"] |= {"cfg_scale": 7.0}
    for config in (one, other):
        plan = build_stage_execution_plan(config)
        for stage in plan.stages:
            assert count_requests(stage, plan) == len(list(request_spans(stage, plan)))
