"""Answers of ``serve-embedded``: the settings that were really used, and refusals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from PIL import Image
from stagewright.statemachine.stages import Txt2ImgConfig

from .command_line import until
from .pictures import made, same_pixels
from .serving import (
    BASE,
    REFINER,
    SLOW,
    SMALL,
    VAE,
    Client,
    InBackground,
    Json,
    info,
    pictures,
    sent,
    serving,
)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A server whose state no test may change for the next."""
    with serving(models=["my own model"]) as found:
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


def test_sizes_are_cut_and_misspelt_fields_ignored(client: Client) -> None:
    """63x70 gives 56x64 while the info says 63x70, and no unknown field is reported."""
    answer = client.post("txt2img", SMALL | {"width": 63, "height": 70, "stepz": "many"})
    assert pictures(answer)[0].size == (56, 64)
    assert (info(answer)["width"], info(answer)["height"]) == (63, 70)
    assert client.post("txt2img", SMALL | {"send_images": False})["images"] == []


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


OVERRIDES = {"sd_vae": VAE, "CLIP_stop_at_last_layers": 2, "hires_fix_refiner_pass": "first pass"}


def test_overrides_stay_unless_the_server_has_stored_the_options() -> None:
    """They change the next request as they would its own; those that were posted are restored."""
    overriding = SMALL | {"override_settings": OVERRIDES}
    with serving() as client:
        plain, overridden = client.post("txt2img", SMALL), client.post("txt2img", overriding)
        left = client.post("txt2img", SMALL)
        assert left["images"] == overridden["images"] != plain["images"]
        assert info(left)["sd_vae_name"] == VAE
        assert client.get("options").items() >= OVERRIDES.items()
    with serving() as client:
        options = client.get("options")
        client.post("options", {key: options[key] for key in OVERRIDES})
        assert client.post("txt2img", overriding)["images"] == overridden["images"]
        assert client.get("options") == options
        assert client.post("txt2img", SMALL)["images"] == plain["images"]
        client.post("txt2img", overriding | {"steps": 0}, status=500)
        assert client.get("options") == options


def test_a_running_request_shows_its_overrides_and_keeps_what_is_posted(slow: Client) -> None:
    """Everybody sees the options of the job; a change meanwhile counts once it has ended."""
    slow.post("options", {"CLIP_stop_at_last_layers": 1})
    overriding = SLOW | {"override_settings": {"CLIP_stop_at_last_layers": 2}}
    running = InBackground(slow, "txt2img", overriding)
    until(lambda: slow.get("options")["CLIP_stop_at_last_layers"] == 2, "the job's options")
    slow.post("options", {"CLIP_stop_at_last_layers": 3})
    slow.interrupt_when(lambda progress: progress["state"]["sampling_step"] > 0)
    assert info(running.answer())["clip_skip"] == 2
    assert slow.get("options")["CLIP_stop_at_last_layers"] == 3


