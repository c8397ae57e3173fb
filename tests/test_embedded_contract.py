"""What the embedded backend promises its caller: cancel, steps, errors, info, pinned pixels."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from stagewright.adapters.backends.embedded import EmbeddedBackend
from stagewright.events.model import CancelMode
from stagewright.statemachine.errors import BackendError, GenerationCancelled
from stagewright.statemachine.ports import GenerateRequest
from stagewright.statemachine.run.cancel_token import CancelToken
from stagewright.statemachine.stages import HiresConfig, RefinerConfig

from .pictures import (
    ADETAILER,
    HIRES,
    IMG2IMG,
    TXT2IMG,
    UPSCALE,
    Steps,
    all_requests,
    answer,
    changed,
    encoded,
    made,
    opened,
    request,
    source,
)

PINNED = [
    "abd680430ecc3aa9",  # txt2img
    "408112439fbccc50",  # txt2img with hires
    "9a359b0cdbc1daa8",  # img2img
    "b746dc92af135321",  # upscale
    "e5c8484e63c6b6c4",  # adetailer
]
"""The first digits of SHA-256 over the pixels of ``all_requests``."""


class WaitedOn(CancelToken):
    """A token that is cancelled while somebody waits on it."""

    def wait(self, timeout_s: float | None) -> bool:
        assert timeout_s is not None
        assert timeout_s > 0
        self.request(CancelMode.NOW)
        return super().wait(timeout_s)


def test_steps_are_told_one_by_one_over_both_passes_and_all_images() -> None:
    """Steps count up through both passes of each image, fractions through the request."""
    steps = Steps()
    asked = request(changed(TXT2IMG, hires=HIRES), count=2)
    EmbeddedBackend().generate_images(asked, cancel=CancelToken(), on_step=steps)
    assert steps.told == [(step, 9) for step in range(1, 10)] * 2
    assert steps.fractions == [done / 18 for done in range(1, 19)]


def test_a_cancel_ends_the_picture_within_a_step() -> None:
    """Cancelled as it tells of its second step, the backend begins no third."""
    token = CancelToken()
    steps = Steps(token, cancel_at=2)
    with pytest.raises(GenerationCancelled):
        EmbeddedBackend().generate_images(request(TXT2IMG), cancel=token, on_step=steps)
    assert steps.told == [(1, 6), (2, 6)]


def test_a_cancel_ends_the_wait_of_a_slow_step() -> None:
    """Cancelled before its first step or within it, every stage stops, and tells of no step."""
    token = CancelToken()
    token.request(CancelMode.NOW)
    for asked in all_requests():
        for cancel in (token, WaitedOn()):
            steps = Steps()
            backend = EmbeddedBackend(step_delay_s=3600.0)
            with pytest.raises(GenerationCancelled):
                backend.generate_images(asked, cancel=cancel, on_step=steps)
            assert steps.told == []


def test_stopping_after_the_image_lets_it_finish() -> None:
    """The milder cancel is the runner's business: the picture under way is made."""
    token = CancelToken()
    token.request(CancelMode.AFTER_IMAGE)
    result = EmbeddedBackend().generate_images(request(TXT2IMG), cancel=token, on_step=Steps())
    assert len(result.images) == 1


def test_a_source_that_does_not_decode_is_refused_by_name(face: Image.Image) -> None:
    """The error names stage, image and source, and is not worth another try."""
    picture = encoded(face)
    for data in (b"", b"no picture", encoded(Image.new("RGB", (64, 64)))[:-30], picture[:5000]):
        for config in (IMG2IMG, UPSCALE, ADETAILER):
            with pytest.raises(BackendError, match=r"00-\w+, image 4: the input image") as caught:
                answer(request(config, source(data)))
            assert caught.value.transient is False
        with pytest.raises(BackendError, match="00-img2img, image 4: the mask"):
            answer(request(IMG2IMG, source(picture), mask=source(data)))


