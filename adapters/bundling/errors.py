"""What may end a bundle before there is one."""

from __future__ import annotations

from ...events.errors import StagewrightError
from ..webui.address import AUTH_VARIABLE


class BundleRefusedError(StagewrightError, ValueError):
    """A bundle would hold the password, or replace a file that is no bundle; none was made."""


def password_stands_in(place: str) -> BundleRefusedError:
    """The error for a password that cannot be told from what a run itself is made of."""
    return BundleRefusedError(
        f"no bundle was made: what {AUTH_VARIABLE} holds also stands in {place}, as a word or "
        "digits of its own that cannot be left out; no run's log holds the password that it was "
        f"made with, so unset {AUTH_VARIABLE} and bundle again"
    )
