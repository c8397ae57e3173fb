"""The keys for models of today: modules, distilled CFG, subseeds, masks, options and scripts."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stagewright.statemachine import InvalidStagePlanError, build_stage_execution_plan
from stagewright.statemachine.run.requests import request_digest, request_spans, span_of

from .support import TXT2IMG, document
from .test_plan import image, plan_of, settings_of, with_inputs

FLUX: dict[str, Any] = {"modules": ["ae", "clip_l", "t5xxl"], "distilled_cfg_scale": 3.5}
NEW_VALUES: dict[str, Any] = {
    "eta": 0.5,
    "s_noise": 1.01,
    "subseed": 7,
    "subseed_strength": 0.25,
    "override_settings": {"CLIP_skip_last": 1, "sigma": 0.5},
    "alwayson_scripts": {"Soft inpainting": {"args": [True, 1]}},
}


@pytest.mark.parametrize("stage", ["img2img", "adetailer"])
def test_modules_and_scales_are_inherited_as_a_vae_is(stage: str) -> None:
    """What makes the model work is taken from txt2img by the stages that use its model."""
    plan = plan_of("txt2img", stage, txt2img=TXT2IMG | FLUX)
    assert settings_of(plan) | FLUX == settings_of(plan)


@pytest.mark.parametrize(
    ("own", "lacking"),
    [
        ({"vae": "own"}, "modules"),
        ({"modules": ["own"]}, "vae"),
        ({"shift": 3.0}, "distilled_cfg_scale"),
    ],
)
def test_a_value_that_excludes_another_is_not_joined_by_inheritance(
    own: dict[str, Any], lacking: str
) -> None:
    """An img2img with a VAE of its own takes no modules, and the other way round."""
    base = TXT2IMG | ({"vae": "base"} if lacking == "vae" else FLUX)
    plan = plan_of("txt2img", txt2img=base, img2img={"denoise": 0.5, "steps": 3, **own})
    assert settings_of(plan) | own == settings_of(plan)
    assert lacking not in settings_of(plan)


@pytest.mark.parametrize(
    ("table", "pair"),
    [
        (table, pair)
        for table in ("txt2img", "img2img", "txt2img.hires", "adetailer.passes.0")
        for pair in (("modules", "vae"), ("shift", "distilled_cfg_scale"))
        if (table, pair[1]) != ("txt2img.hires", "vae")
    ],
)
def test_two_keys_of_one_meaning_are_refused(table: str, pair: tuple[str, str]) -> None:
    """``modules`` hold the VAE; ``shift`` and ``distilled_cfg_scale`` are one field."""
    values = {"modules": ["ae"], "vae": "ae", "shift": 3.0, "distilled_cfg_scale": 3.5}
    config = copy.deepcopy(document("txt2img", "img2img", "adetailer"))
    config["txt2img"]["hires"] = {"scale": 2.0, "denoise": 0.5}
    place: Any = config
    for part in table.split("."):
        place = place[int(part)] if part.isdigit() else place[part]
    place.update({key: values[key] for key in pair})
    with pytest.raises(InvalidStagePlanError, match=rf"{table}\.{pair[0]} and {table}\.{pair[1]}"):
        build_stage_execution_plan(config)


@pytest.mark.parametrize(
    ("option", "key"),
    [
        ("sd_model_checkpoint", "model"), ("sd_vae", "vae"),
        ("CLIP_stop_at_last_layers", "clip_skip"), ("forge_additional_modules", "modules"),
        ("hires_fix_refiner_pass", r"refiner\.pass"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stage", ["txt2img", "img2img", "adetailer"])
def test_an_option_with_a_key_of_its_own_is_refused(stage: str, option: str, key: str) -> None:
    """One setting has one place; the message names it."""
    config = document("txt2img", "img2img", "adetailer")
    config[stage] |= {"override_settings": {option: "x"}}
    with pytest.raises(
        InvalidStagePlanError, match=rf"{option} has .*: set {stage}\.{key}"
    ) as refused:
        build_stage_execution_plan(config)
    assert refused.value.key == f"{stage}.override_settings.{option}"


@pytest.mark.parametrize("stage", ["txt2img", "img2img"])
def test_new_settings_stand_in_the_plan_as_given(stage: str) -> None:
    """Nothing of them is changed, left out or inherited."""
    config = document("txt2img", "img2img")
    config[stage] |= NEW_VALUES
    plan = build_stage_execution_plan(config)
    place = ("txt2img", "img2img").index(stage)
    settings = settings_of(plan, place)
    assert settings | NEW_VALUES == settings
    assert not NEW_VALUES.keys() & settings_of(plan, 1 - place).keys()


@pytest.mark.parametrize("key", [*NEW_VALUES, *FLUX])
def test_new_settings_are_digested(key: str) -> None:
    """A request with another value is another request; one without is as it always was."""
    value = (NEW_VALUES | FLUX)[key]

    def digest(table: dict[str, Any]) -> str:
        stage = plan_of("txt2img", txt2img=table).stages[0]
        return request_digest(stage, 1, 1, inputs=[], mask=None)

    assert digest(TXT2IMG | {key: value}) != digest(TXT2IMG)
    assert digest(TXT2IMG) == "00320ffc8f0e8c4c1b283e90dcc423182bfb2669b6de5d8fe915619c2ae0a38a"


def test_a_negative_prompt_with_cfg_1_is_warned_of() -> None:
    """It has no effect, which no picture shows."""
    table = TXT2IMG | FLUX | {"cfg_scale": 1.0}
    warned = plan_of("txt2img", txt2img=table, negative_prompt="blurry").warnings
    assert warned == ("txt2img: with cfg_scale = 1 the negative prompt has no effect",)
    assert plan_of("txt2img", txt2img=table).warnings == ()


@pytest.mark.parametrize("key", ["modules", "distilled_cfg_scale", "shift"])
def test_cfg_0_is_refused_for_models_that_need_1(key: str) -> None:
    """Such a model would ignore the prompt."""
    value = {"modules": ["ae"], "distilled_cfg_scale": 3.5, "shift": 9.0}[key]
    with pytest.raises(InvalidStagePlanError, match=r"txt2img\.cfg_scale = 0"):
        plan_of("txt2img", txt2img=TXT2IMG | {"cfg_scale": 0.0, key: value})
    assert plan_of("txt2img", txt2img=TXT2IMG | {"cfg_scale": 0.0})


def test_a_mask_without_settings_gets_those_of_the_page() -> None:
    """The plan shows them and warns, because the API's own defaults differ."""
    plan = plan_of("txt2img", "img2img")
    assert not any(key.startswith("mask_") for key in settings_of(plan))
    masked = {"denoise": 0.5, "steps": 3, "mask": "m.png", "mask_blur": 9}
    plan = plan_of("txt2img", img2img=masked)
    assert settings_of(plan).items() >= {
        "mask_content": "original", "mask_area": "whole", "mask_padding": 32, "mask_blur": 9,
        "mask_invert": False,
    }.items()  # fmt: skip
    assert len(plan.warnings) == 1
    assert "mask_padding = 32" in plan.warnings[0]
    assert "mask_blur" not in plan.warnings[0]


