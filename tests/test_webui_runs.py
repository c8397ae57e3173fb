"""Whole runs over HTTP against ``serve-embedded``, seen from the server and from the log."""

from __future__ import annotations

import base64
import io
import json
import socket
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from stagewright.adapters import open_controller
from stagewright.adapters.webui_server import EmbeddedServer
from stagewright.events import (
    CallCompleted,
    CallRequested,
    PipelineRunResult,
    RunOpened,
    RunState,
    replay,
    signals,
)
from stagewright.events.model import EVENT_TYPES
from stagewright.statemachine.ports import StepProgress

from .command_line import SMALL as ANY_SMALL
from .command_line import stagewright, write_config
from .webui_names import DETAILER_BOUNDS, OPENAPI
from .webui_painting import filled
from .webui_recorder import Exchanged, Recorder

pytestmark = pytest.mark.lowest

PORTRAIT = Path(__file__).parent.parent / "examples" / "portrait.toml"
OVERRIDES = ("images=3", "txt2img.width=128", "txt2img.height=192")
IMAGES = 3
STAGES = ("txt2img", "img2img", "extra-single-image", "adetailer")
STAGE_IDS = ("00-txt2img", "01-img2img", "02-upscale", "03-adetailer")
BASE, REFINER = "sd_xl_base_1.0.safetensors", "sd_xl_refiner_1.0.safetensors"
SMALL = ANY_SMALL.replace("base.safetensors", BASE)
POLLING = "/sdapi/v1/progress"
LISTS = {
    *("/openapi.json", "/sdapi/v1/progress", "/adetailer/v1/ad_model"),
    "/adetailer/v1/schema",
    *("/sdapi/v1/sd-models", "/sdapi/v1/samplers", "/sdapi/v1/schedulers", "/sdapi/v1/upscalers"),
    *("/sdapi/v1/latent-upscale-modes", "/sdapi/v1/scripts", "/sdapi/v1/options"),
}
COMMON: dict[str, Any] = {
    "prompt": "portrait of an astronaut, studio light",
    "negative_prompt": "blurry",
    "cfg_scale": 7.0,
    "sampler_name": "Euler a",
    "scheduler": "Karras",
    "n_iter": 1,
    "send_images": True,
    "save_images": False,
    "override_settings": {"sd_model_checkpoint": "sd_xl_base_1.0.safetensors"},
    "override_settings_restore_afterwards": True,
}
FACE: dict[str, Any] = {
    "ad_model": "face_yolov8n.pt",
    "ad_denoising_strength": 0.4,
    "ad_use_inpaint_width_height": True,
    "ad_inpaint_width": 128,
    "ad_inpaint_height": 192,
}
HAND = FACE | {"ad_model": "hand_yolov8n.pt", "ad_denoising_strength": 0.3}
SENT: dict[str, dict[str, Any]] = {
    "txt2img": COMMON
    | {
        "steps": 25,
        "width": 128,
        "height": 192,
        "batch_size": 1,
        "refiner_checkpoint": "sd_xl_refiner_1.0.safetensors",
        "refiner_switch_at": 0.8,
        "enable_hr": True,
        "hr_upscaler": "Latent",
        "hr_scale": 1.5,
        "hr_second_pass_steps": 12,
        "hr_checkpoint_name": "sd_xl_refiner_1.0.safetensors",
        "denoising_strength": 0.35,
    },
    "img2img": COMMON | {"steps": 20, "width": 192, "height": 288, "denoising_strength": 0.3},
    "extra-single-image": {
        "resize_mode": 0,
        "upscaling_resize": 2.0,
        "upscaler_1": "R-ESRGAN 4x+",
    },
    "adetailer": COMMON
    | {
        "steps": 20,
        "width": 384,
        "height": 576,
        "denoising_strength": 0,
        "alwayson_scripts": {"ADetailer": {"args": [True, True, FACE, HAND]}},
    },
}
"""What each stage's requests hold besides images, ids and the image's seed."""


