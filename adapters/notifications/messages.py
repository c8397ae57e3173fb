"""A message about a run, a group or the queue: a title, a text, and facts for commands."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ...events.errors import StagewrightError
from ...events.folds import replay
from ...events.model import ErrorDetail, RunState
from ...events.queue.jobs import Job
from ...events.result import PipelineRunResult
from ...statemachine.groups.result import GroupResult
from ...statemachine.run.handle import Handle
from ..event_text import error_text
from ..text import count, one_line, rough_duration
from .settings import Occasion

_LONGEST_ERROR = 1000
_WORDS = {Occasion.QUEUE_EMPTY: "is empty"}
_OCCASIONS = {RunState.COMPLETED: Occasion.COMPLETED, RunState.CANCELLED: Occasion.CANCELLED}


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """``facts`` are JSON values, None where one is not known. ``image`` is the last one made."""

    occasion: Occasion
    title: str
    body: str
    facts: Mapping[str, Any] = {}
    image: Path | None = None


def run_message(result: PipelineRunResult, folder: Path, duration_s: float) -> Message:
    """How a run ended."""
    total = int(result.plan.get("total_images") or 0)
    finished = total - len({gap.image_index for gap in result.missing})
    error = error_of(result.error)
    image = folder / result.images[-1].path if result.images else None
    return _message(
        _OCCASIONS.get(result.state, Occasion.FAILED),
        result.run_id,
        [f"{finished} of {count(total, 'image')} in {rough_duration(duration_s)}", error],
        image,
        run_id=result.run_id,
        state=result.state,
        outcome=result.outcome,
        folder=str(folder.absolute()),
        images=finished,
        total_images=total,
        duration_s=round(duration_s, 1),
        error=error,
    )


def group_message(result: GroupResult, folder: Path, runs: Path, duration_s: float) -> Message:
    """How a group of runs ended: one message for all of them."""
    counts = ", ".join(f"{number} {state}" for state, number in sorted(result.counts.items()))
    errors = [one.error for one in result.variants if one.error is not None]
    found = result.error or next(iter(errors), None)
    error = error_of(found)
    return _message(
        _OCCASIONS.get(result.state, Occasion.FAILED),
        result.group_id,
        [f"{counts} of {count(len(result.variants), 'variant')} in {rough_duration(duration_s)}",
         error],
        _last_image(result, runs),
        group_id=result.group_id,
        state=result.state,
        folder=str(folder.absolute()),
        variants=len(result.variants),
        completed_variants=result.counts.get(RunState.COMPLETED, 0),
        images=sum(one.images for one in result.variants),
        total_images=sum(one.total_images for one in result.variants),
        duration_s=round(duration_s, 1),
        error=error,
    )  # fmt: skip


def lost_message(handle: Handle[Any], error: BaseException) -> Message:
    """A run or group of which the end could not be recorded, or not be read."""
    said = f"{type(error).__name__}: {error}"[:_LONGEST_ERROR]
    return _message(Occasion.FAILED, handle.id, [said], None, **_place(handle), error=said)


def stalled_message(handle: Handle[Any], minutes: float, failure: str | None) -> Message:
    """A run in which no image was finished for a while; ``failure`` is the last one since."""
    said = f"no image was finished for {rough_duration(60 * minutes)}"
    facts = {**_place(handle), "stalled_minutes": minutes, "error": failure}
    return _message(Occasion.STALLED, handle.id, [said, failure], None, **facts)


def error_of(error: ErrorDetail | None) -> str | None:
    """An error as a message has it, not too long; None where there is none."""
    return None if error is None else error_text(error)[:_LONGEST_ERROR]


def _place(handle: Handle[Any]) -> dict[str, Any]:
    return {f"{handle.noun}_id": handle.id, "folder": str(handle.folder.absolute())}


def job_message(job: Job, runs: Path) -> Message:
    """A job of a queue has failed whose run or group could not begin."""
    said = job.reason[:_LONGEST_ERROR]
    facts = {"job_id": job.job_id, "folder": str(runs.absolute()), "error": said}
    return _message(Occasion.FAILED, job.job_id, [said], None, **facts)


def queue_message(runs: Path, jobs: int) -> Message:
    """The queue of a folder of runs is empty; ``jobs`` were done since it was not."""
    body = [f"{count(jobs, 'job')} done"]
    return _message(
        Occasion.QUEUE_EMPTY, "queue", body, None, folder=str(runs.absolute()), jobs=jobs
    )


def test_message() -> Message:
    """What ``notify test`` sends; it is marked in the facts."""
    body = ["A test: messages of stagewright arrive here."]
    return _message(Occasion.COMPLETED, "test", body, None, test=True)


def _message(
    occasion: Occasion, name: str, body: Sequence[str | None], image: Path | None, **facts: Any
) -> Message:
    """Text of servers and configurations is put on single lines: no mail header can be added."""
    lines = [one_line(line) for line in body if line]
    short = "-".join(name.split("-")[1:-1])  # of 20261120T225226.123456Z-portrait-7f3a9c
    if short:
        lines.append(name)
    return Message(
        occasion=occasion,
        title=one_line(f"stagewright: {short or name} {_WORDS.get(occasion, occasion)}"),
        body="\n".join(lines),
        facts={
            "event": str(occasion),
            "host": socket.gethostname(),
            **facts,
            "image": None if image is None else str(image.absolute()),
        },
        image=image,
    )


def _last_image(result: GroupResult, runs: Path) -> Path | None:
    for variant in reversed(result.variants):
        if variant.run_id is not None and variant.images:
            try:
                images = replay(runs / variant.run_id).images
            except (StagewrightError, OSError):
                continue
            if images:
                return runs / variant.run_id / images[-1].path
    return None
