"""What a status bar shows of a run, and the words in which every bar says it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

from ....events.model import CancelMode, RunState, StageType
from ...text import count, duration, one_line

_LONGEST_NAME = 60
_LONGEST_TEXT = 2000
_WAITS_AFTER_S = 2.0
"""A request of which no step is told for so long is said to wait; most begin much sooner."""


class RunStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A moment of a run, as a status bar shows it.

    ``stage_number`` of ``stage_count``, ``image_number`` of ``image_count`` (in this stage),
    ``pass_number`` of ``pass_count`` and ``attempt`` (in this epoch, at this image) count from
    1, and are 0 while there is none or it is not known. A request for more than one image is
    for ``images_at_once`` from ``image_number`` on. ``step`` of ``steps`` are sampling steps of
    the pass, told live. ``images_done`` are finished in this stage.

    ``percentage`` runs from 0 to 100 over the whole plan, weighted by steps; it is 100 only in
    COMPLETED, and None while no plan is known. It never goes back, but for this: where finished
    images were lost, a resume begins at what is still there.

    ``elapsed_s`` is of the present epoch and stands still after its end; ``remaining_s`` is an
    estimate, None while there is nothing to estimate from and unless RUNNING. ``waiting_s``
    says for how long no step has been told of a request that has left, None where none is
    expected. ``will_retry`` while a further attempt is about to be made, ``stopping`` from the
    order to cancel on, ``reason`` why the run was cancelled.

    ``last_error`` is the last failure that has not been made good, ``config_error`` why nothing
    was started ("Config Error: ..."). Both, ``warnings`` and ``name`` are one line each, safe
    to show; ``stage_id`` is as it is in the log.
    """

    run_id: str = ""
    name: str = ""
    state: RunState = RunState.IDLE
    stage_id: str = ""
    stage_type: str = ""
    stage_number: int = 0
    stage_count: int = 0
    image_number: int = 0
    images_at_once: int = 1
    image_count: int = 0
    images_done: int = 0
    step: int = 0
    steps: int = 0
    pass_number: int = 0
    pass_count: int = 0
    percentage: float | None = None
    elapsed_s: float = 0.0
    remaining_s: float | None = None
    waiting_s: float | None = None
    attempt: int = 0
    will_retry: bool = False
    stopping: CancelMode | None = None
    reason: str = ""
    last_error: str = ""
    config_error: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """The state, and where the run is: ``Running: stage 2 of 4 01-img2img  image 3 of 4``."""
        if self.config_error:
            return "Config Error"
        where = self.outcome if self.state == RunState.COMPLETED else self.place
        return f"{self.state_word}: {where}" if where else self.state_word

    @property
    def detail(self) -> str:
        """What is being done, and for how long: ``step 3 of 20  12.1 s, about 30.0 s left``."""
        if self.config_error:
            return "nothing was started"
        return "  ".join(part for part in (self.activity, self.times) if part)

    @property
    def trouble(self) -> str:
        """The gravest of what went wrong: ``Config Error``, ``Error`` or ``Warning``, and what.

        Empty while nothing has.
        """
        if self.config_error:
            return self.config_error
        if self.last_error:
            return f"Error: {self.last_error}"
        return f"Warning: {'; '.join(self.warnings)}" if self.warnings else ""

    @property
    def state_word(self) -> str:
        """``Running``, ``Stopping``, ``Completed`` and so on."""
        if self.stopping is not None and self.state == RunState.RUNNING:
            return "Stopping"
        return self.state.capitalize()

    @property
    def outcome(self) -> str:
        """What has come out of a run that is complete: ``4 images``."""
        return count(self.image_count, "image") if self.image_count else ""

    @property
    def place(self) -> str:
        """The stage and the image: ``stage 2 of 4 01-img2img  image 3 of 4``."""
        if not self.stage_id:
            return ""
        planned = f"{self.stage_number} of {self.stage_count} " if self.stage_number else ""
        return f"stage {planned}{shown(self.stage_id, _LONGEST_NAME)}  {self._image()}".rstrip()

    @property
    def percent(self) -> str:
        """``47%``, rounded down, so that only what is complete is ``100%``."""
        if self.percentage is None or self.config_error:
            return ""
        return f"{math.floor(self.percentage)}%"

    @property
    def activity(self) -> str:
        """What is being done about the image: a step, a further attempt, waiting.

        Of a cancelled run it is the reason.
        """
        if self.state == RunState.CANCELLED and self.reason:
            return f"reason: {self.reason}"
        return ", ".join(self._activities()) if self.state == RunState.RUNNING else ""

    @property
    def times(self) -> str:
        """``12.1 s, about 30.0 s left``."""
        if not self.run_id:
            return ""
        left = self.remaining_s
        rest = "" if left is None else f", about {duration(left * 1000)} left"
        return f"{duration(self.elapsed_s * 1000)}{rest}"

    def _image(self) -> str:
        if not self.image_number:
            return ""
        last = min(self.image_number + self.images_at_once - 1, self.image_count)
        if last > self.image_number:
            return f"images {self.image_number}-{last} of {self.image_count}"
        return f"image {self.image_number} of {self.image_count}"

    def _activities(self) -> Iterator[str]:
        if self.stopping == CancelMode.AFTER_IMAGE:
            yield "stopping after this image"
        elif self.stopping is not None:
            yield "stopping"
        if self.will_retry:
            yield f"attempt {self.attempt} of {self._what_is_tried()} failed, trying again"
        elif self.attempt > 1:
            yield f"attempt {self.attempt} of {self._what_is_tried()}"
        if self.waiting_s is not None and self.waiting_s >= _WAITS_AFTER_S:
            yield f"waiting for the server for {duration(self.waiting_s * 1000)}"
        elif self.steps:
            yield f"step {self.step} of {self.steps}{self._pass()}"

    def _what_is_tried(self) -> str:
        return self._image().partition(" of ")[0]

    def _pass(self) -> str:
        if not self.pass_count:
            return ""
        if self.stage_type == StageType.TXT2IMG:
            return ", hires pass" if self.pass_number == 2 else ", first pass"
        return f", pass {self.pass_number} of {self.pass_count}"


def shown(text: str, longest: int = _LONGEST_TEXT) -> str:
    """``text`` as one line that is safe to show, and not too long."""
    return _cut(one_line(_cut(text, longest)), longest)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}..."