@given(st.data())
def test_damaged_sources_raise_nothing_but_backend_errors(data: st.DataObject) -> None:
    """Whatever bytes of a PNG, JPEG or WebP are altered, Pillow's errors stay inside."""
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP"]))
    damaged = bytearray(encoded(Image.linear_gradient("L").resize((16, 16)), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place] = data.draw(st.integers(0, 255))
    try:
        answer(request(changed(UPSCALE, factor=0.5), source(bytes(damaged))))
    except BackendError as error:
        assert not error.transient  # noqa: PT017 - an undamaged look is as good


def test_a_stage_without_its_image_is_refused() -> None:
    """Every stage but txt2img needs an input image."""
    for config in (IMG2IMG, UPSCALE, ADETAILER):
        with pytest.raises(BackendError, match="needs an input image"):
            answer(request(config))


@pytest.mark.parametrize(
    "asked",
    [
        request(changed(TXT2IMG, width=80_000, height=80_000)),
        request(changed(TXT2IMG, hires=HiresConfig(scale=1e9, denoise=0.5))),
        request(changed(TXT2IMG, hires=HiresConfig(resize_x=80_000, denoise=0.5))),
        request(changed(UPSCALE, factor=1e300), source(Image.new("RGB", (64, 64)))),
        request(changed(UPSCALE, factor=float("nan")), source(Image.new("RGB", (64, 64)))),
        request(changed(IMG2IMG, width=80_000, height=80_000), source(Image.new("1", (8, 8)))),
    ],
)
def test_pictures_beyond_the_bound_are_refused(asked: GenerateRequest) -> None:
    """A size beyond the limit costs an error, not the machine's memory."""
    with pytest.raises(BackendError, match="more than 178956970 pixels"):
        answer(asked)


@pytest.mark.parametrize(
    ("mode", "colour", "kind", "expected"),
    [
        *((mode, "white", "PNG", 255) for mode in ("1", "L", "LA", "P", "RGBA", "RGB")),
        ("I;16", 65535, "PNG", 255),
        ("I;16", 32896, "PNG", 128),  # scaled to 8 bits, not clipped
        ("CMYK", (0, 0, 0, 255), "JPEG", 0),
        ("RGBA", (255, 0, 0, 0), "WEBP", 255),  # what is transparent is white
    ],
)
def test_sources_of_any_mode_come_out_in_rgb(
    mode: str, colour: Any, kind: str, expected: int
) -> None:
    """White stays white and black black, whatever mode and format the image is in."""
    image = source(Image.new(mode, (16, 16), colour), kind)
    result = answer(request(changed(UPSCALE, upscaler="Nearest", factor=1.0), image))
    assert opened(result).getpixel((8, 8)) == (expected,) * 3


@pytest.mark.parametrize("size", [(8, 8), (8, 512), (512, 8), (16, 24)])
def test_odd_sizes_are_no_trouble(size: tuple[int, int]) -> None:
    """The smallest and the narrowest pictures go through every stage."""
    picture = made(changed(TXT2IMG, width=size[0], height=size[1]))
    assert picture.size == size
    assert made(IMG2IMG, picture).size == size
    assert made(ADETAILER, picture).size == size
    assert made(UPSCALE, picture).size == (2 * size[0], 2 * size[1])


def test_pictures_say_how_they_were_made() -> None:
    """The ``parameters`` text is a WebUI's infotext, of this image's own seed."""
    config = changed(TXT2IMG, refiner=RefinerConfig(model="sd_refiner.safetensors", switch_at=0.8))
    result = answer(request(config, count=2))
    texts = [opened(result, place).info["parameters"] for place in range(2)]
    assert texts[1] == (
        "portrait of an astronaut, studio light\n"
        "Negative prompt: blurry\n"
        "Steps: 6, Sampler: Euler a, CFG scale: 7.0, Seed: 43, Size: 96x128, "
        "Model: sd_xl_base_1.0, Refiner: sd_refiner, Refiner switch at: 0.8, "
        f"Version: {result.info['version']}"
    )
    assert texts == result.info["infotexts"]


def test_the_info_has_the_names_of_a_webui() -> None:
    """What was really used stands under the keys that a WebUI's info has."""
    info = answer(request(changed(TXT2IMG, hires=HIRES))).info
    wanted = {
        "seed": 42,
        "all_seeds": [42],
        "width": 96,
        "height": 128,
        "sd_model_name": "sd_xl_base_1.0",
        "sampler_name": "Euler a",
        "steps": 6,
        "cfg_scale": 7.0,
        "denoising_strength": 0.5,
        "index_of_first_image": 0,
        "extra_generation_params": {
            "Denoising strength": 0.5,
            "Hires upscale": 1.5,
            "Hires steps": 3,
            "Hires upscaler": "Latent",
        },
    }
    assert {key: info[key] for key in wanted} == wanted


@pytest.mark.parametrize("prompt", ["", "ein schöner Tag 🌅", "a\0b", "half \ud800", "x" * 10**6])
def test_any_prompt_makes_a_picture_and_a_bounded_log_record(prompt: str) -> None:
    """Info and infotext are JSON that any log can hold, whatever the prompt."""
    result = answer(request(changed(TXT2IMG, prompt=prompt, negative_prompt=prompt)))
    assert len(msgspec.json.encode(result.info)) < 2**20
    assert opened(result).info["parameters"] == result.info["infotexts"][0]


def test_the_backend_tells_what_it_is() -> None:
    """One slot, and a description without an address."""
    backend = EmbeddedBackend()
    assert backend.slots == 1
    assert (backend.description.kind, backend.description.url) == ("embedded", None)


def test_pictures_are_the_same_on_every_machine() -> None:
    """Pinned pixels of each stage: to change them is to change every user's pictures."""
    for asked, pinned in zip(all_requests(), PINNED, strict=True):
        made_once = answer(asked)
        assert made_once == answer(asked)
        assert made_once.endpoint == f"embedded:{asked.stage_type}"
        assert sha256(opened(made_once).tobytes()).hexdigest()[:16] == pinned
