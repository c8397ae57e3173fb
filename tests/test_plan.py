"""The plan builder: order, combinations, inheritance, sizes, totals, purity."""

from __future__ import annotations

import copy
from itertools import combinations
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stagewright.statemachine import (
    InvalidStagePlanError,
    StageExecutionPlan,
    build_stage_execution_plan,
)
from stagewright.statemachine.config.document import parse_document
from stagewright.statemachine.config.schema import InputImage, RunConfig

from .support import TXT2IMG, document

ORDER = ("txt2img", "img2img", "upscale", "adetailer")
COMBINATIONS = [chosen for count in range(1, 5) for chosen in combinations(ORDER, count)]
PROMPTED = {"prompt": "a lighthouse", "seed": 100}
INHERITED: dict[str, Any] = {
    "model": "base.safetensors",
    "vae": "base.vae.pt",
    "clip_skip": 2,
    "sampler": "DPM++ 2M",
    "scheduler": "Karras",
    "cfg_scale": 6.5,
}


def image(width: int = 64, height: int = 64, name: str = "in.png") -> InputImage:
    return InputImage(path=f"/{name}", media_type="image/png", width=width, height=height)


def with_inputs(config: dict[str, Any], *images: InputImage) -> RunConfig:
    named = {"input_image": "in.png"} if images else {}
    return msgspec.structs.replace(parse_document(config | named), inputs=images)


def plan_of(*stages: str, **top: Any) -> StageExecutionPlan:
    return build_stage_execution_plan(document(*stages, **top))


def settings_of(plan: StageExecutionPlan, place: int = -1) -> dict[str, Any]:
    """A stage's configuration as ``plan --json`` shows it."""
    shown: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(plan.stages[place].config))
    return shown


def refusals(chosen: tuple[str, ...], *, has_input: bool) -> list[str]:
    """The rules of combination, said once more: what is wrong with these stages."""
    wrong = []
    if "adetailer" in chosen and not {"txt2img", "img2img"} & set(chosen):
        wrong.append("adetailer needs txt2img or img2img before it, and none of them is enabled")
    if "txt2img" not in chosen and not has_input:
        wrong.append(f"{chosen[0]} without txt2img needs an input image: set input_image")
    return wrong


@pytest.mark.parametrize("has_input", [False, True])
@pytest.mark.parametrize("chosen", COMBINATIONS, ids="+".join)
def test_every_combination_of_stages_is_ordered_or_refused(
    chosen: tuple[str, ...], has_input: bool
) -> None:
    """Legal stages come in canonical order, each fed by the one before; others are refused."""
    given_document = document(*reversed(chosen))
    wrong = refusals(chosen, has_input=has_input)
    if wrong:
        with pytest.raises(InvalidStagePlanError) as refused:
            with_inputs(given_document, *[image()] * has_input)
        assert str(refused.value).split("\n") == wrong
        return
    config = with_inputs(given_document, *[image()] * has_input)
    plan = build_stage_execution_plan(config)
    ids = [f"{place:02d}-{stage}" for place, stage in enumerate(chosen)]
    first = "prompt" if chosen[0] == "txt2img" else "file"
    assert [stage.stage_type for stage in plan.stages] == list(chosen)
    assert [stage.stage_id for stage in plan.stages] == ids
    assert [stage.order_index for stage in plan.stages] == list(range(len(chosen)))
    assert [stage.input_source for stage in plan.stages] == [first, *ids[:-1]]
    assert [stage.requires_input_image for stage in plan.stages] == [
        stage != "txt2img" for stage in chosen
    ]
    assert all(stage.produces_output_image for stage in plan.stages)
    assert plan.summary == " -> ".join(chosen)


