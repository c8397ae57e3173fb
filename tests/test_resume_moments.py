"""What happens beside a resume, or just before it, and what must not be forgotten over it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from PIL import Image, ImageOps
from stagewright.adapters import open_controller
from stagewright.adapters.cli.foreground import run_in_foreground
from stagewright.events import CallRequested, LifecycleChanged, RunState, iterate, replay
from stagewright.events.log.storage import Storage
from stagewright.statemachine.errors import InvalidTransitionError
from stagewright.statemachine.files.run_folder import CancelOrder, RunFolder
from stagewright.statemachine.resume.verify import verify_run

from . import webui_faults as faults
from .command_line import stagewright
from .foreign_runs import foreign
from .posix import KILLED
from .resuming import (
    LOG,
    controller,
    copied,
    cut,
    epoch_of,
    image_file,
    only,
    ran,
    resumed,
    small,
    words,
)  # fmt: skip
from .salvaging import resumed as resumed_salvage
from .salvaging import salvage, spoil
from .test_webui_faults import SLOW, configured, run
from .webui_server import ScriptedWebUI


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ran(tmp_path_factory.mktemp("whole"), small("txt2img", "img2img", images=3))


@pytest.mark.parametrize("resumes", [False, True])
def test_an_interrupt_is_remembered_though_the_attempt_after_it_failed_too(
    tmp_path: Path, resumes: bool
) -> None:
    """The half-made upscale that the server keeps is never recorded as finished."""
    with ScriptedWebUI() as server:
        server.on(1, faults.STALLS)
        server.on(2, faults.server_error("RuntimeError", "the GPU fell off"))
        retries = 0 if resumes else 5
        config = configured(tmp_path, ("upscale",), {**SLOW, "retries": retries})
        config["upscale"] = {"upscaler": "R-ESRGAN 4x+", "factor": 2.0}
        result = run(tmp_path, server, config)
        for _ in range(3):
            if result.state is not RunState.COMPLETED:
                result = open_controller(tmp_path / "runs", server.url).resume("last").wait(30)
    assert result.state is RunState.COMPLETED
    for image in result.images:
        before = Image.open(tmp_path / "inputs" / f"{image.image_index}.png")
        after = Image.open(tmp_path / "runs" / result.run_id / image.path)
        assert after.getpixel((0, 0)) == ImageOps.invert(before).getpixel((0, 0))


def test_a_cancel_that_comes_while_a_resume_checks_files_is_obeyed(
    whole: Path, tmp_path: Path
) -> None:
    """``cancel`` says that the run stops, so it does; only an order from before is left over."""
    folder = foreign(whole, tmp_path / "runs")

    def on_file(place: int, _total: int) -> None:
        if place == 1:
            RunFolder(folder).order_cancel(CancelOrder(reason="stagewright cancel"))

    result = controller(folder.parent).resume(folder.name, on_file=on_file).wait(30)
    assert result.state is RunState.CANCELLED


def test_a_salvaged_run_that_was_resumed_gives_the_images_of_its_last_stage(
    tmp_path: Path,
) -> None:
    """Also where all records of the first stage were lost, in one bad block of the disk."""
    handle = open_controller(tmp_path).start(small("txt2img", "img2img", images=2))
    expected = handle.wait(30)
    first = [
        event.seq for event in iterate(handle.folder)
        if "00-txt2img" in (getattr(event, "stage_id", ""), getattr(event, "call_id", "")[-18:-8])
    ]  # fmt: skip
    spoil(handle.folder, *first)
    result, _ = resumed_salvage(salvage(handle.folder))
    assert [stage.stage_id for stage in result.stages] == ["00-txt2img", "01-img2img"]
    assert [one.source_sha256 for one in result.images] == [
        one.source_sha256 for one in expected.images
    ]


def test_a_batch_that_is_repeated_takes_no_finished_image_when_it_dies(tmp_path: Path) -> None:
    """Image 1 was finished and sound; the batch is repeated for image 0's sake, and killed."""
    handle = open_controller(tmp_path / "runs").start(small("txt2img", images=2, batch=2))
    handle.wait(30)
    image_file(handle.folder, "00-txt2img", 0).unlink()
    before = image_file(handle.folder, "00-txt2img", 1).read_bytes()
    point = {"STAGEWRIGHT_FAILPOINT": "file-renamed 00000-"}
    assert (
        stagewright("resume", "last", folder=tmp_path, env={**os.environ, **point}).returncode
        == KILLED
    )
    assert [flaw.place for flaw in verify_run(handle.folder).flaws if "00001" in flaw.place] == []
    assert open_controller(tmp_path / "runs").resume("last").wait(30).state is RunState.COMPLETED
    assert image_file(handle.folder, "00-txt2img", 1).read_bytes() == before
    assert verify_run(handle.folder).finished


@pytest.mark.parametrize("torn", [b"", b'{"h":"0000'])
def test_a_cancel_before_a_resume_has_begun_writes_nothing(
    whole: Path, tmp_path: Path, torn: bytes
) -> None:
    """The state is the dead process's; the new epoch begins with LogRepaired or ``fail``."""
    folder = foreign(whole, tmp_path / "runs")
    with open(folder / LOG, "ab") as stream:
        stream.write(torn)
    said: list[str] = []

    class Interfering(Storage):
        def sync_folder(self, folder: Path) -> None:
            super().sync_folder(folder)
            if not said:
                try:
                    made.cancel(name)
                    said.append("taken")
                except InvalidTransitionError as error:
                    said.append(type(error).__name__)

    name = folder.name
    made = controller(folder.parent, storage=Interfering())
    result = made.resume(name).wait(30)
    assert words(epoch_of(result, 1))[0] == ("LogRepaired" if torn else "fail")


def test_ctrl_c_while_files_are_checked_starts_nothing(whole: Path, tmp_path: Path) -> None:
    """Who stops a resume that still reads does not want a request to be sent."""
    folder = foreign(whole, tmp_path / "runs")
    made = open_controller(folder.parent)

    def on_file(place: int, _total: int) -> None:
        if place == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_in_foreground(made, lambda _on_file: made.resume(folder.name, on_file=on_file))
    assert only(epoch_of(replay(folder), 1), CallRequested) == []


def test_a_resume_that_makes_nothing_needs_no_backend(whole: Path, tmp_path: Path) -> None:
    """All images are there, only the end is missing; what made them is not at hand."""
    folder = copied(whole, tmp_path)
    cut(folder, only(list(iterate(folder)), LifecycleChanged)[-1].seq)
    assert open_controller(tmp_path).resume(folder.name).wait(30).state is RunState.COMPLETED


def test_a_stage_that_cannot_begin_ends_and_is_named(whole: Path, tmp_path: Path) -> None:
    """Its StageStart is followed by a StageEnd, and the error says which stage it was."""
    folder = foreign(whole, tmp_path / "runs")
    stage = folder / "images" / "00-txt2img"
    stage.rename(folder / "images" / "elsewhere")
    stage.write_bytes(b"a file in its place")
    result = resumed(folder)
    assert result.error is not None
    assert result.error.stage_id == "00-txt2img"
    assert "StageEnd" in words(epoch_of(result, 1))


def test_the_display_counts_an_image_to_be_made_again(whole: Path, tmp_path: Path) -> None:
    """One file is gone: one image is to be made, not none."""
    folder = foreign(whole, tmp_path / "runs", dead=False)
    image_file(folder, "00-txt2img", 1).unlink()
    done = stagewright("resume", "last", folder=tmp_path)
    assert "00-txt2img: 1 image to make" in done.stderr
