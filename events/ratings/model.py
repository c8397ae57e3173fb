"""The events of ``ratings.jsonl``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from ..log.shared_events import SharedEvent
from ..model import Index

Score = Annotated[int, msgspec.Meta(ge=1, le=5)]
"""From 1 to 5; 5 is the best."""


class Verdict(StrEnum):
    """Whether an image was chosen, or turned down."""

    PICKED = "picked"
    REJECTED = "rejected"


class Rating(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a person thinks of an image; what is left out was not said."""

    score: Score | None = None
    verdict: Verdict | None = None
    tags: tuple[str, ...] = ()
    note: str = ""

    def __bool__(self) -> bool:
        return self != NOT_RATED


NOT_RATED = Rating()


class RatingsOpened(SharedEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """The log of ratings exists."""

    software: str


class ImageRated(SharedEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """An image was rated. The last rating of an image counts, as a whole.

    The image is the one whose source has the digest ``source_sha256``; ``run_id``, ``stage_id``
    and ``image_index`` say where it was found. A rating that says nothing takes back all others.
    """

    source_sha256: str
    run_id: str
    stage_id: str
    image_index: Index
    score: Score | None = None
    verdict: Verdict | None = None
    tags: tuple[str, ...] = ()
    note: str = ""

    @property
    def rating(self) -> Rating:
        """What the person thinks of the image."""
        return Rating(score=self.score, verdict=self.verdict, tags=self.tags, note=self.note)
