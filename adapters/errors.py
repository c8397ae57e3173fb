"""Errors of adapters that stand in no folder of their own.

The whole tree is drawn in ``stagewright.events.errors``.
"""

from __future__ import annotations

from ..events.errors import StagewrightError


class MissingToolkitError(StagewrightError, ImportError):
    """A GUI toolkit that an optional adapter needs is not installed; says what to install."""
