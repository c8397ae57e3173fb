"""Computes the Gantt chart of a run: a lane for each stage and a bar for each call.

Horizontal positions are percent of the width, so that the chart fits any window and can be
zoomed; vertical positions are pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from ...event_text import image_numbers
from .calls import CALL_WORDS, DONE, NOT_DONE, Call, CallState, CallTimeline, Mark, MarkKind
from .quantities import span_text, tick, time_of_day
from .time_scale import EpochSpan, TimeScale

TOP = 50
LABEL = 28
ROW = 16
BAR = 12
PADDING = 12
MARK_WORDS = {
    MarkKind.STARTED: "started",
    MarkKind.RESUMED: "resumed",
    MarkKind.COMPLETED: "completed",
    MarkKind.FAILED: "error",
    MarkKind.CANCEL: "cancel requested",
    MarkKind.CANCELLED: "cancelled",
    MarkKind.REPAIRED: "log repaired",
}
_MAX_ROWS = 6
_MAX_LANES = 32
_MANY_CALLS = 6_000
"""With more calls, neighbouring bars of less than a pixel are merged into one."""
_MERGED_WIDTH = 0.06
_CROSS_DISTANCE = 0.7
_TICK_WIDTH = 7.0
_EPOCH_WIDTH = 19.0
"""The width of a label in percent, when the chart is at its narrowest."""


class Bar(msgspec.Struct, gc=False):
    """The bar of a call, or of several merged ones; ``seq`` is the event to open."""

    left: float
    width: float
    top: int
    state: CallState
    title: str
    seq: int


class Cross(msgspec.Struct, gc=False):
    """A cross above the bars for one failed attempt, or for several close together."""

    left: float
    count: int
    title: str


class Band(msgspec.Struct, frozen=True, gc=False):
    """A stage from its start to its end in one epoch."""

    left: float
    width: float


class Lane(msgspec.Struct, frozen=True):
    """One stage; ``top`` is the top of its label, ``height`` includes it."""

    stage_id: str
    caption: str
    top: int
    height: int
    bands: tuple[Band, ...]
    bars: tuple[Bar, ...]
    crosses: tuple[Cross, ...]


class Label(msgspec.Struct, frozen=True, gc=False):
    """Text at a position; ``anchor`` is ``end`` where the text would not fit to its right."""

    left: float
    text: str
    anchor: str = "start"


class PlacedMark(msgspec.Struct, frozen=True, gc=False):
    """A mark at its position."""

    left: float
    kind: MarkKind
    title: str
    seq: int


class Gantt(msgspec.Struct, frozen=True):
    """The whole chart. ``summary`` describes it for screen readers."""

    lanes: tuple[Lane, ...]
    marks: tuple[PlacedMark, ...]
    ticks: tuple[Label, ...]
    epochs: tuple[Label, ...]
    cuts: tuple[Label, ...]
    height: int
    legend: tuple[tuple[CallState, int], ...]
    summary: str
    note: str


def draw(timeline: CallTimeline, stages: Sequence[tuple[str, str]]) -> Gantt:
    """The chart of a run; ``stages`` are ids and captions, in order."""
    scale = TimeScale(timeline.epochs)
    calls: dict[str, list[Call]] = {}
    for call in timeline.calls:
        calls.setdefault(call.stage_id, []).append(call)
    top, lanes = TOP, []
    for stage_id, caption in list(stages)[:_MAX_LANES]:
        lane = _lane(timeline, scale, stage_id, caption, calls.get(stage_id, []), top)
        lanes.append(lane)
        top += lane.height
    legend = [(state, timeline.counts[state]) for state in CallState if timeline.counts[state]]
    undrawn = timeline.total_calls - len(timeline.calls)
    return Gantt(
        lanes=tuple(lanes),
        marks=tuple(_placed(mark, scale) for mark in timeline.marks),
        ticks=tuple(_ticks(scale)),
        epochs=tuple(_epoch_labels(scale)),
        cuts=tuple(_cuts(scale)),
        height=top + 4,
        legend=tuple(legend),
        summary=_summary(len(stages), timeline, legend),
        note=f"{undrawn:,} further calls are not drawn." if undrawn else "",
    )


def _summary(stages: int, timeline: CallTimeline, legend: Sequence[tuple[CallState, int]]) -> str:
    calls = "; ".join(f"{number:,} {CALL_WORDS[state]}" for state, number in legend) or "none"
    return f"Timeline of {stages} stages and {len(timeline.epochs)} epochs. Calls: {calls}."


def _lane(
    timeline: CallTimeline,
    scale: TimeScale,
    stage_id: str,
    caption: str,
    calls: Sequence[Call],
    top: int,
) -> Lane:
    rows = list(_rows(calls))
    merged = _MERGED_WIDTH if len(timeline.calls) > _MANY_CALLS else 0.0
    bars = list(_bars(zip(calls, rows, strict=True), scale, top + LABEL, merged))
    # Draw failed calls last, so that other bars do not hide them.
    bars.sort(key=lambda bar: _DEPTH[bar.state])
    return Lane(
        stage_id=stage_id,
        caption=caption,
        top=top,
        height=LABEL + ROW * (max(rows, default=0) + 1) + PADDING,
        bands=tuple(
            Band(left, scale.place(one.ended_s) - left)
            for one in timeline.spans
            if one.stage_id == stage_id and (left := scale.place(one.began_s)) is not None
        ),
        bars=tuple(bars),
        crosses=tuple(_crosses(calls, scale)),
    )


_DEPTH = {
    CallState.COMPLETED: 0,
    CallState.RETRIED: 1,
    CallState.UNDER_WAY: 2,
    CallState.UNANSWERED: 3,
    CallState.REPEATED: 4,
    CallState.FAILED: 5,
}


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


def _bars(
    calls: Iterable[tuple[Call, int]], scale: TimeScale, top: int, merged: float
) -> Iterator[Bar]:
    open_bars: dict[tuple[CallState, int], tuple[Bar, int]] = {}
    for call, row in calls:
        left = scale.place(call.began_s)
        width = max(0.0, scale.place(call.ended_s) - left)
        key = (call.state, row)
        before, number = open_bars.get(key, (None, 0))
        if before is not None and left + width - before.left <= merged:
            before.width = left + width - before.left
            before.title = f"{number + 1} calls, {CALL_WORDS[call.state]}"
            before.seq = call.last_seq
            open_bars[key] = (before, number + 1)
            continue
        bar = Bar(left, width, top + row * ROW, call.state, _title(call), call.last_seq)
        open_bars[key] = (bar, 1)
        yield bar


def _title(call: Call) -> str:
    images = image_numbers(call.image_index, call.count)
    attempt = f", attempt {call.attempt + 1}" if call.attempt else ""
    error = f": {call.words}" if call.words else ""
    ended = call.state in DONE | NOT_DONE
    lasted = f" in {span_text(call.ended_s - call.began_s)}" if ended else ""
    at = f"at {span_text(call.began_s)}"
    # The attempt number already says that it was a retry.
    state = CALL_WORDS[CallState.COMPLETED if call.state in DONE else call.state]
    return f"{call.stage_id}, {images}{attempt}, {at}: {state}{lasted}{error}"


def _crosses(calls: Iterable[Call], scale: TimeScale) -> Iterator[Cross]:
    cross: Cross | None = None
    for call in calls:
        if call.state not in NOT_DONE:
            continue
        left = scale.place(call.ended_s)
        if cross is not None and left - cross.left < _CROSS_DISTANCE:
            cross.count += 1
            cross.title = f"{cross.count} failed attempts"
            continue
        if cross is not None:
            yield cross
        cross = Cross(left, 1, _title(call))
    if cross is not None:
        yield cross


def _placed(mark: Mark, scale: TimeScale) -> PlacedMark:
    title = f"{mark.words} (at {span_text(mark.at_s)})"
    return PlacedMark(scale.place(mark.at_s), mark.kind, title, mark.seq)


def _ticks(scale: TimeScale) -> Iterator[Label]:
    return _spaced(((one.at, tick(one.since_s)) for one in scale.ticks()), _TICK_WIDTH)


def _epoch_labels(scale: TimeScale) -> Iterator[Label]:
    return _spaced(((one.left, _epoch_words(one)) for one in scale.spans), _EPOCH_WIDTH)


def _spaced(texts: Iterable[tuple[float, str]], width: float) -> Iterator[Label]:
    """Labels of at most ``width`` percent, without those that would overlap the one before."""
    free_from = -1.0
    for left, text in texts:
        begins, anchor = (left - width, "end") if left + width > 100.0 else (left, "start")
        if begins >= free_from:
            free_from = begins + width
            yield Label(left, text, anchor)


def _epoch_words(span: EpochSpan) -> str:
    epoch = span.epoch
    what = f"epoch {epoch.number}, " if epoch.number else ""
    return f"{what}{time_of_day(epoch.opened)[:8]}"


def _cuts(scale: TimeScale) -> Iterator[Label]:
    for span in scale.spans:
        if span.cut_s:
            yield Label(span.left, f"{span_text(span.cut_s)} idle")
