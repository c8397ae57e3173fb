"""Errors of decisions: configurations, plans, the lifecycle, backends.

The whole tree is drawn in ``stagewright.events.errors``.
"""

from __future__ import annotations

from ..events.errors import StagewrightError
from ..events.folds import MISSING_IMAGES


class ConfigurationError(StagewrightError, ValueError):
    """A configuration cannot be used. ``key`` is the dotted path at fault, if one is."""

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class InvalidStagePlanError(ConfigurationError):
    """A configuration makes no valid plan; ``key`` is the dotted path at fault."""


class PreflightError(ConfigurationError):
    """A server cannot be reached, or lacks a name that the configuration uses.

    Nothing was started.
    """


class StageConflictError(StagewrightError):
    """A flat and a nested key for one stage have different values."""


class InvalidTransitionError(StagewrightError):
    """The lifecycle does not allow this trigger in this state; nothing has changed."""

    def __init__(self, trigger: str, state: str) -> None:
        super().__init__(f"cannot {trigger} a run that is {state}")
        self.trigger = trigger
        self.state = state


class ResumeRefusedError(StagewrightError):
    """A run cannot be resumed, for a reason that its log gives; nothing was written."""


class RemovalRefusedError(StagewrightError, ValueError):
    """A run, or images of it, cannot be removed or archived; nothing was."""


class ControllerBusyError(StagewrightError):
    """The controller has a run already; it executes one at a time."""


class InputImageError(ConfigurationError):
    """An input image or mask is missing, too large, or of a format that is not read."""


class MissingImagesError(StagewrightError):
    """The run ended with images missing that failed (``on_image_error = continue``)."""


assert MissingImagesError.__name__ == MISSING_IMAGES  # the fold knows the outcome by this name


class BackendError(StagewrightError):
    """One attempt at one request gave no image.

    ``transient``: the same request may succeed if it is sent again. ``endpoint``: where it
    was sent. ``detail``: what else is known, such as the server's message. ``interrupted``:
    the backend was told to stop, so it may hold a half-made image. ``settled``: the backend
    is known not to work on the request any more. ``retry_after_s``: the seconds that the
    backend asked to wait before the next request, None if it did not.
    """

    @property
    def is_out_of_reach(self) -> bool:
        """Whether nothing was sent because the backend cannot be reached, which may change."""
        return False

    def __init__(
        self,
        message: str,
        *,
        transient: bool = False,
        endpoint: str = "",
        detail: str = "",
        interrupted: bool = False,
        settled: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.transient = transient
        self.endpoint = endpoint
        self.detail = detail
        self.interrupted = interrupted
        self.settled = settled
        self.retry_after_s = retry_after_s


class BackendAnswerError(BackendError):
    """The backend's answer is not the images that were asked for."""


class GenerationCancelled(BackendError):  # noqa: N818 - it is how a cancel ends, no error
    """The backend stopped because the run was cancelled."""


class GenerationInterrupted(GenerationCancelled):
    """The run was cancelled and the backend told to stop; its answer is discarded."""
