"""``lineage``: from an image back to its beginning, over stages, runs and folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin
from stagewright.adapters.projections.lineage import Lineage, OriginKind, lineage_of
from stagewright.events import PipelineRunResult, RunState

from .command_line import stagewright
from .foreign_pictures import A1111
from .log_format import changed, make_log, split_bodies
from .support import ScriptedBackend, controller, document, png

INFO = {
    "sd_model_name": "base",
    "sd_model_hash": "31e35c80fc",
    "sd_vae_name": "ae",
    "infotexts": [
        'a\nSteps: 9, Model: base, Lora hashes: "detail: aaaa, style: bbbb", Version: v1'
    ],
}


def finished(runs: Path, *stages: str, **top: Any) -> PipelineRunResult:
    result = controller(runs, ScriptedBackend(info=INFO)).start(document(*stages, **top)).wait(60)
    assert result.state is RunState.COMPLETED, result.error
    return result


def image_of(runs: Path, result: PipelineRunResult, index: int = 0) -> Path:
    """The file of a final image."""
    return runs / result.run_id / result.images[index].path


def stages_of(found: Lineage) -> list[tuple[str, str]]:
    """Run and stage of each step."""
    return [(step.run_id, step.stage_id) for step in found.steps]


def chain(runs: Path) -> tuple[PipelineRunResult, PipelineRunResult]:
    """A run of two stages, and a run over the second image of it."""
    first = finished(runs, "txt2img", "upscale", images=2)
    return first, finished(runs, "img2img", seed=7, input_image=f"run:{first.run_id}#2")


def rewrite(folder: Path, place: int, **fields: Any) -> None:
    """Forge fields of an event in a log, with sound checksums; the seal is left out."""
    log = folder / "events.jsonl"
    bodies = split_bodies(log.read_bytes())
    bodies[place] = changed(bodies[place], **fields)
    log.write_bytes(make_log(body for body in bodies if b'"RunSealed"' not in body))


def opened_of(folder: Path) -> dict[str, Any]:
    """The first event of a log."""
    body = split_bodies((folder / "events.jsonl").read_bytes())[0]
    opened: dict[str, Any] = json.loads(body)
    return opened


def test_a_lineage_leads_over_stages_and_runs_to_the_prompt(tmp_path: Path) -> None:
    """The last stage comes first, and each step is about the same image."""
    first, second = chain(tmp_path)
    found = lineage_of(image_of(tmp_path, second), tmp_path)
    assert stages_of(found) == [
        (second.run_id, "00-img2img"),
        (first.run_id, "01-upscale"),
        (first.run_id, "00-txt2img"),
    ]
    assert [step.artifact.image_index for step in found.steps] == [0, 1, 1]
    assert [step.artifact.seed for step in found.steps] == [7, 101, 101]
    assert (found.exact, found.origin.kind) == (True, OriginKind.PROMPT)


def test_a_step_has_settings_model_hashes_server_and_times(tmp_path: Path) -> None:
    """Hashes are those that the server reported; None where it reported none."""
    result = finished(tmp_path)
    (step,) = lineage_of(image_of(tmp_path, result), tmp_path).steps
    assert {(one.kind, one.name, one.hash) for one in step.models} == {
        ("model", "base", "31e35c80fc"),
        ("vae", "ae", None),
        ("LoRA", "detail", "aaaa"),
        ("LoRA", "style", "bbbb"),
    }
    assert (step.settings["steps"], step.prompt) == (3, "a lighthouse")
    assert (step.backend.product, step.backend.version) == ("tests", "1")
    assert step.requested <= step.finished
    assert step.duration_ms >= 0


def test_the_text_names_each_step_and_what_the_server_did_otherwise(tmp_path: Path) -> None:
    """On standard output, in the order of the steps."""
    first, second = chain(tmp_path / "runs")
    done = stagewright("lineage", f"{second.run_id}#1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    titles = [line for line in done.stdout.splitlines() if line[:3] in ("1. ", "2. ", "3. ")]
    assert titles == [
        f"1. 00-img2img, image 1 of run {second.run_id}",
        f"2. 01-upscale, image 2 of run {first.run_id}",
        f"3. 00-txt2img, image 2 of run {first.run_id}",
    ]
    assert "model           base (hash 31e35c80fc)" in done.stdout
    assert "vae             ae (hash not reported)" in done.stdout
    assert "    steps                  3 (the backend reports 9)" in done.stdout
    assert f", of run {first.run_id}\n" in done.stdout
    assert done.stdout.endswith("begins with     the prompt alone\n")
    printed = json.loads(stagewright("lineage", "last#1", "--json", folder=tmp_path).stdout)
    assert [step["stage_id"] for step in printed["steps"]] == [
        "00-img2img",
        "01-upscale",
        "00-txt2img",
    ]


@pytest.mark.parametrize("place", ["renamed", "archive/moved"])
def test_a_run_that_was_renamed_or_archived_is_found(tmp_path: Path, place: str) -> None:
    """By the digest of its image, whatever its folder is called."""
    first, second = chain(tmp_path)
    (tmp_path / "archive").mkdir()
    (tmp_path / first.run_id).rename(tmp_path / place)
    found = lineage_of(image_of(tmp_path, second), tmp_path)
    assert [run for run, _ in stages_of(found)] == [second.run_id, first.run_id, first.run_id]
    assert found.steps[1].run_folder == str(tmp_path / place)


def test_an_input_without_a_stamp_is_found_by_its_digest(tmp_path: Path) -> None:
    """The file was copied without our chunk, so the record names no run."""
    runs = tmp_path / "runs"
    first = finished(runs, "txt2img")
    bare = tmp_path / "bare.png"
    bare.write_bytes(png(100))  # what the backend sent
    second = finished(runs, "upscale", input_image=str(bare))
    found = lineage_of(image_of(runs, second), runs)
    assert found.steps[0].from_input is not None
    assert found.steps[0].from_input.parent_run_id is None
    assert stages_of(found)[1:] == [(first.run_id, "00-txt2img")]


def test_of_equal_pictures_the_file_that_was_used_counts(tmp_path: Path) -> None:
    """A stage that changed nothing made another file of the same pixels."""
    same = ScriptedBackend(images=lambda _: [png(1)])
    first = controller(tmp_path, same).start(document("txt2img", "adetailer")).wait(60)
    picture = tmp_path / first.run_id / first.stages[0].images[0].path
    second = finished(tmp_path, "upscale", input_image=str(picture))
    found = lineage_of(image_of(tmp_path, second), tmp_path)
    assert stages_of(found)[1:] == [(first.run_id, "00-txt2img")]
    last = lineage_of(tmp_path / first.run_id / first.stages[1].images[0].path, tmp_path)
    assert [stage for _, stage in stages_of(last)] == ["01-adetailer", "00-txt2img"]


def test_a_run_that_is_gone_is_named(tmp_path: Path) -> None:
    """It is no error; the metadata in the copy of the input still tells what it can."""
    first, second = chain(tmp_path)
    shutil.rmtree(tmp_path / first.run_id)
    found = lineage_of(image_of(tmp_path, second), tmp_path)
    assert stages_of(found) == [(second.run_id, "00-img2img")]
    assert (found.origin.kind, found.origin.parent_run_id) == (OriginKind.MISSING, first.run_id)
    assert found.origin.text == f"made by run {first.run_id}, which is not here"
    assert found.origin.name == "00001-101.png"


def test_a_file_from_elsewhere_ends_the_lineage_with_its_settings(tmp_path: Path) -> None:
    """Its name, its digest, and what its own metadata tells."""
    runs, texts = tmp_path / "runs", PngImagePlugin.PngInfo()
    texts.add_text("parameters", A1111)
    Image.new("RGB", (64, 64), "red").save(tmp_path / "house.png", pnginfo=texts)
    result = finished(runs, "upscale", input_image=str(tmp_path / "house.png"))
    origin = lineage_of(image_of(runs, result), runs).origin
    assert (origin.kind, origin.name) == (OriginKind.FILE, "house.png")
    assert origin.metadata is not None
    assert origin.metadata.seed == 1234567890
    done = stagewright("lineage", "last#1", folder=tmp_path)
    assert "begins with     a file that no run here made" in done.stdout
    assert "seed            1234567890" in done.stdout
    alone = stagewright("lineage", "house.png", folder=tmp_path)
    assert alone.returncode == 0, alone.stderr
    assert "seed            1234567890" in alone.stdout


def test_an_image_that_was_edited_is_a_file_of_its_own(tmp_path: Path) -> None:
    """An editor keeps the stamp; the log of the run that it names has other pixels."""
    runs, texts = tmp_path / "runs", PngImagePlugin.PngInfo()
    first = finished(runs, "txt2img")
    with Image.open(image_of(runs, first)) as picture:
        texts.add_text("stagewright", picture.info["stagewright"])
        Image.new("RGB", (64, 64), "blue").save(tmp_path / "edited.png", pnginfo=texts)
    second = finished(runs, "upscale", input_image=str(tmp_path / "edited.png"))
    origin = lineage_of(image_of(runs, second), runs).origin
    assert origin.kind is OriginKind.FILE
    assert f"named as of run {first.run_id}, whose log does not record it" in origin.text


def test_a_mask_is_shown_with_the_stage_that_used_it(tmp_path: Path) -> None:
    """And with no other stage."""
    for name in ("a.png", "mask.png"):
        (tmp_path / name).write_bytes(png(5))
    config = document("img2img", "upscale", input_image=str(tmp_path / "a.png"))
    config["img2img"]["mask"] = str(tmp_path / "mask.png")
    result = controller(tmp_path / "runs").start(config).wait(60)
    upscale, img2img = lineage_of(image_of(tmp_path / "runs", result), tmp_path / "runs").steps
    assert [one.original.name for one in img2img.further_inputs if one.original] == ["mask.png"]
    assert upscale.further_inputs == ()


def test_a_forged_cycle_ends_with_a_message(tmp_path: Path) -> None:
    """Two runs that each claim the other's image as input: each is shown once, and exit is 4."""
    runs = tmp_path / "runs"
    same = ScriptedBackend(images=lambda _: [png(1)])
    first = controller(runs, same).start(document("upscale", input_image=_file(tmp_path))).wait(60)
    second = (
        controller(runs, same)
        .start(document("upscale", input_image=str(image_of(runs, first))))
        .wait(60)
    )
    inputs = opened_of(runs / first.run_id)["inputs"]
    rewrite(runs / first.run_id, 0, inputs=[{**inputs[0], "parent_run_id": second.run_id}])
    done = stagewright("lineage", f"{second.run_id}#1", folder=tmp_path)
    assert done.returncode == 4
    assert [line[:2] for line in done.stdout.splitlines() if line[1:2] == "."] == ["1.", "2."]
    assert f"a cycle: made by run {second.run_id}, which was made from it" in done.stderr


