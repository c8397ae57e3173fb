"""What an answer of ``serve-embedded`` says: the settings that were really used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from stagewright.statemachine.config.stage_configs import Txt2ImgConfig

from .pictures import made, same_pixels
from .serving import BASE, DELAY_S, REFINER, SMALL, Client, Json, info, pictures, serving


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A server whose state no test may change for the next."""
    with serving(models=["my own model"]) as found:
        yield found


@pytest.fixture
def slow() -> Iterator[Client]:
    """A server of its own, on which each step takes a while."""
    with serving(step_delay_s=DELAY_S) as found:
        yield found


def test_the_answer_says_what_was_used(client: Client) -> None:
    """``parameters`` is an echo with defaults, ``info`` a string with what was really used."""
    answer = client.post("txt2img", SMALL | {"seed": -1, "sampler_name": "Euler a"})
    assert answer["parameters"]["seed"] == -1
    assert answer["parameters"]["cfg_scale"] == 7.0
    assert answer["parameters"]["sampler_name"] == "Euler a"
    found = info(answer)
    assert found["seed"] == found["all_seeds"][0] >= 0
    assert found["index_of_first_image"] == 0
    assert found["sd_model_name"] == "sd_xl_base_1.0"
    assert (found["width"], found["height"], found["steps"]) == (64, 64, 4)
    assert f"Seed: {found['seed']}" in found["infotexts"][0]
    read = client.post("png-info", {"image": answer["images"][0]})
    assert read["info"] == pictures(answer)[0].info["parameters"] == found["infotexts"][0]


def test_a_grid_stands_first_where_images_are_saved(client: Client) -> None:
    """``save_images`` puts a grid before two or more images, and says so."""
    answer = client.post("txt2img", SMALL | {"save_images": True, "n_iter": 2})
    assert info(answer)["index_of_first_image"] == 1
    assert [image.size for image in pictures(answer)] == [(128, 64), (64, 64), (64, 64)]
    alone = client.post("txt2img", SMALL | {"save_images": True})
    assert info(alone)["index_of_first_image"] == 0
    assert client.post("txt2img", SMALL | {"send_images": False})["images"] == []


def test_sizes_are_cut_and_misspelt_fields_ignored(client: Client) -> None:
    """63x70 gives 56x64 while the info says 63x70, and no unknown field is reported."""
    answer = client.post("txt2img", SMALL | {"width": 63, "height": 70, "stepz": "many"})
    assert pictures(answer)[0].size == (56, 64)
    assert (info(answer)["width"], info(answer)["height"]) == (63, 70)


def evidence(client: Client, **fields: Any) -> Json:
    """The ``extra_generation_params`` of a txt2img with these fields."""
    found: Json = info(client.post("txt2img", SMALL | fields))["extra_generation_params"]
    return found


def test_the_evidence_of_refiner_and_hires(client: Client) -> None:
    """A refiner shows by its stem and hash, unless the model at work is its own already."""
    refined = evidence(client, refiner_checkpoint=REFINER, refiner_switch_at=0.8)
    assert refined["Refiner"].startswith("sd_xl_refiner_1.0 [")
    assert refined["Refiner switch at"] == 0.8
    hires = {"enable_hr": True, "denoising_strength": 0.5, "hr_upscaler": "Latent"}
    both = evidence(client, **hires, refiner_checkpoint=REFINER, refiner_switch_at=0.8,
                    hr_checkpoint_name="sd_xl_refiner_1.0")  # fmt: skip
    assert both["Hires checkpoint"].startswith("sd_xl_refiner_1.0 [")
    assert both["Hires upscaler"] == "Latent"
    assert both["Hires upscale"] == 2.0
    assert "Refiner" not in both
    second = evidence(client, **hires, refiner_checkpoint=REFINER, refiner_switch_at=0.8)
    assert "Refiner" in second
    assert "Refiner" not in evidence(client, refiner_checkpoint=BASE, refiner_switch_at=0.8)
    assert "Refiner" not in evidence(client, refiner_checkpoint=REFINER, refiner_switch_at=1.0)
    assert "Refiner" in evidence(client, refiner_checkpoint=REFINER)


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({"sampler_name": "Euler a", "scheduler": "karras"}, "Karras"),
        ({"sampler_name": "DPM++ 2M Karras"}, "Karras"),
        ({"sampler_name": "DPM++ 2M", "scheduler": "Automatic"}, "Karras"),
        ({"sampler_name": "Euler a", "scheduler": "Automatic"}, None),
        ({"sampler_name": "Euler a"}, None),
    ],
)
def test_a_scheduler_shows_unless_it_is_automatic(
    client: Client, fields: Json, label: str | None
) -> None:
    """The label of the scheduler really used stands under "Schedule type"."""
    assert evidence(client, **fields).get("Schedule type") == label