def test_fifteen_combinations_stand_to_trial() -> None:
    """The table above leaves none out: eight are legal alone, thirteen with an input image."""
    alone = [refusals(chosen, has_input=False) for chosen in COMBINATIONS]
    helped = [refusals(chosen, has_input=True) for chosen in COMBINATIONS]
    assert (len(COMBINATIONS), alone.count([]), helped.count([])) == (15, 8, 13)


@pytest.mark.parametrize("top", [{}, {"upscale": {"enabled": False}}, {"txt2img_enabled": False}])
def test_no_stage_enabled_is_refused(top: dict[str, Any]) -> None:
    """A plan is never empty: without a stage the builder raises."""
    with pytest.raises(InvalidStagePlanError, match=r"^No pipeline stages enabled$"):
        build_stage_execution_plan({"prompt": "a lighthouse", **top})


def test_an_invalid_plan_is_a_value_error_that_names_its_key() -> None:
    """Callers may catch ValueError, and find the dotted path in ``key``."""
    with pytest.raises(ValueError, match="needs an input image") as refused:
        plan_of("upscale")
    assert isinstance(refused.value, InvalidStagePlanError)
    assert refused.value.key == "input_image"


@given(st.permutations(list(document(*ORDER, metadata={"run_id": "r"}).items())))
def test_the_order_of_keys_never_matters(items: list[tuple[str, Any]]) -> None:
    """However a document's keys stand, its plan is the same."""
    expected = build_stage_execution_plan(document(*ORDER, metadata={"run_id": "r"}))
    shuffled = {
        key: dict(reversed(value.items())) if isinstance(value, dict) else value
        for key, value in items
    }
    assert build_stage_execution_plan(shuffled) == expected


def test_nothing_is_invented_where_nothing_is_set() -> None:
    """The JSON of a stage holds what was set, the prompt and the seed, and no default."""
    plan = plan_of("txt2img", "upscale")
    assert settings_of(plan, 0) == TXT2IMG | PROMPTED
    assert settings_of(plan, 1) == {"upscaler": "Lanczos", "factor": 2.0}


def test_img2img_inherits_exactly_what_the_contract_lists() -> None:
    """From txt2img: models, clip skip, sampler, scheduler, cfg scale, prompts, styles; no more."""
    base = TXT2IMG | INHERITED | {"batch_size": 2, "tiling": True, "styles": ["x"]}
    base |= {"restore_faces": True, "refiner": {"model": "r", "switch_at": 0.5}}
    plan = plan_of("txt2img", "img2img", txt2img=base, negative_prompt="blurry")
    assert settings_of(plan) == {
        **INHERITED,
        **PROMPTED,
        "negative_prompt": "blurry",
        "styles": ["x"],
        "denoise": 0.5,
        "steps": 3,
    }


@pytest.mark.parametrize(
    ("key", "own"),
    [
        ("model", "own"), ("vae", "own"), ("clip_skip", 3), ("sampler", "own"),
        ("scheduler", "own"), ("cfg_scale", 1.5), ("prompt", "own"), ("negative_prompt", ""),
        ("seed", 7),
    ],
)  # fmt: skip
def test_img2imgs_own_words_stand(key: str, own: Any) -> None:
    """What img2img sets itself is not inherited, and txt2img keeps its own."""
    img2img = {"denoise": 0.5, "steps": 3, key: own}
    base = TXT2IMG | INHERITED
    plan = plan_of("txt2img", img2img=img2img, txt2img=base, negative_prompt="blurry")
    assert settings_of(plan)[key] == own
    assert settings_of(plan, 0)[key] == (base | PROMPTED | {"negative_prompt": "blurry"})[key]


def test_img2img_alone_inherits_from_no_disabled_txt2img() -> None:
    """A txt2img that is switched off lends nothing."""
    img2img = {"denoise": 0.5, "steps": 3, "sampler": "Euler", "cfg_scale": 5.0}
    off = TXT2IMG | INHERITED | {"enabled": False}
    with pytest.raises(InvalidStagePlanError, match=r"img2img\.model is missing"):
        plan_of("img2img", img2img=img2img, txt2img=off, input_image="in.png")


