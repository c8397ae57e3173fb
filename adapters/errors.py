"""Errors of adapters that belong to no single folder.

``stagewright.events.errors`` shows the whole tree.
"""

from __future__ import annotations

from ..events.errors import StagewrightError


class MissingToolkitError(StagewrightError, ImportError):
    """The GUI toolkit of an optional adapter is not installed; the message says what to install."""


class UserCommandError(StagewrightError):
    """A command of the user's settings cannot be started, fails, or takes too long."""


class CommandNotStartedError(UserCommandError):
    """A command of the user's settings cannot be started."""
