"""One stage of an epoch: every image that is to be made, made, recorded and announced."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from ..events.errors import LogWriteError
from ..events.model import Outcome, StageEnd, StageStart
from .attempting import RequestRunner, announce
from .config import OnImageError
from .plan import StageExecution
from .slots import Slot
from .spans import RequestSpan, stage_metadata
from .workshop import RunStopped, StageFailedError, Workshop

POLL_S = 0.2
"""How often an order to cancel from another process is looked for (contract, section 6)."""


class StageRunner:
    """Works through one stage, keeping ``backend.slots`` requests in flight.

    Each image is recorded as it is finished; a request leaves only when the one before it in
    its slot is durable. Images that an earlier stage lost are passed over.
    """

    def __init__(self, stage: StageExecution, shop: Workshop) -> None:
        self._stage = stage
        self._shop = shop
        self._journal = shop.journal
        self._requests = RequestRunner(stage, shop)

    def run(self) -> None:
        """Make what does not stand yet, and announce what has not been.

        A stage in which nothing is left to do leaves no trace. Raises RunStopped,
        StageFailedError, LogWriteError, each after the stage's StageEnd wherever the log can
        still be written.
        """
        if self._is_over():
            return
        stage, total = self._stage, self._shop.plan.total_images
        began = self._shop.clock.monotonic_ms()
        self._journal.record(
            lambda at: StageStart(
                **at,
                stage_id=stage.stage_id,
                stage_type=stage.stage_type,
                order_index=stage.order_index,
                total_images=total,
                metadata=stage_metadata(stage),
            )
        )
        try:
            self._announce_the_rest()
            self._prepare_folder()
            self._make_all()
        except RunStopped:
            self._end(began, Outcome.CANCELLED)
            raise
        except StageFailedError as failed:
            # After a failed write the log's one further try belongs to the lifecycle.
            if not isinstance(failed.cause, LogWriteError) or failed.image_index is None:
                # What the disk says now must not hide why the stage failed.
                with suppress(LogWriteError):
                    self._end(began, Outcome.FAILED)
            raise
        self._end(began, self._outcome())

    def _prepare_folder(self) -> None:
        try:
            self._shop.images.prepare(self._stage.stage_id)
        except LogWriteError as error:
            raise StageFailedError(self._stage.stage_id, None, error) from error

    def _outcome(self) -> Outcome:
        """How the stage ends when no request of it is left."""
        standing = self._shop.standing.count(self._stage)
        if standing == self._shop.plan.total_images:
            return Outcome.COMPLETED
        return Outcome.PARTIAL if standing else Outcome.FAILED

    def _is_over(self) -> bool:
        """Whether an earlier epoch has ended the stage, and nothing has come up since."""
        folded = self._journal.fold.stages.get(self._stage.stage_id)
        return (
            folded is not None
            and folded.outcome == self._outcome()
            and next(self._shop.standing.open_spans(self._stage), None) is None
            and next(folded.unannounced(), None) is None
        )

    def _announce_the_rest(self) -> None:
        """Tell of images whose process died between recording and announcing them."""
        standing = self._shop.standing
        for index, _ in list(self._journal.stage(self._stage.stage_id).unannounced()):
            if standing.stands(self._stage, index):
                announce(self._stage, standing.artifact(self._stage.stage_id, index), self._shop)

    def _end(self, began: float, outcome: Outcome) -> None:
        stage = self._stage
        duration = self._shop.clock.monotonic_ms() - began
        self._journal.record(
            lambda at: StageEnd(
                **at,
                stage_id=stage.stage_id,
                stage_type=stage.stage_type,
                image_count=self._shop.standing.count(stage),
                duration_ms=duration,
                outcome=outcome,
            )
        )

    def _make_all(self) -> None:
        """Let each slot make one request after the other, and look for a cancel meanwhile."""
        shop = self._shop
        spans = _Spans(self._shop.standing.open_spans(self._stage))
        slots: list[Slot[StageFailedError | None]] = []
        try:
            slots.extend(Slot(partial(self._work_off, spans)) for _ in range(shop.slots))
            for slot in slots:
                while not slot.wait(POLL_S):
                    shop.look_for_cancel()
            shop.look_for_cancel()
        finally:
            spans.close()
            for slot in slots:
                slot.wait(None)
        failed: StageFailedError | None = None
        for slot in slots:
            failed = _graver(failed, slot.result())
        if failed is not None:
            raise failed
        if shop.token.stopping:
            raise RunStopped

    def _work_off(self, spans: _Spans) -> StageFailedError | None:
        """Make requests until none is left; the failure that ends the stage, if it came to one.

        Runs on a slot's thread.
        """
        while not self._shop.token.stopping and (span := spans.take()) is not None:
            failed = self._outcome_of(span)
            if failed is not None:
                spans.close()
                return failed
        return None

    def _outcome_of(self, span: RequestSpan) -> StageFailedError | None:
        """Make the images of one request; the failure that ends the stage, if it came to one."""
        try:
            self._requests.make(span)
        except RunStopped:
            return None
        except StageFailedError as failed:
            stop = self._shop.on_image_error == OnImageError.STOP
            return failed if stop else None
        except Exception as error:  # noqa: BLE001 - a log that fails, or a fault of ours: it ends the stage
            failure = StageFailedError(self._stage.stage_id, span.image_index, error)
            failure.__cause__ = error
            return failure
        return None


class _Spans:
    """Hands out a stage's requests, in order, to whichever slot is free."""

    def __init__(self, spans: Iterator[RequestSpan]) -> None:
        self._spans: Iterator[RequestSpan] | None = spans
        self._lock = threading.Lock()

    def take(self) -> RequestSpan | None:
        """The next one; None when there is none, or no more is to be begun."""
        with self._lock:
            return None if self._spans is None else next(self._spans, None)

    def close(self) -> None:
        """Hand out no more."""
        with self._lock:
            self._spans = None


def _graver(
    first: StageFailedError | None, second: StageFailedError | None
) -> StageFailedError | None:
    """The one that ends the stage: a log that cannot be written before all else."""
    if first is None or (second is not None and isinstance(second.cause, LogWriteError)):
        return second
    return first
