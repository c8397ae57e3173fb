"""Flat keys of older tools: the same plan as the nested ones, or a conflict."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stagewright.events.errors import StagewrightError
from stagewright.statemachine import (
    InvalidStagePlanError,
    StageExecutionPlan,
    build_stage_execution_plan,
)
from stagewright.statemachine.config.document import apply_overrides, parse_document
from stagewright.statemachine.config.legacy import RunDocument

from .support import document
from .test_plan import settings_of
from .test_plan_values import full

PASS = "adetailer.passes.0"
HIRES: dict[str, Any] = {"upscaler": "Latent", "scale": 1.5, "steps": 5, "denoise": 0.4}

# Flat key, its value, the nested key that it stands for, and a value that differs.
KEYS: list[tuple[str, Any, str, Any]] = [
    ("model_name", "flat", "txt2img.model", "nested"),
    ("sampler", "flat", "txt2img.sampler", "nested"),
    ("scheduler_name", "flat", "txt2img.scheduler", "nested"),
    ("steps", 17, "txt2img.steps", 18),
    ("cfg_scale", 3.5, "txt2img.cfg_scale", 4.5),
    ("width", 256, "txt2img.width", 264),
    ("height", 256, "txt2img.height", 264),
    ("refiner_model_name", "flat", "txt2img.refiner.model", "nested"),
    ("refiner_switch_at", 0.25, "txt2img.refiner.switch_at", 0.5),
    ("hires_upscale_factor", 2.5, "txt2img.hires.scale", 3.0),
    ("hires_upscaler_name", "flat", "txt2img.hires.upscaler", "nested"),
    ("hires_steps", 7, "txt2img.hires.steps", 8),
    ("hires_denoise", 0.25, "txt2img.hires.denoise", 0.5),
    ("img2img_denoise", 0.25, "img2img.denoise", 0.75),
    ("upscale_model", "flat", "upscale.upscaler", "nested"),
    ("upscale_factor", 3.0, "upscale.factor", 4.0),
    ("adetailer_model", "flat", f"{PASS}.model", "nested"),
    ("adetailer_strength", 0.25, f"{PASS}.denoise", 0.5),
]
SWITCHES = [
    ("txt2img_enabled", "txt2img.enabled"),
    ("img2img_enabled", "img2img.enabled"),
    ("upscale_enabled", "upscale.enabled"),
    ("adetailer_enabled", "adetailer.enabled"),
    ("refiner_enabled", "txt2img.refiner.enabled"),
    ("hires_enabled", "txt2img.hires.enabled"),
]
OF_IMG2IMG = [key for key in KEYS[:9] if "hires" not in key[0]]


def complete() -> dict[str, Any]:
    """Four stages, refiner and hires, every nested key of ``KEYS`` among their settings."""
    config = copy.deepcopy(full())
    config["txt2img"] |= {"scheduler": "Karras", "hires": dict(HIRES)}
    config["adetailer"]["passes"][0]["denoise"] = 0.4
    return config


def put(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """``config`` with ``value`` at a dotted path; None takes the key away."""
    changed: dict[str, Any] = copy.deepcopy(config)
    *path, name = key.split(".")
    table: Any = changed
    for part in path:
        table = table[int(part) if part.isdigit() else part]
    if value is None:
        table.pop(name, None)
    else:
        table[name] = value
    return changed


def plan_of(config: dict[str, Any]) -> StageExecutionPlan:
    return build_stage_execution_plan(config)


def without_conflicts(plan: StageExecutionPlan) -> StageExecutionPlan:
    return msgspec.structs.replace(plan, conflicts=())


def said(plan: StageExecutionPlan) -> list[tuple[str, str, Any, str, Any]]:
    return [
        (one.stage, one.flat_key, one.flat_value, one.nested_key, one.nested_value)
        for one in plan.conflicts
    ]


def test_every_flat_key_stands_in_the_tables_of_this_file() -> None:
    """The flat keys of the configuration are these, and no other."""
    nested = {
        "name", "prompt", "negative_prompt", "seed", "images", "input_image", "txt2img", "img2img",
        "upscale", "adetailer", "metadata", "run", "server", "prompts", "dynamic_prompts",
        "wildcards", "sweep",
    }  # fmt: skip
    flat = {key for key, *_ in KEYS} | {key for key, _ in SWITCHES} | {"input_image_path"}
    assert set(RunDocument.__struct_fields__) == nested | flat | {"extends"}


@pytest.mark.parametrize(("flat", "value", "nested", "_other"), OF_IMG2IMG)
def test_flat_generation_keys_are_of_the_first_enabled_stage(
    flat: str, value: Any, nested: str, _other: Any
) -> None:
    """Without txt2img they speak of img2img; with it, of txt2img alone."""
    config = complete() | {"input_image": "in.png"}
    del config["txt2img"]
    config["img2img"] |= {"model": "m", "sampler": "s", "cfg_scale": 5.0}
    of_img2img = put(config, nested.replace("txt2img", "img2img"), None)
    expected = put(of_img2img, nested.replace("txt2img", "img2img"), value)
    assert plan_of(of_img2img | {flat: value}) == plan_of(expected)


@pytest.mark.parametrize(("flat", "value", "nested", "_other"), KEYS)
def test_keys_that_agree_are_no_conflict(flat: str, value: Any, nested: str, _other: Any) -> None:
    """Both may be there, as long as they say the same."""
    config = put(complete(), nested, value)
    assert plan_of(config | {flat: value}) == plan_of(config)


@pytest.mark.parametrize(("flat", "value", "nested", "other"), KEYS)
def test_keys_that_differ_are_a_conflict(flat: str, value: Any, nested: str, other: Any) -> None:
    """The plan lists stage, both keys and both values; the nested one stands in its stages."""
    config = put(complete(), nested, other)
    plan = plan_of(config | {flat: value})
    assert said(plan) == [(nested.split(".")[0], flat, value, nested, other)]
    assert without_conflicts(plan) == plan_of(config)
    words = f"{nested.split('.')[0]}: {flat} = {value!r} but {nested} = {other!r}"
    assert str(plan.conflicts[0]) == words


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize(("flat", "nested"), SWITCHES)
def test_switches_that_differ_are_a_conflict(flat: str, nested: str, flag: bool) -> None:
    """A table that is there says enabled unless it says otherwise; its word stands."""
    config = put(complete(), nested, flag) | {"input_image": "in.png"}
    config["img2img"] |= {"model": "m", "sampler": "s", "cfg_scale": 5.0}  # if txt2img is off
    assert plan_of(config | {flat: flag}) == plan_of(config)
    plan = plan_of(config | {flat: not flag})
    assert said(plan) == [(nested.split(".")[0], flat, not flag, nested, flag)]
    assert without_conflicts(plan) == plan_of(config)


def test_flat_keys_alone_make_a_whole_run() -> None:
    """A document without any table gives the plan of its nested form."""
    flat = {key: value for key, value, *_ in KEYS} | {key: True for key, _ in SWITCHES}
    nested: dict[str, Any] = {
        "txt2img": {"refiner": {}, "hires": {}}, "img2img": {"steps": 9}, "upscale": {},
        "adetailer": {"passes": [{}]},
    }  # fmt: skip
    top = {"prompt": "a lighthouse", "img2img": {"steps": 9}}
    for _, value, key, _ in KEYS:
        nested = put(nested, key, value)
    assert plan_of(flat | top) == plan_of(nested | {"prompt": "a lighthouse"})


@given(st.sets(st.sampled_from([flat for flat, *_ in KEYS])))
def test_any_set_of_flat_keys_gives_the_nested_plan(chosen: set[str]) -> None:
    """Moving any keys from the tables to the top changes nothing."""
    expected = moved = complete()
    for flat, value, nested, _ in KEYS:
        expected = put(expected, nested, value)
        moved = put(moved, nested, None if flat in chosen else value)
    top = {flat: value for flat, value, *_ in KEYS if flat in chosen}
    assert plan_of(moved | top) == plan_of(expected)


@pytest.mark.parametrize(("flat", "value", "_nested", "_other"), KEYS)
def test_flat_keys_of_a_stage_that_is_off_do_nothing(
    flat: str, value: Any, _nested: str, _other: Any
) -> None:
    """Nothing is enabled or inherited by them, and there is nothing to conflict with."""
    alone = document("upscale", input_image="in.png", img2img={"enabled": False, "denoise": 0.5})
    if flat.startswith("upscale"):
        alone = document("txt2img", upscale={"enabled": False, "factor": 2.0})
    assert plan_of(alone | {flat: value}) == plan_of(alone)


@pytest.mark.parametrize("part", ["refiner", "hires"])
def test_flat_keys_of_a_part_that_is_off_do_nothing(part: str) -> None:
    """Refiner and hires are switched on by their own key, not by the others."""
    keys = {flat: value for flat, value, *_ in KEYS if flat.startswith(f"{part}_")}
    config = document("txt2img")
    assert plan_of(config | keys) == plan_of(config)
    assert plan_of(config | keys | {f"{part}_enabled": False}) == plan_of(config)


def test_flat_hires_needs_txt2img() -> None:
    """``hires_enabled`` without txt2img is refused, and names itself."""
    config = document("img2img", input_image="in.png", hires_enabled=True)
    with pytest.raises(InvalidStagePlanError, match="hires_enabled = true needs txt2img") as error:
        plan_of(config)
    assert error.value.key == "hires_enabled"
    assert plan_of(config | {"hires_enabled": False}).summary == "img2img"


@pytest.mark.parametrize(
    ("flat", "nested", "value"),
    [
        ({"upscale_factor": 3.0}, {"upscale.width": 256, "upscale.height": 128}, 256),
        ({"hires_upscale_factor": 3.0}, {"txt2img.hires.resize_y": 96}, 96),
    ],
)
def test_a_flat_factor_beside_a_nested_size_is_a_conflict(
    flat: dict[str, float], nested: dict[str, int], value: int
) -> None:
    """They say the same thing in other words: listed, and the nested size stands."""
    config = put(put(complete(), "upscale.factor", None), "txt2img.hires.scale", None)
    config |= {"hires_upscale_factor": 1.5, "upscale_factor": 2.0}
    for key, size in nested.items():
        config = put(config, key, size)
    (named,) = flat
    plan = plan_of(config | flat)
    key = next(iter(nested))
    assert said(plan) == [(key.split(".")[0], named, 3.0, key, value)]
    assert without_conflicts(plan) == plan_of(put(config, named, None))


def test_input_image_path_is_input_image() -> None:
    """Either gives the input; both may name the same; two names are a conflict."""
    config = document("img2img")
    expected = plan_of(config | {"input_image": "a.png"})
    assert plan_of(config | {"input_image_path": "a.png"}) == expected
    assert plan_of(config | {"input_image": "a.png", "input_image_path": "a.png"}) == expected
    differing = plan_of(config | {"input_image": "a.png", "input_image_path": "b.png"})
    assert said(differing) == [("input", "input_image_path", "b.png", "input_image", "a.png")]


def test_a_conflict_outlives_a_change_by_a_program() -> None:
    """A loaded configuration that is changed keeps the conflicts that were found in it."""
    loaded = parse_document(complete() | {"steps": 17})
    changed = msgspec.structs.replace(loaded, images=3)
    plan = build_stage_execution_plan(changed)
    assert said(plan) == [("txt2img", "steps", 17, "txt2img.steps", 3)]
    assert plan.images_per_input == 3


@pytest.mark.parametrize("value", [0, "many"])
def test_a_flat_value_that_is_not_used_is_not_checked(value: Any) -> None:
    """Older tools write ``hires_steps = 0`` beside a hires pass that is off."""
    config = document("txt2img")
    assert plan_of(config | {"hires_enabled": False, "hires_steps": value}) == plan_of(config)


@pytest.mark.parametrize("nested", [None, 3])
def test_a_flat_value_out_of_bounds_is_refused_as_it_is_written(nested: int | None) -> None:
    """The bounds of the nested key hold for the flat one, also where the two are in conflict."""
    config = put(complete(), "txt2img.steps", nested) | {"steps": 0}
    with pytest.raises(InvalidStagePlanError, match=r"^steps = 0 must be at least 1") as error:
        plan_of(config)
    assert [one.key for one in error.value.errors] == ["steps"]


@pytest.mark.parametrize(("flat", "value", "nested", "other"), KEYS)
def test_a_flat_override_replaces_the_nested_key_of_a_file(
    flat: str, value: Any, nested: str, other: Any
) -> None:
    """It is of the first generation stage; a nested override replaces the flat key of a file."""
    config = put(complete(), nested, other)
    expected = plan_of(put(config, nested, value))
    assert plan_of(apply_overrides(config, [f"{flat}={value}"])) == expected
    of_file = put(config, nested, None) | {flat: other}
    assert plan_of(apply_overrides(of_file, [f"{nested}={value}"])) == expected
    assert plan_of(apply_overrides(of_file, [f"{flat}={value}"])) == expected


def test_a_flat_override_follows_the_stages_that_other_overrides_switch() -> None:
    """Whichever comes first on the command line."""
    config = complete() | {"input_image": "in.png"}
    config["img2img"] |= {"model": "m", "sampler": "s", "cfg_scale": 5.0}
    overrides = ["cfg_scale=2", "txt2img.enabled=false"]
    for order in (overrides, overrides[::-1]):
        plan = plan_of(apply_overrides(config, order))
        assert plan.conflicts == ()
        assert settings_of(plan, 0)["cfg_scale"] == 2.0


@pytest.mark.parametrize("flat", ["hires_denoise", "steps", "refiner_switch_at", "hires_enabled"])
@pytest.mark.parametrize("stage", [[], [{}], "on", 7], ids=str)
def test_a_flat_key_beside_a_stage_that_is_no_table_names_the_stage(flat: str, stage: Any) -> None:
    """The table that is wrong is reported, not the flat key that belongs in it."""
    config = document("txt2img") | {"txt2img": stage, flat: True}
    with pytest.raises(StagewrightError, match="txt2img"):
        plan_of(config)
