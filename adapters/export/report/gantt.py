"""Computes the Gantt chart of a run: a lane for each stage and a bar for each call.

In a run on several servers each of them has a part of the lane, with its address.

Horizontal positions are percent of the width, so that the chart fits any window and can be
zoomed; vertical positions are pixels. The time between two epochs is left out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import accumulate, pairwise

import msgspec

from ...event_text import image_numbers
from ...projections.log_walk import Call, CallState, Epoch
from ...text import duration, time_of_day
from .run_content import Mark, MarkKind, RunContent, StageSpan

TOP = 50
LABEL = 28
ROW = 16
SERVER_LABEL = 15
BAR = 12
PADDING = 12
CALL_WORDS = {
    CallState.COMPLETED: "completed",
    CallState.RETRIED: "completed after a retry",
    CallState.REPEATED: "failed, retried",
    CallState.FAILED: "failed",
    CallState.UNANSWERED: "unanswered",
    CallState.UNDER_WAY: "under way",
}
"""The states as shown on the page."""
MARK_WORDS = {
    MarkKind.STARTED: "started",
    MarkKind.RESUMED: "resumed",
    MarkKind.COMPLETED: "completed",
    MarkKind.FAILED: "error",
    MarkKind.CANCEL: "cancel requested",
    MarkKind.CANCELLED: "cancelled",
    MarkKind.REPAIRED: "log repaired",
}
MAX_CALLS = 20_000
"""Bars that a browser draws without delay; further calls are counted."""
_MAX_MARKS = 400
_MAX_ROWS = 6
_MAX_SERVERS = 32
"""Servers with parts of their own; those of further ones share the last."""
_MAX_TEXT = 300
_SHORTEST_IDLE_S = 1.0
_TICKS = 8
_TICK_WIDTH = 7.0
_EPOCH_WIDTH = 19.0
"""The width of a label in percent, when the chart is at its narrowest."""
_NICE_S = (
    0.001, 0.002, 0.005, 0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30,
    60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400,
)  # fmt: skip


class Label(msgspec.Struct, frozen=True, gc=False):
    """Text at a position; ``anchor`` is ``end`` where the text would not fit to its right.

    ``moment`` is the time of day with which the text ends, if it does.
    """

    left: float
    text: str
    moment: datetime | None = None
    anchor: str = "start"


class LanePart(msgspec.Struct, frozen=True):
    """The calls of a stage to one server, each with the top of its bar; ``top`` is the first's.

    ``server`` is its address, "" in a run with one. Failed attempts are also marked above the bars.
    """

    server: str
    top: int
    calls: tuple[tuple[Call, int], ...]


class Lane(msgspec.Struct, frozen=True):
    """One stage; ``top`` is the top of its label, ``height`` includes it."""

    stage_id: str
    caption: str
    top: int
    height: int
    spans: tuple[StageSpan, ...]
    parts: tuple[LanePart, ...]


class Gantt(msgspec.Struct, frozen=True):
    """The whole chart. ``summary`` describes it for screen readers."""

    scale: TimeScale
    lanes: tuple[Lane, ...]
    marks: tuple[Mark, ...]
    ticks: tuple[Label, ...]
    epochs: tuple[Label, ...]
    cuts: tuple[Label, ...]
    height: int
    legend: tuple[tuple[CallState, int], ...]
    summary: str
    note: str


class TimeScale:
    """Positions in percent of the width, for the seconds of a run."""

    def __init__(self, epochs: Sequence[Epoch]) -> None:
        self.epochs = epochs
        lengths = [one.ended_s - one.began_s for one in epochs]
        self.worked_s = sum(lengths)
        self._before_s = list(accumulate(lengths, initial=0.0))

    def width(self, began_s: float, ended_s: float) -> float:
        """The width of a span of time."""
        return self.place(ended_s) - self.place(began_s)

    def place(self, at_s: float) -> float:
        """The position of a moment; a moment between two epochs is at the end of the first."""
        number = bisect_right(self.epochs, at_s, key=lambda one: one.began_s) - 1
        if number < 0 or not self.worked_s:
            return 0.0
        epoch = self.epochs[number]
        since_s = min(at_s, epoch.ended_s) - epoch.began_s
        return min(100.0, 100.0 * (self._before_s[number] + since_s) / self.worked_s)


def draw(run: RunContent, captions: Mapping[str, str]) -> Gantt:
    """The chart of a run; ``captions`` of the stages by their ids, in order."""
    scale = TimeScale(run.log.epochs)
    drawn = run.log.calls[:MAX_CALLS]
    servers = list(dict.fromkeys(call.server for call in drawn))[:_MAX_SERVERS]
    top, lanes = TOP, []
    for stage_id, caption in captions.items():
        calls = [call for call in drawn if call.stage_id == stage_id]
        spans = [span for span in run.spans if span.stage_id == stage_id]
        lanes.append(_lane(stage_id, caption, _by_server(calls, servers), spans, top))
        top += lanes[-1].height
    counts = Counter(call.state for call in run.log.calls)
    legend = tuple((state, counts[state]) for state in CallState if counts[state])
    undrawn = len(run.log.calls) - len(drawn)
    return Gantt(
        scale=scale,
        lanes=tuple(lanes),
        marks=tuple(run.marks[:_MAX_MARKS]),
        ticks=tuple(_ticks(scale)),
        epochs=tuple(_epoch_labels(scale)),
        cuts=tuple(_cuts(scale)),
        height=top + 4,
        legend=legend,
        summary=_summary(len(lanes), len(scale.epochs), legend),
        note=f"{undrawn:,} further calls are not drawn." if undrawn else "",
    )


def _summary(stages: int, epochs: int, legend: Sequence[tuple[CallState, int]]) -> str:
    calls = "; ".join(f"{number:,} {CALL_WORDS[state]}" for state, number in legend) or "none"
    return f"Timeline of {stages} stages and {epochs} epochs. Calls: {calls}."


def _by_server(calls: Iterable[Call], servers: Sequence[str]) -> Mapping[str, Sequence[Call]]:
    """The calls of a stage by server; those of epochs with one server are under ""."""
    found: dict[str, list[Call]] = {server: [] for server in servers or [""]}
    last = [*found][-1]
    for call in calls:
        found.get(call.server, found[last]).append(call)
    return {server: its for server, its in found.items() if server or its or len(found) == 1}


def _lane(
    stage_id: str,
    caption: str,
    calls: Mapping[str, Sequence[Call]],
    spans: Sequence[StageSpan],
    top: int,
) -> Lane:
    parts, below = [], top + LABEL
    for server, its_calls in calls.items():
        below += SERVER_LABEL if server else 0
        rows = list(_rows(its_calls))
        placed = [(call, below + row * ROW) for call, row in zip(its_calls, rows, strict=True)]
        # Draw failed calls last, so that other bars do not hide them.
        placed.sort(key=lambda one: one[0].state.has_failed)
        parts.append(LanePart(server[:_MAX_TEXT], below, tuple(placed)))
        below += ROW * (max(rows, default=0) + 1)
    return Lane(stage_id, caption, top, below - top + PADDING, tuple(spans), tuple(parts))


def _rows(calls: Iterable[Call]) -> Iterator[int]:
    """For each call the first row that is free at its start; in the last row calls may overlap."""
    free_at: list[float] = []
    for call in calls:
        row = next((place for place, free in enumerate(free_at) if free <= call.began_s), None)
        if row is None:
            if len(free_at) < _MAX_ROWS:
                free_at.append(0.0)
            row = len(free_at) - 1
        free_at[row] = max(free_at[row], call.ended_s)
        yield row


def call_title(call: Call) -> str:
    """A call in one line: its images, its time and how it ended."""
    images = image_numbers(call.image_index, call.count)
    attempt = f", attempt {call.attempt + 1}" if call.attempt else ""
    # The attempt number already says that it was a retry.
    state = CALL_WORDS[CallState.COMPLETED if call.state.is_done else call.state]
    is_over = call.state.is_done or call.state.has_failed
    lasted = f" in {duration((call.ended_s - call.began_s) * 1000)}" if is_over else ""
    error = f": {call.error_kind}: {call.error_message}"[:_MAX_TEXT] if call.error_kind else ""
    at = f"at {duration(call.began_s * 1000)}"
    server = f" on {call.server[:_MAX_TEXT]}" if call.server else ""
    return f"{call.stage_id}, {images}{attempt}{server}, {at}: {state}{lasted}{error}"


def mark_title(mark: Mark) -> str:
    """A mark in one line."""
    return f"{mark.text} (at {duration(mark.at_s * 1000)})"


def _ticks(scale: TimeScale) -> Iterator[Label]:
    """Labels at equal distances, counted from the beginning of each epoch."""
    step = next((one for one in _NICE_S if one * _TICKS >= scale.worked_s), None)
    step = step or scale.worked_s / _TICKS
    return _spaced(
        (
            Label(
                scale.place(epoch.began_s + number * step),
                duration(number * step * 1000) if number else "0",
            )
            for epoch in scale.epochs
            for number in range(int((epoch.ended_s - epoch.began_s) / step) + 1)
        ),
        _TICK_WIDTH,
    )


def _epoch_labels(scale: TimeScale) -> Iterator[Label]:
    return _spaced(
        (
            Label(
                scale.place(one.began_s),
                f"{f'epoch {one.number}, ' if one.number else ''}{time_of_day(one.opened)[:8]}",
                one.opened,
            )
            for one in scale.epochs
        ),
        _EPOCH_WIDTH,
    )


def _spaced(labels: Iterable[Label], width: float) -> Iterator[Label]:
    """Labels of at most ``width`` percent, without those that would overlap the one before."""
    free_from = -1.0
    for one in labels:
        ends = one.left + width > 100.0
        begins = one.left - width if ends else one.left
        if begins >= free_from:
            free_from = begins + width
            yield msgspec.structs.replace(one, anchor="end" if ends else "start")


def _cuts(scale: TimeScale) -> Iterator[Label]:
    """Where time between two epochs is left out, and how long it was."""
    for before, after in pairwise(scale.epochs):
        idle_s = after.began_s - before.ended_s
        if idle_s >= _SHORTEST_IDLE_S:
            yield Label(scale.place(after.began_s), f"{duration(idle_s * 1000)} idle")
