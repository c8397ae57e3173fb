"""Ratings as people read them, and the ratings that a projection shows."""

from __future__ import annotations

import logging
from pathlib import Path

from ...events.errors import EventLogError
from ...events.ratings.log import Ratings
from ...events.ratings.model import Rating

_logger = logging.getLogger("stagewright.ratings")


def rating_text(rating: Rating) -> str:
    """``4 of 5, picked, tags: sky, sea; a note``; "" for an image that is not rated."""
    parts = [
        *([f"{rating.score} of 5"] if rating.score is not None else []),
        *([str(rating.verdict)] if rating.verdict else []),
        *([f"tags: {', '.join(rating.tags)}"] if rating.tags else []),
    ]
    return "; ".join(filter(None, (", ".join(parts), rating.note)))


def shown_ratings(runs: Path) -> Ratings:
    """The ratings below ``runs``, for what shows them beside other things.

    Where their log is damaged, a warning says so, and those before the damage are shown.
    """
    ratings = Ratings(runs)
    try:
        ratings.read()
    except (EventLogError, OSError) as error:
        _logger.warning("some ratings are not shown: %s", error)
    return ratings
