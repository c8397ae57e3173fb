"""Errors of decisions: configurations, plans, the lifecycle, backends.

The whole tree is drawn in ``stagewright.events.errors``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from ..events.errors import StagewrightError
from ..events.folds import MISSING_IMAGES

_LONGEST_VALUE = 80
"""Characters of a value that a message shows."""


class FieldError(msgspec.Struct, frozen=True, kw_only=True):
    """One error of a configuration, for a message or for the field of a form.

    ``key`` is the dotted path at fault as it is written, None where no single key is. ``value``
    is what it holds, None if it is missing or secret. ``nearest`` is the known name that may be
    meant, None if none is near. ``message`` says it all in one line, ``reason`` what is wrong.
    """

    message: str
    reason: str
    key: str | None = None
    value: Any = None
    nearest: str | None = None


UNKNOWN_KEY = "unknown key"
"""The reason of a key that is not known. Its message shows no value: that may be a secret."""


def field_error(
    key: str, reason: str, value: object = None, nearest: str | None = None
) -> FieldError:
    """The error of a key; its message shows the value, if there is one."""
    shown = "" if value is None else f" = {show_value(value)}"
    what = f"{reason} {key}" if reason == UNKNOWN_KEY else f"{key}{shown} {reason}"
    near = f"; did you mean {nearest}?" if nearest else ""
    return FieldError(message=f"{what}{near}", reason=reason, key=key, value=value, nearest=nearest)


class ConfigurationError(StagewrightError, ValueError):
    """A configuration cannot be used. ``key`` is the dotted path at fault, if one is.

    ``errors`` are all its errors, of which the message has a line each; ``key`` is that of the
    first.
    """

    def __init__(
        self, message: str = "", *, key: str | None = None, errors: Iterable[FieldError] = ()
    ) -> None:
        self._errors = tuple(errors)
        super().__init__(message or "\n".join(one.message for one in self._errors))
        self.key = key or next((one.key for one in self._errors), None)

    @property
    def errors(self) -> tuple[FieldError, ...]:
        """Every error of the configuration, in the order of its keys; at least one."""
        return self._errors or (FieldError(message=str(self), reason=str(self), key=self.key),)


class InvalidStagePlanError(ConfigurationError):
    """A configuration makes no valid plan; ``key`` is the dotted path at fault."""


def show_value(value: object) -> str:
    """A value of a configuration as a message shows it: as in TOML, in one line, shortened."""
    try:
        is_text = isinstance(value, str)
        text = repr(value) if is_text else json.dumps(value, default=str, ensure_ascii=False)
    except (ValueError, RecursionError):
        return "..."  # a number of thousands of digits, a table within itself
    text = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}.get(text, text)
    text = text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


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


class JobRefusedError(StagewrightError, ValueError):
    """A job cannot be added, moved, retried or removed as asked; nothing was changed."""


class JobNotFoundError(JobRefusedError):
    """No job of the queue has this id, or more than one begins with it."""


class ControllerBusyError(StagewrightError):
    """The controller has a run already; it executes one at a time."""


class InputImageError(ConfigurationError):
    """An input image or mask is missing, too large, or of a format that is not read."""


class InputRefusedError(InputImageError):
    """An input that could not be used when its run was made; no resume changes that."""


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

    @property
    def is_of_backend(self) -> bool:
        """Whether another backend may make the image, since this one is at fault."""
        return self.transient

    @property
    def is_restarting(self) -> bool:
        """Whether the backend is being restarted, so that a run waits for it in any case."""
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


CANCELLED_KINDS = (GenerationCancelled.__name__, GenerationInterrupted.__name__)
"""The error kinds of calls that a cancel ended."""
