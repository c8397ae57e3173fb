"""``[notify]`` of the user's settings."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from ...statemachine.config.validation import SECRET

Secret = Annotated[str, SECRET]


class Occasion(StrEnum):
    """What a message is sent for."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    STALLED = "stalled"
    QUEUE_EMPTY = "queue-empty"


class NotifySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom to tell, and of what: ``on`` names occasions, all of them by default.

    ``command`` is run for each message, and each of ``urls`` is the address of a service as Apprise
    writes it, or ``env:NAME`` for the variable that holds it. A run in which no image was finished
    for ``stalled_minutes`` has stalled.
    """

    on: tuple[Occasion, ...] = tuple(Occasion)
    command: Annotated[tuple[Secret, ...], SECRET] = ()
    urls: Annotated[tuple[Secret, ...], SECRET] = ()
    stalled_minutes: Annotated[float, msgspec.Meta(gt=0)] = 30.0
