"""What was asked beside what was used: the same names, however a backend writes them."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stagewright.adapters.export.report.settings_table import (
    Agreement,
    UsedValues,
    setting_rows,
)
from stagewright.adapters.projections.used_settings import agree, settings_asked, settings_used
from stagewright.events import StageType

INFO = {
    "steps": 25,
    "sampler_name": "Euler a",
    "cfg_scale": 7.0,
    "sd_model_name": "base",
    "denoising_strength": 0.35,
    "extra_generation_params": {
        "Schedule type": "Karras", "Hires upscale": 1.5, "Hires checkpoint": "fine [12ab]",
    },
    "infotexts": ["steps: 1, no settings\nSteps: 25, Refiner: fine, Refiner switch at: 0.8"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("stage_type", "info", "used"),
    [
        (StageType.TXT2IMG, INFO, {
            "model": "base", "sampler": "Euler a", "scheduler": "Karras", "steps": 25,
            "cfg_scale": 7.0, "hires.scale": 1.5, "hires.denoise": 0.35,
            "hires.model": "fine [12ab]", "refiner.model": "fine", "refiner.switch_at": "0.8",
        }),
        (StageType.UPSCALE, {
            "html_info": "<p>Postprocess upscale by: 2.0, Postprocess upscaler: R-ESRGAN 4x+</p>",
        }, {"upscaler": "R-ESRGAN 4x+", "factor": "2.0"}),
        # Its one step at 128 pixels is of a picture that a detailer throws away.
        (StageType.ADETAILER, {
            "steps": 1, "width": 128, "sampler_name": "Euler", "sd_model_name": "base",
            "extra_generation_params": {
                "ADetailer model": "face.pt", "ADetailer model 2nd": "hand.pt",
                "ADetailer denoising strength 2nd": 0.3, "ADetailer steps 4th": 9,
            },
        }, {
            "model": "base", "passes.0.model": "face.pt", "passes.1.model": "hand.pt",
            "passes.1.denoise": 0.3, "passes.3.steps": 9,
        }),
    ],
)  # fmt: skip
def test_an_answer_is_read_under_the_names_of_the_configuration(
    stage_type: StageType, info: dict[str, Any], used: dict[str, Any]
) -> None:
    """Out of its own fields, its extra parameters, its HTML and the last line of its infotext."""
    assert settings_used(stage_type, info) == used


def test_what_is_switched_off_was_not_asked() -> None:
    """Tables are flattened to dotted keys, without those that are off."""
    config = {
        "steps": 3, "refiner": {"enabled": False, "model": "x"}, "hires": {"scale": 2.0},
        "passes": [{"model": "a"}, {"model": "b"}], "styles": ["one"],
    }  # fmt: skip
    assert settings_asked(config) == {
        "steps": 3, "hires.scale": 2.0, "passes.0.model": "a", "passes.1.model": "b",
        "styles": '["one"]',
    }  # fmt: skip


@pytest.mark.parametrize(
    ("key", "asked", "used", "same"),
    [
        ("model", "sub/base.safetensors", "base", True),
        ("hires.model", "fine.safetensors", "fine [12ab]", True),
        ("model", "base.safetensors", "other", False),
        ("sampler", "DPM++ 2M Karras", "DPM++ 2M", True),
        ("sampler", "Euler a", "Euler", False),
        ("scheduler", "sgm_uniform", "SGM Uniform", True),
        ("scheduler", "automatic", "Karras", True),
        ("factor", 2.0, "2.0", True),
        ("factor", 2.0, 2, True),
        ("steps", 25, 20, False),
        ("passes.0.only_masked", True, "True", True),
        ("tiling", True, 1, False),
        ("prompt", "a lighthouse", "a lighthouse ", True),
        ("prompt", "a lighthouse", "a tower", False),
        ("vae", "Automatic", "vae-ft-mse.safetensors", True),
        ("vae", "fine.vae", "other.vae", False),
        ("hires.model", "Use same checkpoint", "base", True),
        ("passes.1.sampler", "Use same sampler", "Euler", True),
        ("passes.0.checkpoint", "", "base", True),
        ("prompt", "", "a tower", False),
        ("upscaler", "4x_foolhardy", "4x foolhardy", True),
    ],
)
def test_the_same_setting_is_known_in_its_other_spellings(
    key: str, asked: Any, used: Any, *, same: bool
) -> None:
    """Names without folders, suffixes and hashes; numbers as numbers, also out of text."""
    assert agree(key, asked, used, schedule="Karras") is same


@pytest.mark.parametrize(
    ("asked", "scheduler", "used", "schedule", "same"),
    [
        ("DPM++ 2M Karras", None, "DPM++ 2M", None, True),
        ("DPM++ 2M Karras", None, "DPM++ 2M", "Karras", True),
        ("DPM++ 2M Karras", None, "DPM++ 2M", "Exponential", False),
        ("DPM++ 2M", "Karras", "DPM++ 2M Karras", None, True),
        ("DPM++ 2M", "karras", "DPM++ 2M Karras", "Karras", True),
        ("DPM++ 2M", None, "DPM++ 2M Karras", None, False),
        ("DPM++ 2M", "Exponential", "DPM++ 2M Karras", None, False),
        ("DPM++ 2M", None, "DPM2 M", None, False),
    ],
)
def test_a_sampler_s_name_may_hold_the_schedule_s(
    asked: str, scheduler: str | None, used: str, schedule: str | None, *, same: bool
) -> None:
    """On either side, as it did before WebUI 1.9; a hires sampler goes with its own schedule."""
    assert agree("sampler", asked, used, scheduler=scheduler, schedule=schedule) is same
    values = UsedValues()
    told = {
        "sampler": used,
        "scheduler": schedule,
        "hires.sampler": used,
        "hires.scheduler": schedule,
    }
    values.take({key: value for key, value in told.items() if value is not None})
    config = {"sampler": asked, "scheduler": scheduler}
    rows = setting_rows({**config, "hires": config}, values)
    agreements = {row.key: row.agreement is Agreement.SAME for row in rows}
    assert (agreements["sampler"], agreements["hires.sampler"]) == (same, same)


@pytest.mark.parametrize("text", [" ", "\t", "a ", "a" + " " * 60, 'a: "', "a:\\", "<", ", ", "a"])
@pytest.mark.parametrize("name", ["infotexts", "html_info"])
def test_a_hostile_answer_takes_no_more_than_its_length(name: str, text: str) -> None:
    """Steps by the square of the 65,536 characters that are looked at would take minutes."""
    whole = text * (200_000 // len(text))
    began = time.process_time()
    settings_used(StageType.UPSCALE, {name: [whole] if name == "infotexts" else whole})
    assert time.process_time() - began < 5


def test_a_hostile_configuration_takes_no_more_than_its_length() -> None:
    """Neither long names one below the other, nor one above many values, are told many times."""
    deep: Any = 5
    for _ in range(400):
        deep = {"k" * 20_000: deep}
    low: Any = 5
    for _ in range(400):
        low = {"k": low}
    wide = {"k" * 1_000_000: {f"{number}": number for number in range(10_000)}}
    config = {"deep": deep, "low": low, "wide": wide, "many": {str(n): n for n in range(100_000)}}
    tracemalloc.start()
    try:
        asked = settings_asked(config)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    assert len(asked) == 1_000
    assert max(map(len, asked)) <= 200
    assert asked["low.k.k.k.k.k"].startswith('{"k":{"k":')


def test_a_difference_in_one_of_many_answers_is_a_difference() -> None:
    """The first few values are shown, with the number of answers that report each."""
    values = UsedValues()
    for steps in (25, 25, 20, *range(1_000)):
        values.take({"steps": steps, "seed resize": 1})
    asked, unrequested = setting_rows({"steps": 25}, values)
    assert asked.agreement is Agreement.DIFFERENT
    assert asked.used[0] == ("25", 3)
    assert len(asked.used) == 6
    assert unrequested.agreement is Agreement.UNREQUESTED


scalars = st.sampled_from([None, True, -1, 2**70, 2.5, 1e300, "", "Steps: 1, a: b", "x" * 9_000])
tables = st.dictionaries(st.sampled_from(["model", "a: b", "enabled", ""]), scalars, max_size=3)
json_values = scalars | tables | st.lists(scalars | tables, max_size=3)
NAMES = [
    "steps", "width", "html_info", "infotexts", "extra_generation_params", "sd_model_name",
    "all_seeds", "ADetailer model", "Schedule type",
]  # fmt: skip


@settings(max_examples=40)
@given(
    st.sampled_from(StageType),
    st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=9), json_values, max_size=6),
    st.dictionaries(st.sampled_from(["model", "steps", "passes"]), json_values),
)
def test_a_foreign_answer_may_hold_anything(
    stage_type: StageType, info: dict[str, Any], config: dict[str, Any]
) -> None:
    """Whatever it is, it is told within bounds, or not told."""
    values = UsedValues()
    values.take(settings_used(stage_type, info))
    for row in setting_rows(config, values):
        assert all(len(value) <= 2_000 for value, _ in row.used)