def _file(folder: Path) -> str:
    path = folder / "start.png"
    path.write_bytes(png(1))
    return str(path)


def test_a_forged_source_ends_with_a_message(tmp_path: Path) -> None:
    """The request of a later stage names an image that no stage made."""
    runs = tmp_path / "runs"
    result = finished(runs, "txt2img", "upscale")
    folder = runs / result.run_id
    bodies = split_bodies((folder / "events.jsonl").read_bytes())
    place = next(
        at for at, body in enumerate(bodies)
        if b'"CallRequested"' in body and b'"01-upscale"' in body
    )  # fmt: skip
    rewrite(folder, place, inputs=["f" * 64])
    done = stagewright("lineage", "last#1", folder=tmp_path)
    assert done.returncode == 4
    why = "does not record the image that 01-upscale was given"
    assert done.stderr.endswith(f"the log of run {result.run_id} {why}\n")


def test_a_parent_whose_log_is_corrupt_is_reported(tmp_path: Path) -> None:
    """The steps before it are shown, and the exit status is 4."""
    first, second = chain(tmp_path / "runs")
    log = tmp_path / "runs" / first.run_id / "events.jsonl"
    log.write_bytes(log.read_bytes().replace(b"a lighthouse", b"a lightxouse", 1))
    done = stagewright("lineage", f"{second.run_id}#1", folder=tmp_path)
    assert done.returncode == 4
    assert f"1. 00-img2img, image 1 of run {second.run_id}" in done.stdout
    assert f"made by run {first.run_id}, whose log cannot be read" in done.stderr


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    """A run has many images, so one must be named."""
    finished(tmp_path / "runs")
    done = stagewright("lineage", "last", folder=tmp_path)
    assert done.returncode == 2
    assert "name its file, or RUN#3" in done.stderr
