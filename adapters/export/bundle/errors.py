"""Errors of making a bundle."""

from __future__ import annotations

from ....events.errors import StagewrightError
from ...backends.http.credentials import AUTH_VARIABLE


class BundleRefusedError(StagewrightError, ValueError):
    """No bundle was made: it would hold the password, replace another file, or be of a bundle."""


def password_in_text(place: str) -> BundleRefusedError:
    """The error for a password that is also an ordinary word of the run."""
    return BundleRefusedError(
        f"no bundle was made: the value of {AUTH_VARIABLE} also occurs in {place}, where it cannot "
        "be replaced; logs never hold the password of their run, so unset "
        f"{AUTH_VARIABLE} and bundle again"
    )


def event_became_invalid(place: str) -> BundleRefusedError:
    """The error for an event that would be invalid after private text is replaced."""
    return BundleRefusedError(
        f"no bundle was made: {place} would no longer be a valid event after private text is "
        "replaced; stagewright did not write it"
    )
