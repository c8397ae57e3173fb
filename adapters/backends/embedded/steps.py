"""Sampling steps of one request: counted, slowed down, told, and given up on cancel."""

from __future__ import annotations

from ....statemachine.errors import GenerationCancelled
from ....statemachine.ports import OnStep
from ....statemachine.run.cancel import CancelToken


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
        """Count anew, for image ``image`` of the request. Raises GenerationCancelled."""
        self._image, self._step = image, 0
        self.check()

    def check(self) -> None:
        """Raise GenerationCancelled if the run is to give up the image being made."""
        if self._cancel.cancelled:
            raise GenerationCancelled("the embedded backend stopped: the run was cancelled")

    def tick(self) -> None:
        """One more step is done. Raises GenerationCancelled instead where it is not."""
        if self._delay_s > 0:
            self._cancel.wait(self._delay_s)
        self.skip(1)

    def skip(self, steps: int) -> None:
        """``steps`` more steps need not be taken. Raises GenerationCancelled."""
        self.check()
        self._step += steps
        done = self._image * self._steps + self._step
        self._on_step(self._step, self._steps, fraction=done / (self._images * self._steps))