@given(
    inputs=st.integers(1, 4), images=st.integers(1, 7), batch=st.integers(1, 5), first=st.booleans()
)
def test_a_request_of_img2img_never_spans_two_sources(
    inputs: int, images: int, batch: int, *, first: bool
) -> None:
    """Its batches hold images of one input file; behind another stage each image is alone."""
    stages = ("img2img",) if first else ("txt2img", "img2img")
    config = document(*stages, images=images, input_image="in.png")
    config["img2img"]["batch_size"] = batch
    plan = build_stage_execution_plan(with_inputs(config, *[image()] * inputs))
    stage = plan.stages[-1]
    spans = list(request_spans(stage, plan))
    assert [index for span in spans for index in span] == list(range(plan.total_images))
    for span in spans:
        assert len({index // images for index in span} if first else span) == 1
        assert len(span) <= batch
        assert all(span_of(stage, index, plan) == span for index in span)
    if first:
        assert len(spans) == inputs * -(-images // batch)
    assert (batch > 1 and not first) == any("batch_size" in one for one in plan.warnings)


def test_a_subseed_makes_a_batch_one_image_each() -> None:
    """A server would give all images of a batch the same seed then."""
    table = TXT2IMG | {"batch_size": 4, "subseed": 1, "subseed_strength": 0.5}
    plan = plan_of("txt2img", images=4, txt2img=table)
    assert [len(span) for span in request_spans(plan.stages[0], plan)] == [1] * 4
    assert plan.warnings == ("txt2img.batch_size has no effect with subseed_strength",)
