"""The plan builder on values: bounds, required keys, refiner and hires, sizes that follow."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from stagewright.statemachine import (
    ConfigurationError,
    InvalidStagePlanError,
    RunConfig,
    build_stage_execution_plan,
)
from stagewright.statemachine.config.document import (
    apply_overrides,
    document_to_record,
    parse_document,
)
from stagewright.statemachine.stages import HiresConfig, Txt2ImgConfig, UpscaleConfig

from .support import TXT2IMG, document
from .test_plan import image, plan_of, settings_of, with_inputs

SIZE = "at least 8, at most 65536, a multiple of 8"
STEPS = "at least 1, at most 100000"
SHARE = "at least 0, at most 1"
FACTOR = "above 0, at most 64"
INNER = "above 0, below 1"
PASS = "adetailer.passes.0"

BOUNDS: list[tuple[str, tuple[str, ...], str]] = [
    ("seed", ("-2", "4294967296"), "at least -1, at most 4294967295"),
    ("images", ("0", "-1", "100001"), "at least 1, at most 100000"),
    ("txt2img.steps", ("0", "-3", "100001"), STEPS),
    ("txt2img.width", ("0", "-64", "4", "100", "65544"), SIZE),
    ("txt2img.height", ("0", "-64", "4", "100", "65544"), SIZE),
    ("txt2img.clip_skip", ("0", "13"), "at least 1, at most 12"),
    ("txt2img.batch_size", ("0", "100001"), "at least 1, at most 100000"),
    ("txt2img.refiner.switch_at", ("0", "1", "-0.1", "1.5", "0.0", "1.0"), INNER),
    ("txt2img.hires.scale", ("0", "-1.5", "64.5", "1e308"), FACTOR),
    ("txt2img.hires.steps", ("0", "-1"), STEPS),
    ("txt2img.hires.denoise", ("-0.01", "1.01"), SHARE),
    ("img2img.denoise", ("-0.01", "1.01"), SHARE),
    ("img2img.steps", ("0", "-1"), STEPS),
    ("img2img.seed", ("-2", "4294967296"), "at least -1, at most 4294967295"),
    ("img2img.clip_skip", ("0", "13"), "at least 1, at most 12"),
    ("img2img.width", ("0", "12"), SIZE),
    ("img2img.height", ("0", "12"), SIZE),
    ("img2img.resize_mode", ("-1", "4"), "at least 0, at most 3"),
    ("img2img.refiner.switch_at", ("0", "1"), INNER),
    ("upscale.factor", ("0", "-2.0", "65.0", "1e308"), FACTOR),
    ("upscale.upscaler_2_visibility", ("-0.1", "1.1"), SHARE),
    ("upscale.gfpgan_visibility", ("-0.1", "1.1"), SHARE),
    ("upscale.codeformer_visibility", ("-0.1", "1.1"), SHARE),
    ("upscale.codeformer_weight", ("-0.1", "1.1"), SHARE),
    (f"{PASS}.confidence", ("-0.1", "1.1"), SHARE),
    (f"{PASS}.denoise", ("-0.1", "1.1"), SHARE),
    (f"{PASS}.mask_k", ("-1",), "at least 0"),
    (f"{PASS}.mask_min_ratio", ("-0.1", "1.1"), SHARE),
    (f"{PASS}.mask_max_ratio", ("-0.1", "1.1"), SHARE),
    (f"{PASS}.mask_blur", ("-1",), "at least 0"),
    (f"{PASS}.padding", ("-1",), "at least 0"),
    (f"{PASS}.width", ("0", "12", "65544"), SIZE),
    (f"{PASS}.height", ("0", "12"), SIZE),
    (f"{PASS}.steps", ("0",), STEPS),
    (f"{PASS}.noise_multiplier", ("0.4", "1.6"), "at least 0.5, at most 1.5"),
    (f"{PASS}.clip_skip", ("0", "13"), "at least 1, at most 12"),
    ("txt2img.cfg_scale", ("-1", "-0.5"), "at least 0"),
    ("txt2img.hires.cfg_scale", ("-1",), "at least 0"),
    ("img2img.cfg_scale", ("-1",), "at least 0"),
    (f"{PASS}.cfg_scale", ("-1",), "at least 0"),
    ("steps", ("0", "-1"), STEPS),
    ("cfg_scale", ("-1",), "at least 0"),
    ("width", ("0", "100"), SIZE),
    ("hires_upscale_factor", ("0", "65"), FACTOR),
    ("refiner_switch_at", ("0", "1"), INNER),
    ("adetailer_strength", ("1.5",), SHARE),
    ("server.connect_timeout_s", ("0", "-1"), "above 0"),
    ("server.stall_timeout_s", ("0", "-1"), "above 0"),
    ("server.total_timeout_s", ("0", "-1"), "above 0"),
    ("server.retries", ("-1", "101"), "at least 0, at most 100"),
]  # fmt: skip
STATED: list[tuple[str, tuple[str, ...], str]] = [
    ("txt2img.hires.resize_x", ("0", "100", "65544"), SIZE),
    ("txt2img.hires.resize_y", ("0", "100"), SIZE),
    ("upscale.width", ("0", "100", "65544"), SIZE),
    ("upscale.height", ("0", "100"), SIZE),
]
EDGES = (
    "txt2img.steps=1", "txt2img.width=8", "txt2img.height=65536", "txt2img.clip_skip=12",
    "txt2img.refiner.switch_at=0.01", "txt2img.refiner.switch_at=0.99", "txt2img.hires.denoise=0",
    "txt2img.hires.denoise=1", "txt2img.hires.scale=0.5", "txt2img.cfg_scale=0",
    "img2img.denoise=0", "img2img.denoise=1", "img2img.seed=-1", "img2img.resize_mode=3",
    "upscale.factor=0.5", "upscale.codeformer_weight=1", f"{PASS}.mask_k=0", f"{PASS}.denoise=0",
    f"{PASS}.dilate_erode=-8", f"{PASS}.x_offset=-3",
)  # fmt: skip


def full() -> dict[str, Any]:
    """All four stages, with refiners and hires."""
    config = document("txt2img", "img2img", "upscale", "adetailer")
    refiner = {"model": "refiner", "switch_at": 0.8}
    config["txt2img"] |= {"refiner": refiner, "hires": {"scale": 1.5, "denoise": 0.4}}
    config["img2img"] |= {"refiner": dict(refiner)}
    return config


def full_with_stated_sizes() -> dict[str, Any]:
    """As ``full``, with sizes in the place of factors."""
    config = full()
    config["txt2img"]["hires"] = {"resize_x": 128, "resize_y": 128, "denoise": 0.4}
    config["upscale"] = {"upscaler": "Lanczos", "width": 256, "height": 256}
    return config


def refused(config: dict[str, Any], *overrides: str) -> InvalidStagePlanError:
    with pytest.raises(InvalidStagePlanError) as error:
        build_stage_execution_plan(apply_overrides(config, overrides))
    return error.value


def cases(table: list[tuple[str, tuple[str, ...], str]]) -> list[tuple[str, str, str]]:
    return [(key, value, words) for key, values, words in table for value in values]


def check_names_key_value_and_bounds(
    error: InvalidStagePlanError, key: str, value: str, words: str
) -> None:
    shown = str(error).removeprefix(f"{key} = ").removesuffix(f" must be {words}")
    assert str(error) == f"{key} = {shown} must be {words}"
    assert float(shown) == float(value)
    assert error.key == key


@pytest.mark.parametrize(("key", "value", "words"), cases(BOUNDS))
def test_a_value_out_of_bounds_is_refused(key: str, value: str, words: str) -> None:
    """The error names the dotted key, the value and the bounds."""
    check_names_key_value_and_bounds(refused(full(), f"{key}={value}"), key, value, words)


@pytest.mark.parametrize(("key", "value", "words"), cases(STATED))
def test_a_target_size_out_of_bounds_is_refused(key: str, value: str, words: str) -> None:
    """Target sizes of hires and upscale are stated sizes: multiples of 8, never floored."""
    error = refused(full_with_stated_sizes(), f"{key}={value}")
    check_names_key_value_and_bounds(error, key, value, words)


@pytest.mark.parametrize("override", EDGES)
def test_the_bounds_themselves_are_taken(override: str) -> None:
    """A value at the edge of its bounds makes a plan that holds it."""
    key, _, value = override.partition("=")
    plan = build_stage_execution_plan(apply_overrides(full(), [override]))
    held: Any = {stage.stage_type: msgspec.to_builtins(stage.config) for stage in plan.stages}
    for part in key.split("."):
        held = held[int(part) if part.isdigit() else part]
    assert held == float(value)


@given(st.integers(-100, 70_000), st.sampled_from(["width", "height"]))
@example(65_536, "width")
def test_stated_sizes_are_multiples_of_8_or_refused(side: int, key: str) -> None:
    """Exactly the positive multiples of 8 up to the bound pass, and are kept as they are."""
    config = document(txt2img=TXT2IMG | {key: side})
    if side % 8 == 0 and 0 < side <= 65_536:
        stage = build_stage_execution_plan(config).stages[0]
        assert getattr(stage.config, key) == side
    else:
        assert str(refused(config)) == f"txt2img.{key} = {side} must be {SIZE}"


@pytest.mark.parametrize(
    ("key", "stages"),
    [
        *((f"txt2img.{name}", ("txt2img",)) for name in TXT2IMG),
        *((f"img2img.{name}", ("img2img",)) for name in ("denoise", "steps", "model", "sampler")),
        ("img2img.cfg_scale", ("img2img",)),
        ("img2img.steps", ("txt2img", "img2img")),
        ("img2img.denoise", ("txt2img", "img2img")),
        ("upscale.upscaler", ("upscale",)),
        ("upscale.factor", ("txt2img", "upscale")),
        ("adetailer.passes", ("txt2img", "adetailer")),
        (f"{PASS}.model", ("txt2img", "adetailer")),
    ],
)
def test_a_missing_field_is_named(key: str, stages: tuple[str, ...]) -> None:
    """An enabled stage that lacks what it needs is refused, naming stage and field."""
    config = copy.deepcopy(document(*stages, input_image="in.png"))
    table: Any = config
    for part in key.split(".")[:-1]:
        table = table[int(part) if part.isdigit() else part]
    del table[key.rpartition(".")[2]]
    error = refused(config)
    assert str(error).startswith(f"{key} is missing")
    assert error.key == key


@pytest.mark.parametrize("stages", [("txt2img",), ("img2img",)])
def test_generation_needs_a_prompt(stages: tuple[str, ...]) -> None:
    """A missing prompt is refused, naming the stage that needs it; an empty one is a prompt."""
    config = document(*stages, input_image="in.png")
    del config["prompt"]
    error = refused(config)
    assert (str(error), error.key) == (
        f"prompt is missing; an enabled {stages[0]} needs it",
        "prompt",
    )
    assert settings_of(build_stage_execution_plan(config | {"prompt": ""}))["prompt"] == ""


def test_a_field_that_only_the_plan_fills_in_cannot_be_set() -> None:
    """Neither in a document nor in Python: the top-level prompt is the one that counts."""
    config = document("txt2img")
    config["txt2img"]["prompt"] = "a windmill"
    with pytest.raises(ConfigurationError, match=r"unknown key txt2img\.prompt"):
        parse_document(config)
    table = Txt2ImgConfig(**TXT2IMG, prompt="a windmill")
    with pytest.raises(InvalidStagePlanError, match=r"unknown key txt2img\.prompt"):
        build_stage_execution_plan(RunConfig(prompt="a lighthouse", txt2img=table))


def test_a_prompt_of_its_own_is_enough_for_img2img() -> None:
    """img2img needs no top-level prompt where it has one; upscale needs none at all."""
    config = document("img2img", input_image="in.png")
    config["img2img"]["prompt"] = config.pop("prompt")
    assert build_stage_execution_plan(config).summary == "img2img"
    enlarge = document("upscale", input_image="in.png")
    del enlarge["prompt"]
    assert build_stage_execution_plan(enlarge).summary == "upscale"


@pytest.mark.parametrize("override", ["txt2img.model=' '", "upscale.upscaler=''"])
def test_a_blank_name_is_a_missing_one(override: str) -> None:
    """A name of nothing but spaces names nothing."""
    key = override.partition("=")[0]
    assert str(refused(full(), override)).startswith(f"{key} is missing")


@pytest.mark.parametrize("stage", ["txt2img", "img2img"])
@pytest.mark.parametrize("name", ["model", "switch_at"])
def test_a_refiner_needs_a_model_and_where_to_switch(stage: str, name: str) -> None:
    """An enabled refiner without either is refused, in both generation stages."""
    config = full()
    del config[stage]["refiner"][name]
    error = refused(config)
    assert str(error).startswith(f"{stage}.refiner.{name} is missing")
    assert error.key == f"{stage}.refiner.{name}"


@pytest.mark.parametrize(
    ("hires", "key", "words"),
    [
        ({"scale": 2.0}, "denoise", "is missing"),
        ({"denoise": 0.4}, "scale", "is missing: set scale, or resize_x and resize_y"),
        ({"denoise": 0.4, "scale": 2.0, "resize_x": 128}, "scale", "= 2.0 and a target size"),
        ({"denoise": 0.4, "scale": 2.0, "resize_y": 128}, "scale", "= 2.0 and a target size"),
    ],
)
def test_hires_needs_one_way_to_its_size(hires: dict[str, Any], key: str, words: str) -> None:
    """Neither scale nor target size is refused, and so are both, and a missing denoise."""
    error = refused(document(txt2img=TXT2IMG | {"hires": hires}))
    assert str(error).startswith(f"txt2img.hires.{key} {words}")
    assert error.key == f"txt2img.hires.{key}"


@pytest.mark.parametrize(
    ("upscale", "key", "words"),
    [
        ({}, "factor", "is missing: set factor, or width and height"),
        ({"width": 128}, "height", "is missing"),
        ({"height": 128}, "width", "is missing"),
        ({"factor": 2.0, "width": 128}, "factor", "= 2.0 and a target size exclude each other"),
    ],
)
def test_upscale_needs_one_way_to_its_size(upscale: dict[str, Any], key: str, words: str) -> None:
    """A factor, or width and height; not both, not half of a size."""
    error = refused(document("txt2img", upscale={"upscaler": "Lanczos", **upscale}))
    assert str(error).startswith(f"upscale.{key} {words}")
    assert error.key == f"upscale.{key}"


def test_a_stated_upscale_size_is_kept() -> None:
    """Width and height in the place of a factor are the size of what comes out."""
    plan = build_stage_execution_plan(full_with_stated_sizes())
    sizes = {str(stage.stage_type): stage.output_size for stage in plan.stages}
    assert (sizes["txt2img"], sizes["upscale"]) == ((128, 128), (256, 256))
    assert plan.warnings == ()


@pytest.mark.parametrize(
    ("hires", "made", "warned"),
    [
        ({"scale": 1.5}, (96, 96), None),
        ({"scale": 1.3}, (80, 80), "txt2img.hires.scale: 83.2x83.2 is made 80x80, multiples of 8"),
        ({"resize_x": 128, "resize_y": 256}, (128, 256), None),
        ({"resize_x": 128}, (128, 128), None),
        ({"resize_y": 72}, (72, 72), None),
    ],
)
def test_the_hires_pass_gives_its_size(
    hires: dict[str, Any], made: tuple[int, int], warned: str | None
) -> None:
    """A stated size is kept, one that follows from a scale is floored with a warning."""
    plan = plan_of(txt2img=TXT2IMG | {"hires": {"denoise": 0.4, **hires}})
    assert plan.stages[0].output_size == made
    assert plan.warnings == ((warned,) if warned else ())


def test_a_warning_is_given_once_whatever_the_inputs() -> None:
    """Inputs of two sizes beside txt2img, whose hires pass floors one size."""
    txt2img = TXT2IMG | {"hires": {"denoise": 0.4, "scale": 1.3}}
    images = [image(70, 66, "a.png"), image(64, 64, "b.png")]
    plan = build_stage_execution_plan(with_inputs(document(txt2img=txt2img), *images))
    assert plan.warnings == (
        "txt2img.hires.scale: 83.2x83.2 is made 80x80, multiples of 8",
        "input_image is not used, because txt2img is enabled",
    )


def test_each_input_size_that_is_floored_is_warned_of() -> None:
    """img2img without a size cuts its inputs to the grid, upscale its products."""
    images = [image(70, 66, "a.png"), image(64, 64, "b.png"), image(41, 8, "c.png")]
    repainted = build_stage_execution_plan(with_inputs(document("img2img"), *images))
    assert repainted.stages[0].output_size is None
    assert repainted.warnings == (
        "input: 70x66 is made 64x64, multiples of 8",
        "input: 41x8 is made 40x8, multiples of 8",
    )
    enlarged = build_stage_execution_plan(with_inputs(document("upscale"), image(70, 64)))
    assert enlarged.stages[0].output_size == (136, 128)
    assert enlarged.warnings == ("upscale.factor: 140x128 is made 136x128, multiples of 8",)


@given(
    st.integers(1, 128).map(lambda side: side * 8),
    st.floats(0.01, 8, allow_subnormal=False),
    st.booleans(),
)
@example(24, 1.3333333333, True)  # 31.9999999992 is meant to be 32
def test_sizes_that_follow_are_the_next_multiples_of_8_below(
    side: int, factor: float, by_hires: bool
) -> None:
    """Whatever the factor: on the grid, at most 8 below the exact size, warned of if not it."""
    txt2img: dict[str, Any] = TXT2IMG | {"width": side, "height": side}
    config = document(txt2img=txt2img)
    if by_hires:
        txt2img["hires"] = {"scale": factor, "denoise": 0.5}
    else:
        config["upscale"] = {"upscaler": "Lanczos", "factor": factor}
    plan = build_stage_execution_plan(config)
    size = plan.stages[-1].output_size
    assert size is not None
    for made, exact in zip(size, (side * factor, side * factor), strict=True):
        assert made % 8 == 0
        assert made == 8 or exact - 8 < made <= exact + 1e-6
    assert bool(plan.warnings) == (size != pytest.approx((side * factor, side * factor), abs=1e-6))


def test_a_configuration_built_in_python_is_checked_like_a_document() -> None:
    """Wrong types are refused naming key and value; whole numbers become fractions."""
    table = Txt2ImgConfig(
        model="base", sampler="Euler a", steps=3, cfg_scale=7, width=64, height=64
    )
    plan = build_stage_execution_plan(RunConfig(prompt="a lighthouse", txt2img=table))
    assert b'"cfg_scale":7.0' in msgspec.json.encode(plan.stages[0].config)
    few = msgspec.structs.replace(table, steps=0)
    with pytest.raises(InvalidStagePlanError, match=r"txt2img\.steps = 0 must be at least 1"):
        build_stage_execution_plan(RunConfig(prompt="a lighthouse", txt2img=few))
    wrong = msgspec.structs.replace(table, steps="many")
    with pytest.raises(InvalidStagePlanError, match="steps = 'many' must be a whole number"):
        build_stage_execution_plan(RunConfig(prompt="a lighthouse", txt2img=wrong))


def test_a_disabled_table_built_in_python_is_not_checked() -> None:
    """As in a document: nothing of a stage, a refiner or a hires pass that is off is used."""
    hires = HiresConfig(enabled=False, scale=-1.0)
    table = Txt2ImgConfig(**TXT2IMG, hires=hires)
    off = UpscaleConfig(enabled=False, factor=-1.0)
    config = RunConfig(prompt="a lighthouse", seed=100, txt2img=table, upscale=off)
    plan = plan_of("txt2img")
    assert build_stage_execution_plan(config).stages == plan.stages
    assert document_to_record(config)["upscale"] == {"enabled": False, "factor": -1.0}
