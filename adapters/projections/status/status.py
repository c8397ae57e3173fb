"""The status of a run, and the texts that every status bar shows."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ....events.model import CancelMode, RunState
from ...text import count, duration, one_line
from .group_status import GroupStatus
from .weights import pass_names

UNFINISHED = 99.9
"""The highest percentage before the run, or the group, has completed."""
_LONGEST_NAME = 60
_LONGEST_TEXT = 2000
_WAITS_AFTER_S = 2.0
"""A request without a step for so long is shown as waiting; most begin much sooner."""


class RunStatus(GroupStatus, frozen=True, kw_only=True):
    """The status of a run at one moment, and of the group that it belongs to, if any.

    ``stage_number`` of ``stage_count``, ``image_number`` of ``image_count`` (in this stage),
    ``pass_number`` of ``pass_count`` and ``attempt`` (over all epochs, for this image) count from
    1, and are 0 if there is none or it is unknown. A request for several images covers
    ``images_at_once`` images from ``image_number`` on. ``step`` of ``steps`` are live sampling
    steps of the pass. ``images_done`` counts the finished images of this stage.
    ``requests_at_once`` is the most requests that were under way at once in this stage: where they
    are several, the texts show how many images are finished, not one image and its steps.

    ``percentage`` runs from 0 to 100 over the whole plan, weighted by sampling steps. It is 100
    only in COMPLETED, and None without a plan. It never decreases, except that a resume which
    found images lost starts at what is left.

    ``elapsed_s`` is the time of the present epoch, or of the last one after its end.
    ``remaining_s`` is an estimate, None unless RUNNING and something is known to estimate from.
    ``waiting_s`` is the time since a request was sent without any step so far, None where no
    steps are expected. ``will_retry`` is True while a further attempt is about to be made.
    ``stopping`` is set once a cancel was requested, ``reason`` says why.

    ``last_error`` is the last failure that no later success has corrected. ``config_error``
    says why no run was started ("Config Error: ..."). Both, ``warnings`` and ``name`` are single
    lines that are safe to show; ``stage_id`` is unchanged from the log.
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
    requests_at_once: int = 1
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
        """The state and position: ``Running: stage 2 of 4 01-img2img  image 3 of 4``."""
        if self.config_error:
            return "Config Error"
        where = self.outcome if self.state == RunState.COMPLETED else self.place
        return f"{self.state_word}: {where}" if where else self.state_word

    @property
    def detail(self) -> str:
        """The activity and the times: ``step 3 of 20  12.1 s, about 30.0 s left``."""
        if self.config_error:
            return "no run was started"
        return "  ".join(part for part in (self.activity, self.times) if part)

    @property
    def trouble(self) -> str:
        """The most severe problem: ``Config Error: ...``, ``Error: ...`` or ``Warning: ...``.

        Empty without problems.
        """
        if self.config_error:
            return self.config_error
        if self.last_error:
            return f"Error: {self.last_error}"
        if self.group_error:
            return f"Error: {self.group_error}"
        return f"Warning: {'; '.join(self.warnings)}" if self.warnings else ""

    @property
    def state_word(self) -> str:
        """``Running``, ``Stopping``, ``Completed`` and so on."""
        if self.stopping is not None and self.state == RunState.RUNNING:
            return "Stopping"
        return self.state.capitalize()

    @property
    def outcome(self) -> str:
        """The result of a completed run: ``4 images``."""
        return count(self.image_count, "image") if self.image_count else ""

    @property
    def place(self) -> str:
        """The stage and image: ``stage 2 of 4 01-img2img  image 3 of 4``.

        With several requests at once ``3 of 12 images finished, 2 at once``.
        """
        if not self.stage_id:
            return ""
        planned = f"{self.stage_number} of {self.stage_count} " if self.stage_number else ""
        return f"stage {planned}{shown(self.stage_id, _LONGEST_NAME)}  {self._images()}".rstrip()

    @property
    def percent(self) -> str:
        """``47%``, rounded down, so that only a completed run shows ``100%``."""
        if self.percentage is None or self.config_error:
            return ""
        return f"{math.floor(self.percentage)}%"

    @property
    def activity(self) -> str:
        """What happens now: a step, a further attempt or waiting; the reason of a cancelled run."""
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

    def _images(self) -> str:
        if self.requests_at_once < 2:
            return self._image()
        finished = f"{self.images_done} of {count(self.image_count, 'image')} finished"
        return f"{finished}, {self.requests_at_once} at once"

    def _image(self) -> str:
        if not self.image_number:
            return ""
        last = min(self.image_number + self.images_at_once - 1, self.image_count)
        if last > self.image_number:
            return f"images {self.image_number}-{last} of {self.image_count}"
        return f"image {self.image_number} of {self.image_count}"

    def _activities(self) -> Iterator[str]:
        if self.stopping == CancelMode.AFTER_IMAGE:
            yield "stopping after the current image"
        elif self.stopping is not None:
            yield "stopping"
        if self.will_retry:
            yield f"attempt {self.attempt} of {self._image_tried()} failed, trying again"
        elif self.attempt > 1:
            yield f"attempt {self.attempt} of {self._image_tried()}"
        if self.waiting_s is not None and self.waiting_s >= _WAITS_AFTER_S:
            yield f"waiting for the server for {duration(self.waiting_s * 1000)}"
        elif self.steps and self.requests_at_once < 2:
            yield f"step {self.step} of {self.steps}{self._pass()}"

    def _image_tried(self) -> str:
        return self._image().partition(" of ")[0]

    def _pass(self) -> str:
        if not self.pass_count:
            return ""
        names = pass_names(self.stage_type)
        if len(names) == self.pass_count:
            return f", {names[self.pass_number - 1]}"
        return f", pass {self.pass_number} of {self.pass_count}"


def shown(text: str, longest: int = _LONGEST_TEXT) -> str:
    """``text`` as one line that is safe to show, cut to ``longest`` characters."""
    return _cut(one_line(_cut(text, longest)), longest)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}..."
