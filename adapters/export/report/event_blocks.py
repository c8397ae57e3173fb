"""Packs the events of a run into compressed blocks for the page's script.

A block is base64 of a zlib stream of lines. A line is a JSON array of the table's columns,
a tab, and the event as it is in the log. So no text in a log can end the element early, and a
page with many events stays small.
"""

from __future__ import annotations

import zlib
from base64 import b64encode
from collections.abc import Iterator, Sequence

import msgspec

from ....events.codec import CODEC
from ....events.log.timeline import FileTimeline
from ....events.model import StageEvent
from ...event_text import summarize_event
from ...projections.log_walk import OpenRequests, RunClock
from ...text import escaped
from .run_content import event_type

BLOCK_EVENTS = 500
MAX_SHOWN_BYTES = 64 * 1024
"""Bytes of one event that the page holds; a larger one is cut."""
_MAX_SUMMARY = 400
_MAX_NAME = 80


def event_blocks(timeline: Sequence[StageEvent]) -> Iterator[tuple[int, str]]:
    """The blocks in order: the number of events in each, and its text."""
    if not isinstance(timeline, FileTimeline):
        return
    clock, requests = RunClock(), OpenRequests()
    for first in range(0, len(timeline), BLOCK_EVENTS):
        seqs = range(first, min(first + BLOCK_EVENTS, len(timeline)))
        lines = [_line(body, clock, requests) for body in timeline.raw(seqs)]
        packed = zlib.compress(b"\n".join(lines), 6)
        yield len(seqs), b64encode(packed).decode()


def _line(body: bytes, clock: RunClock, requests: OpenRequests) -> bytes:
    event = CODEC.decode(body)
    request = requests.request_of(event)
    name, stage = event_type(event), getattr(request or event, "stage_id", "")
    stage = stage if isinstance(stage, str) else ""
    # The table has columns for the type and the stage.
    summary = summarize_event(event).removeprefix(name).lstrip(": ")
    summary = summary.removeprefix(stage).lstrip(": ")
    if server := requests.server_of(request):
        summary = f"{summary} ({server})"
    columns = (
        escaped(name[:_MAX_NAME]),
        escaped(stage[:_MAX_NAME]),
        round(clock.read(event.ts), 3),
        event.ts.isoformat(),
        escaped(summary[:_MAX_SUMMARY]),
        len(body),
    )
    # The cut may split a character, and the script reads UTF-8.
    shown = body[:MAX_SHOWN_BYTES].decode("utf-8", "ignore").encode()
    return msgspec.json.encode(columns) + b"\t" + shown
