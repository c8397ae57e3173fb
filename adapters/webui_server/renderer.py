"""Renders pictures with the embedded backend, and partial ones after an interrupt."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ...statemachine.errors import GenerationCancelled
from ...statemachine.run.cancel_token import CancelToken
from ...statemachine.stages import StageConfig
from ..backends.embedded.generation import Sources, make
from ..backends.embedded.infotext import infotext
from ..backends.embedded.pictures import PictureError
from ..backends.embedded.settings import passes_of
from ..backends.embedded.steps import StepCounter
from .api_errors import server_error
from .request_mapping import partial_config

if TYPE_CHECKING:
    from PIL.Image import Image


class Picture(NamedTuple):
    """A picture, its infotext, and whether it was finished before any interrupt."""

    image: Image
    infotext: str
    whole: bool


def render(
    config: StageConfig,
    seed: int,
    sources: Sources,
    token: CancelToken,
    on_done: Callable[[int], None],
    step_delay_s: float,
) -> Picture:
    """Render the picture of one seed; a partial one if ``token`` is cancelled.

    ``on_done`` receives the number of finished steps. Raises ApiError, 500, for what the backend
    refuses.
    """
    done, is_whole = 0, True

    def on_step(step: int, _steps: int, **_more: float | None) -> None:
        nonlocal done
        done = step
        on_done(step)

    def counter(token: CancelToken, on_step: Callable[..., None], delay_s: float) -> StepCounter:
        steps = sum(passes_of(config))
        return StepCounter(token, on_step, images=1, steps=steps, delay_s=delay_s)

    try:
        try:
            made = make(config, seed, sources, counter(token, on_step, step_delay_s))
        except GenerationCancelled:
            config, is_whole = partial_config(config, done), False
            made = make(config, seed, sources, counter(CancelToken(), _ignore_step, 0.0))
    except PictureError as error:
        raise server_error("RuntimeError", str(error)) from error
    return Picture(made.image, infotext(config, seed, made.size), is_whole)


def _ignore_step(*_args: object, **_more: object) -> None:
    """Ignore the steps of a partial picture."""
