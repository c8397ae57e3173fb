"""What the stages of one epoch share, and the ways in which one of them may end early."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from .cancel import CancelToken
from .config import OnImageError
from .image_files import ImageFiles
from .journal import RunJournal
from .plan import StageExecutionPlan
from .ports import Clock, ImageBackend
from .run.image_status import ImageStatus


class Workshop(msgspec.Struct, frozen=True):
    """What the stages of one epoch share."""

    plan: StageExecutionPlan
    journal: RunJournal
    standing: ImageStatus
    backend: ImageBackend
    images: ImageFiles
    token: CancelToken
    clock: Clock
    slots: int
    on_image_error: OnImageError
    retries: int
    backoff_s: float
    look_for_cancel: Callable[[], None]


class RunStopped(Exception):  # noqa: N818 - not an error: the run was asked to stop
    """A stage ended early because the run is being cancelled."""


class StageFailedError(Exception):
    """A stage ended early because an image failed for good; ``cause`` says why.

    ``image_index`` is None where the stage could not even begin.
    """

    def __init__(self, stage_id: str, image_index: int | None, cause: BaseException) -> None:
        where = stage_id if image_index is None else f"{stage_id}, image {image_index}"
        super().__init__(f"{where}: {type(cause).__name__}: {cause}")
        self.stage_id = stage_id
        self.image_index = image_index
        self.cause = cause
