"""Renders pictures with the embedded backend, and partial ones after an interrupt."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ...statemachine.errors import GenerationCancelled
from ...statemachine.run.cancel import CancelToken
from ...statemachine.stages import StageConfig
from ..backends.embedded.generation import Sources, make
from ..backends.embedded.infotext import infotext
from ..backends.embedded.pictures import PictureError, decode_picture, encode_png
from ..backends.embedded.settings import passes_of
from ..backends.embedded.steps import StepCounter
from .api_errors import server_error
from .request_mapping import partial_config

if TYPE_CHECKING:
    from PIL.Image import Image


class Picture(NamedTuple):
    """A PNG, its infotext, and whether it was finished before any interrupt."""

    data: bytes
    infotext: str
    whole: bool


class Renderer:
    """Renders one picture at a time; each step takes ``step_delay_s`` seconds more."""

    def __init__(self, step_delay_s: float) -> None:
        self._step_delay_s = step_delay_s

    def render(
        self,
        config: StageConfig,
        seed: int,
        token: CancelToken,
        on_done: Callable[[int], None],
        *,
        source: bytes | None = None,
        mask: bytes | None = None,
    ) -> Picture:
        """Render the picture of one seed; a partial one if ``token`` is cancelled.

        ``on_done`` receives the number of finished steps. Raises ApiError, 500, for what the
        backend refuses.
        """
        done = 0

        def on_step(step: int, _steps: int, **_more: float | None) -> None:
            nonlocal done
            done = step
            on_done(step)

        delay_s = self._step_delay_s
        try:
            sources = Sources(_decoded(source), _decoded(mask))
            try:
                return _rendered(config, seed, sources, token, on_step, delay_s)
            except GenerationCancelled:
                config = partial_config(config, done)
                picture = _rendered(config, seed, sources, CancelToken(), _ignore_step, 0.0)
                return picture._replace(whole=False)
        except PictureError as error:
            raise server_error("RuntimeError", str(error)) from error


def _rendered(
    config: StageConfig,
    seed: int,
    sources: Sources,
    token: CancelToken,
    on_step: Callable[..., None],
    delay_s: float,
) -> Picture:
    counter = StepCounter(token, on_step, images=1, steps=sum(passes_of(config)), delay_s=delay_s)
    counter.begin_image(0)
    made = make(config, seed, sources, counter)
    text = infotext(config, seed, made.size)
    return Picture(encode_png(made.image, text), text, whole=True)


def _decoded(data: bytes | None) -> Image | None:
    return None if data is None else decode_picture(data, "the image")


def _ignore_step(*_args: object, **_more: object) -> None:
    """Ignore the steps of a partial picture."""
