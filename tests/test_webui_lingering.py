"""Runs of real processes on ``serve-embedded``, which lets overrides linger as a fresh WebUI."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from stagewright.events import RunState, replay

from .command_line import Start, stagewright, until
from .resuming import small
from .serving import BASE, VAE, Client, serving, url_of
from .webui_resuming import kill

CLIP_SKIP = "CLIP_stop_at_last_layers"
PLAIN: dict[str, Any] = {"model": BASE, "steps": 8}
OTHER: dict[str, Any] = {**PLAIN, "vae": VAE, "clip_skip": 2}


def written(folder: Path, name: str, images: int, txt2img: dict[str, Any]) -> Path:
    """A configuration file."""
    table = {"retries": 1, "backoff_s": 0.01, "wait_s": 30}
    config = small("txt2img", images=images, name=name, server=table)
    config["txt2img"] |= txt2img
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def pixels(runs: Path, name: str) -> list[bytes]:
    """The pixels of the only run of this name, which has completed."""
    (folder,) = (log.parent for log in runs.glob(f"*-{name}-*/events.jsonl"))
    result = replay(folder)
    assert result.state is RunState.COMPLETED, result.error
    return [Image.open(folder / one.path).convert("RGB").tobytes() for one in result.images]


def run(folder: Path, url: str, name: str, images: int, txt2img: dict[str, Any]) -> list[bytes]:
    """The pixels of a run that a process makes."""
    config = written(folder, name, images, txt2img)
    done = stagewright("run", config, "--server", url, folder=folder)
    assert done.returncode == 0, done.stderr
    return pixels(folder / "runs", name)


def finished(folder: Path, name: str) -> int:
    """How many images a run has finished so far."""
    logs = (folder / "runs").glob(f"*-{name}-*/events.jsonl")
    return sum(log.read_text(encoding="utf-8").count('"CallCompleted"') for log in logs)


def test_a_killed_run_with_a_vae_changes_no_later_run(start: Start, tmp_path: Path) -> None:
    """It is never resumed; the plain run after it makes the pictures of the one before it."""
    with serving(step_delay_s=0.01) as client:
        options = client.get("options")
        before = run(tmp_path, client.url, "before", 2, PLAIN)
        config = written(tmp_path, "killed", 50, OTHER)
        process = start("run", config, "--server", client.url, folder=tmp_path)
        until(lambda: finished(tmp_path, "killed") > 1, "images of the run")
        kill(process)
        after = run(tmp_path, client.url, "after", 2, PLAIN)
        other = run(tmp_path, client.url, "other", 2, OTHER)
        assert client.get("options") == options
    assert after == before != other


@pytest.mark.parametrize("txt2img", [PLAIN, OTHER])
def test_a_server_that_is_killed_and_comes_back_with_other_options_changes_no_image(
    start: Start, tmp_path: Path, txt2img: dict[str, Any]
) -> None:
    """The run waits for it and goes on with the options that it has recorded."""
    server = start("serve-embedded", "--port", "0", "--step-delay", "0.01", folder=tmp_path)
    url = url_of(server)
    expected = run(tmp_path, url, "whole", 12, txt2img)
    process = start("run", written(tmp_path, "cut", 12, txt2img), "--server", url, folder=tmp_path)
    until(lambda: finished(tmp_path, "cut") > 1, "images of the run")
    kill(server)
    port = url.rpartition(":")[2]
    again = start("serve-embedded", "--port", port, "--step-delay", "0.01", folder=tmp_path)
    client = Client(url_of(again))
    client.post("options", {"sd_vae": VAE, CLIP_SKIP: 7})
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    (log,) = (tmp_path / "runs").glob("*-cut-*/events.jsonl")
    assert '"CallFailed"' in log.read_text(encoding="utf-8")
    assert pixels(tmp_path / "runs", "cut") == expected
    present = client.get("options")
    client.close()
    assert (present["sd_vae"], present[CLIP_SKIP]) == (VAE, 7)


def test_two_runs_and_a_person_at_once_lose_no_settings(start: Start, tmp_path: Path) -> None:
    """Each run makes its own pictures, and the options are the person's afterwards."""
    with serving(step_delay_s=0.01) as client:
        one, two = {**PLAIN, "clip_skip": 3}, {**PLAIN, "vae": VAE}
        expected = [run(tmp_path, client.url, f"alone{place}", 6, it)
                    for place, it in enumerate((one, two))]  # fmt: skip
        options = client.get("options")
        processes = [
            start("run", written(tmp_path, f"beside{place}", 6, it), "--server", client.url,
                  folder=tmp_path)
            for place, it in enumerate((one, two))
        ]  # fmt: skip
        until(lambda: min(finished(tmp_path, f"beside{place}") for place in (0, 1)) > 0, "images")
        client.post("options", {CLIP_SKIP: 5, "samples_save": False})
        for process in processes:
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors
        assert client.get("options") == options | {CLIP_SKIP: 5, "samples_save": False}
    assert [pixels(tmp_path / "runs", f"beside{place}") for place in (0, 1)] == expected
