"""Events and errors as short text for people."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import Any

from ..events.folds import Fold
from ..events.model import (
    BackendDescription,
    CallCompleted,
    CallFailed,
    CallRequested,
    CallReused,
    CancelRequested,
    ErrorDetail,
    ImagesRemoved,
    LifecycleChanged,
    LogRepaired,
    Outcome,
    RunOpened,
    RunResumed,
    RunSealed,
    RunState,
    StageEnd,
    StageEvent,
    StageImageProgress,
    StageStart,
    StorageLimited,
    UnknownEvent,
)
from ..events.origins import servers_of
from ..events.result import MissingImage
from ..statemachine.stages import StageConfig, stage_types
from .text import count, duration


def summarize_event(event: StageEvent) -> str:
    """An event as one short line; images are counted from 1."""
    summarize = _SUMMARIES.get(type(event))
    return summarize(event) if summarize else type(event).__name__


def error_text(error: ErrorDetail, image_count: int = 0) -> str:
    """``00-txt2img, image 3: KIND: message``; with ``image_count``, ``image 3 of 4``."""
    where = ""
    if error.stage_id is not None:
        where = f"{error.stage_id}: "
        if error.image_index is not None:
            of_all = f" of {image_count}" if image_count else ""
            where = f"{error.stage_id}, image {error.image_index + 1}{of_all}: "
    return f"{where}{error.kind}: {error.message}"


def _lifecycle(event: LifecycleChanged) -> str:
    why = f" ({event.reason})" if event.reason else ""
    return f"{event.trigger}: {event.source} -> {event.dest}{why}"


def _requested(event: CallRequested) -> str:
    images = image_numbers(event.image_index, event.count)
    return f"CallRequested {event.stage_id}: {images}, attempt {event.attempt + 1}"


def _reused(event: CallReused) -> str:
    images = image_numbers(event.image_index, len(event.artifacts))
    return f"CallReused {event.stage_id} {images}: made by {event.origin.run_id}"


def image_numbers(first_index: int, number: int) -> str:
    """``image 3``, or ``images 3-6`` for a batch, counted from 1."""
    if number == 1:
        return f"image {first_index + 1}"
    return f"images {first_index + 1}-{first_index + number}"


def _failed(event: CallFailed) -> str:
    again = "will retry" if event.will_retry else "no retry"
    return f"CallFailed ({again}): {event.error.kind}: {event.error.message}"


def _progress(event: StageImageProgress) -> str:
    place = f"image {event.image_index + 1} of {event.total_images}"
    return f"StageImageProgress {event.stage_id}: {place}, {event.artifact.path}"


def _opened(event: RunOpened) -> str:
    return f"RunOpened: {event.plan.get('summary', '')}, {count(len(event.seeds), 'image')}"


def _resumed(event: RunResumed) -> str:
    lost = sum(last - first + 1 for rows in (event.lost or {}).values() for first, last in rows)
    losses = f", {count(lost, 'image')} lost" if lost else ""
    finished = count(event.completed_images, "image")
    return f"RunResumed: epoch {event.epoch}, {finished} finished{losses}"


def backend_text(backend: BackendDescription) -> str:
    """``stable-diffusion-webui v1.10.1 http://a:7860``; several servers with ``;`` between them."""
    return "; ".join(
        " ".join(part for part in (one.product or backend.kind, one.version, one.url) if part)
        for one in servers_of(backend) or (backend,)
    )


def storage_limit(event: StorageLimited) -> str:
    """What the file system of a run cannot guarantee, and what that means."""
    error = errno.errorcode.get(event.errno, f"error {event.errno}")
    what = _LIMITS.get(event.what, f"guarantee {event.what}")
    return f"the file system cannot {what} ({error}); a power loss may take finished images"


_LIMITS = {"folder_sync": "sync folders", "drive_sync": "empty the drive's cache"}
_SUMMARIES: Mapping[type[StageEvent], Callable[[Any], str]] = {
    RunOpened: _opened,
    LifecycleChanged: _lifecycle,
    StageStart: lambda e: f"StageStart {e.stage_id}: {count(e.total_images, 'image')}",
    CallRequested: _requested,
    CallCompleted: lambda e: f"CallCompleted {e.endpoint}: {duration(e.duration_ms)}",
    CallReused: _reused,
    CallFailed: _failed,
    StageImageProgress: _progress,
    StageEnd: lambda e: f"StageEnd {e.stage_id}: {e.outcome}, {duration(e.duration_ms)}",
    CancelRequested: lambda e: f"CancelRequested {e.mode}: {e.reason}",
    RunResumed: _resumed,
    ImagesRemoved: lambda e: f"ImagesRemoved: {count(len(e.artifacts), 'image')}: {e.reason}",
    LogRepaired: lambda e: f"LogRepaired: {e.bytes} bytes at {e.offset} copied to {e.copied_to}",
    StorageLimited: lambda e: f"StorageLimited: {storage_limit(e)}",
    RunSealed: lambda e: f"RunSealed: {e.outcome}, {count(e.count, 'record')}",
    UnknownEvent: lambda e: f"{e.type} (from a newer version)",
}


def state_text(state: str, outcome: str | None) -> str:
    """``COMPLETED``, ``ERROR`` or ``ERROR, partial``: an outcome is named if it adds something."""
    return f"{state}, {outcome}" if outcome == Outcome.PARTIAL else state


def why_not_made(fold: Fold, gap: MissingImage | None, stage_id: str = "") -> str:
    """Why an image of a run is not there; a failure in ``stage_id`` does not name the stage."""
    if gap is not None and gap.error is not None:
        where = "" if gap.stage_id == stage_id else f"{gap.stage_id} "
        return f"{where}failed: {gap.error.kind}: {gap.error.message}"
    if fold.state == RunState.IDLE:
        return "not begun"
    if fold.error is not None:
        return f"not made: the run ended with {error_text(fold.error)}"
    return f"not made: the run is {fold.state}"


def why_unchanged(stage_type: str) -> str:
    """What it may mean that a stage gave back the pixels that it was sent."""
    return stage_types().get(stage_type, StageConfig).unchanged_because