# --- Refusals


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"steps": 0}, "RuntimeError", "steps is 0"),
        ({"steps": 10**9}, "RuntimeError", "steps"),
        ({"n_iter": 0}, "RuntimeError", "images"),
        ({"batch_size": 100, "n_iter": 100}, "RuntimeError", "images"),
        ({"width": 2}, "RuntimeError", "width is 2"),
        ({"width": 80_000, "height": 80_000}, "RuntimeError", "pixels"),
        ({"override_settings": {"no_such": 1}}, "KeyError", "no_such"),
        ({"refiner_checkpoint": "no such"}, "Exception", "Could not find checkpoint"),
        ({"enable_hr": True}, "TypeError", "NoneType"),
        (
            {"enable_hr": True, "denoising_strength": 0.5, "hr_upscaler": "no such"},
            "Exception", "could not find upscaler named no such",
        ),
        (
            {"enable_hr": True, "denoising_strength": 0.5, "hr_sampler_name": "Use same sampler"},
            "AssertionError", "bad sampler name",
        ),
        (
            {"enable_hr": True, "denoising_strength": 0.5, "hr_checkpoint_name": "no such"},
            "Exception", "Could not find checkpoint",
        ),
    ],
)  # fmt: skip
def test_what_goes_wrong_in_the_work_is_500(
    client: Client, fields: Json, error: str, words: str
) -> None:
    """Each comes as ``{error, detail, body, errors}``, and the server goes on."""
    found = client.post("txt2img", SMALL | fields, status=500)
    assert found["error"] == error
    assert words in found["errors"]
    assert set(found) == {"error", "detail", "body", "errors"}
    assert client.get("progress")["state"]["job_count"] == 0


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        ("txt2img", {"steps": "many"}, ["body", "steps"]),
        ("txt2img", {"override_settings": 1}, ["body", "override_settings"]),
        ("extra-single-image", {"upscaling_resize": 0}, ["body", "upscaling_resize"]),
        ("extra-single-image", {"gfpgan_visibility": 1.5}, ["body", "gfpgan_visibility"]),
        ("extra-batch-images", {}, ["body", "imageList"]),
        ("extra-batch-images", {"imageList": [{"name": "a"}]}, ["body", "imageList", 0, "data"]),
        ("png-info", {}, ["body", "image"]),
        ("options", [1], ["body"]),
    ],
)
def test_a_field_that_does_not_fit_is_422(
    client: Client, path: str, body: Any, place: list[str | int]
) -> None:
    """Validation names the field at fault; numbers may come as strings."""
    found = client.post(path, body, status=422)
    assert found["detail"][0]["loc"] == place
    assert found["detail"][0]["msg"]
    assert found["detail"][0]["type"]
    assert pictures(client.post("txt2img", SMALL | {"steps": "2"}))


def test_odd_bodies(client: Client) -> None:
    """A body that is no JSON text is 422, one of unknown length 411, one that is too large 413."""
    url = f"{client.url}/sdapi/v1/txt2img"
    for data in (b"", b"{", b"[" * 100_000, b'{"prompt": "\\ud800"}'):
        answer = requests.post(url, data=data, timeout=10)
        assert answer.status_code == 422, answer.text
        assert answer.json()["detail"][0]["loc"][0] == "body"
    assert requests.post(url, data=iter([b"{}"]), timeout=10).status_code == 411
    huge = {"Content-Length": str(2**40)}
    assert requests.post(url, headers=huge, timeout=10).status_code == 413
    assert client.get("txt2img", status=405) == {"detail": "Method Not Allowed"}
    assert client.get("no-such", status=404) == {"detail": "Not Found"}


def test_pictures_that_are_none(client: Client, face: Image.Image) -> None:
    """Missing pictures are 404, an empty list and undecodable ones 500."""
    assert client.post("img2img", SMALL, status=404)["detail"] == "Init image not found"
    assert client.post("img2img", SMALL | {"init_images": []}, status=500)["errors"]
    for bad in ("", "no base64 at all!", "aGVsbG8=", 5, "http://127.0.0.1/x.png"):
        client.post("img2img", SMALL | {"init_images": [bad]}, status=500)
    masked = SMALL | {"init_images": [sent(face)], "mask": "aGVsbG8="}
    assert client.post("img2img", masked, status=500)["detail"] == "Invalid encoded image"
    assert client.post("extra-single-image", {}, status=500)["detail"] == "Invalid encoded image"
    too_strong = SMALL | {"init_images": [sent(face)], "denoising_strength": 2}
    assert client.post("img2img", too_strong, status=500)["error"] == "AssertionError"


def test_unknown_scripts_are_422(client: Client) -> None:
    """A script is looked up in lower case, and refused where there is none."""
    unknown: list[Json] = [{"ControlNet": {"args": []}}, {"adetailer 2": {}}]
    for scripts in unknown:
        found = client.post("txt2img", SMALL | {"alwayson_scripts": scripts}, status=422)
        assert "not found" in found["detail"]
    client.post("txt2img", SMALL | {"script_name": "x/y/z plot"}, status=422)
    client.post("txt2img", SMALL | {"alwayson_scripts": {"ADETAILER": {"args": [False]}}})


def test_options_that_nobody_knows(client: Client) -> None:
    """POST /options refuses unknown keys, models and VAEs, and then sets nothing."""
    before = client.get("options")
    for name in ("no_such", "sd_model_checkpoint", "sd_vae"):
        client.post("options", {"jpeg_quality": 1, name: "no such"}, status=500)
    assert client.get("options") == before
