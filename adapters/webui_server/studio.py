"""Pictures out of the embedded backend: whole ones, and half-made ones after an interrupt."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import NamedTuple

import msgspec

from ...events.model import StageType
from ...statemachine.config.stage_configs import (
    AdetailerConfig,
    HiresConfig,
    Img2ImgConfig,
    StageConfig,
    Txt2ImgConfig,
    UpscaleConfig,
)
from ...statemachine.errors import BackendError, GenerationCancelled
from ...statemachine.ports import GenerateRequest, SourceImage
from ...statemachine.run.cancel import CancelToken
from ..backends.embedded import EmbeddedBackend
from ..backends.embedded.settings import DEFAULT_STEPS
from .refusals import failed

OnDone = Callable[[int], None]
"""Told how many steps of a picture are done."""

_TYPES: dict[type[StageConfig], StageType] = {
    Txt2ImgConfig: StageType.TXT2IMG,
    Img2ImgConfig: StageType.IMG2IMG,
    UpscaleConfig: StageType.UPSCALE,
    AdetailerConfig: StageType.ADETAILER,
}
_PLAIN_UPSCALER = "Lanczos"


class Picture(NamedTuple):
    """A PNG, the text in it, and whether it is all that was asked for."""

    data: bytes
    infotext: str
    whole: bool


class Studio:
    """Makes one picture after the other; ``step_delay_s`` seconds are waited in each step."""

    def __init__(self, step_delay_s: float) -> None:
        self._slow = EmbeddedBackend(step_delay_s=step_delay_s)
        self._quick = EmbeddedBackend()

    def paint(
        self,
        config: StageConfig,
        seed: int,
        token: CancelToken,
        on_done: OnDone,
        *,
        source: bytes | None = None,
        mask: bytes | None = None,
    ) -> Picture:
        """The picture of one seed; half-made, but well-looking, once ``token`` is cancelled.

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
            return _asked_of(self._slow, asked, token, on_step, whole=True)
        except GenerationCancelled:
            half = msgspec.structs.replace(asked, config=half_made(config, done))
            return _asked_of(self._quick, half, CancelToken(), _unheard, whole=False)


def phases_of(config: StageConfig) -> list[int]:
    """The steps of each pass over a picture, in order."""
    if isinstance(config, UpscaleConfig):
        return [1]
    steps = config.steps or DEFAULT_STEPS
    if isinstance(config, AdetailerConfig):
        return [one.steps or steps for one in config.passes]
    hires = config.hires if isinstance(config, Txt2ImgConfig) else None
    return [steps] if hires is None else [steps, hires.steps or steps]


def half_made(config: StageConfig, done: int) -> StageConfig:
    """What is left of a configuration after ``done`` steps.

    Of txt2img the first pass so far; of img2img likewise; of adetailer the passes that are
    through; an upscale is plainly resized.
    """
    if isinstance(config, UpscaleConfig):
        return msgspec.structs.replace(config, upscaler=_PLAIN_UPSCALER, upscaler_2=None)
    if isinstance(config, AdetailerConfig):
        return msgspec.structs.replace(config, passes=config.passes[: _finished(config, done)])
    steps = max(1, min(done, config.steps or DEFAULT_STEPS))
    if isinstance(config, Txt2ImgConfig) and isinstance(config.hires, HiresConfig):
        # Its refiner takes part in the second pass only.
        return msgspec.structs.replace(config, steps=steps, hires=None, refiner=None)
    return msgspec.structs.replace(config, steps=steps)


def _finished(config: AdetailerConfig, done: int) -> int:
    """How many passes ``done`` steps make."""
    passes = 0
    for steps in phases_of(config):
        done -= steps
        if done < 0:
            break
        passes += 1
    return passes


def _asked_of(
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
        raise failed("RuntimeError", str(error)) from error
    return Picture(answer.images[0].data, answer.info["infotexts"][0], whole)


def _request(
    config: StageConfig, seed: int, source: bytes | None, mask: bytes | None
) -> GenerateRequest:
    stage = _TYPES[type(config)]
    return GenerateRequest(
        call_id="",
        run_id="",
        stage_id=stage.value,
        stage_type=stage,
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
    """The backend looks at the bytes alone."""
    return SourceImage(
        data=data, source_sha256=sha256(data).hexdigest(), media_type="", width=0, height=0
    )


def _unheard(*_args: object, **_more: object) -> None:
    """Steps that nobody waits for."""
