"""Taking a run up again, checking its files, and what durability costs for each image."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

from stagewright.adapters import PillowInputReader
from stagewright.events import FileEventLog, RunState, replay
from stagewright.events.folds import Fold
from stagewright.events.log.storage import sync_descriptor
from stagewright.statemachine import PipelineController
from stagewright.statemachine.resume.verify import verify_run

from .instant_backend import InstantBackend
from .long_log import write_logs
from .measuring import Ratio, alternately
from .run_speed import CONFIG, Stopwatch, TimedStorage

_IMAGE_BYTES = 1_300_000
"""An 832 x 1216 PNG of a WebUI takes about so much."""


def opening_ratio(folder: Path, images: int = 8_333) -> Ratio:
    """Lock, verified reading and fold of a log, to append to it, beside its replay."""
    run = folder / "opening"
    run.mkdir()
    count = write_logs(run / "events.jsonl", folder / "bare.jsonl", images)

    def ours() -> None:
        fold = Fold()
        log = FileEventLog.open(run, observe=fold.apply_all)
        log.close()

    times = alternately(ours, lambda: replay(run), rounds=5)
    what = f"opening {count:,} events for a resume"
    return Ratio(what, "their verified replay", *times, limit="at most 1.5")


def verifying_ratio(folder: Path, images: int = 1000) -> Ratio:
    """The whole of ``verify``, beside sha256sum over the same files."""
    run = _run_of(folder, images)
    files = sorted(map(str, (run / "images").rglob("*.png")))
    assert len(files) == images

    def rival() -> None:
        subprocess.run(["sha256sum", *files], check=True, stdout=subprocess.DEVNULL)

    def ours() -> None:
        assert not verify_run(run).flaws

    times = alternately(ours, rival, rounds=3)
    return Ratio(f"verify of {images:,} images", "sha256sum", *times, limit="at most 1.25 (0.8)")


def resuming_ratio(folder: Path, images: int = 1000) -> Ratio:
    """Resuming a run of which one image is missing, until it is COMPLETED, beside sha256sum."""
    (run,) = (folder / "runs").iterdir()
    files = sorted((run / "images").rglob("*.png"))
    controller = _controller(folder)

    def ours() -> None:
        files[0].unlink()
        assert controller.resume(run.name).wait().state == RunState.COMPLETED

    def rival() -> None:
        subprocess.run(["sha256sum", *map(str, files)], check=True, stdout=subprocess.DEVNULL)

    times = alternately(ours, rival, rounds=3)
    what = f"resume of a run of {images:,} images, one missing"
    return Ratio(what, "sha256sum", *times, limit="none")


def durable_cost(folder: Path) -> str:
    """What a run waits for the disk for each image, beside one fdatasync on the same disk."""
    disk = Stopwatch()
    controller = PipelineController(
        backend=InstantBackend(_IMAGE_BYTES),
        runs=folder / "durable",
        inputs=PillowInputReader(),
        storage=TimedStorage(disk),
    )
    images = 100
    controller.start({**CONFIG, "images": images}).wait()
    one = _median_sync(folder / "probe")
    each = disk.seconds / images
    return (
        f"durability of one image of {_IMAGE_BYTES / 1e6:.1f} MB: {each * 1e3:.2f} ms on the disk "
        f"(4 syncs: request, file, folder, answer), that is {each / one:.1f} times one fdatasync "
        f"of a small append ({one * 1e3:.3f} ms)"
    )


def _median_sync(path: Path) -> float:
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    times = []
    for _ in range(100):
        os.write(descriptor, b"x" * 700)
        began = time.perf_counter()
        sync_descriptor(descriptor)
        times.append(time.perf_counter() - began)
    os.close(descriptor)
    return median(times)


def _run_of(folder: Path, images: int) -> Path:
    """A finished run of so many images of photographs' size."""
    handle = _controller(folder).start(
        {**CONFIG, "images": images, "run": {"durability": "process"}}
    )
    handle.wait()
    return handle.folder


def _controller(folder: Path) -> PipelineController:
    return PipelineController(
        backend=InstantBackend(_IMAGE_BYTES), runs=folder / "runs", inputs=PillowInputReader()
    )


def main() -> None:
    """Print the table's rows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(opening_ratio(folder).line())
        print(verifying_ratio(folder).line())
        print(resuming_ratio(folder).line())
        print(durable_cost(folder))


if __name__ == "__main__":
    main()
