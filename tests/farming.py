"""A farm of real processes on this machine: a scheduler, and workers beside served backends."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stagewright.adapters.webui_server import EmbeddedServer

from .command_line import SCRIPT, write_config
from .support import document

Process = subprocess.Popen[str]


def work(*stages: str, images: int = 4, steps: int = 3, **top: Any) -> dict[str, Any]:
    """A configuration of these stages with names that a served backend has."""
    made = document(*stages, images=images, **top)
    first = stages[0] if stages else "txt2img"
    made[first] |= {"model": "sd_xl_base_1.0.safetensors", "steps": steps}
    if "upscale" in made:
        made["upscale"]["upscaler"] = "R-ESRGAN 4x+"
    return made


def write_work(folder: Path, *stages: str, steps: int) -> Path:
    """The file of such a configuration in ``folder``."""
    return write_config(folder, json.dumps(work(*stages, steps=steps)), "work.json")


def start_process(*arguments: str, folder: Path, env: Mapping[str, str] | None = None) -> Process:
    """Start a command of ``farm``, with Dask's files in ``folder``."""
    quiet = {"DASK_TEMPORARY_DIRECTORY": str(folder), "DASK_CONFIG": str(folder / "no-settings")}
    return subprocess.Popen(
        [str(SCRIPT), "farm", *arguments],
        cwd=folder,
        env={**os.environ, **quiet, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def line_of(process: Process) -> str:
    """The next line that it prints."""
    assert process.stdout is not None
    return process.stdout.readline()


def end(process: Process) -> None:
    """Kill it, unless it has ended."""
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


class Farm:
    """A scheduler, and workers by name, each with a server of its own in this process."""

    def __init__(self, folder: Path, *options: str, env: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.env = env
        self.servers: list[EmbeddedServer] = []
        self.workers: dict[str, Process] = {}
        self.port = 0
        self.address = ""
        self.start_scheduler(*options)

    def start_scheduler(self, *options: str) -> None:
        """Start the scheduler, on the port that it had before."""
        ports = ("--port", str(self.port), "--dashboard-port", "0")
        self.scheduler = start_process(
            "scheduler", *ports, *options, folder=self.folder, env=self.env
        )
        line = line_of(self.scheduler)
        assert line.startswith("scheduler at "), line
        self.address = line.split()[2].rstrip(",")
        self.port = int(self.address.rpartition(":")[2])

    def add_server(self, *models: str, step_delay_s: float = 0.0) -> EmbeddedServer:
        """Start a server; each step of it takes so long."""
        server = EmbeddedServer(models, port=0, step_delay_s=step_delay_s)
        server.__enter__()
        self.servers.append(server)
        return server

    def add_workers(self, *servers: EmbeddedServer, options: tuple[str, ...] = ()) -> list[str]:
        """Start a worker beside each server, and wait until they have joined; their names."""
        started = [
            start_process(
                *("worker", "--scheduler", self.address, "--server", server.url, *options),
                folder=self.folder,
                env=self.env,
            )
            for server in servers
        ]
        names = []
        for process in started:
            assert "looking for" in line_of(process)
            line = line_of(process)
            assert " joined " in line, line
            names.append(line.split()[1].rstrip(":"))
            self.workers[names[-1]] = process
        return names

    def wait_for_workers(self) -> None:
        """Wait until every worker has joined again, after it has left."""
        for process in self.workers.values():
            while " joined " not in line_of(process):
                assert process.poll() is None

    def restore(self) -> None:
        """Start the workers again that have been killed."""
        killed = [name for name, process in self.workers.items() if process.poll() is not None]
        for name in killed:
            end(self.workers.pop(name))
        ports = tuple(name.rpartition(":")[2] for name in killed)
        self.add_workers(*(one for one in self.servers if one.url.endswith(ports)))

    def close(self) -> None:
        """End every process and server."""
        for process in (*self.workers.values(), self.scheduler):
            end(process)
        for server in self.servers:
            server.__exit__(None, None, None)


@contextmanager
def open_farm(
    folder: Path, *options: str, workers: int = 0, env: Mapping[str, str] | None = None
) -> Iterator[Farm]:
    """A farm whose scheduler has these options, with so many workers."""
    farm = Farm(folder, *options, env=env)
    try:
        farm.add_workers(*(farm.add_server() for _ in range(workers)))
        yield farm
    finally:
        farm.close()
