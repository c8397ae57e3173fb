"""A farm beside one server: images in a second on 1, 2 and 4 workers, and what an image costs.

Scheduler, workers and servers are processes of their own on this machine. The servers draw nothing
(``instant_webui``), so that the processor's time is that of the farm.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from stagewright.adapters import open_controller
from stagewright.events import CallCompleted, CallRequested, PipelineRunResult

from .configuration import configuration
from .instant_webui import instant_webui
from .measuring import Ratio

_COMMAND = [sys.executable, "-m", "stagewright"]
_STEPS = 5
_SETTINGS = {"preflight": False, "learning": False}
_WORKERS = (1, 2, 4)
_ROUNDS = 2
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
_COSTED_IMAGES = 100


class Pace(NamedTuple):
    """So many images for each worker take so long each; the limit is that of N workers."""

    name: str
    image_s: float
    images: int
    limit: str


_PACES = (
    Pace("1 s", 1.0, 8, "at most 1.05 (0.95 N)"),
    Pace("50 ms", 0.05, 40, "at most 1.43 (0.7 N)"),
)


@contextmanager
def _started(folder: Path, *arguments: str, lines: int = 1) -> Iterator[tuple[int, str]]:
    """A command that serves: its process id, and the last of its first lines."""
    process = subprocess.Popen(
        [*_COMMAND, *arguments], cwd=folder, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = ""
        for _ in range(lines):
            line = process.stdout.readline()
        yield process.pid, line
    finally:
        process.kill()
        process.communicate()


def _run(folder: Path, address: str, config: dict[str, Any]) -> PipelineRunResult:
    return open_controller(folder / "runs", address).start(config).wait(timeout_s=600)


def _working_s(result: PipelineRunResult) -> float:
    """From the first request to the last answer."""
    asked = [one.ts for one in result.events if isinstance(one, CallRequested)]
    answered = [one.ts for one in result.events if isinstance(one, CallCompleted)]
    return (max(answered) - min(asked)).total_seconds()


def _farm(stack: ExitStack, folder: Path, servers: Sequence[str]) -> tuple[str, int, list[int]]:
    """The scheduler's address and process, and the processes of the workers."""
    given = ("farm", "scheduler", "--port", "0", "--dashboard-port", "0")
    scheduler, line = stack.enter_context(_started(folder, *given))
    address = line.split()[2].rstrip(",")
    workers = []
    for server in servers:
        worker = ("farm", "worker", "--scheduler", address, "--server", server)
        workers.append(stack.enter_context(_started(folder, *worker, lines=2))[0])
    return address, scheduler, workers


def _scaling(pace: Pace, workers: int) -> Ratio:
    """The time for an image on so many workers, beside the same images on one server alone."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        servers = [
            stack.enter_context(instant_webui(64, delay_s=pace.image_s)) for _ in range(workers)
        ]
        address, _, _ = _farm(stack, folder, servers)
        alone = configuration(pace.images, 64, steps=_STEPS, run=_SETTINGS)
        shared = alone | {"images": pace.images * workers}
        ours = rival = float("inf")
        for _ in range(_ROUNDS):
            ours = min(ours, _working_s(_run(folder, address, shared)))
            rival = min(rival, _working_s(_run(folder, servers[0], alone)))
        what = f"an image of {pace.name} on each of {workers} workers of a farm"
        return Ratio(what, "one server", ours / pace.images, rival / pace.images, pace.limit)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS


def _bytes_through(port: str) -> int:
    """What has been received and sent over the connections of a port of this machine."""
    shown = subprocess.run(
        ["ss", "-tinH", "sport", "=", f":{port}"], capture_output=True, text=True, check=True
    ).stdout
    return sum(map(int, re.findall(r"bytes_(?:sent|received):(\d+)", shown)))


def _print_costs() -> None:
    """What an image of a photograph's size costs the controller, the scheduler and a worker."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        server = stack.enter_context(instant_webui(512))
        address, scheduler, (worker,) = _farm(stack, folder, [server])
        port = address.rpartition(":")[2]
        config = configuration(_COSTED_IMAGES, 512, run=_SETTINGS)
        _run(folder, address, config | {"images": 3})
        before = (_cpu_s(os.getpid()), _cpu_s(scheduler), _cpu_s(worker), _bytes_through(port))
        result = _run(folder, address, config | {"seed": 1000})
        after = (_cpu_s(os.getpid()), _cpu_s(scheduler), _cpu_s(worker), _bytes_through(port))
        used = [(now - then) / _COSTED_IMAGES for then, now in zip(before, after, strict=True)]
        image = sum(one.bytes for one in result.images) / _COSTED_IMAGES
        costs = [f"{seconds * 1e3:.1f} ms" for seconds in used[:3]]
        print(
            f"CPU of an image of {image / 1e6:.2f} MB on a farm: controller {costs[0]}, scheduler "
            f"{costs[1]}, worker {costs[2]}; {used[3] / 1e3:.1f} kB pass through the scheduler."
        )


def main() -> None:
    """Print a row for each pace and number of workers, and what an image costs."""
    for pace in _PACES:
        for workers in _WORKERS:
            print(_scaling(pace, workers).line(), flush=True)
    _print_costs()


if __name__ == "__main__":
    main()
