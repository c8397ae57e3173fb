"""Images that the arguments of extensions name by path, such as those of ControlNet units."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from stagewright.adapters import PillowInputReader
from stagewright.adapters.backends.webui.payloads import payload_of
from stagewright.events import CallRequested, RunOpened, iterate
from stagewright.events.errors import ImageAlteredError
from stagewright.statemachine import GenerateRequest, ImageBackend
from stagewright.statemachine.config.inputs import load_config
from stagewright.statemachine.errors import ConfigurationError
from stagewright.statemachine.resume.verify import verify_run

from .resuming import cut_before
from .support import ScriptedBackend, controller, document, png

UNITS: list[Any] = [
    {"args": [{"image": "pose.png", "model": "openpose"}]},
    {"args": [{"enabled": True, "input_image": "pose.png"}, {"mask_image": "more/mask.png"}]},
    {"args": [True, "pose.png", ["more/mask.png"]]},
]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with two images."""
    (tmp_path / "more").mkdir()
    (tmp_path / "pose.png").write_bytes(png(1))
    (tmp_path / "more" / "mask.png").write_bytes(png(2))
    return tmp_path


def write(folder: Path, scripts: Any, stage: str = "txt2img", **more: Any) -> Path:
    """A configuration whose stage has these arguments."""
    config = document("txt2img", "img2img", "adetailer", images=2, **more)
    config[stage] = {**config[stage], "alwayson_scripts": {"ControlNet": scripts}}
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return path


def run(folder: Path, path: Path, backend: ImageBackend | None = None) -> Path:
    """The folder of a run that has ended."""
    handle = controller(folder / "runs", backend).start(path)
    handle.wait(30)
    return handle.folder


def opened(folder: Path) -> RunOpened:
    found = next(iterate(folder))
    assert isinstance(found, RunOpened)
    return found


@pytest.mark.parametrize("scripts", UNITS, ids=["unit", "units", "plain arguments"])
@pytest.mark.parametrize("stage", ["txt2img", "img2img", "adetailer"])
def test_an_image_of_a_script_is_copied_and_sent_as_bytes(
    pictures: Path, scripts: Any, stage: str
) -> None:
    """The request has the image by the path of its copy; a server gets its bytes."""
    backend = ScriptedBackend()
    folder = run(pictures, write(pictures, scripts, stage), backend)
    records = [one for one in opened(folder).inputs if one.path.startswith("inputs/scripts/")]
    assert [record.original.name for record in records if record.original] == (
        ["pose.png"] if scripts is UNITS[0] else ["pose.png", "mask.png"]
    )
    asked = next(one for one in backend.requests if one.stage_type == stage)
    assert [image.data for image in asked.script_images.values()] == [
        (folder / record.path).read_bytes() for record in records
    ]
    sent = payload_of(asked).encoded().decode()
    for image in (png(1), png(2))[: len(records)]:
        assert base64.b64encode(image).decode() in sent
    assert ".png" not in json.dumps(json.loads(sent)["alwayson_scripts"])
    assert all(not one.script_images for one in backend.requests if one.stage_type != stage)


def digests(folder: Path) -> list[str]:
    return [one.request_sha256 for one in iterate(folder) if isinstance(one, CallRequested)]


def test_the_digest_holds_the_image_and_not_its_name(pictures: Path) -> None:
    """A renamed image asks for the same picture, and another image of the same name does not."""
    (pictures / "other.png").write_bytes(png(1))
    named = [run(pictures, write(pictures, {"args": [{"image": name}]}))
             for name in ("pose.png", "other.png")]  # fmt: skip
    assert digests(named[0]) == digests(named[1])
    (pictures / "pose.png").write_bytes(png(3))
    changed = run(pictures, write(pictures, UNITS[0]))
    assert digests(changed)[:2] != digests(named[0])[:2]


def test_a_resume_uses_the_copy(pictures: Path) -> None:
    """The original may be gone; requests are those of the first process."""
    folder = run(pictures, write(pictures, UNITS[1]))
    before = digests(folder)
    cut_before(folder, CallRequested, 1)
    (pictures / "pose.png").unlink()
    controller(pictures / "runs").resume(folder.name).wait(30)
    assert digests(folder) == before
    assert verify_run(folder).sound


def test_a_resume_needs_the_copy_only_for_images_to_be_made(pictures: Path) -> None:
    """A copy that was altered is named, by `verify` and by a resume that would send it."""
    folder = run(pictures, write(pictures, UNITS[0]))
    cut_before(folder, CallRequested, 1)
    copy = folder / opened(folder).inputs[0].path
    copy.write_bytes(png(9))
    assert not verify_run(folder).sound
    with pytest.raises(ImageAlteredError, match=str(copy)):
        controller(pictures / "runs").resume(folder.name)


@pytest.mark.parametrize("key", ["image", "input_image", "mask", "mask_image"])
def test_an_image_that_is_not_there_is_an_error_before_the_run(pictures: Path, key: str) -> None:
    """Under a key of an image; elsewhere such a text is no path."""
    path = write(pictures, {"args": [{key: "lost.png"}]})
    with pytest.raises(ConfigurationError, match=r"alwayson_scripts.*lost\.png") as refused:
        controller(pictures / "runs").validate(load(path, pictures))
    assert refused.value.key == "txt2img.alwayson_scripts"
    backend = ScriptedBackend()
    run(pictures, write(pictures, {"args": ["lost.png", {"name": "lost.png"}]}), backend)
    first: GenerateRequest = backend.requests[0]
    assert first.config.alwayson_scripts == {
        "ControlNet": {"args": ["lost.png", {"name": "lost.png"}]}
    }


def load(path: Path, folder: Path) -> Any:
    return load_config(path, inputs=PillowInputReader(), runs=folder)


def test_bytes_in_the_configuration_stay_as_they_are(pictures: Path) -> None:
    """Base64 needs no file."""
    text = base64.b64encode(png(1)).decode()
    backend = ScriptedBackend()
    folder = run(pictures, write(pictures, {"args": [{"image": text}]}), backend)
    assert opened(folder).inputs == ()
    assert text in payload_of(backend.requests[0]).encoded().decode()
