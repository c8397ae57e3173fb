"""Watches runs: one of another process, or one of its own in every way that there is.

    python examples/watch_run.py runs/20261120T225226.123456Z-portrait-7f3a9c

follows the run in that folder until it ends, from its first event on, whoever runs it. Without a
folder it makes two small pictures in `./runs` and shows who hears of them, and on which thread.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

from stagewright.adapters import open_controller
from stagewright.events import (
    LifecycleChanged,
    RunState,
    StageEvent,
    StageImageProgress,
    StageStart,
    StepProgress,
    follow,
    subscribe,
)

_PRINTING = threading.Lock()
CONFIG: dict[str, Any] = {
    "name": "watched",
    "prompt": "a lighthouse at dusk",
    "seed": 42,
    "images": 2,
    "txt2img": {
        "model": "base",
        "sampler": "Euler a",
        "steps": 4,
        "cfg_scale": 7.0,
        "width": 64,
        "height": 64,
    },
}


def words(event: StageEvent) -> str | None:
    """What a reader wants to know of an event; None for the others."""
    match event:
        case LifecycleChanged():
            return f"{event.source} -> {event.dest} {event.reason}".rstrip()
        case StageStart():
            return f"{event.stage_id}: {event.total_images} images"
        case StageImageProgress():
            return f"{event.stage_id}: image {event.artifact.number}, {event.artifact.file}"
    return None


def follow_another(run_folder: str) -> None:
    """Print what happens to a run of another process, until it has ended or died."""
    for event in follow(run_folder):
        if (line := words(event)) is not None:
            print(f"#{event.seq}", line, flush=True)


def show(way: str, what: object) -> None:
    """One line: who heard of it, on which thread, and what it was."""
    with _PRINTING:
        print(f"{way:<10} {threading.current_thread().name:<24} {what}", flush=True)


def on_image(event: StageEvent) -> None:
    """On a thread of the subscription's own, which may be slow: the run does not wait for it."""
    show("worker", words(event))


def on_end(event: StageEvent) -> None:
    """On the publishing thread, which waits for it: only for what is done in no time."""
    show("publisher", words(event))


def on_stage(event: StageEvent) -> None:
    """The same thread calls this one and `on_step`, one at a time."""
    show("worker", words(event))


def on_step(progress: StepProgress) -> None:
    """Sampling steps are no facts: a subscriber that is behind is not told of all of them."""
    show("steps", f"image {progress.image_index + 1}, step {progress.step} of {progress.steps}")


async def watch_one_of_our_own() -> None:
    """Run a pipeline, and have its events in a loop, on a worker and on the publisher's thread."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def on_state(event: StageEvent) -> None:
        """In the loop, like any other call of it: what it touches needs no lock."""
        show("loop", words(event))
        ended.set()

    controller = open_controller("runs")
    with (
        subscribe(on_image, StageImageProgress),
        subscribe(on_end, transitions=[RunState.COMPLETED], on="publisher"),
        subscribe(on_state, transitions=["finish", "fail", "cancel"], on=loop.call_soon_threadsafe),
        subscribe(on_stage, StageStart, on_step=on_step, on_config_error=print),
    ):
        handle = await asyncio.to_thread(controller.start, CONFIG)
        await ended.wait()
        result = await asyncio.to_thread(handle.wait)
    heard: list[StageEvent] = []
    with subscribe(heard.append, folder=handle.folder, from_seq=0, on="publisher"):
        show("late", f"{len(heard)} of {len(result.events)} events, out of the log")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        follow_another(sys.argv[1])
    else:
        asyncio.run(watch_one_of_our_own())
