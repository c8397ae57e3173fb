"""``show`` and ``config`` of images that other programs made, and of ours without their logs."""

from __future__ import annotations

import io
import json
import shutil
import time
import tomllib
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from stagewright.adapters import open_controller
from stagewright.adapters.projections.image_texts import ImageMetadataError
from stagewright.adapters.projections.provenance import foreign_image, provenance_of
from stagewright.events import RunNotFoundError
from stagewright.statemachine.files.png import SIGNATURE

from .command_line import stagewright
from .foreign_pictures import INVOKEAI, made_by, png_with, with_comment
from .resuming import FOUR, made, small
from .support import png

HOUSE: dict[str, Any] = {
    "prompt": "a red house, (wooden:1.2)\nby the sea",
    "negative_prompt": "blurry, low quality",
    "seed": 1234567890,
    "txt2img": {
        "model": "sd_xl_base_1.0", "vae": "sdxl_vae.safetensors", "clip_skip": 2,
        "sampler": "DPM++ 2M", "scheduler": "Karras", "steps": 28, "cfg_scale": 6.5,
        "width": 832, "height": 1216,
        "hires": {"upscaler": "4x-UltraSharp", "scale": 1.5, "steps": 12, "denoise": 0.4},
    },
    "adetailer": {"passes": [{"model": "face_yolov8n.pt", "denoise": 0.35}]},
}  # fmt: skip
GALAXY: dict[str, Any] = {
    "prompt": "a galaxy in a bottle", "negative_prompt": "text, watermark",
    "seed": 156680208700286,
    "txt2img": {"model": "v1-5-pruned.ckpt", "sampler": "DPM++ 2M", "scheduler": "Karras",
                "steps": 20, "cfg_scale": 8.0, "width": 512, "height": 768},
}  # fmt: skip
FOX: dict[str, Any] = {
    "prompt": "cinematic still a fox, a fox, sharp", "negative_prompt": "ugly, bad",
    "seed": 7117026233236609449,
    "txt2img": {"model": "juggernautXL_v8Rundiffusion", "clip_skip": 2,
                "sampler": "DPM++ 2M SDE", "scheduler": "Karras", "steps": 30, "cfg_scale": 4,
                "width": 1152, "height": 896},
}  # fmt: skip
EXPECTED: dict[str, tuple[str, dict[str, Any]]] = {
    "a1111": ("AUTOMATIC1111 v1.10.1", HOUSE),
    "a1111-jpeg": ("AUTOMATIC1111 v1.10.1", HOUSE),
    "a1111-webp": ("AUTOMATIC1111 v1.10.1", HOUSE),
    "forge": ("Forge f2.0.1v1.10.1-previous-664-gd557aef9", {
        "prompt": "a lighthouse", "seed": 7,
        "txt2img": {"model": "flux1-dev-bnb-nf4-v2", "sampler": "Euler", "scheduler": "Simple",
                    "steps": 20, "cfg_scale": 1, "width": 896, "height": 1152,
                    "distilled_cfg_scale": 3.5, "modules": ["ae", "t5xxl_fp16"]},
    }),
    "comfyui": ("ComfyUI", GALAXY),
    "comfyui-webp": ("ComfyUI", GALAXY),
    "flux": ("ComfyUI", {
        "prompt": "a cute anime girl", "seed": 219670278747233,
        "txt2img": {"model": "flux1-dev.safetensors", "sampler": "Euler", "scheduler": "Simple",
                    "steps": 22, "width": 1024, "height": 1024, "distilled_cfg_scale": 3.5},
    }),
    "invokeai": ("InvokeAI 5.6.0", {
        "prompt": "a castle", "negative_prompt": "fog", "seed": 3371852042,
        "txt2img": {"model": "juggernautXL", "sampler": "DPM++ 2M SDE", "scheduler": "Karras",
                    "steps": 30, "cfg_scale": 5.5, "width": 1024, "height": 1024},
    }),
    "fooocus": ("Fooocus v2.5.5", FOX),
    "fooocus-jpeg": ("Fooocus v2.5.5", FOX),
}  # fmt: skip


