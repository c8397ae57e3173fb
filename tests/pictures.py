"""What the tests of the embedded backend share: configurations, requests, pictures."""

from __future__ import annotations

import io
from hashlib import sha256
from typing import Any

import msgspec
from PIL import Image, ImageChops
from stagewright.adapters.backends.embedded import EmbeddedBackend
from stagewright.events.model import CancelMode
from stagewright.statemachine.ports import GenerateAnswer, GenerateRequest, SourceImage
from stagewright.statemachine.run.cancel_token import CancelToken
from stagewright.statemachine.stages import (
    AdetailerConfig,
    AdetailerPass,
    HiresConfig,
    Img2ImgConfig,
    StageConfig,
    Txt2ImgConfig,
    UpscaleConfig,
)

TXT2IMG = Txt2ImgConfig(
    prompt="portrait of an astronaut, studio light",
    negative_prompt="blurry",
    seed=42,
    model="sd_xl_base_1.0.safetensors",
    sampler="Euler a",
    steps=6,
    cfg_scale=7.0,
    width=96,
    height=128,
)
HIRES = HiresConfig(scale=1.5, denoise=0.5, steps=3, upscaler="Latent")
IMG2IMG = Img2ImgConfig(
    prompt="portrait of an astronaut, studio light",
    seed=7,
    denoise=0.5,
    steps=5,
    model="sd_xl_base_1.0.safetensors",
    sampler="Euler a",
    cfg_scale=7.0,
)
UPSCALE = UpscaleConfig(upscaler="R-ESRGAN 4x+", factor=2.0)
FACE = AdetailerPass(model="face_yolov8n.pt", denoise=0.4)
ADETAILER = AdetailerConfig(
    prompt="portrait of an astronaut, studio light", seed=42, steps=4, passes=(FACE,)
)


class Steps:
    """An ``on_step`` that keeps what it was told; it cancels ``token`` at ``cancel_at``."""

    def __init__(self, token: CancelToken | None = None, cancel_at: int = 0) -> None:
        self.told: list[tuple[int, int]] = []
        self.fractions: list[float | None] = []
        self._token = token
        self._cancel_at = cancel_at

    def __call__(
        self, step: int, steps: int, *, fraction: float | None = None, eta_s: float | None = None
    ) -> None:
        del eta_s  # that of a slow machine
        self.told.append((step, steps))
        self.fractions.append(fraction)
        if self._token is not None and step == self._cancel_at:
            self._token.request(CancelMode.NOW)


def source(image: Image.Image | bytes, kind: str = "PNG") -> SourceImage:
    """An image, or bytes that are none, as a request brings it along."""
    data = image if isinstance(image, bytes) else encoded(image, kind)
    return SourceImage(
        data=data,
        source_sha256=sha256(data).hexdigest(),
        media_type="image/png",
        width=8,
        height=8,
    )


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    """The file that an image makes in this format."""
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def request(
    config: StageConfig,
    *inputs: SourceImage,
    seed: int = 42,
    count: int = 1,
    mask: SourceImage | None = None,
) -> GenerateRequest:
    """What the runner asks of a backend: image 3 of 8 of a run's only stage."""
    kind = config.stage_type
    return GenerateRequest(
        call_id=f"run.00-{kind}.00003.0",
        run_id="run",
        stage_id=f"00-{kind}",
        stage_type=kind,
        image_index=3,
        count=count,
        total_images=8,
        attempt=0,
        seed=seed,
        config=config,
        inputs=inputs,
        mask=mask,
    )


def answer(asked: GenerateRequest) -> GenerateAnswer:
    """What a fresh backend answers when nobody cancels."""
    return EmbeddedBackend().generate_images(asked, cancel=CancelToken(), on_step=Steps())


def opened(given_answer: GenerateAnswer, place: int = 0) -> Image.Image:
    """The decoded picture at this place of an answer, which is always RGB."""
    image = Image.open(io.BytesIO(given_answer.images[place].data))
    image.load()
    assert image.mode == "RGB"
    return image


def made(
    config: StageConfig,
    *inputs: Image.Image,
    seed: int = 42,
    mask: Image.Image | None = None,
) -> Image.Image:
    """The one picture that a configuration makes of these inputs."""
    sources = [source(image) for image in inputs]
    asked = request(config, *sources, seed=seed, mask=source(mask) if mask else None)
    return opened(answer(asked))


def changed(config: StageConfig, **fields: Any) -> StageConfig:
    """The same configuration but for these fields."""
    return msgspec.structs.replace(config, **fields)


def distance(one: Image.Image, other: Image.Image) -> int:
    """The sum of all differences of 8-bit values."""
    counts = ImageChops.difference(one, other).histogram()
    return sum(count * (place % 256) for place, count in enumerate(counts))


def same_pixels(one: Image.Image, other: Image.Image) -> bool:
    """Whether two pictures have the same size and the same pixels."""
    return one.size == other.size and one.tobytes() == other.tobytes()


def portrait() -> Image.Image:
    """A picture large enough for a face with detail in it."""
    return made(changed(TXT2IMG, width=192, height=256))


def all_requests() -> list[GenerateRequest]:
    """One request of each stage, and txt2img with hires, in the order of the pinned digests."""
    picture = source(made(TXT2IMG))
    return [
        request(TXT2IMG),
        request(changed(TXT2IMG, hires=HIRES)),
        request(IMG2IMG, picture),
        request(UPSCALE, picture),
        request(ADETAILER, picture),
    ]
