"""Sweeps on a server: killed at any moment, cancelled between variants, and then finished."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from stagewright.adapters import open_controller
from stagewright.events import RunSealed, StageEvent, subscribe

from .command_line import Start, installed, stagewright
from .crashing import KILLED, check_history
from .served_sweeps import (
    AXES,
    IMAGES,
    REQUESTS,
    STAGES,
    TO_A_VARIANT,
    VARIANTS,
    Json,
    WatchedRecorder,
    checkpoint_changes,
    images_of,
    night,
    only_group,
    resumed,
    states,
    swept,
)
from .serving import url_of

assert REQUESTS == VARIANTS * IMAGES * len(STAGES) == 144


class Server:
    """A ``serve-embedded`` behind a recorder, which dies and comes back on the same port."""

    def __init__(self, start: Start, folder: Path) -> None:
        self._start, self._folder = start, folder
        self.process = start("serve-embedded", "--port=0", folder=folder)
        self.address = url_of(self.process)
        self.recorder = WatchedRecorder(self.address)

    def kill(self) -> None:
        """As ``kill -9`` does."""
        self.process.kill()
        self.process.wait(30)

    def start_again(self) -> None:
        """Once the earlier process has ended, which another thread may be about to kill."""
        self.process.wait(30)
        port = self.address.rpartition(":")[2]
        self.process = self._start("serve-embedded", f"--port={port}", folder=self._folder)
        assert url_of(self.process) == self.address


@pytest.fixture
def server(start: Start, tmp_path: Path) -> Iterator[Server]:
    """A server of its own."""
    one = Server(start, tmp_path)
    with one.recorder:
        yield one


class Whole(NamedTuple):
    """A sweep that nothing interrupts."""

    result: Json
    images: dict[str, dict[tuple[str, int], str]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The sweep on the embedded backend, as it ends when nothing happens to it."""
    folder = tmp_path_factory.mktemp("whole")
    result = swept(night(folder))
    return Whole(result, images_of(folder, result))


def assert_ended_as(whole: Whole, folder: Path, result: Json) -> None:
    """All variants are complete, with the same images; each log is whole, none made twice."""
    assert (result["state"], set(states(result))) == ("COMPLETED", {"COMPLETED"})
    found = images_of(folder, result)
    assert found == whole.images
    assert sum(map(len, found.values())) == REQUESTS
    for variant in result["variants"]:
        check_history(folder / "runs" / variant["run_id"])


def test_a_sweep_changes_the_checkpoint_as_seldom_as_possible(
    server: Server, tmp_path: Path, whole: Whole
) -> None:
    """18 runs, one request for each image and stage, one change; ``--json`` lists the variants."""
    config = night(tmp_path)
    planned = json.loads(stagewright("plan", config, "--json", folder=tmp_path).stdout)
    result = swept(config, f"--server={server.recorder.url}")
    assert_ended_as(whole, tmp_path, result)
    assert len(server.recorder.generating()) == REQUESTS
    assert checkpoint_changes(server.recorder) == planned["checkpoint_changes"] == 1
    assert result.keys() == {"group_id", "state", "axes", "variants", "error"}
    assert result["axes"] == AXES
    assert result["group_id"] == only_group(tmp_path).name
    assert [one["variant_index"] for one in result["variants"]] == list(range(VARIANTS))
    assert [one["values"] for one in result["variants"]] == [
        one["values"] for one in planned["variants"]
    ]
    assert {one["outcome"] for one in result["variants"]} == {"completed"}


@pytest.mark.parametrize(
    "at", ["record-synced VariantBegun #8", "record-synced CallCompleted 02-upscale.00000 #8"]
)
def test_a_sweep_whose_program_and_server_are_killed_is_finished_by_one_resume(
    server: Server, tmp_path: Path, whole: Whole, at: str
) -> None:
    """At the edge of a variant and within one: the same images, and no request sent twice."""
    dying = {**os.environ, "STAGEWRIGHT_FAILPOINT": at}
    url = server.recorder.url
    done = stagewright("run", night(tmp_path), "--server", url, folder=tmp_path, env=dying)
    assert done.returncode == KILLED
    server.kill()
    kept = len(server.recorder.generating())
    assert 7 * TO_A_VARIANT <= kept < 8 * TO_A_VARIANT
    server.start_again()
    assert_ended_as(whole, tmp_path, resumed(tmp_path))
    assert len(server.recorder.generating()) == REQUESTS
    assert checkpoint_changes(server.recorder) == 1


def test_a_sweep_killed_during_a_request_is_finished_by_one_resume(
    start: Start, server: Server, tmp_path: Path, whole: Whole
) -> None:
    """The server dies with the request that it had; that image alone is requested again."""
    programs: list[subprocess.Popen[str]] = []

    def kill_both(number: int) -> None:
        if number == REQUESTS // 2 + 3:
            programs[0].kill()
            programs[0].wait(30)
            server.kill()

    server.recorder.on_request = kill_both
    url = server.recorder.url
    programs.append(start("run", night(tmp_path), "--server", url, folder=tmp_path))
    assert programs[0].wait(60) == KILLED
    server.start_again()
    assert_ended_as(whole, tmp_path, resumed(tmp_path))
    assert len(server.recorder.generating()) == REQUESTS
    sent = [one for one in server.recorder.requests if one.stage is not None]
    assert len(sent) == REQUESTS + 1


def test_a_sweep_cancelled_between_two_variants_stays_cancelled(
    server: Server, tmp_path: Path
) -> None:
    """``resume --all`` leaves it out, ``--cancelled`` and its name do not; none is made twice."""
    config = night(tmp_path, adetailer={"enabled": False})
    url, requests = server.recorder.url, IMAGES * 3
    controller = open_controller(tmp_path / "runs", url)
    ended: list[str] = []

    def cancel_between(event: StageEvent) -> None:
        ended.append(event.run_id)
        if len(ended) == 4:
            controller.cancel(str(controller.current_group_id))

    with subscribe(cancel_between, RunSealed, on="publisher"):
        first = controller.start_group(config, vary=["prompt=a storm"]).wait(60)
    assert first.state == "CANCELLED"
    assert [one.state for one in first.variants] == ["COMPLETED"] * 4 + ["IDLE"] * 2
    assert [one.run_id for one in first.variants] == [*ended, None, None]
    left = stagewright("resume", "--all", folder=tmp_path)
    assert (left.returncode, left.stdout) == (0, "nothing to resume in runs\n")
    assert "1 group that you cancelled left out" in left.stderr
    assert len(server.recorder.generating()) == 4 * requests

    def cancel_at_the_last_image(number: int) -> None:
        if number == 5 * requests:
            done = installed("cancel", "last-group", "--after-image", folder=tmp_path)
            assert done.stdout.endswith("stopping after the current image\n"), done.stderr

    server.recorder.on_request = cancel_at_the_last_image
    done = stagewright("resume", "--all", "--cancelled", "--json", folder=tmp_path)
    assert done.returncode == 3, done.stderr
    (second,) = json.loads(done.stdout)
    assert states(second) == ["COMPLETED"] * 4 + ["CANCELLED", "IDLE"]
    last = resumed(tmp_path)
    assert (last["state"], set(states(last))) == ("COMPLETED", {"COMPLETED"})
    assert len(server.recorder.generating()) == 6 * requests
