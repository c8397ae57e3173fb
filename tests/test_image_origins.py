"""Which input an image was made from: its file's name, the log, ``show``, reports and records."""

from __future__ import annotations

import io
import json
from hashlib import sha256
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from stagewright.adapters import open_controller
from stagewright.events import PipelineRunResult, RunOpened, RunState
from stagewright.statemachine import BackendError, CancelToken, GenerateRequest
from stagewright.statemachine.files.run_folder import is_run_id, new_run_id, slug_of

from .command_line import stagewright
from .support import START, ScriptedBackend, document, png
from .test_inputs import controller

WAIT_S = 60


def photos(folder: Path, *names: str) -> str:
    """A folder with an image of each name."""
    (folder / "photos").mkdir()
    for number, name in enumerate(names):
        (folder / "photos" / name).write_bytes(png(number))
    return str(folder / "photos")


def finished(runs: Path, config: dict[str, Any]) -> PipelineRunResult:
    result = controller(runs).start(config).wait(WAIT_S)
    assert result.state is RunState.COMPLETED, result.error
    return result


def file_names(result: PipelineRunResult) -> list[str]:
    """The names of a run's final images."""
    return [image.path.rpartition("/")[2] for image in result.images]


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("beach.png", "-beach"),
        ("IMG 0042 (1).png", "-img-0042-1"),
        ("a.b.c.png", "-a-b-c"),
        ("Été à la mer.png", "-été-à-la-mer"),
        ("東京タワー.png", "-東京タワー"),
        ("नमस्ते.png", "-नमस्ते"),
        ("!!!.png", ""),
        ("00000-42.png", "-00000-42"),
        ("x" * 100 + ".png", "-" + "x" * 40),
    ],
)
def test_an_image_is_named_after_its_input(tmp_path: Path, name: str, stem: str) -> None:
    """In every stage, by the stem of the file, in letters and digits of any script."""
    folder = photos(tmp_path, name)
    result = finished(tmp_path / "runs", document("img2img", "upscale", input_image=folder))
    for stage in result.stages:
        assert [image.path for image in stage.images] == [
            f"images/{stage.stage_id}/00000-100{stem}.png"
        ]


def test_each_image_of_an_input_has_its_name(tmp_path: Path) -> None:
    """The index comes first, so that a folder is in the order of the run; equal stems may be."""
    folder = photos(tmp_path, "b.png", "a10.png", "a2.png", "A2.jpg")
    result = finished(tmp_path / "runs", document("img2img", input_image=folder, images=2))
    stems = ["a2", "a2", "a2", "a2", "a10", "a10", "b", "b"]
    assert file_names(result) == [
        f"{index:05d}-{100 + index}-{stem}.png" for index, stem in enumerate(stems)
    ]


def test_without_an_input_file_there_is_no_stem(tmp_path: Path) -> None:
    """Images from a prompt have index and seed, through all stages."""
    result = finished(tmp_path, document("txt2img", "img2img", "upscale"))
    assert {name for stage in result.stages for name in [stage.images[0].path[-13:]]} == {
        "00000-100.png"
    }


def test_a_chain_of_runs_keeps_the_name_of_the_first_input(tmp_path: Path) -> None:
    """The input of the later run is the earlier run's file; its index and seed are left out."""
    first = finished(tmp_path, document("img2img", input_image=photos(tmp_path, "sea.png")))
    second = finished(tmp_path, document("img2img", input_image=f"run:{first.run_id}"))
    assert file_names(second) == ["00000-100-sea.png"]
    opened = next(iter(second.events))
    assert isinstance(opened, RunOpened)
    (record,) = opened.inputs
    assert record.original is not None
    assert (record.original.name, record.parent_run_id) == ("00000-100-sea.png", first.run_id)
    assert (record.original.sha256, record.seed) == (first.images[0].sha256, 100)


def test_the_log_names_the_file_of_every_input(tmp_path: Path) -> None:
    """With its digest, also of files that are kept as they are, and of the mask."""
    folder = photos(tmp_path, "b.png", "a.png")
    config = document("img2img", input_image=folder)
    config["img2img"]["mask"] = f"{folder}/b.png"
    opened = next(iter(finished(tmp_path / "runs", config).events))
    assert isinstance(opened, RunOpened)
    digests = {
        name: sha256(Path(folder, name).read_bytes()).hexdigest() for name in ("a.png", "b.png")
    }
    found = [(one.original.name, one.original.sha256) for one in opened.inputs if one.original]
    assert found == [(name, digests[name]) for name in ("a.png", "b.png", "b.png")]


