"""The ratings that commands show beside other things."""

from __future__ import annotations

from pathlib import Path

from ...events.ratings.log import Ratings
from ..projections import rating_text
from .statuses import EXIT_COMPLETED, print_error


def shown_ratings(runs: Path) -> Ratings:
    """The ratings below ``runs``; a warning says that their log is damaged."""

    def warn(error: Exception) -> None:
        print_error(f"warning: some ratings are not shown: {error}", EXIT_COMPLETED)

    return rating_text.shown_ratings(runs, warn)
