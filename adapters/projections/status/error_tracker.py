"""Tracks the errors of the present epoch until a later success corrects them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ....events.model import CallFailed, LifecycleChanged
from ....statemachine.errors import GenerationCancelled, GenerationInterrupted
from ...event_text import error_text
from ...text import count
from .status import shown
from .work import PlanWork, StageWork

_CANCELLED = (GenerationCancelled.__name__, GenerationInterrupted.__name__)
_MOST_WARNINGS = 20


class ErrorTracker:
    """The failed calls and images of an epoch, and the warnings.

    ``planned`` are the warnings of the plan; ``lost`` finished images have to be made again.
    ``error`` is the last failure that no success has corrected. ``will_retry`` says that the
    last failed call is about to be repeated. ``images_given_up`` will not be made in this
    epoch; ``weight_given_up`` is their share of the work.
    """

    def __init__(self, planned: tuple[str, ...] = (), lost: int = 0) -> None:
        self.planned = planned
        self._lost = lost
        self._failures: dict[tuple[str, int], int] = {}
        self._error_of: tuple[str, int] | None = None
        self.error = ""
        self.will_retry = False
        self.images_given_up = 0
        self.weight_given_up = 0

    def fail(self, stage: StageWork | None, first: int, images: int, event: CallFailed) -> None:
        """Note a failed call for ``images`` of ``stage`` from index ``first`` on.

        ``stage`` is None if the log does not name it.
        """
        self.will_retry = event.will_retry
        if event.error.kind in _CANCELLED:
            return
        self.error = shown(error_text(event.error, 0 if stage is None else stage.image_count))
        if stage is None:
            return
        self._error_of = place = (stage.stage_id, first)
        if event.will_retry:
            self._failures[place] = self._failures.get(place, 0) + 1
        else:
            self._failures.pop(place, None)
            self.images_given_up += images
            self.weight_given_up += images * stage.weight_from_here

    def correct(self, stage_id: str, index: int) -> None:
        """An image is finished, which corrects its failures."""
        place = (stage_id, index)
        self._failures.pop(place, None)
        if place == self._error_of:
            self._error_of, self.error = None, ""

    def end(self, event: LifecycleChanged, image_count: int) -> None:
        """Note that the run itself has failed."""
        self.will_retry = False
        failure = event.error
        self.error = shown(event.reason if failure is None else error_text(failure, image_count))

    def attempt(self, stage_id: str, index: int) -> int:
        """The number of attempts at an image in this epoch, including the present one."""
        return self._failures.get((stage_id, index), 0) + (0 if self.will_retry else 1)

    def warnings(self, work: PlanWork) -> tuple[str, ...]:
        """The warnings, one line each."""
        return (*self.planned, *self._found(work))

    def _found(self, work: PlanWork) -> Iterator[str]:
        if self.images_given_up:
            yield f"{count(self.images_given_up, 'image')} failed after all retries"
        if unchanged := work.unchanged_images():
            yield f"{count(unchanged, 'image')} came back unchanged"
        if self._lost:
            yield f"files of {count(self._lost, 'finished image')} were lost or altered"


def planned_warnings(plan: Mapping[str, Any]) -> Iterator[str]:
    """The warnings of the plan; other values in a foreign log are ignored."""
    warnings = plan.get("warnings")
    for warning in list(warnings)[:_MOST_WARNINGS] if isinstance(warnings, list | tuple) else ():
        if isinstance(warning, str):
            yield shown(warning)
