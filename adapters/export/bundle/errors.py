"""What may end a bundle before there is one."""

from __future__ import annotations

from ....events.errors import StagewrightError
from ...backends.webui.address import AUTH_VARIABLE


class BundleRefusedError(StagewrightError, ValueError):
    """No bundle was made.

    It would hold the password, replace another file, or be made of a bundle.
    """


def password_stands_in(place: str) -> BundleRefusedError:
    """The error for a password that cannot be told from what a run itself is made of."""
    return BundleRefusedError(
        f"no bundle was made: what {AUTH_VARIABLE} holds also stands in {place}, as a word or "
        "digits of its own that cannot be left out; no run's log holds the password that it was "
        f"made with, so unset {AUTH_VARIABLE} and bundle again"
    )


def no_event_any_more(place: str) -> BundleRefusedError:
    """The error for an event that cannot do without what a bundle may not hold."""
    return BundleRefusedError(
        f"no bundle was made: {place} would be no event, or another one, without what a bundle "
        "leaves out; no stagewright wrote it so"
    )
