"""Renders pictures with the embedded backend, and partial ones after an interrupt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec

from ...statemachine.errors import BackendError, GenerationCancelled
from ...statemachine.ports import GenerateRequest, SourceImage
from ...statemachine.run.cancel import CancelToken
from ...statemachine.stages import (
    AdetailerConfig,
    Img2ImgConfig,
    StageConfig,
    Txt2ImgConfig,
    UpscaleConfig,
)
from ..backends.embedded import EmbeddedBackend
from ..backends.embedded.settings import DEFAULT_STEPS, passes_of
from .api_errors import server_error

OnDone = Callable[[int], None]
"""Receives the number of finished steps of a picture."""

_PLAIN_UPSCALER = "Lanczos"


class Picture(NamedTuple):
    """A PNG, its infotext, and whether it was finished before any interrupt."""

    data: bytes
    infotext: str
    whole: bool


class Renderer:
    """Renders one picture at a time; each step takes ``step_delay_s`` seconds more."""

    def __init__(self, step_delay_s: float) -> None:
        self._slow = EmbeddedBackend(step_delay_s=step_delay_s)
        self._quick = EmbeddedBackend()

    def render(
        self,
        config: StageConfig,
        seed: int,
        token: CancelToken,
        on_done: OnDone,
        *,
        source: bytes | None = None,
        mask: bytes | None = None,
    ) -> Picture:
        """Render the picture of one seed; a partial one if ``token`` is cancelled.

        Raises ApiError, 500, for what the backend refuses.
        """
        asked = _request(config, seed, source, mask)
        done = 0

        def on_step(
            step: int, steps: int, *, fraction: float | None = None, eta_s: float | None = None
        ) -> None:
            del steps, fraction, eta_s
            nonlocal done
            done = step
            on_done(step)

        try:
            return _generate(self._slow, asked, token, on_step, whole=True)
        except GenerationCancelled:
            half = msgspec.structs.replace(asked, config=partial_config(config, done))
            return _generate(self._quick, half, CancelToken(), _ignore_step, whole=False)


def partial_config(config: StageConfig, done: int) -> StageConfig:
    """A configuration that gives the picture as it is after ``done`` steps."""
    return _PARTIAL[config.stage_type](config, done)


def _partial_txt2img(config: Txt2ImgConfig, done: int) -> Txt2ImgConfig:
    """The steps of the first pass so far; with hires, the refiner acts in the second pass only."""
    steps = _partial_steps(config.steps, done)
    refiner = config.refiner if config.hires is None else None
    return msgspec.structs.replace(config, steps=steps, hires=None, refiner=refiner)


def _partial_img2img(config: Img2ImgConfig, done: int) -> Img2ImgConfig:
    return msgspec.structs.replace(config, steps=_partial_steps(config.steps, done))


def _partial_steps(steps: int | None, done: int) -> int:
    return max(1, min(done, steps or DEFAULT_STEPS))


def _partial_upscale(config: UpscaleConfig, _: int) -> UpscaleConfig:
    """A plain resize."""
    return msgspec.structs.replace(config, upscaler=_PLAIN_UPSCALER, upscaler_2=None)


def _partial_adetailer(config: AdetailerConfig, done: int) -> AdetailerConfig:
    """The passes that are finished."""
    return msgspec.structs.replace(config, passes=config.passes[: _finished(config, done)])


_PARTIAL: Mapping[str, Callable[[Any, int], StageConfig]] = {
    "txt2img": _partial_txt2img,
    "img2img": _partial_img2img,
    "upscale": _partial_upscale,
    "adetailer": _partial_adetailer,
}


def _finished(config: AdetailerConfig, done: int) -> int:
    """How many passes are finished after ``done`` steps."""
    passes = 0
    for steps in passes_of(config):
        done -= steps
        if done < 0:
            break
        passes += 1
    return passes


def _generate(
    backend: EmbeddedBackend,
    asked: GenerateRequest,
    token: CancelToken,
    on_step: Callable[..., None],
    *,
    whole: bool,
) -> Picture:
    try:
        answer = backend.generate_images(asked, cancel=token, on_step=on_step)
    except GenerationCancelled:
        raise
    except BackendError as error:
        raise server_error("RuntimeError", str(error)) from error
    return Picture(answer.images[0].data, answer.info["infotexts"][0], whole)


def _request(
    config: StageConfig, seed: int, source: bytes | None, mask: bytes | None
) -> GenerateRequest:
    return GenerateRequest(
        call_id="",
        run_id="",
        stage_id=config.stage_type,
        stage_type=config.stage_type,
        image_index=0,
        count=1,
        total_images=1,
        attempt=0,
        seed=seed,
        config=config,
        inputs=() if source is None else (_source(source),),
        mask=None if mask is None else _source(mask),
    )


def _source(data: bytes) -> SourceImage:
    """A source image; the embedded backend uses only its bytes."""
    return SourceImage(
        data=data, source_sha256=sha256(data).hexdigest(), media_type="", width=0, height=0
    )


def _ignore_step(*_args: object, **_more: object) -> None:
    """Ignore the steps of a partial picture."""
