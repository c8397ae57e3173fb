"""Reports: all that a log tells is in the page, and nothing that a log holds can harm it."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from stagewright.adapters import open_controller
from stagewright.adapters.export.report import ReportRefusedError, write_report
from stagewright.adapters.text import duration
from stagewright.events import CallCompleted, RunNotFoundError, StageEnd, iterate, replay
from stagewright.events.log.lock import FileLock

from . import webui_faults as faults
from .command_line import stagewright
from .log_format import changed, make_log, split_bodies
from .reports import Page, Refusing, digest_source, eventful_run, reported
from .resuming import LOG, STAGE_IDS, copied, cut_before, image_file, ran, small
from .support import ScriptedBackend, png
from .webui_server import ScriptedWebUI

pytestmark = pytest.mark.lowest


@pytest.fixture(scope="module")
def eventful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a retry, a death and a resume; tests copy it before they change it."""
    return eventful_run(tmp_path_factory.mktemp("eventful") / "runs")


@pytest.fixture
def run(eventful: Path, tmp_path: Path) -> Path:
    """A copy of the eventful run."""
    return copied(eventful, tmp_path / "runs")


def test_a_report_tells_what_the_log_tells(run: Path) -> None:
    """Name, id, state, seeds, who made it, every stage, and each image with seed and digest."""
    page, written = reported(run)
    for told in ("eventful", run.name, "COMPLETED", "100-102", "tests 1", *STAGE_IDS):
        assert told in page.text
    artifacts = [
        artifact
        for event in iterate(run)
        if isinstance(event, CallCompleted)
        for artifact in event.artifacts
    ]
    assert {one.sha256[:12] for one in artifacts} <= set(page.text.split())
    assert (written.images, written.run_id) == (12, run.name)


def test_every_event_is_in_the_page_as_it_stands_in_the_log(run: Path) -> None:
    """Letter for letter, in order, with its type, its stage and a few words."""
    page, written = reported(run)
    carried = page.events()
    assert [raw.encode() for _, raw in carried] == split_bodies((run / LOG).read_bytes())
    assert len(carried) == written.events
    assert [columns[0] for columns, _ in carried] == [type(one).__name__ for one in iterate(run)]
    stages = {columns[1] for columns, _ in carried if columns[0] in ("CallCompleted", "CallFailed")}
    assert stages == set(STAGE_IDS)
    seconds = [columns[2] for columns, _ in carried]
    assert seconds == sorted(seconds)


def test_a_page_is_complete_and_may_load_nothing(run: Path) -> None:
    """Its policy names its own style and scripts; addresses are data, places and image files."""
    page, _ = reported(run)
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert policy.startswith("default-src 'none'; img-src data: 'self' file:; style-src 'sha256-")
    scripts = [
        text
        for (_, attributes), text in zip(
            [one for one in page.tags if one[0] == "script"], page.raw["script"], strict=True
        )
        if "type" not in attributes
    ]
    assert len(scripts) == 7
    for text in (*scripts, *page.raw["style"]):
        assert digest_source(text) in policy
    addresses = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "href", "action", "srcset")
    ]
    files = [run.parent.parent / one for one in addresses if not one.startswith(("#", "data:"))]
    assert len(files) == 12
    assert all(file.is_file() and run in file.parents for file in files)
    assert not [name for _, found in page.tags for name in found if name.startswith("on")]
    assert not any("style" in attributes for _, attributes in page.tags)


def test_every_image_has_its_thumbnail(run: Path) -> None:
    """One WebP for each image of each stage, named for who does not see it."""
    page, _ = reported(run)
    thumbnails = page.thumbnails()
    assert len(thumbnails) == 12
    assert {Image.open(io.BytesIO(one)).size for one in thumbnails} == {(8, 4)}
    assert page.all("img")[0]["alt"] == "image 1, seed 100"


def test_settings_used_stand_beside_those_asked(run: Path) -> None:
    """What was used otherwise than asked is marked; what was not told says so."""
    page, _ = reported(run)
    rows = page.all("tr", **{"class": "different"})
    # The sampler, in each stage that has one and whose answer tells of its own picture; and in
    # every answer one seed, of three.
    assert len(rows) >= 2
    assert "Euler \N{NOT EQUAL TO} requested" in page.text
    assert "not reported" in page.text
    assert "in 2 of 3 answers" in page.text


def test_answers_that_report_null_are_counted_and_styles_are_no_difference(tmp_path: Path) -> None:
    """A value that one of three answers reports; a prompt with the text of a style around it."""

    def styled(info: dict[str, Any]) -> None:
        info["prompt"] = "a lighthouse <lora:ink:0.5>"

    def silent(info: dict[str, Any]) -> None:
        styled(info)
        info["restore_faces"] = None

    config = small("txt2img", images=3)
    config["txt2img"] |= {"styles": ["inked"], "restore_faces": False}
    with ScriptedWebUI() as server:
        server.on(0, faults.alters_info(styled))
        server.on(range(1, 3), faults.alters_info(silent))
        result = open_controller(tmp_path / "runs", server.url).start(config).wait(30)
    page, _ = reported(tmp_path / "runs" / result.run_id)
    assert "restore_faces no no in 1 of 3 answers" in page.text
    assert "prompt a lighthouse a lighthouse <lora:ink:0.5> " in page.text
    assert not page.all("tr", **{"class": "different"})


