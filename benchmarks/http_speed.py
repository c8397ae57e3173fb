"""Whole runs over HTTP, beside the least that a program could do and beside webuiapi.

The server (``instant_webui``) answers at once, so what is measured is the client: sending,
receiving, decoding, and making files durable. Each rival works in a process of its own, in
turn with the others; three images warm it up, and only what comes after is measured.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import itertools
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from .configuration import CFG_SCALE, MODEL, PROMPT, SAMPLER, STEPS, configuration
from .instant_webui import counts, instant_webui
from .measuring import Ratio

WARM_UP_IMAGES = 3
UPSCALER = "R-ESRGAN 4x+"
DENOISE = 0.3
SLOW_RIVAL_SHARE = 10
"""webuiapi, which takes ten times as long, makes a tenth of the images; figures are per image."""
MEMORY_READINGS = (100, 500, 1000)


class Job(NamedTuple):
    """What is made: ``images`` images of ``size`` x ``size`` pixels through each stage.

    The limits are of ours against the bare client (wall clock, CPU) and against webuiapi (CPU).
    """

    name: str
    size: int
    stages: tuple[str, ...]
    images: int
    wall_limit: str
    cpu_limit: str
    webuiapi_cpu_limit: str


_LIMITS_512 = ("at most 1.0", "at most 0.8, aim 0.65", "at most 0.125")
JOBS = (
    Job("txt2img of 512 px", 512, ("txt2img",), 150, *_LIMITS_512),
    Job("three stages of 512 px", 512, ("txt2img", "img2img", "upscale"), 60, *_LIMITS_512),
    Job("txt2img of 64 px", 64, ("txt2img",), 300, "at most 1.5", "none", "none"),
)


class Figures(NamedTuple):
    """What one process measured, in seconds for each image; requests are without polling."""

    wall: float
    user: float
    system: float
    requests: float
    polls: float

    @property
    def cpu(self) -> float:
        """All threads, user and system."""
        return self.user + self.system


def document(job: Job, images: int) -> dict[str, Any]:
    """The job as a configuration."""
    later = {
        "img2img": {"denoise": DENOISE, "steps": STEPS},
        "upscale": {"upscaler": UPSCALER, "factor": 2.0},
    }
    chosen = {stage: later[stage] for stage in job.stages[1:]}
    return configuration(images, job.size, run={"preflight": False}, **chosen)


def _generation(job: Job, seed: int) -> dict[str, Any]:
    """What a payload of txt2img and of img2img holds."""
    return {
        "prompt": PROMPT,
        "seed": seed,
        "sampler_name": SAMPLER,
        "steps": STEPS,
        "cfg_scale": CFG_SCALE,
        "width": job.size,
        "height": job.size,
        "batch_size": 1,
        "override_settings": {"sd_model_checkpoint": MODEL},
    }


Work = Callable[[int, Path], None]
"""Makes so many images below a new folder."""


def _through_stages(
    job: Job, images: int, folder: Path, make: Callable[[str, int, Path, Path], None]
) -> None:
    """Make every image: its stage, its seed, the file of the stage before, and its own.

    The files are named as ours are.
    """
    sources: list[Path] = []
    for order, stage in enumerate(job.stages):
        place = folder / "images" / f"{order:02d}-{stage}"
        place.mkdir(parents=True)
        targets = [place / f"{index:05d}-{index + 1}.png" for index in range(images)]
        for seed, (source, target) in enumerate(zip(sources or targets, targets, strict=True), 1):
            make(stage, seed, source, target)
        sources = targets


def bare(job: Job, address: str) -> Work:
    """A loop around a ``requests.Session``: no checks, no log, one fsync for each image."""
    import requests

    session = requests.Session()

    def post(route: str, payload: dict[str, Any]) -> dict[str, Any]:
        response = session.post(f"{address}/sdapi/v1/{route}", json=payload)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    def image_of(stage: str, seed: int, source: Path) -> str:
        if stage == "txt2img":
            return str(post(stage, _generation(job, seed))["images"][0])
        sent = base64.b64encode(source.read_bytes()).decode()
        if stage == "img2img":
            payload = _generation(job, seed) | {"denoising_strength": DENOISE}
            return str(post(stage, payload | {"init_images": [sent]})["images"][0])
        payload = {"resize_mode": 0, "upscaling_resize": 2.0, "upscaler_1": UPSCALER}
        return str(post("extra-single-image", payload | {"image": sent})["image"])

    def make(stage: str, seed: int, source: Path, target: Path) -> None:
        with open(target, "wb") as file:
            file.write(base64.b64decode(image_of(stage, seed, source)))
            file.flush()
            os.fsync(file.fileno())

    return lambda images, folder: _through_stages(job, images, folder, make)


def webuiapi_client(job: Job, address: str) -> Work:
    """The client that most programs use: it decodes every image and encodes it anew."""
    import webuiapi  # type: ignore[import-untyped]  # it ships no annotations
    from PIL import Image

    place = urlsplit(address)
    client = webuiapi.WebUIApi(host=place.hostname, port=place.port)

    def image_of(stage: str, seed: int, source: Path) -> Any:
        settings = _generation(job, seed)
        if stage == "txt2img":
            return client.txt2img(**settings).image
        with Image.open(source) as image:
            if stage == "img2img":
                settings["denoising_strength"] = DENOISE
                return client.img2img(images=[image], **settings).image
            answer = client.extra_single_image(image, upscaling_resize=2.0, upscaler_1=UPSCALER)
            return answer.image

    def make(stage: str, seed: int, source: Path, target: Path) -> None:
        with open(target, "wb") as file:
            image_of(stage, seed, source).save(file, "PNG")
            file.flush()
            os.fsync(file.fileno())

    return lambda images, folder: _through_stages(job, images, folder, make)


def ours(job: Job, address: str) -> Work:
    """A run of the controller, with its log, its checks and its default durability."""
    from stagewright.adapters import open_controller
    from stagewright.events import RunState

    def work(images: int, folder: Path) -> None:
        result = open_controller(folder, address).start(document(job, images)).wait()
        assert result.state == RunState.COMPLETED, result.error
        assert len(result.images) == images

    return work


RIVALS: dict[str, Callable[[Job, str], Work]] = {
    "ours": ours,
    "bare": bare,
    "webuiapi": webuiapi_client,
}


def _requests_so_far(address: str) -> tuple[int, int]:
    """Requests that the server saw, and requests that only asked for progress."""
    seen = counts(address)
    polls = sum(times for route, times in seen.items() if route.endswith("/progress"))
    return seen.total() - polls, polls


def measure(rival: str, job: Job, address: str, folder: Path, images: int) -> Figures:
    """Warm up, work, and say what it took; to be called once in a process."""
    work = RIVALS[rival](job, address)
    work(WARM_UP_IMAGES, folder / "warm-up")
    requests, polls = _requests_so_far(address)
    spent = resource.getrusage(resource.RUSAGE_SELF)
    began = time.perf_counter()
    work(images, folder / "measured")
    wall = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_SELF)
    requests_then, polls_then = _requests_so_far(address)
    return Figures(
        wall / images,
        (used.ru_utime - spent.ru_utime) / images,
        (used.ru_stime - spent.ru_stime) / images,
        (requests_then - requests) / images,
        (polls_then - polls) / images,
    )


def measure_memory(address: str, folder: Path) -> dict[int, float]:
    """Resident MiB of a run of many images, after as many as ``MEMORY_READINGS`` says."""
    from stagewright.events import StageEvent, StageImageProgress, subscribe

    readings: dict[int, float] = {}
    finished = itertools.count(1)

    def resident() -> float:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found is not None
        return int(found[1]) / 1024

    def count(_: StageEvent) -> None:
        images = next(finished)
        if images in MEMORY_READINGS:
            readings[images] = resident()

    with subscribe(count, StageImageProgress):
        ours(JOBS[0], address)(max(MEMORY_READINGS), folder)
    return readings


def _in_a_process(parent: Path, *arguments: str) -> Any:
    """What a process of its own, given a fresh folder, prints as JSON.

    The folder stays until all is measured: on ext4, files deleted a short while ago make new
    ones take up to 0.15 ms longer.
    """
    folder = tempfile.mkdtemp(dir=parent)
    command = [sys.executable, "-m", __spec__.name, "--work-in", folder, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def _run_job(job: Job, rivals: Sequence[str], rounds: int, parent: Path) -> None:
    measured: dict[str, list[Figures]] = {rival: [] for rival in rivals}
    with instant_webui(job.size) as address:
        for _ in range(rounds):
            for rival in rivals:
                images = job.images // (SLOW_RIVAL_SHARE if rival == "webuiapi" else 1)
                arguments = [rival, str(JOBS.index(job)), address, str(images)]
                measured[rival].append(Figures(*_in_a_process(parent, *arguments)))
    for rival, figures in measured.items():
        print(_description(job, rival, figures))
    for ratio in _ratios(job, measured):
        print(ratio.line())


def _description(job: Job, rival: str, figures: list[Figures]) -> str:
    def best_and_median(of: Callable[[Figures], float]) -> str:
        values = [of(figure) * 1e3 for figure in figures]
        return f"{min(values):.2f} ms (median {median(values):.2f})"

    least = min(figures, key=lambda figure: figure.cpu)
    requests = max(figure.requests for figure in figures)
    return (
        f"{job.name}, {rival}, each image: wall {best_and_median(lambda f: f.wall)}, "
        f"CPU {best_and_median(lambda f: f.cpu)}, of which user {least.user * 1e3:.2f} and "
        f"system {least.system * 1e3:.2f}; {requests:.2f} requests for {len(job.stages)} "
        f"stage(s) (at most {2 * len(job.stages)}), {least.polls:.2f} polls"
    )


def _ratios(job: Job, measured: dict[str, list[Figures]]) -> list[Ratio]:
    """The best of ours beside the best of each rival, for each image, in seconds."""

    def ratio(rival: str, what: str, of: Callable[[Figures], float], limit: str) -> Ratio:
        ours_s, rival_s = ([of(figure) for figure in measured[name]] for name in ("ours", rival))
        medians = median(ours_s) / median(rival_s)
        limit = f"{limit} (medians: {medians:.2f})"
        return Ratio(f"{job.name}, {what} of an image", rival, min(ours_s), min(rival_s), limit)

    if "ours" not in measured:
        return []
    found = []
    if "bare" in measured:
        found.append(ratio("bare", "wall clock", lambda f: f.wall, job.wall_limit))
        found.append(ratio("bare", "CPU", lambda f: f.cpu, job.cpu_limit))
    if "webuiapi" in measured:
        found.append(ratio("webuiapi", "CPU", lambda f: f.cpu, job.webuiapi_cpu_limit))
    return found


def _file_system(folder: Path) -> str:
    """The kind of file system that a folder lies on (Linux)."""
    command = ["stat", "--file-system", "--format=%T", str(folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _compare(chosen: argparse.Namespace, parent: Path) -> None:
    rivals = list(chosen.rivals)
    if "webuiapi" in rivals and importlib.util.find_spec("webuiapi") is None:
        rivals.remove("webuiapi")
        print("webuiapi is left out: pip install webuiapi==0.9.17")
    print(f"files are written below {parent}, on {_file_system(parent)}")
    for number in chosen.jobs:
        _run_job(JOBS[number], rivals, chosen.rounds, parent)
    if chosen.memory:
        with instant_webui(JOBS[0].size) as address:
            readings = _in_a_process(parent, "memory", "0", address, "0")
        shown = ", ".join(f"{value:.1f} after {images}" for images, value in readings.items())
        print(f"resident MiB of a run of {max(MEMORY_READINGS)} images of 512 px: {shown}")


def _work(chosen: argparse.Namespace) -> None:
    """One measurement, as JSON: this is the process of a rival."""
    rival, number, address, images = chosen.task
    if rival == "memory":
        print(json.dumps(measure_memory(address, chosen.work_in)))
    else:
        job = JOBS[int(number)]
        print(json.dumps(measure(rival, job, address, chosen.work_in, int(images))))


def main(arguments: Sequence[str] = ()) -> None:
    """Print the table's rows, and lines that say more."""
    parser = argparse.ArgumentParser(description=__doc__)
    folder = Path(os.environ.get("TMPDIR", "."))
    numbers = range(len(JOBS))
    parser.add_argument("--rounds", type=int, default=5, help="how often each rival works")
    parser.add_argument("--folder", type=Path, default=folder, help="on a disk with 3 GB free")
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, default=list(RIVALS))
    parser.add_argument("--jobs", nargs="*", type=int, choices=numbers, default=list(numbers))
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--work-in", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("task", nargs="*", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.work_in is not None:
        _work(chosen)
    else:
        place = chosen.folder.resolve()
        with tempfile.TemporaryDirectory(prefix=".http-speed-", dir=place) as parent:
            _compare(chosen, Path(parent))


if __name__ == "__main__":
    main(sys.argv[1:])
