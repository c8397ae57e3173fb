"""What ``serve-embedded`` refuses, and in which words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from PIL import Image

from .pictures import portrait
from .serving import SMALL, Client, Json, pictures, sent, serving


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A server whose state no test may change for the next."""
    with serving() as found:
        yield found


@pytest.fixture(scope="module")
def face() -> Image.Image:
    """A picture with a face in it."""
    return portrait()


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"steps": 0}, "ZeroDivisionError", "0 steps"),
        ({"steps": 10**9}, "RuntimeError", "steps"),
        ({"n_iter": 0}, "RuntimeError", "images"),
        ({"batch_size": 100, "n_iter": 100}, "RuntimeError", "images"),
        ({"width": 2}, "RuntimeError", "2x64"),
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
    """No JSON is 422, no length 411, too much 413; a lone surrogate is bearable."""
    url = f"{client.url}/sdapi/v1/txt2img"
    for data in (b"", b"{", b"[" * 100_000):
        answer = requests.post(url, data=data, timeout=10)
        assert answer.status_code == 422, answer.text
        assert answer.json()["detail"][0]["loc"][0] == "body"
    assert requests.post(url, data=iter([b"{}"]), timeout=10).status_code == 411
    huge = {"Content-Length": str(2**40)}
    assert requests.post(url, headers=huge, timeout=10).status_code == 413
    odd = json.dumps(SMALL | {"prompt": "\ud800"}).encode()
    answer = requests.post(url, data=odd, timeout=10)
    assert answer.json()["parameters"]["prompt"] == "\ud800"
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
