"""Counts, delays and reports the sampling steps of one request, and handles its cancel."""

from __future__ import annotations

from ....statemachine.errors import GenerationCancelled
from ....statemachine.ports import OnStep
from ....statemachine.run.cancel_token import CancelToken


class StepCounter:
    """Counts ``steps`` steps for each of ``images`` images, ``delay_s`` seconds long each."""

    def __init__(
        self, cancel: CancelToken, on_step: OnStep, *, images: int, steps: int, delay_s: float
    ) -> None:
        self._cancel = cancel
        self._on_step = on_step
        self._images = images
        self._steps = steps
        self._delay_s = delay_s
        self._image = 0
        self._step = 0

    def begin_image(self, image: int) -> None:
        """Start counting for image ``image`` of the request. Raises GenerationCancelled."""
        self._image, self._step = image, 0
        self.check()

    def check(self) -> None:
        """Raise GenerationCancelled if the current image is to be cancelled."""
        if self._cancel.cancelled:
            raise GenerationCancelled("the embedded backend stopped: the run was cancelled")

    def tick(self) -> None:
        """Do one step. Raises GenerationCancelled."""
        if self._delay_s > 0:
            self._cancel.wait(self._delay_s)
        self.skip(1)

    def skip(self, steps: int) -> None:
        """Skip ``steps`` steps. Raises GenerationCancelled."""
        self.check()
        self._step += steps
        done = self._image * self._steps + self._step
        self._on_step(self._step, self._steps, fraction=done / (self._images * self._steps))