@pytest.mark.parametrize("tool", EXPECTED)
def test_an_image_of_another_program_is_shown_and_made_again(tmp_path: Path, tool: str) -> None:
    """Prompt and settings, in the names that a WebUI has for them; what is left is a comment."""
    image = made_by(tool, tmp_path)
    program, document = EXPECTED[tool]
    shown = stagewright("show", image, folder=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert f"made by         {program}\n" in shown.stdout
    assert document["prompt"].split("\n")[0] in shown.stdout
    told = json.loads(stagewright("show", image, "--json", folder=tmp_path).stdout)
    assert told["seed"] == document["seed"]
    config = stagewright("config", image, folder=tmp_path)
    assert (config.returncode, config.stderr) == (0, "")
    if document["seed"] >= 2**32:  # more than a WebUI takes
        assert f"# seed = {document['seed']}: not a value" in config.stdout
        document = {key: value for key, value in document.items() if key != "seed"}
    assert tomllib.loads(config.stdout) == {"name": "i", **document}
    (tmp_path / "again.toml").write_text(config.stdout, encoding="utf-8")
    planned = stagewright("plan", "again.toml", folder=tmp_path)
    lacks = "cfg_scale: not known" in config.stdout
    assert (planned.returncode == 0) == (not lacks), planned.stderr


def test_what_cannot_be_known_is_a_comment(tmp_path: Path) -> None:
    """Missing keys, values that no configuration has, further nodes and LoRAs; never a guess."""
    image = made_by("comfyui", tmp_path)
    assert (
        "# further sampling nodes: 1 (there" in stagewright("config", image, folder=tmp_path).stdout
    )
    told = {**INVOKEAI, "generation_mode": "img2img", "strength": 0.6, "width": 1021, "steps": 0}
    del told["model"]
    image = png_with(tmp_path / "j.png", {"invokeai_metadata": json.dumps(told)})
    text = stagewright("config", image, folder=tmp_path).stdout
    for note in ("img2img.model: not known", "input_image: not known", "img2img.steps = 0: not",
                 "loras: detail (there is no key for it)"):  # fmt: skip
        assert f"# {note}" in text
    assert tomllib.loads(text)["img2img"]["denoise"] == 0.6


DEEP = "[" * 100_000
CYCLE = {"1": {"class_type": "K", "inputs": {
    "steps": ["1", 0], "sampler_name": 7, "positive": ["2", 0], "latent_image": ["1", 0]}},
    "2": {"inputs": {"text": ["2", 0], "clip": ["1", 0]}}}  # fmt: skip
MANY = {str(place): {"inputs": {"steps": [str(place - 1), 0], "sampler_name": "x",
        "latent_image": [str(place - 1), 0]}} for place in range(300)}  # fmt: skip


@pytest.mark.parametrize(
    "texts",
    [
        {"parameters": f"{{{DEEP}"},
        {"prompt": f'{{"a":{DEEP}'},
        {"invokeai_metadata": DEEP},
        {"invokeai_metadata": "[]"},
        {"invokeai_metadata": '{"loras": 7}'},
        {"invokeai_metadata": '{"loras": [7]}'},
        {"prompt": json.dumps({str(place): {} for place in range(3_000)})},
        {"parameters": "x" * (9 * 1024 * 1024)},
    ],
)
def test_hostile_metadata_is_a_clear_error(tmp_path: Path, texts: dict[str, str]) -> None:
    """Deep JSON, texts that are too long, wrong types: one line that names the image."""
    image = png_with(tmp_path / "i.png", texts)
    for command in ("show", "config"):
        done = stagewright(command, image, folder=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith(f"stagewright: {image}: its metadata ")
        assert len(done.stderr) < 600


@pytest.mark.parametrize(
    "texts",
    [
        {"prompt": json.dumps(CYCLE)},
        {"prompt": json.dumps(MANY)},
        {"prompt": '{"1": 7, "3": {"inputs": {"steps": [], "sampler_name": 1}}}'},
        {"invokeai_metadata": '{"width": [], "steps": {}, "seed": 1e300, "model": 3}'},
        {"parameters": '{"base_model": [], "resolution": 7, "seed": "x", "prompt": {"a": 1}}'},
        {"parameters": "Steps: 1" + ", a: b" * 20_000},
        {"parameters": 'x\nSteps: 9, Sampler: "' + "\\" * 60_000},
        {"parameters": "Steps: 99999999999999999999, Size: 99999x1, Seed: -5"},
    ],
)
def test_odd_metadata_costs_no_time_and_makes_no_wrong_configuration(
    tmp_path: Path, texts: dict[str, str]
) -> None:
    """What cannot be used is left out; the rest can be parsed."""
    image = png_with(tmp_path / "i.png", texts)
    began = time.monotonic()
    done = stagewright("config", image, folder=tmp_path)
    assert time.monotonic() - began < 20
    assert done.returncode == 0, done.stderr
    tomllib.loads(done.stdout)
    assert stagewright("show", image, "--json", folder=tmp_path).returncode == 0


def bomb() -> bytes:
    """A PNG whose text takes a kilobyte for each of its megabytes."""
    body = b"parameters\0\0" + zlib.compress(b"a" * 10_000_000, 9)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")
        )

    data = png(1)
    return data[: len(SIGNATURE) + 25] + chunk(b"zTXt", body) + data[len(SIGNATURE) + 25 :]


def many_segments() -> bytes:
    """A JPEG with 12 MB of EXIF, in segments of 64 KB."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "JPEG")
    segment = b"\xff\xe1\xff\xff" + b"Exif\0\0".ljust(0xFFFD, b"M")
    return stream.getvalue().replace(b"\xff\xd8", b"\xff\xd8" + 200 * segment, 1)


@pytest.mark.parametrize("keyword", ["parameters", "stagewright"])
def test_a_text_of_100_mb_takes_little_more_memory_than_the_file(
    tmp_path: Path, keyword: str
) -> None:
    """It is refused before it is copied or parsed."""
    image = png_with(tmp_path / "i.png", {keyword: '{"a": "' + "x" * 100_000_000 + '"}'})
    tracemalloc.start()
    try:
        with pytest.raises(ImageMetadataError, match="longer than"):
            foreign_image(image)
        with pytest.raises(RunNotFoundError):
            provenance_of(image, tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 300_000_000


@pytest.mark.parametrize(
    "content", [bomb, many_segments, bytes, lambda: b"not an image", lambda: png(1)[:60]]
)
def test_a_file_that_holds_nothing_readable_is_named(
    tmp_path: Path, content: Callable[[], bytes]
) -> None:
    """A text that is packed tightly, no image at all, a cut image."""
    (tmp_path / "i.png").write_bytes(content())
    done = stagewright("show", "i.png", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "i.png" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_image_without_metadata_is_of_no_known_origin(tmp_path: Path) -> None:
    """Neither a log nor its own metadata tells of it."""
    (tmp_path / "i.png").write_bytes(png(1))
    with_comment(tmp_path / "i.jpeg", "somebody's holiday")
    for name in ("i.png", "i.jpeg"):
        done = stagewright("config", name, folder=tmp_path)
        assert (done.returncode, "no log in runs records it" in done.stderr) == (2, True)


def sources(folder: Path) -> list[str]:
    """The digests of the images of the last stage of the last run."""
    shown = json.loads(stagewright("show", "last", "--json", folder=folder).stdout)
    return [image["source_sha256"] for image in shown["images"]]


@pytest.mark.parametrize("stages", [FOUR, ("img2img", "upscale")])
def test_the_configuration_of_a_run_or_an_image_makes_it_again(
    tmp_path: Path, stages: tuple[str, ...]
) -> None:
    """The same pictures, from ``config RUN``, from ``config.toml`` and from one moved image."""
    config = small(*stages, images=2, seed=-1)
    if stages[0] == "img2img":
        (tmp_path / "in").mkdir()
        for place in range(2):
            (tmp_path / "in" / f"{place}.png").write_bytes(png(place))
        config |= {"input_image": str(tmp_path / "in" / "1.png"), "prompt": "a \u2028 'quoted' one"}
    run = made(tmp_path / "runs", config)
    wanted = sources(tmp_path)
    assert len(set(wanted)) == 2
    text = stagewright("config", "last", folder=tmp_path).stdout
    (tmp_path / "again.toml").write_text(text, encoding="utf-8")
    for path in (tmp_path / "again.toml", run / "config.toml"):
        done = stagewright("run", path, "-q", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        assert sources(tmp_path) == wanted
    moved = shutil.copy(next(run.glob(f"images/0{len(stages) - 1}-*/00001*")), tmp_path / "x.png")
    text = stagewright("config", moved, folder=tmp_path).stdout
    assert tomllib.loads(text)["images"] == 1
    (tmp_path / "one.toml").write_text(text, encoding="utf-8")
    assert stagewright("run", "one.toml", "-q", folder=tmp_path).returncode == 0
    assert sources(tmp_path) == wanted[1:]


def test_an_image_of_an_earlier_stage_is_made_without_the_later_ones(tmp_path: Path) -> None:
    """Its configuration ends with its stage; a stage's own seed goes with the image."""
    config = small("txt2img", "img2img", "upscale", images=3)
    config["img2img"]["seed"] = 500
    run = made(tmp_path / "runs", config)
    image = next(run.glob("images/01-*/00002*"))
    document = tomllib.loads(stagewright("config", image, folder=tmp_path).stdout)
    assert (document["seed"], document["img2img"]["seed"]) == (102, 502)
    assert "upscale" not in document


def test_the_settings_shown_are_those_of_the_stages_that_made_the_picture(tmp_path: Path) -> None:
    """Of an image and of a run; the prompt too, though upscale takes none."""
    run = made(tmp_path / "runs", small("txt2img", "upscale"))
    for name in ("last#1", "last", str(next(run.glob("images/01-*/00000*")))):
        shown = stagewright("show", name, folder=tmp_path).stdout
        assert "prompt          a lighthouse\n" in shown
        assert "settings of 00-txt2img:\n    model                  base.safetensors\n" in shown
        assert "settings of 01-upscale:\n    upscaler               Lanczos\n" in shown


def test_an_image_of_ours_without_its_log_shows_its_own_metadata(tmp_path: Path) -> None:
    """Of a detailed one not the sampling of the picture that the detailer discarded."""
    run = made(tmp_path / "runs", small(*FOUR))
    image = next(run.glob("images/03-*/00000*"))
    (tmp_path / "other").mkdir()
    told = json.loads(
        stagewright("show", image, "--runs", "other", "--json", folder=tmp_path).stdout
    )
    assert told["run_id"] == run.name
    moved = shutil.copy(image, tmp_path / "moved.png")
    told = json.loads(
        stagewright("show", moved, "--runs", "other", "--json", folder=tmp_path).stdout
    )
    assert (told["run_id"], told["prompt"], told["seed"]) == (run.name, "a lighthouse", 100)
    assert list(told["stages"]) == ["adetailer"]


def test_a_resume_writes_the_configuration_that_a_run_lacks(tmp_path: Path) -> None:
    """Runs of earlier versions have none; a file that is there stays."""
    run = made(tmp_path / "runs", dead=True)
    text = (run / "config.toml").read_text(encoding="utf-8")
    (run / "config.toml").unlink()
    open_controller(tmp_path / "runs").resume(run.name).wait(30)
    assert (run / "config.toml").read_text(encoding="utf-8") == text
    assert f"# Makes run {run.name} again." in text