@pytest.mark.parametrize("upscale", [(), ("upscale",)])
def test_adetailer_inherits_from_the_last_generation_stage(upscale: tuple[str, ...]) -> None:
    """Its request takes prompts, seed, models, sampler, steps from img2img, upscaled or not."""
    own = INHERITED | {"model": "i", "prompt": "woodcut", "negative_prompt": "n", "seed": 5}
    img2img = {**own, "denoise": 0.5, "steps": 9, "mask": "m.png", "resize_mode": 1}
    plan = plan_of("txt2img", *upscale, "adetailer", img2img=img2img)
    a_pass = {"model": "face_yolov8n.pt", "width": 64, "height": 64}
    assert settings_of(plan) == {**own, "steps": 9, "passes": [a_pass]}


def test_adetailer_after_txt2img_inherits_from_it() -> None:
    """Without img2img the generation stage is txt2img."""
    plan = plan_of("txt2img", "adetailer", negative_prompt="blurry")
    inherited = {key: TXT2IMG[key] for key in ("model", "sampler", "steps", "cfg_scale")}
    shown = settings_of(plan)
    assert shown.pop("passes") == [{"model": "face_yolov8n.pt", "width": 64, "height": 64}]
    assert shown == {**inherited, **PROMPTED, "negative_prompt": "blurry"}


def test_passes_inpaint_at_the_size_of_the_first_generation_stage() -> None:
    """Not at img2img's size, nor the hires or upscaled one; a pass's own size stands."""
    hires = {"scale": 2.0, "denoise": 0.4}
    txt2img = TXT2IMG | {"width": 96, "height": 128, "hires": hires}
    img2img = {"denoise": 0.5, "steps": 3, "width": 32, "height": 32}
    passes = [{"model": "a"}, {"model": "b", "width": 512}, {"model": "c", "height": 256}]
    plan = plan_of("upscale", txt2img=txt2img, img2img=img2img, adetailer={"passes": passes})
    sizes = [(one["width"], one["height"]) for one in settings_of(plan)["passes"]]
    assert sizes == [(96, 128), (512, 128), (96, 256)]


@pytest.mark.parametrize(
    ("own", "expected"),
    [({}, (64, 72)), ({"width": 128, "height": 32}, (128, 32)), ({"width": 128}, (128, 72))],
)
def test_passes_after_img2img_take_its_size(own: dict[str, int], expected: tuple[int, int]) -> None:
    """Where img2img comes first its stated size counts, or else the input's on the grid."""
    config = document("img2img", "adetailer")
    config["img2img"] |= own
    plan = build_stage_execution_plan(with_inputs(config, image(70, 72)))
    (one,) = settings_of(plan)["passes"]
    assert (one["width"], one["height"]) == expected


@given(st.sets(st.sampled_from(ORDER)), st.sets(st.sampled_from(ORDER[:2]), min_size=1))
def test_a_disabled_stage_changes_nothing(off: set[str], on: set[str]) -> None:
    """Its table may hold anything: the plan is the one without that table."""
    junk: dict[str, Any] = {
        "txt2img": {"model": "X", "vae": "X", "steps": 0, "hires": {}, "refiner": {}},
        "img2img": {"model": "X", "seed": 1, "denoise": 7.0, "refiner": {}},
        "upscale": {"upscaler": "X", "factor": -1.0},
        "adetailer": {"passes": [{"model": "X", "steps": -1}]},
    }
    config = document(*on, input_image="in.png")
    added = {stage: junk[stage] | {"enabled": False} for stage in off - on}
    assert build_stage_execution_plan(config | added) == build_stage_execution_plan(config)


