"""What those who listen cost a run, and how soon another process hears of an event."""

from __future__ import annotations

import gc
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from stagewright.adapters import EmbeddedBackend, PillowInputReader
from stagewright.events import StageEvent, StepProgress, follow, subscribe
from stagewright.statemachine import PipelineController

from .configuration import configuration

SUBSCRIBERS = 10
SLOW_S = 0.25
ROUNDS = 25
STEP_S = 0.0015
CONFIG = configuration(12, 512)


class Listeners:
    """Ten subscribers to everything, one of which takes a quarter of a second for each event."""

    def __init__(self) -> None:
        self.heard = [0] * SUBSCRIBERS
        self.over = threading.Event()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Subscribed while this is open; left behind at its end, as a slow one is."""
        with ExitStack() as stack:
            for number in range(SUBSCRIBERS):
                subscription = subscribe(self._receiver(number), on_step=self._take_step)
                stack.callback(subscription.close, timeout_s=0.0 if number == 0 else 2.0)
            yield
            self.over.set()

    def _receiver(self, number: int) -> Any:
        def take(_event: StageEvent) -> None:
            self.heard[number] += 1
            if number == 0:
                self.over.wait(SLOW_S)

        return take

    def _take_step(self, _progress: StepProgress) -> None:
        pass


def run_once(folder: Path) -> float:
    """Seconds of one run."""
    controller = PipelineController(
        backend=EmbeddedBackend(), runs=folder, inputs=PillowInputReader()
    )
    gc.collect()
    began = time.perf_counter()
    controller.start(CONFIG).wait()
    return time.perf_counter() - began


def compare_runs() -> tuple[float, float]:
    """The best seconds with the ten and without, in turn."""
    heard, alone = [], []
    with tempfile.TemporaryDirectory() as folder:
        run_once(Path(folder))
        for _ in range(ROUNDS):
            alone.append(run_once(Path(folder)))
            listeners = Listeners()
            with listeners.listening():
                heard.append(run_once(Path(folder)))
            assert min(listeners.heard[1:]) > CONFIG["images"] * 3
    return min(heard), min(alone)


def latencies() -> list[float]:
    """Milliseconds from the end of an append here until a follower in another process has it."""
    appended: dict[int, float] = {}

    def note(event: StageEvent) -> None:
        appended[event.seq] = time.monotonic()

    with tempfile.TemporaryDirectory() as folder, subscribe(note, on="publisher"):
        controller = PipelineController(
            backend=EmbeddedBackend(step_delay_s=STEP_S),
            runs=Path(folder),
            inputs=PillowInputReader(),
        )
        handle = controller.start(configuration(100, 64))
        command = [sys.executable, "-m", "benchmarks.listening_speed", str(handle.folder)]
        follower = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        handle.wait()
        told, _ = follower.communicate()
    begun_s, *rows = [line.split() for line in told.splitlines()]
    seen = {int(seq): float(at) for seq, at in rows}
    live = [seq for seq in seen if seq in appended and appended[seq] > float(begun_s[0])]
    return [(seen[seq] - appended[seq]) * 1e3 for seq in live]


def follow_and_print(folder: str) -> None:
    """What the other process does."""
    print(time.monotonic(), flush=True)
    for event in follow(folder):
        print(event.seq, time.monotonic(), flush=True)


def main() -> None:
    """Print both."""
    heard, alone = compare_runs()
    print(
        f"| a run of 12 images of 512 px with {SUBSCRIBERS} subscribers, one of them slow | "
        f"the same run without | {heard * 1e3:.0f} ms | {alone * 1e3:.0f} ms | "
        f"{heard / alone:.3f} | 1.02 |"
    )
    found = latencies()
    print(
        f"from append to a follower in another process, {len(found)} events: "
        f"median {statistics.median(found):.1f} ms, "
        f"95 % within {statistics.quantiles(found, n=20)[-1]:.1f} ms (median at most 50 ms)"
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        follow_and_print(sys.argv[1])
    else:
        main()
