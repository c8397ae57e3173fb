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
from ....events.model import CallCompleted, CallFailed, CallRequested, StageEvent
from ...event_text import summarize_event
from ...text import escaped
from .calls import RunClock
from .logged_run import event_type
from .quantities import time_of_day

BLOCK_EVENTS = 500
MAX_EVENTS = 250_000
MAX_SHOWN_BYTES = 64 * 1024
"""Bytes of one event that the page holds; a larger one is cut."""
MAX_BYTES = 512 * 1024 * 1024
"""Bytes of all events; beyond it only the columns of the table are kept."""
_MAX_SUMMARY = 400
_MAX_NAME = 80


class EventBlock(msgspec.Struct, frozen=True):
    """Some consecutive events: the number of the first, how many, and their text."""

    first: int
    count: int
    text: str


def event_blocks(timeline: Sequence[StageEvent]) -> Iterator[EventBlock]:
    """The events in blocks; of very many events only the first and the last ones."""
    if not isinstance(timeline, FileTimeline):
        return
    writer = _LineWriter()
    for seqs in shown_seqs(len(timeline)):
        for first in range(seqs.start, seqs.stop, BLOCK_EVENTS):
            chosen = range(first, min(first + BLOCK_EVENTS, seqs.stop))
            lines = [writer.line(body) for body in timeline.raw(chosen)]
            packed = zlib.compress(b"\n".join(lines), 6)
            yield EventBlock(first, len(chosen), b64encode(packed).decode())


def shown_seqs(total: int) -> list[range]:
    """The sequence numbers of the events that are shown, of ``total``."""
    if total <= MAX_EVENTS:
        return [range(total)]
    half = MAX_EVENTS // 2
    return [range(half), range(total - half, total)]


class _LineWriter:
    """Encodes events in order; the stage of an answer is that of its request."""

    def __init__(self) -> None:
        self._clock = RunClock()
        self._stage_of: dict[str, str] = {}
        self._bytes = 0

    def line(self, body: bytes) -> bytes:
        event = CODEC.decode(body)
        name, stage = event_type(event), self._stage(event)
        # The table has columns for the type and the stage.
        summary = summarize_event(event).removeprefix(name).lstrip(": ")
        summary = summary.removeprefix(stage).lstrip(": ")
        columns = (
            escaped(name[:_MAX_NAME]),
            escaped(stage[:_MAX_NAME]),
            round(self._clock.read(event.ts), 3),
            time_of_day(event.ts),
            escaped(summary[:_MAX_SUMMARY]),
            len(body),
        )
        return msgspec.json.encode(columns) + b"\t" + self._shown(body)

    def _shown(self, body: bytes) -> bytes:
        shown = body[: MAX_SHOWN_BYTES if self._bytes < MAX_BYTES else 0]
        self._bytes += len(shown)
        # The cut may split a character, and the script reads UTF-8.
        return shown if len(shown) == len(body) else shown.decode("utf-8", "ignore").encode()

    def _stage(self, event: StageEvent) -> str:
        if isinstance(event, CallRequested):
            self._stage_of[event.call_id] = event.stage_id
        if isinstance(event, CallCompleted | CallFailed):
            return self._stage_of.pop(event.call_id, "")
        stage_id = getattr(event, "stage_id", "")
        return stage_id if isinstance(stage_id, str) else ""
