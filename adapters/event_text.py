"""Events told to people, in a few words each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..events.model import (
    CallCompleted,
    CallFailed,
    CallRequested,
    CancelRequested,
    LifecycleChanged,
    LogRepaired,
    RunOpened,
    RunResumed,
    RunSealed,
    StageEnd,
    StageEvent,
    StageImageProgress,
    StageStart,
    UnknownEvent,
)
from .text import count, duration


def gist(event: StageEvent) -> str:
    """An event in a few words."""
    words = _GISTS.get(type(event))
    return words(event) if words else type(event).__name__


def _lifecycle(event: LifecycleChanged) -> str:
    why = f" ({event.reason})" if event.reason else ""
    return f"{event.trigger}: {event.source} -> {event.dest}{why}"


def _failed(event: CallFailed) -> str:
    again = "will try again" if event.will_retry else "for good"
    return f"CallFailed {again}: {event.error.kind}: {event.error.message}"


def _progress(event: StageImageProgress) -> str:
    place = f"image {event.image_index} of {event.total_images}"
    return f"StageImageProgress {event.stage_id}: {place}, {event.artifact.path}"


def _opened(event: RunOpened) -> str:
    return f"RunOpened: {event.plan.get('summary', '')}, {count(len(event.seeds), 'image')}"


def _resumed(event: RunResumed) -> str:
    lost = sum(last - first + 1 for rows in (event.lost or {}).values() for first, last in rows)
    told = f", lost: {count(lost, 'image')}" if lost else ""
    return f"RunResumed: epoch {event.epoch}, {count(event.completed_images, 'image')} done{told}"


_GISTS: Mapping[type[StageEvent], Callable[[Any], str]] = {
    RunOpened: _opened,
    LifecycleChanged: _lifecycle,
    StageStart: lambda e: f"StageStart {e.stage_id}: {count(e.total_images, 'image')}",
    CallRequested: lambda e: (
        f"CallRequested {e.stage_id}: image {e.image_index}, attempt {e.attempt}"
    ),
    CallCompleted: lambda e: f"CallCompleted {e.endpoint}: {duration(e.duration_ms)}",
    CallFailed: _failed,
    StageImageProgress: _progress,
    StageEnd: lambda e: f"StageEnd {e.stage_id}: {e.outcome}, {duration(e.duration_ms)}",
    CancelRequested: lambda e: f"CancelRequested {e.mode}: {e.reason}",
    RunResumed: _resumed,
    LogRepaired: lambda e: f"LogRepaired: {e.bytes} bytes at {e.offset} are in {e.copied_to}",
    RunSealed: lambda e: f"RunSealed: {e.outcome}, {count(e.count, 'record')}",
    UnknownEvent: lambda e: f"{e.type} (of a newer version)",
}