def test_show_report_and_learning_records_name_the_input(tmp_path: Path) -> None:
    """For an image of any stage; ``show --json`` has its whole record."""
    config = document("img2img", "upscale", input_image=photos(tmp_path, "one.png", "two.png"))
    with_writer = open_controller(tmp_path / "runs")
    result = with_writer.start(config).wait(WAIT_S)
    folder = tmp_path / "runs" / result.run_id
    for stage in result.stages:
        image = folder / stage.images[1].path
        shown = stagewright("show", image, folder=tmp_path)
        assert "input image     two.png" in shown.stdout.splitlines()
        source = "image 2 of 00-img2img" if "01-upscale" in str(image) else "its input image"
        assert f"made from       {source}" in shown.stdout.splitlines()
        told = json.loads(stagewright("show", image, "--json", folder=tmp_path).stdout)
        assert told["origin"]["original"]["name"] == "two.png"
        assert told["origin"]["path"] == "inputs/00001.png"
    done = stagewright("report", result.run_id, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    page = next(folder.rglob("*.html"), None) or next(tmp_path.rglob("*.html"))
    assert page.read_text().count("from two.png") == 2
    assert stagewright("learning", folder=tmp_path).returncode == 0
    record = json.loads((tmp_path / "runs" / "learning.jsonl").read_text())
    assert [image["input_name"] for image in record["images"]] == ["one.png", "two.png"]


def test_show_says_of_an_image_from_a_prompt_that_it_has_no_input(tmp_path: Path) -> None:
    """Neither a line nor a record."""
    result = finished(tmp_path / "runs", document("txt2img", "upscale"))
    image = tmp_path / "runs" / result.run_id / result.images[0].path
    assert "input image" not in stagewright("show", image, folder=tmp_path).stdout
    told = json.loads(stagewright("show", image, "--json", folder=tmp_path).stdout)
    assert told["origin"] is None


PARAMETERS = (
    "a cat, Seed: 3\nNegative prompt: Seed: 4\nSteps: 20, Sampler: Euler a, Seed: {}, Size: 8x8"
)


def of_a_webui(kind: str, parameters: str) -> bytes:
    """An image with these settings, where a WebUI writes them in a file of this kind."""
    stream, text, exif = io.BytesIO(), PngImagePlugin.PngInfo(), Image.Exif()
    if kind == "PNG" and parameters.isascii():
        text.add_text("parameters", parameters)
    text.add_itxt("parameters", parameters)
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + parameters.encode("utf-16-be")
    image = Image.new("RGB", (64, 64))
    if kind == "PNG":
        image.save(stream, kind, pnginfo=text)
    else:
        image.save(stream, kind, exif=exif)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    ("parameters", "seed"),
    [
        (PARAMETERS.format(1234567), 1234567),
        (PARAMETERS.format(0), 0),
        (PARAMETERS.format(4294967295), 4294967295),
        ("Steps: 20, Seed: 7", 7),
        ("кот\nSteps: 20, Seed: 7, Size: 8x8", 7),
        ("a picture without any", 100),
        ("Steps: 20, Variation seed: 9", 100),
        ("Steps: 20, Seed: many", 100),
        ("Steps: 20, Seed: 99999999999999999999", 100),
        ("", 100),
    ],
)
def test_an_upscaled_image_of_a_webui_keeps_its_seed(
    tmp_path: Path, kind: str, parameters: str, seed: int
) -> None:
    """Of the settings in the file; where they have none, the run's own seed is used."""
    (tmp_path / "in.png").write_bytes(of_a_webui(kind, parameters))
    config = document("upscale", input_image=str(tmp_path / "in.png"))
    result = finished(tmp_path / "runs", config)
    assert file_names(result) == [f"00000-{seed}-in.png"]
    assert result.images[0].seed == seed


