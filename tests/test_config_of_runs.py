"""``config RUN`` prints a configuration that makes a run, or one of its images, again."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from stagewright.adapters import open_controller
from stagewright.events import CallRequested, iterate

from .command_line import stagewright
from .support import document, png

WAIT_S = 60
MASK = {"mask": "mask.png"}
POSE = {"ControlNet": {"args": [{"image": "pose.png", "weight": 0.5}]}}


def given(*stages: str, **more: Any) -> dict[str, Any]:
    """A small configuration with these stages; tables gain the keys in ``more``."""
    made = document(*stages)
    for key, value in more.items():
        made[key] = {**made.get(key, {}), **value} if isinstance(value, dict) else value
    return made


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "one input": given("upscale", input_image="photos/img2.png"),
    "several inputs": given("upscale", input_image="photos"),
    "flat key": given("upscale", input_image_path="photos"),
    "images of each": given("img2img", "upscale", input_image="photos/*", images=2),
    "one mask": given("img2img", input_image="photos", img2img=MASK),
    "a mask for each": given("img2img", input_image="photos", img2img={"mask": "masks"}),
    "mask behind txt2img": given("txt2img", "img2img", images=2, img2img=MASK),
    "image of a script": given(
        "txt2img", "adetailer", images=2, txt2img={"alwayson_scripts": POSE}
    ),
    "scripts of two stages": given(
        "img2img",
        "adetailer",
        input_image="photos",
        img2img={"mask": "masks", "alwayson_scripts": POSE},
        adetailer={"alwayson_scripts": POSE},
    ),
    "drawn subseed": given("txt2img", images=2, txt2img={"subseed": -1, "subseed_strength": 0.5}),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with inputs, masks and an image for a script; its name is no pattern."""
    made = tmp_path / "a [1-3] folder"
    for name in ("photos/img2.png", "photos/img10.png", "photos/img1.jpg", "pose.png", "mask.png"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(png(len(name)))
    (made / "masks").mkdir()
    for place, stem in enumerate(("img1", "img2", "img10")):
        (made / "masks" / f"{stem}.png").write_bytes(png(place, mode="L"))
    return made


def run(folder: Path, config: dict[str, Any]) -> Path:
    """The folder of a run of a configuration in ``folder``."""
    (folder / "config.json").write_text(json.dumps(config))
    handle = open_controller(folder / "runs").start(folder / "config.json")
    handle.wait(WAIT_S)
    return handle.folder


def requests(run_folder: Path, image_index: int | None = None) -> list[str]:
    """The digests of a run's requests, or of those for one image."""
    return [
        event.request_sha256
        for event in iterate(run_folder)
        if isinstance(event, CallRequested) and image_index in (None, event.image_index)
    ]


def printed(folder: Path, name: str) -> Path:
    """A file elsewhere with the output of ``config``."""
    done = stagewright("config", name, folder=folder)
    assert done.returncode == 0, done.stderr
    path = folder.parent / "elsewhere" / "again.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(done.stdout)
    return path


@pytest.mark.parametrize("config", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_the_configuration_makes_the_same_requests(folder: Path, config: dict[str, Any]) -> None:
    """From anywhere, when the originals are gone; so does the file in the run folder."""
    made = run(folder, config)
    (folder / "photos").rename(folder / "gone")
    for path in (printed(folder, "last"), made / "config.toml"):
        again = open_controller(folder / "other").start(path)
        again.wait(WAIT_S)
        assert requests(again.folder) == requests(made)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("config", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_the_configuration_of_an_image_makes_its_requests(
    folder: Path, config: dict[str, Any]
) -> None:
    """Those of its last image, with its own input, mask and seed."""
    made = run(folder, config)
    last = max(event.image_index for event in iterate(made) if isinstance(event, CallRequested))
    again = open_controller(folder / "other").start(printed(folder, f"last#{last + 1}"))
    again.wait(WAIT_S)
    assert requests(again.folder) == requests(made, last)


def test_inputs_that_could_not_be_used_are_left_out(folder: Path) -> None:
    """A comment names them; an image of the run has its own seed."""
    (folder / "photos" / "img3.png").write_bytes(b"no image")
    config = given("img2img", input_image="photos", run={"on_image_error": "continue"})
    made = run(folder, config)
    path = printed(folder, "last")
    assert "other seeds than in the run: img3.png\n" in path.read_text()
    again = open_controller(folder / "other").start(path)
    again.wait(WAIT_S)
    assert requests(again.folder)[:2] == requests(made)[:2]
    one = open_controller(folder / "other").start(printed(folder, "last#4"))
    one.wait(WAIT_S)
    assert requests(one.folder) == requests(made, 3)


def test_a_bundle_of_authorities_is_named_by_its_place(folder: Path) -> None:
    """It is relative to the configuration that was run."""
    (folder / "ca.pem").write_bytes(b"")
    config = given(server={"ca_bundle": "ca.pem", "url": ""})
    run(folder, config)
    text = printed(folder, "last").read_text()
    assert tomllib.loads(text)["server"]["ca_bundle"] == str(folder / "ca.pem")
