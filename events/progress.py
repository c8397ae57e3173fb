"""How far an image is: told live, and no fact of the log."""

from __future__ import annotations

import msgspec


class StepProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far the image being made is: ``step`` of ``steps``; never a fact of the log.

    ``fraction`` is 0 to 1 over the whole request, ``eta_s`` seconds left, where known.
    """

    stage_id: str
    image_index: int
    step: int
    steps: int
    fraction: float
    eta_s: float | None = None