def test_the_timeline_shows_every_call_and_how_it_ended(run: Path) -> None:
    """A bar for each call, in a class of its own for how it ended; the numbers add up."""
    page, _ = reported(run)
    bars = [found for found in page.all("rect") if "data-seq" in found]
    kinds = [found["class"].split()[1] for found in bars]
    assert (kinds.count("failed"), kinds.count("repeated")) == (0, 1)
    assert kinds.count("retried") >= 2  # the second attempt, and the one after the death
    assert kinds.count("unanswered") == 1
    assert len(kinds) == 14
    told = "12 completed (2 of them after a retry); 1 failed, retried; 1 unanswered"
    assert f"Calls 14: {told} " in page.text
    assert {"#mark-started", "#mark-resumed", "#mark-completed", "#cross"} <= {
        found["href"] for found in page.all("use")
    }


def test_an_error_is_told_in_full(tmp_path: Path) -> None:
    """Kind, stage, image, and the server's own words with their line ends."""
    folder = ran(tmp_path / "runs", small(), ScriptedBackend(Refusing(0)))
    page, _ = reported(folder)
    assert Refusing.words in page.text
    assert "BackendError in 00-txt2img, image 1" in page.text
    assert any(Refusing.detail in words for words in page.words)
    assert "2 images are not finished" in page.text


def swap_for_link(run: Path) -> None:
    """Put a link to the very same images in the place of the images."""
    (run / "images").rename(run.parent.parent / "elsewhere")
    (run / "images").symlink_to(run.parent.parent / "elsewhere")


@pytest.mark.parametrize(
    ("harm", "status", "words", "title", "thumbnails"),
    [
        (lambda run: image_file(run, "01-img2img", 2).unlink(), 0,
         "missing or unreadable: images/01-img2img/00002-102.png\n", "1 file is missing", 11),
        (lambda run: image_file(run, "01-img2img", 2).write_bytes(png(1)), 4,
         "images/01-img2img/00002-102.png: altered since it was recorded", "1 file is altered", 11),
        (lambda run: shutil.rmtree(run / "images"), 0,
         "... and 7 more files missing or unreadable", "12 files are missing", 0),
        (swap_for_link, 4, "and 11 more: altered since it was recorded", "12 files are altered", 0),
    ],
)  # fmt: skip
def test_files_that_are_not_as_recorded_are_named_and_not_shown(
    run: Path, harm: Callable[[Path], object], status: int, words: str, title: str, thumbnails: int
) -> None:
    """By the terminal (of many only some) and at the head of the page; no link is followed."""
    harm(run)
    done = stagewright("report", run, "--output", "a.html", folder=run.parent.parent)
    assert done.returncode == status
    assert words in done.stdout + done.stderr
    page = Page((run.parent.parent / "a.html").read_text(encoding="utf-8"))
    assert title in page.text
    assert len(page.thumbnails()) == thumbnails


def test_a_bundle_s_thumbnails_stand_for_images_that_are_not_there(run: Path) -> None:
    """They are used where the file is missing, and no link among them is followed."""
    secret = run.parent.parent / "secret.webp"
    Image.new("RGB", (32, 32), "red").save(secret)
    folder = run / "thumbnails" / "00-txt2img"
    folder.mkdir(parents=True)
    Image.new("RGB", (20, 10), "blue").save(folder / "00000.webp")
    (folder / "00001.webp").symlink_to(secret)
    shutil.rmtree(run / "images")
    page, written = reported(run)
    assert [Image.open(io.BytesIO(one)).size for one in page.thumbnails()] == [(20, 10)]
    assert "This is a bundle" in page.text
    assert len(written.missing) == 11


