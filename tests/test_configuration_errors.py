"""All errors of a configuration at once: each by key, once, with nothing that follows from it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stagewright.statemachine import (
    InvalidStagePlanError,
    RunConfig,
    build_stage_execution_plan,
)
from stagewright.statemachine.config.document import parse_document
from stagewright.statemachine.stages import Txt2ImgConfig

from .support import TXT2IMG
from .test_legacy_keys import KEYS, complete, put
from .test_plan_values import BOUNDS

MISSING = "missing"
PASS = "adetailer.passes.0"
WRONG: dict[str, Any] = {
    "prompt": 3, "seed": "x", "images": 0, "name": [], "metadata": [1], "run": "x",
    "server.retries": 2.5, "server.tls_verify": "yes", "server.transient": ["lost", "gone"],
    "run.durability": "sometimes", "txt2img.steps": True, "txt2img.width": 100, "txt2img.styles": 1,
    "txt2img.tiling": 0, "txt2img.sampler": 7, "txt2img.cfg_scale": float("nan"),
    "txt2img.refiner": [], "txt2img.refiner.switch_at": 1.0, "txt2img.refiner.pass": "third",
    "txt2img.hires.scale": "2", "txt2img.hires.denoise": -1, "img2img": 5, "img2img.seed": -7,
    "img2img.denoise": None, "img2img.steps": 0, "img2img.refiner.model": {}, "upscale.factor": 0,
    "upscale.upscaler": False, "adetailer.passes": {}, f"{PASS}.model": 5, f"{PASS}.merge": "x",
    f"{PASS}.mask_k": -1, "foo": 1, "txt2img.foo": 1, "txt2img.hires.foo": {}, f"{PASS}.foo": [],
    "metadata.deep": [1, 10**30],
}  # fmt: skip
WRONG_BELOW = {"server.transient": "server.transient.1", "metadata.deep": "metadata.deep.1"}
"""Where it is an entry that is wrong."""
LACKING = (
    "prompt", "txt2img.model", "txt2img.steps", "txt2img.cfg_scale", "txt2img.height",
    "txt2img.hires.denoise", "txt2img.hires.scale", "txt2img.refiner.model", "img2img.denoise",
    "img2img.steps", "img2img.refiner.switch_at", "upscale.upscaler", "upscale.factor",
    "adetailer.passes", f"{PASS}.model",
)  # fmt: skip


def is_below(key: str, other: str) -> bool:
    return f"{key}.".startswith(f"{other}.")


@given(st.sets(st.sampled_from(sorted(WRONG)), min_size=1), st.sets(st.sampled_from(LACKING)))
def test_every_planted_error_is_reported_once_by_its_key(
    wrong: set[str], lacking: set[str]
) -> None:
    """Whatever else is wrong, and nothing that is right is reported."""
    lacking -= wrong
    planted = wrong | lacking
    # An error within a table that is itself wrong or missing is not there to be found.
    planted = {key for key in planted if not any(is_below(key, one) for one in planted - {key})}
    config = complete() | {"metadata": {}, "run": {}, "server": {}}
    for key in sorted(planted):
        config = put(config, key, None if key in lacking else WRONG[key])
    if "img2img.denoise" in planted:
        config["img2img"].pop("denoise", None)
    with pytest.raises(InvalidStagePlanError) as refused:
        build_stage_execution_plan(config)
    errors = refused.value.errors
    assert sorted(str(one.key) for one in errors) == sorted(WRONG_BELOW.get(k, k) for k in planted)
    assert str(refused.value).split("\n") == [one.message for one in errors]
    for one in errors:
        assert str(one.key) in one.message
        assert one.message.endswith(one.reason) or one.nearest or one.reason == "unknown key"


@pytest.mark.parametrize("flat", [key for key, *_ in KEYS])
def test_a_wrong_flat_value_is_reported_by_its_own_key(flat: str) -> None:
    """It is the key that the user wrote, whether or not the nested one is there too."""
    nested = next(path for key, _, path, _ in KEYS if key == flat)
    for config in (complete(), put(complete(), nested, None)):
        with pytest.raises(InvalidStagePlanError) as refused:
            build_stage_execution_plan(config | {flat: []})
        assert [one.key for one in refused.value.errors] == [flat]


def test_a_configuration_of_a_program_is_checked_as_a_whole_too() -> None:
    """Fields of Python are not checked when they are set."""
    table = Txt2ImgConfig(**TXT2IMG | {"steps": "many", "width": 3, "model": None})
    with pytest.raises(InvalidStagePlanError) as refused:
        build_stage_execution_plan(RunConfig(images=0, txt2img=table))
    keys = [one.key for one in refused.value.errors]
    assert keys == ["images", "txt2img.steps", "txt2img.width", "prompt", "txt2img.model"]
    assert refused.value.key == "images"


def test_disabled_tables_are_searched_for_unknown_keys_alone() -> None:
    """Nothing in them is used; a misspelt key may be the one that was to switch them on."""
    config = complete()
    config["upscale"] = {"enabled": False, "factor": "x", "fcator": 2}
    config["txt2img"]["hires"] = {"enabled": False, "scale": -1, "denoise": []}
    with pytest.raises(InvalidStagePlanError) as refused:
        parse_document(config)
    assert [(one.key, one.nearest) for one in refused.value.errors] == [
        ("upscale.fcator", "upscale.factor")
    ]


@pytest.mark.parametrize(
    ("top", "stage", "words"),
    [
        (
            {"seed": 4294967294, "images": 3},
            {},
            "seed = 4294967294 must be at most 4294967293 for 3",
        ),
        ({"images": 2}, {"seed": 4294967295}, "img2img.seed = 4294967295 must be at most"),
    ],
)
def test_the_last_images_seed_is_within_what_servers_take(
    top: dict[str, int], stage: dict[str, int], words: str
) -> None:
    """A run must not fail at its last image."""
    config = complete() | top
    config["img2img"] |= stage
    with pytest.raises(InvalidStagePlanError) as refused:
        build_stage_execution_plan(config)
    (error,) = refused.value.errors
    assert error.message.startswith(words)
    fewer = copy.deepcopy(config) | {"images": 2 if stage == {} else 1}
    assert build_stage_execution_plan(fewer).total_images == fewer["images"]


def test_the_bounds_of_this_file_cover_every_table() -> None:
    """A stage that is added is planted with errors as well."""
    tables = {key.partition(".")[0] for key, *_ in BOUNDS if "." in key}
    assert tables <= {key.partition(".")[0] for key in WRONG}