# --- Models, samplers and options


@pytest.mark.parametrize("form", ["name", "stem", "title"])
def test_a_model_goes_by_name_stem_and_title(client: Client, form: str) -> None:
    """All three are accepted, the answer names the stem, and the picture heeds the words."""
    row = next(row for row in client.get("sd-models") if row["model_name"] == "my own model")
    name = {"name": "my own model.safetensors", "stem": row["model_name"], "title": row["title"]}
    answer = client.post("txt2img", SMALL | {
        "override_settings": {"sd_model_checkpoint": name[form]},
    })  # fmt: skip
    assert info(answer)["sd_model_name"] == "my own model"
    assert info(answer)["sd_model_hash"] == row["hash"]
    config = Txt2ImgConfig(
        prompt="a lighthouse", seed=5, steps=4, width=64, height=64, model=name[form]
    )
    assert same_pixels(pictures(answer)[0], made(config, seed=5))


def test_unknown_names_are_silently_replaced(client: Client) -> None:
    """An unknown model or VAE is ignored, a sampler becomes DPM++ 2M, a scheduler Automatic."""
    plain = client.post("txt2img", SMALL)
    settings = {"sd_model_checkpoint": "no such model", "sd_vae": "no such vae"}
    ignored = client.post("txt2img", SMALL | {"override_settings": settings})
    assert info(ignored)["sd_model_name"] == "sd_xl_base_1.0"
    assert info(ignored)["sd_vae_name"] is None
    assert ignored["images"] == plain["images"]
    for name in ("no such sampler", "k_euler_a", "euler a"):
        body = SMALL | {"sampler_name": name, "scheduler": "no such"}
        replaced = client.post("txt2img", body)
        known = SMALL | {"sampler_name": "DPM++ 2M", "scheduler": "Automatic"}
        assert info(replaced)["sampler_name"] == "DPM++ 2M"
        assert replaced["images"] == client.post("txt2img", known)["images"]


def test_options_are_set_for_good_and_overrides_are_not(slow: Client) -> None:
    """POST /options changes the model, override_settings only for their request."""
    assert slow.get("options")["sd_model_checkpoint"].startswith(f"{BASE} [")
    overriding = SMALL | {"override_settings": {"sd_model_checkpoint": REFINER}}
    assert info(slow.post("txt2img", overriding))["sd_model_name"] == "sd_xl_refiner_1.0"
    assert info(slow.post("txt2img", SMALL))["sd_model_name"] == "sd_xl_base_1.0"
    slow.post("options", {"sd_model_checkpoint": "sd_xl_refiner_1.0", "samples_format": "png"})
    assert slow.get("options")["sd_model_checkpoint"].startswith(f"{REFINER} [")
    assert info(slow.post("txt2img", SMALL))["sd_model_name"] == "sd_xl_refiner_1.0"
    slow.post("txt2img", SMALL | {
        "override_settings": {"CLIP_stop_at_last_layers": 2},
        "override_settings_restore_afterwards": False,
    })  # fmt: skip
    assert info(slow.post("txt2img", SMALL))["clip_skip"] == 2
