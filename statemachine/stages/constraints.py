"""The types of settings, with their bounds.

Upper bounds are far above what servers do. They keep a typing error from filling the memory,
and every total within the range of numbers that JSON readers take.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
InnerFraction = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
NonNegative = Annotated[float, msgspec.Meta(ge=0)]
Factor = Annotated[float, msgspec.Meta(gt=0, le=64)]
Size = Annotated[int, msgspec.Meta(ge=8, le=65_536, multiple_of=8)]
Steps = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
Count = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
ClipSkip = Annotated[int, msgspec.Meta(ge=1, le=12)]
Pixels = Annotated[int, msgspec.Meta(ge=0)]
LAST_SEED = 2**32 - 1
"""The largest seed that servers take."""
Seed = Annotated[int, msgspec.Meta(ge=-1, le=LAST_SEED)]