def test_a_switched_off_refiner_or_hires_is_left_out() -> None:
    """``enabled = false`` leaves no trace of either in the plan."""
    parts = {"refiner": {"enabled": False, "model": "X"}, "hires": {"enabled": False, "scale": 2}}
    plan = plan_of(txt2img=TXT2IMG | parts)
    assert plan == plan_of("txt2img")


@pytest.mark.parametrize(
    ("hires_model", "refiner", "expected"),
    [
        (None, None, None), ("own", None, "own"), (None, True, "refiner"), ("own", True, "own"),
        (None, False, None),
    ],
)  # fmt: skip
def test_the_hires_pass_uses_the_refiners_model(
    hires_model: str | None, refiner: bool | None, expected: str | None
) -> None:
    """When both are on and hires names no model; otherwise nothing is said of one."""
    hires = {"scale": 1.5, "denoise": 0.4} | ({"model": hires_model} if hires_model else {})
    parts: dict[str, Any] = {"hires": hires}
    if refiner is not None:
        parts["refiner"] = {"enabled": refiner, "model": "refiner", "switch_at": 0.8}
    shown = settings_of(plan_of(txt2img=TXT2IMG | parts))["hires"]
    assert shown == hires | ({"model": expected} if expected else {})


def test_upscale_alone_gives_one_image_for_each_input() -> None:
    """More than one image for an input is refused; several inputs are not."""
    with pytest.raises(InvalidStagePlanError, match="images = 2 must be 1 for upscale alone"):
        plan_of("upscale", images=2, input_image="in.png")
    plan = build_stage_execution_plan(with_inputs(document("upscale"), image(), image(), image()))
    assert (plan.input_count, plan.images_per_input, plan.total_images) == (3, 1, 3)


def test_an_input_image_beside_txt2img_is_warned_of() -> None:
    """txt2img does not use it: one input, and a warning in the plan."""
    for plan in (
        plan_of("txt2img", "img2img", images=3, input_image="in.png"),
        build_stage_execution_plan(with_inputs(document("txt2img", images=3), image(), image())),
    ):
        assert plan.warnings == ("input_image is not used, because txt2img is enabled",)
        assert (plan.input_count, plan.total_images) == (1, 3)


def test_totals_count_hires_and_every_pass_for_every_image() -> None:
    """Steps of txt2img, hires, img2img and both passes, times inputs times images."""
    hires = {"scale": 1.5, "denoise": 0.4, "steps": 12}
    passes = [{"model": "a", "steps": 8}, {"model": "b"}]
    full = {
        "txt2img": TXT2IMG | {"steps": 25, "hires": hires},
        "img2img": {"denoise": 0.5, "steps": 20},
        "adetailer": {"passes": passes},
    }
    assert plan_of("upscale", images=4, **full).total_steps == (25 + 12 + 20 + 8 + 20) * 4
    hires.pop("steps")  # the pass takes as many as the first then
    assert plan_of(**full).total_steps == 25 + 25 + 20 + 8 + 20
    from_files = with_inputs(document("img2img", images=2), image(), image(), image())
    plan = build_stage_execution_plan(from_files)
    assert (plan.total_images, plan.total_steps) == (6, 18)


@pytest.mark.parametrize("label", ["run_id", "one_click_action"])
def test_labels_come_from_the_metadata(label: str) -> None:
    """``run_id`` and ``one_click_action`` are handed on, and are absent without metadata."""
    assert getattr(plan_of(metadata={label: "express", "other": 1}), label) == "express"
    assert getattr(plan_of(metadata={label: 7}), label) == "7"
    assert getattr(plan_of(metadata={"other": 1}), label) is None


def optional(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keys)