def test_an_upscaled_image_of_a_run_keeps_its_seed(tmp_path: Path) -> None:
    """Whatever the later run's own seed is; one image alone as well."""
    first = finished(tmp_path, document("txt2img", images=3))
    for named, expected in {"": [100, 101, 102], "#2": [101]}.items():
        config = document("upscale", input_image=f"run:{first.run_id}{named}", seed=5)
        later = finished(tmp_path, config)
        assert [image.seed for image in later.images] == expected
        assert file_names(later) == [f"{n:05d}-{one}.png" for n, one in enumerate(expected)]
        assert later.seeds == tuple(5 + n for n in range(len(expected)))


def test_an_upscaled_file_of_a_run_keeps_its_seed(tmp_path: Path) -> None:
    """Its name has it; another image of such a name is none of a run."""
    first = finished(tmp_path, document("txt2img", "upscale"))
    file = tmp_path / first.run_id / first.images[0].path
    later = finished(tmp_path, document("upscale", input_image=str(file), seed=5))
    assert [image.seed for image in later.images] == [100]
    file.write_bytes(png(1))
    later = finished(tmp_path, document("upscale", input_image=str(file), seed=5))
    assert [image.seed for image in later.images] == [5]


def test_an_upscale_keeps_the_seed_of_the_stage_before(tmp_path: Path) -> None:
    """img2img may have a seed of its own; ADetailer samples with its seed, too."""
    config = document("txt2img", "img2img", "upscale", "adetailer", images=2)
    config["img2img"]["seed"] = 900
    result = finished(tmp_path, config)
    assert [[image.seed for image in stage.images] for stage in result.stages] == [
        [100, 101], [900, 901], [900, 901], [900, 901],
    ]  # fmt: skip


def test_a_resume_gives_the_same_names(tmp_path: Path) -> None:
    """The log alone knows input names and seeds."""

    def fail_upscale(request: GenerateRequest, _cancel: CancelToken) -> None:
        if request.stage_type == "upscale":
            raise BackendError("no")

    config = document("img2img", "upscale", input_image=photos(tmp_path, "sea.png"))
    config["img2img"]["seed"] = 900
    failed = controller(tmp_path / "runs", ScriptedBackend(fail_upscale)).start(config)
    assert failed.wait(WAIT_S).state is RunState.ERROR
    (tmp_path / "photos" / "sea.png").unlink()
    again = controller(tmp_path / "runs").resume(failed.run_id).wait(WAIT_S)
    assert file_names(again) == ["00000-900-sea.png"]


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Portrait of a Cat!", "portrait-of-a-cat"),
        ("Портрет кота", "портрет-кота"),
        ("東京 2026", "東京-2026"),
        ("İstanbul", normalize("NFC", "i\u0307stanbul")),
        (normalize("NFD", "Çéà"), "çéà"),
        ("हिन्दी चित्र", "हिन्दी-चित्र"),
        ("เชียงใหม่", "เชียงใหม่"),
        ("a\u2060b/c\\d:e\0f", "a-b-c-d-e-f"),
        ("🐈 cat ❤️", "cat"),
        ("---", ""),
        ("x" * 60, "x" * 40),
        ("語" * 60, "語" * 40),
        ("𠮷" * 60, "𠮷" * 30),
        ("a" * 39 + " b", "a" * 39),
    ],
)
def test_a_name_of_any_script_is_kept(name: str, slug: str) -> None:
    """Lower case, NFC, 40 characters and 120 bytes at most."""
    assert slug_of(name) == slug


@given(st.text(max_size=80))
def test_every_name_gives_a_run_id_that_a_folder_can_have(name: str) -> None:
    """A run's folder is found by it, and it is one path segment on every system."""
    slug = slug_of(name)
    assert len(slug) <= 40
    assert len(slug.encode()) <= 120
    assert normalize("NFC", slug) == slug
    assert not set(slug) & set('/\\:*?"<>|. \0')
    run_id = new_run_id(name, START, lambda _: 0xABCDEF)
    assert is_run_id(run_id)
    assert len(run_id.encode()) <= 155


def test_a_run_with_a_name_of_another_script_is_found(tmp_path: Path) -> None:
    """By its id and by a prefix; its images say its id in ASCII."""
    result = finished(tmp_path / "runs", document("txt2img", name="Портрет 東京"))
    assert "-портрет-東京-" in result.run_id
    done = stagewright("verify", result.run_id, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = stagewright(
        "show", tmp_path / "runs" / result.run_id / result.images[0].path, folder=tmp_path
    )
    assert result.run_id in shown.stdout