def test_a_corrupt_log_is_reported_up_to_the_place(run: Path) -> None:
    """The page tells what is sound and where it ends; exit 4, after the page is there."""
    data = bytearray((run / LOG).read_bytes())
    whole = split_bodies(bytes(data))
    data[len(data) // 2] ^= 1
    (run / LOG).write_bytes(data)
    done = stagewright("report", run, "--output", "a.html", folder=run.parent.parent)
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1
    assert "corrupt at byte" in done.stderr
    page = Page((run.parent.parent / "a.html").read_text(encoding="utf-8"))
    assert "The log is corrupt" in page.text
    carried = [raw.encode() for _, raw in page.events()]
    assert 5 < len(carried) < len(whole)
    assert carried == whole[: len(carried)]


def test_a_log_without_a_sound_event_has_a_page_too(run: Path) -> None:
    """Nothing but the place of the damage can be told."""
    data = bytearray((run / LOG).read_bytes())
    data[60] ^= 1
    (run / LOG).write_bytes(data)
    page, written = reported(run)
    assert "At byte 0 (record 0)" in page.text
    assert page.events() == []
    assert (written.events, written.images) == (0, 0)
    assert written.corrupt


def test_a_run_that_goes_on_is_a_snapshot_and_a_dead_one_is_not(run: Path) -> None:
    """The run's lock decides, and so whether its last call is under way or was never answered."""
    cut_before(run, CallCompleted, -1)
    lock = FileLock(run)
    try:
        page, _ = reported(run)
    finally:
        lock.release()
    assert "This run is still running" in page.text
    assert "the state when the page was made" in page.text
    assert "1 unanswered; 1 under way" in page.text  # the first one is of the epoch before
    page, _ = reported(run)
    assert "The process of this run died" in page.text
    assert "2 unanswered" in page.text
    assert "under way" not in page.text


def test_a_hyphen_is_no_file(run: Path) -> None:
    """It stands for standard output elsewhere: it is refused, and nothing is written."""
    done = stagewright("report", run, "--output", "-", folder=run.parent.parent)
    assert done.returncode == 2
    assert "standard output is not supported" in done.stderr
    assert not (run.parent.parent / "-").exists()


def test_the_duration_of_a_stage_is_that_of_its_result(run: Path) -> None:
    """Also where a process died in it, whether or not another one has ended it."""
    for _ in range(2):
        page, _ = reported(run)
        for stage in replay(run).stages:
            assert f"duration {duration(stage.duration_ms)} " in page.text
        cut_before(run, StageEnd, -1)


def test_a_torn_tail_is_told_of(run: Path) -> None:
    """What a crash left of a record stands at the head of the page; nothing is repaired."""
    data = (run / LOG).read_bytes()[:-30]
    (run / LOG).write_bytes(data)
    page, _ = reported(run)
    assert "The last record of the log is incomplete" in page.text
    assert (run / LOG).read_bytes() == data


def test_events_of_a_newer_version_are_shown_raw(run: Path) -> None:
    """Their type is told, and their bytes are there."""
    bodies = split_bodies((run / LOG).read_bytes())
    newer = changed(bodies[-1], type="GpuHeated", seq=len(bodies), degrees=81)
    (run / LOG).write_bytes(make_log([*bodies, newer]))
    page, _ = reported(run)
    columns, raw = page.events()[-1]
    assert columns[0] == "GpuHeated"
    assert "newer version" in columns[4]
    assert json.loads(raw)["degrees"] == 81
    assert page.all("option", value="=GpuHeated")


def test_only_an_earlier_report_is_replaced(run: Path) -> None:
    """Any other file stays as it is, also the log itself, and a link is not followed."""
    output = run.parent.parent / "a.html"
    write_report(run, output)
    first = output.read_bytes()
    write_report(run, output)
    assert output.read_bytes() == first
    note = output.with_name("note.html")
    note.write_text("<!doctype html>mine")
    link = output.with_name("link.html")
    link.symlink_to(output)
    log = (run / LOG).read_bytes()
    for taken in (note, link, run / LOG, run):
        with pytest.raises(ReportRefusedError, match="not a report"):
            write_report(run, taken)
    assert note.read_text() == "<!doctype html>mine"
    assert (run / LOG).read_bytes() == log
    assert not list(output.parent.glob(".*"))


def test_a_report_that_cannot_be_written_leaves_nothing(run: Path) -> None:
    """One line says why; no temporary file stays."""
    root = run.parent.parent
    before = sorted(root.rglob("*"))
    done = stagewright("report", run, "--output", "nowhere/a.html", folder=root)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "nowhere" in done.stderr
    done = stagewright("report", "nothing", folder=root)
    assert done.returncode == 2
    assert sorted(root.rglob("*")) == before
    with pytest.raises(RunNotFoundError):
        write_report(root, root / "a.html")


def test_json_prints_one_document_and_nothing_is_written_into_the_run(run: Path) -> None:
    """Where the page is, and what was found; without thumbnails the files are checked as well."""
    root = run.parent.parent
    image_file(run, "02-upscale", 1).unlink()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done = stagewright("report", "last", "--json", "--no-thumbnails", folder=root)
    told = json.loads(done.stdout)
    assert done.stderr == ""
    assert told["path"] == str(Path("runs", f"{run.name}.html"))
    assert (root / told["path"]).stat().st_size == told["bytes"]
    assert (told["corrupt"], told["altered"]) == ("", [])
    assert told["missing"] == ["images/02-upscale/00001-101.png"]
    page = Page((root / told["path"]).read_text(encoding="utf-8"))
    assert page.thumbnails() == []
    assert "the thumbnails (--no-thumbnails)" in page.text
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