@dataclass(frozen=True)
class Seen:
    """A run that ended: what the server saw, and what its log tells."""

    recorder: Recorder
    folder: Path
    result: PipelineRunResult

    def events(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.result.events if isinstance(event, kind)]

    def exchanges(self) -> Iterator[tuple[Exchanged, CallRequested, CallCompleted]]:
        """Each generating request with the log's two words on it."""
        calls = self.events(CallRequested), self.events(CallCompleted)
        return zip(self.recorder.generating(), *calls, strict=True)


def run(folder: Path, config: Path, *arguments: str, status: int = 0) -> Path:
    """The folder of a run that ends with this exit status."""
    done = stagewright("run", config, *arguments, folder=folder)
    assert done.returncode == status, done.stderr
    assert ("stagewright: " in done.stderr) is (status != 0), done.stderr
    (found,) = folder.glob("runs/*/")
    return found


def sets(*overrides: str) -> list[str]:
    return [part for override in overrides for part in ("--set", override)]


@pytest.fixture(scope="module")
def portrait(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """The full example over HTTP, with preflight."""
    folder = tmp_path_factory.mktemp("over-http")
    with EmbeddedServer() as server, Recorder(server.url) as recorder:
        made = run(folder, PORTRAIT, "--server", recorder.url, *sets(*OVERRIDES))
    return Seen(recorder, made, replay(made))


def images_in(document: dict[str, Any]) -> list[bytes]:
    """The images of a body or an answer."""
    texts = document.get("init_images") or document.get("images") or [document.get("image")]
    return [base64.b64decode(text, validate=True) for text in texts if text]


def opened(data: bytes | Path) -> Image.Image:
    with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
        image.load()
        return image


def pixels(folder: Path) -> list[tuple[str, bytes]]:
    """Name and pixels of every image of a run."""
    files = sorted((folder / "images").rglob("*.png"))
    return [(str(file.relative_to(folder)), opened(file).tobytes()) for file in files]


def as_text(document: object) -> str:
    """JSON in which 1 is not true, and the order of keys says nothing."""
    return json.dumps(document, sort_keys=True, indent=1)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_sends_exactly_these_fields(portrait: Seen, stage: str) -> None:
    """Every field and value of each of its three bodies, images and ids aside.

    The options of the server that the run recorded come with each of them.
    """
    (opening,) = portrait.events(RunOpened)
    options: Any = opening.backend.options
    assert options["eta_noise_seed_delta"] == 0
    bodies = [dict(one.request.body) for one in portrait.recorder.generating(stage)]
    for body in bodies:
        if stage != "txt2img":
            image = body.pop("image" if stage == "extra-single-image" else "init_images")
            assert isinstance(image, str) or len(image) == 1
        if stage != "extra-single-image":
            body.pop("force_task_id")
            pinned = {key: body["override_settings"].pop(key) for key in options}
            if stage == "txt2img":
                assert pinned.pop("hires_fix_refiner_pass") == "first pass"
            assert options | pinned == options
    numbered = [{}] * IMAGES if "extra" in stage else [{"seed": 42 + k} for k in range(IMAGES)]
    assert as_text(bodies) == as_text([SENT[stage] | number for number in numbered])


def test_no_field_is_sent_that_the_server_does_not_know(portrait: Seen) -> None:
    """The schema of a live server has each field and takes its value; so has ADetailer's."""
    schemas = json.loads(OPENAPI.read_text(encoding="utf-8"))["components"]["schemas"]
    names = {"txt2img": "Txt2Img", "img2img": "Img2Img", "adetailer": "Img2Img"}
    for one in portrait.recorder.generating():
        stage, body = str(one.request.stage), one.request.body
        processing = f"StableDiffusionProcessing{names.get(stage)}"
        schema = schemas[processing if stage in names else "ExtrasSingleImageRequest"]
        assert set(body) <= set(schema["properties"])
        filled(schema, body)
        if stage == "adetailer":
            for table in body["alwayson_scripts"]["ADetailer"]["args"][2:]:
                assert set(table) <= set(DETAILER_BOUNDS)


def test_requests_go_stage_by_stage_and_image_by_image(portrait: Seen) -> None:
    """Twelve in the plan's order, one at a time, each with its call id as the task's id."""
    calls = [(one.stage_id, one.image_index) for one in portrait.events(CallRequested)]
    assert calls == [(stage, index) for stage in STAGE_IDS for index in range(IMAGES)]
    exchanges = list(portrait.exchanges())
    stages = [one.request.stage for one, _, _ in exchanges]
    assert stages == [stage for stage in STAGES for _ in range(IMAGES)]
    for one, asked, answered in exchanges:
        assert asked.call_id == answered.call_id
        assert answered.endpoint == one.request.path
        if one.request.stage != "extra-single-image":
            assert one.request.body["force_task_id"] == asked.call_id
    assert portrait.recorder.longest == 1


def test_each_stage_is_sent_what_the_stage_before_it_made(portrait: Seen) -> None:
    """Byte for byte on the wire, and by digest in the log."""
    before: dict[int, list[bytes]] = {index: [] for index in range(IMAGES)}
    for one, asked, answered in portrait.exchanges():
        sources = before[asked.image_index]
        assert images_in(one.request.body) == sources
        assert list(asked.inputs) == [sha256(source).hexdigest() for source in sources]
        before[asked.image_index] = images_in(one.answer)
        digests = [sha256(image).hexdigest() for image in images_in(one.answer)]
        assert [made.source_sha256 for made in answered.artifacts] == digests


def test_adetailer_comes_last_once_per_image_on_the_largest(portrait: Seen) -> None:
    """Its inputs are as large as any image of the run, and some of their pixels change."""
    every = portrait.recorder.generating()
    detailed = portrait.recorder.generating("adetailer")
    assert every[-IMAGES:] == detailed
    sizes = {opened(image).size for one in every for image in images_in(one.answer)}
    for one, answered in zip(detailed, portrait.events(CallCompleted)[-IMAGES:], strict=True):
        (image,) = map(opened, images_in(one.request.body))
        assert image.size == max(sizes) == (384, 576)
        assert answered.info["changed"] is True
        assert answered.info["extra_generation_params"]["ADetailer model 2nd"] == "hand_yolov8n.pt"


def test_the_log_says_which_server_made_the_images(portrait: Seen) -> None:
    """Kind, address, product and version stand in the first event; the run is whole."""
    (opening,) = portrait.events(RunOpened)
    assert opening.backend.kind == "webui"
    assert opening.backend.url == portrait.recorder.url
    assert (opening.backend.product, opening.backend.version) == ("AUTOMATIC1111", "1.9.1 or later")
    result = portrait.result
    assert (result.state, result.outcome, result.missing) == (RunState.COMPLETED, "completed", ())
    assert [(one.stage_id, one.image_index) for one in result.images] == [
        ("03-adetailer", index) for index in range(IMAGES)
    ]
    assert stagewright("verify", portrait.folder, folder=portrait.folder).returncode == 0


def test_the_pixels_are_those_of_a_run_without_any_server(portrait: Seen, tmp_path: Path) -> None:
    """All twelve images, by the same names."""
    here = run(tmp_path, PORTRAIT, *sets(*OVERRIDES))
    over_http = pixels(portrait.folder)
    assert len(over_http) == 4 * IMAGES
    assert over_http == pixels(here)


def test_files_keep_the_bytes_and_the_text_of_the_server(portrait: Seen) -> None:
    """The ``parameters`` text is the answer's; without our own chunk the file is its image."""
    for one, _, answered in portrait.exchanges():
        (image,), (artifact,) = images_in(one.answer), answered.artifacts
        data = (portrait.folder / artifact.path).read_bytes()
        stamp = int.from_bytes(data[33:37], "big") + 12
        assert data[37:53] == b"tEXtstagewright\0"
        assert data[:33] + data[33 + stamp :] == image
        text = opened(data).info["parameters"]
        assert text == opened(image).info["parameters"]
        assert ("Postprocess upscaler: R-ESRGAN 4x+" in text) is (
            one.request.stage == "extra-single-image"
        )


def test_an_image_costs_one_look_besides_its_request(portrait: Seen) -> None:
    """Lists are asked for once, before all else; then only the progress, once per image."""
    paths = [one.path for one in portrait.recorder.requests]
    assert set(paths[: len(LISTS)]) == LISTS
    working = [one for one in portrait.recorder.requests[len(LISTS) :] if one.stage is None]
    posted = [one for one in working if one.method == "POST"]
    assert [one.path for one in posted] == ["/sdapi/v1/options"]
    working = working[working.index(posted[0]) + 1 :]
    assert {one.path for one in working} == {POLLING}
    # The first is before the first request; a slow request is looked at every half second.
    took_s = working[-1].at - working[0].at
    assert len(working) <= 4 * IMAGES + 1 + took_s / 0.5


def test_steps_are_announced_and_not_recorded(tmp_path: Path) -> None:
    """While a slow image is made its steps are told, and its two records are neighbours."""
    told: list[StepProgress] = []

    def take_step(_run_id: str | None, progress: StepProgress) -> None:
        told.append(progress)

    config = tomllib.loads(SMALL.replace("steps = 4", "steps = 60")) | {"images": 1}
    with (
        EmbeddedServer(step_delay_s=0.02) as server,
        Recorder(server.url) as recorder,
        signals.step_progress.connected_to(take_step),
    ):
        handle = open_controller(tmp_path / "runs", recorder.url).start(config)
        assert handle.wait(60).state is RunState.COMPLETED
    assert {(one.stage_id, one.image_index, one.steps) for one in told} == {("00-txt2img", 0, 60)}
    assert len({one.step for one in told}) >= 2
    assert [one.step for one in told] == sorted(one.step for one in told)
    assert all(0 < one.fraction <= 1 for one in told)
    events = [*replay(handle.folder).events]
    assert {type(event) for event in events} <= set(EVENT_TYPES)
    (asked,) = (event.seq for event in events if isinstance(event, CallRequested))
    (ended,) = (event.seq for event in events if isinstance(event, CallCompleted))
    assert ended == asked + 1
    assert recorder.longest == 1


def test_batches_are_asked_for_and_kept_in_order(tmp_path: Path) -> None:
    """Five images in batches of two are three requests, with the pixels of five single ones."""
    config = write_config(tmp_path, SMALL.replace("images = 2", "images = 5"))
    with EmbeddedServer() as server, Recorder(server.url) as recorder:
        made = run(tmp_path, config, "--server", recorder.url, "--set", "txt2img.batch_size=2")
    seen = Seen(recorder, made, replay(made))
    bodies = [one.request.body for one in recorder.generating()]
    assert [(one["seed"], one["batch_size"], one["n_iter"]) for one in bodies] == [
        (42, 2, 1), (44, 2, 1), (46, 1, 1),
    ]  # fmt: skip
    assert [(one.image_index, one.count) for one in seen.events(CallRequested)] == [
        (0, 2), (2, 2), (4, 1),
    ]  # fmt: skip
    completed = seen.events(CallCompleted)
    assert [[made.image_index for made in one.artifacts] for one in completed] == [
        [0, 1],
        [2, 3],
        [4],
    ]
    assert [image.seed for image in seen.result.images] == [42, 43, 44, 45, 46]
    here = tmp_path / "here"
    here.mkdir()
    assert pixels(made) == pixels(run(here, config))


def refused(folder: Path, *arguments: str | Path) -> str:
    """The one line with which a run is refused before it has begun."""
    done = stagewright("run", *arguments, folder=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert not list(folder.glob("runs/*"))
    return done.stderr


def test_a_server_that_is_not_there_refuses_the_run(tmp_path: Path) -> None:
    """Exit 2, one line that names it, and no run folder."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        words = refused(tmp_path, write_config(tmp_path, SMALL), "--server", url)
    assert url in words
    assert "cannot be reached" in words


def test_a_name_that_the_server_lacks_refuses_the_run(tmp_path: Path) -> None:
    """Exit 2, one line with key, name and what was perhaps meant, and nothing is generated."""
    with EmbeddedServer() as server, Recorder(server.url) as recorder:
        wrong = sets("txt2img.refiner.model=sd_xl_refinr_1.0.safetensors")
        words = refused(tmp_path, PORTRAIT, "--server", recorder.url, *wrong)
    asked = 'txt2img.refiner.model = "sd_xl_refinr_1.0.safetensors" is not on the server'
    assert f'{asked}; did you mean "{REFINER}"' in words
    assert not recorder.generating()
