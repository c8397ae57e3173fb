"""The log of ratings, ``ratings.jsonl``, and the fold from its events to the ratings that count."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..log.record_file import RecordFile
from ..log.shared_events import SharedEvent, shared_kind
from ..log.shared_log import SharedLog
from ..log.storage import Storage
from ..version import VERSION
from .model import NOT_RATED, ImageRated, Rating, RatingsOpened

RATINGS_LOG = shared_kind(
    "log of ratings",
    "ratings",
    RatingsOpened,
    ImageRated,
    advice="move it elsewhere to begin a new one; the runs are not affected",
)


class RatingsFile(RecordFile[SharedEvent]):
    """The log of ratings while its lock is held."""

    kind = RATINGS_LOG


class RatedImage(NamedTuple):
    """An image that is rated: the digest of its source, and where it was found."""

    source_sha256: str
    run_id: str
    stage_id: str
    image_index: int


class RatingFold:
    """The ratings that count: ``last`` has the last rating of each image by its source's digest."""

    def __init__(self) -> None:
        self.last: dict[str, ImageRated] = {}

    def apply_all(self, events: Iterable[SharedEvent]) -> None:
        """Take events in the order of the log."""
        for event in events:
            if isinstance(event, ImageRated):
                self.last[event.source_sha256] = event

    def rating_of(self, source_sha256: str) -> Rating:
        """The rating of an image; a rating that says nothing where it has none."""
        last = self.last.get(source_sha256)
        return NOT_RATED if last is None else last.rating


class Ratings:
    """The ratings below one folder of runs.

    Reading and rating raise LogCorruptError, and OSError or LogWriteError and LogLockedError.
    """

    def __init__(self, runs: Path, *, storage: Storage | None = None) -> None:
        self._fold = RatingFold()
        self._log = SharedLog(
            RatingsFile,
            runs,
            begin=lambda at: RatingsOpened(**at, software=f"stagewright {VERSION}"),
            observe=self._fold.apply_all,
            storage=storage,
        )

    @classmethod
    def read_from(cls, runs: Path) -> Ratings:
        """The ratings as they are now."""
        ratings = cls(runs)
        ratings.read()
        return ratings

    def read(self) -> None:
        """Take what was rated since the last call."""
        self._log.read()

    def scores_by_run(self) -> dict[str, tuple[int, ...]]:
        """By run id, the different scores of its images, the best first."""
        found: dict[str, set[int]] = {}
        for last in self._fold.last.values():
            if last.score is not None:
                found.setdefault(last.run_id, set()).add(last.score)
        return {run_id: tuple(sorted(scores, reverse=True)) for run_id, scores in found.items()}

    def of(self, source_sha256: str) -> Rating:
        """The rating of the image whose source has this digest."""
        return self._fold.rating_of(source_sha256)

    def rate(
        self, images: Sequence[RatedImage], change: Callable[[Rating], Rating]
    ) -> list[Rating]:
        """Change the ratings of images, and return the new ones; each is durable on return.

        No other process can rate in between.
        """
        # Most of the log is read without the lock.
        self._log.read()
        made = []
        with self._log.writing() as writer:
            for image in images:
                rating = change(self.of(image.source_sha256))
                writer.append(
                    lambda at, image=image, rating=rating: ImageRated(  # type: ignore[misc]
                        **at,
                        source_sha256=image.source_sha256,
                        run_id=image.run_id,
                        stage_id=image.stage_id,
                        image_index=image.image_index,
                        score=rating.score,
                        verdict=rating.verdict,
                        tags=rating.tags,
                        note=rating.note,
                    )
                )
                made.append(rating)
        return made
