"""Tracks the errors of the present epoch until a later success corrects them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ....events.model import Artifact, CallFailed, LifecycleChanged
from ....statemachine.errors import CANCELLED_KINDS
from ...event_text import error_text
from ...text import count
from .status import shown
from .work import PlanWork

_MOST_WARNINGS = 20


class ErrorTracker:
    """The failed calls of an epoch, and the warnings.

    ``planned`` are the warnings of the plan; ``lost`` finished images have to be made again.
    ``error`` is the last failure that no success has corrected. ``will_retry`` says that the
    last failed call is about to be repeated. ``given_up`` counts, by stage, the images that
    will not be made in this epoch.
    """

    def __init__(self, planned: tuple[str, ...] = (), lost: int = 0) -> None:
        self.planned = planned
        self._lost = lost
        self._error_of: tuple[str, int] | None = None
        self.error = ""
        self.will_retry = False
        self.given_up: dict[str, int] = {}

    def fail(self, event: CallFailed, stage_id: str, first: int, images: int, total: int) -> None:
        """Note a failed call for ``images`` of ``total`` images of a stage from ``first`` on.

        ``stage_id`` is empty if the log does not name the stage.
        """
        self.will_retry = event.will_retry
        if event.error.kind in CANCELLED_KINDS:
            return
        self.error = shown(error_text(event.error, total if stage_id else 0))
        self._error_of = (stage_id, first)
        if stage_id and not event.will_retry:
            self.given_up[stage_id] = self.given_up.get(stage_id, 0) + images

    def correct(self, stage_id: str, made: Iterable[Artifact]) -> None:
        """Images were made, which corrects their failures."""
        if self._error_of in [(stage_id, artifact.image_index) for artifact in made]:
            self._error_of, self.error = None, ""

    def end(self, event: LifecycleChanged, image_count: int) -> None:
        """Note that the run itself has failed."""
        self.will_retry = False
        failure = event.error
        self.error = shown(event.reason if failure is None else error_text(failure, image_count))

    def warnings(self, work: PlanWork) -> Iterator[str]:
        """The warnings, one line each."""
        yield from self.planned
        if given_up := sum(self.given_up.values()):
            yield f"{count(given_up, 'image')} failed after all retries"
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