@st.composite
def configurations(draw: st.DrawFn) -> RunConfig:
    """Any legal choice of stages, with any choice of optional keys, flat ones too."""
    legal = [chosen for chosen in COMBINATIONS if not refusals(chosen, has_input=True)]
    chosen = draw(st.sampled_from(legal))
    config = document(*chosen)
    share = st.floats(0, 1)
    more = {
        "txt2img": optional(vae=st.text(), clip_skip=st.integers(1, 12), tiling=st.booleans()),
        "img2img": optional(negative_prompt=st.text(), seed=st.integers(-1, 9), width=st.just(72)),
        "upscale": optional(crop=st.booleans(), codeformer_weight=share),
        "adetailer": optional(),
    }
    for stage in chosen:
        config[stage] = config[stage] | draw(more[stage])
    top = optional(
        steps=st.integers(1, 9), upscale_factor=st.floats(1, 4), metadata=optional(a=share)
    )
    images = 1 if chosen == ("upscale",) else draw(st.integers(1, 3))
    inputs = draw(st.lists(st.builds(image, st.integers(1, 99), st.integers(1, 99)), min_size=1))
    return with_inputs(config | draw(top) | {"images": images}, *inputs)


@settings(deadline=None)
@given(configurations())
def test_the_builder_is_pure(config: RunConfig) -> None:
    """The same configuration gives an equal plan, and is left as it was."""
    before = copy.deepcopy(config)
    assert build_stage_execution_plan(config) == build_stage_execution_plan(before)
    assert config == before


@settings(deadline=None)
@given(configurations())
def test_a_plan_comes_back_from_its_json(config: RunConfig) -> None:
    """What a log records of a plan is the whole plan."""
    plan = build_stage_execution_plan(config)
    recorded = msgspec.json.decode(msgspec.json.encode(plan))
    assert StageExecutionPlan.from_document(recorded) == plan


@pytest.mark.parametrize("key", ["stages", "summary", "total_images"])
def test_a_recorded_plan_that_lacks_a_key_is_refused(key: str) -> None:
    """A document that is no plan raises ValidationError, in the plan and in its stages."""
    recorded: dict[str, Any] = msgspec.to_builtins(plan_of("txt2img", "upscale"))
    whole = copy.deepcopy(recorded)
    del recorded[key]
    with pytest.raises(msgspec.ValidationError):
        StageExecutionPlan.from_document(recorded)
    for lost in ("stage_type", "stage_id", "config", "input_source"):
        stage = {name: value for name, value in whole["stages"][1].items() if name != lost}
        with pytest.raises(msgspec.ValidationError):
            StageExecutionPlan.from_document({**whole, "stages": [stage]})


def test_too_many_images_for_one_run_are_refused() -> None:
    """A million are the most, so that the run's first event can list their seeds."""
    config = document("img2img", images=100_000)
    with pytest.raises(InvalidStagePlanError, match="images = 100000 for 11 inputs must make"):
        build_stage_execution_plan(with_inputs(config, *[image()] * 11))


@pytest.mark.parametrize(
    ("sampler", "scheduler", "agrees"),
    [
        ("DPM++ 2M Karras", "Exponential", False),
        ("DPM++ 2M SDE SGM Uniform", "Karras", False),
        ("DPM++ 2M Karras", "karras", True),
        ("DPM++ 2M SGM Uniform", "sgm_uniform", True),
        ("DPM++ 2M Karras", "Automatic", True),
        ("DPM++ 2M Karras", None, True),
        ("Euler a", "Karras", True),
    ],
)
def test_a_sampler_that_names_another_schedule_is_a_conflict(
    sampler: str, scheduler: str | None, agrees: bool
) -> None:
    """Listed once for a pair that stages inherit."""
    config = document("txt2img", "img2img", "adetailer")
    for stage in ("txt2img", "img2img"):
        config[stage] = {**config[stage], "sampler": sampler}
    if scheduler is not None:
        config["txt2img"]["scheduler"] = scheduler
    conflicts = build_stage_execution_plan(config).conflicts
    assert len(conflicts) == (0 if agrees else 1)
    for conflict in conflicts:
        assert (conflict.flat_key, conflict.nested_key) == (
            "txt2img.sampler",
            "txt2img.scheduler",
        )
