"""Images of earlier runs are copied whole and as recorded, or they are made; over resumes too."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from errno import ENOSPC
from pathlib import Path
from typing import BinaryIO

import pytest
from stagewright.events import (
    CallCompleted,
    CallRequested,
    CallReused,
    PipelineRunResult,
    RunState,
    iterate,
    replay,
)
from stagewright.events.log.storage import Storage
from stagewright.statemachine.ports import SystemClock
from stagewright.statemachine.resume.removal import remove_earlier_images, remove_run
from stagewright.statemachine.resume.verify import verify_run

from .log_format import make_log, split_bodies
from .resuming import (
    LOG,
    asked,
    check_told_once,
    controller,
    copied,
    cut_before,
    image_file,
    linked,
    made_a_folder,
    only,
    painter,
    removed,
    rewritten,
    small,
    sources,
)
from .reusing import FACTORS, TWO, AllRuns, ran_group, resumed_with_reuse, reused, reusing
from .salvaging import salvage, spoil

IMAGES = [("00-txt2img", index) for index in range(3)]
UPSCALED = [("01-upscale", index) for index in range(3)]
BATCHED = small(*TWO, images=3, batch=2)


class Group:
    """Two runs: the images of ``first`` were used again by ``second``.

    ``pictures`` are the digests of their sources.
    """

    def __init__(self, first: Path, second: Path, pictures: Sequence[str] = ()) -> None:
        self.first = first
        self.second = second
        self.pictures = pictures or sources(replay(first), "00-txt2img")

    def copy(self, runs: Path) -> Group:
        return Group(copied(self.first, runs), copied(self.second, runs), self.pictures)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Group:
    """A group that has ended."""
    first, second = ran_group(tmp_path_factory.mktemp("group"), config=small(*TWO, images=3))
    return Group(first, second)


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> Group:
    """The same with images in batches of two."""
    first, second = ran_group(tmp_path_factory.mktemp("batches"), config=BATCHED)
    return Group(first, second)


@pytest.fixture
def group(library: Group, tmp_path: Path) -> Group:
    """A copy of a group that has ended."""
    return library.copy(tmp_path)


@pytest.fixture
def begun(group: Group) -> Group:
    """The second run was killed before it used the first image again."""
    return stopped(group)


def stopped(group: Group) -> Group:
    """Take everything that the second run did away."""
    cut_before(group.second, CallReused)
    shutil.rmtree(group.second / "images")
    return group


def check_whole(result: PipelineRunResult, group: Group) -> None:
    """The run has the images that it would have made itself."""
    assert (result.state, result.missing) == (RunState.COMPLETED, ())
    assert sources(result, "00-txt2img") == group.pictures
    found = verify_run(group.second)
    assert (found.sound, found.finished) == (True, True), found.flaws


def test_the_images_of_a_sweep_over_the_last_stage_are_made_once(tmp_path: Path) -> None:
    """Each variant after the first copies them, byte for byte, and names the run that made them."""
    backend = painter()
    first, *others = ran_group(
        tmp_path, backend, small(*TWO, images=3), vary="upscale.factor=1.5,2,3"
    )
    assert asked(backend) == [*IMAGES, *UPSCALED * 3]
    calls = [event.call_id for event in iterate(first) if isinstance(event, CallCompleted)]
    for run in others:
        assert [one.origin.run_id for one in reused(run)] == [first.name] * 3
        assert [one.origin.call_id for one in reused(run)] == calls[:3]
        for _, index in IMAGES:
            one, other = (image_file(run, "00-txt2img", index) for run in (first, run))
            assert one.read_bytes() == other.read_bytes()
            assert not other.samefile(one)


def put_back(file: Path, group: Group) -> None:
    """The file was removed on purpose, and somebody has put it back."""
    kept = file.read_bytes()
    remove_earlier_images(group.first, reason="to save space", clock=SystemClock())
    assert not file.exists()
    file.write_bytes(kept)


def corrupted(file: Path, group: Group) -> None:
    """The log of the first run is corrupt behind its images."""
    del file
    spoil(group.first, sum(1 for _ in iterate(group.first)) - 2)


def truncated(file: Path, group: Group) -> None:
    """The log of the first run ends before its second answer, in the middle of a record."""
    del file
    cut_before(group.first, CallCompleted, 1)
    log = group.first / LOG
    log.write_bytes(log.read_bytes()[:-40])


def of_another_format(file: Path, group: Group) -> None:
    """The log of the first run says that the image is of a format that no run makes."""
    log = group.first / LOG
    bodies = split_bodies(log.read_bytes())
    place = file.name.encode()
    log.write_bytes(
        make_log(
            body.replace(b"image/png", b"image/bmp") if place in body else body
            for body in bodies[:-1]
        )
    )


def gone(file: Path, group: Group) -> None:
    """The first run was removed."""
    del file
    remove_run(group.first)


def on_file(harm: Callable[[Path], None]) -> Callable[[Path, Group], None]:
    """Harm to the file of the second image alone."""

    def harm_file(file: Path, group: Group) -> None:
        del group
        harm(file)

    harm_file.__name__ = harm.__name__
    return harm_file


@pytest.mark.parametrize(
    ("harm", "made"),
    [
        (on_file(removed), [1]),
        (on_file(rewritten), [1]),
        (on_file(linked), [1]),
        (on_file(made_a_folder), [1]),
        (of_another_format, [1]),
        (put_back, [0, 1, 2]),
        (corrupted, [0, 1, 2]),
        (truncated, [1, 2]),
        (gone, [0, 1, 2]),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_what_is_not_as_recorded_is_made_and_never_used(
    harm: Callable[[Path, Group], None], made: list[int], begun: Group
) -> None:
    """A harmed file, a log that is corrupt or cut, images that were removed on purpose."""
    harm(image_file(begun.first, "00-txt2img", 1), begun)
    backend = painter()
    check_whole(resumed_with_reuse(begun.second, backend), begun)
    assert asked(backend) == [*(("00-txt2img", index) for index in made), *UPSCALED]
    assert not list(begun.second.glob("images/*/.*"))


class Tampering(Storage):
    """Does ``harm`` once while a file is copied: to ``source``, or else to the copy."""

    def __init__(self, harm: Callable[[Path], None], source: Path | None) -> None:
        super().__init__()
        self._harm = harm
        self._source = source
        self._is_done = False

    def copy_part(self, source: BinaryIO, path: Path) -> Path:
        if self._is_done:
            return super().copy_part(source, path)
        self._is_done = True
        if self._source is not None:
            self._harm(self._source)
        copy = super().copy_part(source, path)
        if self._source is None:
            self._harm(copy)
        return copy


def cut_short(file: Path) -> None:
    """Half of it is gone."""
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size // 2)


def flipped(file: Path) -> None:
    """One bit is another one."""
    with file.open("r+b") as stream:
        stream.seek(60)
        byte = stream.read(1)
        stream.seek(60)
        stream.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize("to_copy", [False, True], ids=["source", "copy"])
@pytest.mark.parametrize("harm", [cut_short, flipped])
def test_a_file_that_changes_while_it_is_copied_is_not_used(
    harm: Callable[[Path], None], to_copy: bool, begun: Group
) -> None:
    """The copy is what is compared, so that a change at any moment is noticed."""
    source = None if to_copy else image_file(begun.first, "00-txt2img", 0)
    backend = painter()
    reopened = reusing(begun.second.parent, backend, storage=Tampering(harm, source))
    check_whole(reopened.resume(begun.second.name).wait(30), begun)
    assert asked(backend) == [("00-txt2img", 0), *UPSCALED]
    assert not list(begun.second.glob("images/*/.*"))


def test_no_image_is_requested_where_the_disk_is_too_full_for_a_copy(begun: Group) -> None:
    """It would not fit either; a resume uses it again."""

    def fill_disk(_file: Path) -> None:
        raise OSError(ENOSPC, "No space left on device")

    backend = painter()
    storage = Tampering(fill_disk, image_file(begun.first, "00-txt2img", 0))
    full = reusing(begun.second.parent, backend, storage=storage)
    result = full.resume(begun.second.name).wait(30)
    assert (result.state, asked(backend)) == (RunState.ERROR, [])
    assert result.error is not None
    assert "No space left on device" in result.error.message
    check_whole(resumed_with_reuse(begun.second, backend), begun)
    assert asked(backend) == UPSCALED


def test_a_file_that_another_takes_the_place_of_is_copied_as_it_was_opened(begun: Group) -> None:
    """A rename in the middle changes nothing: what was opened is what is compared and used."""
    file = image_file(begun.first, "00-txt2img", 0)

    class Swapping(Storage):
        def copy_part(self, source: BinaryIO, path: Path) -> Path:
            other = file.with_name("other.png")
            other.write_bytes(b"another picture")
            other.rename(file)
            return super().copy_part(source, path)

    backend, kept = painter(), file.read_bytes()
    reopened = reusing(begun.second.parent, backend, storage=Swapping())
    reopened.resume(begun.second.name).wait(30)
    assert image_file(begun.second, "00-txt2img", 0).read_bytes() == kept
    assert asked(backend) == UPSCALED


@pytest.mark.parametrize("harm", [remove_run, lambda run: (run / LOG).write_bytes(b"other bytes")])
def test_a_log_that_is_harmed_while_its_images_are_used_ends_no_stage(
    harm: Callable[[Path], object], begun: Group
) -> None:
    """The first image is used again; the log is gone by the second, so the others are made."""

    class Harming(AllRuns):
        searches = 0

        def find(self, request_sha256: str) -> Sequence[Path]:
            del request_sha256
            self.searches += 1
            if self.searches == 2:
                harm(begun.first)
            return [begun.first]

    backend, runs = painter(), begun.second.parent
    reopened = reusing(runs, backend, reuse_index=Harming(runs))
    check_whole(reopened.resume(begun.second.name).wait(30), begun)
    assert asked(backend) == [*IMAGES[1:], *UPSCALED]


def test_a_batch_is_used_again_whole_or_not_at_all(batches: Group, tmp_path: Path) -> None:
    """One image of it is gone: both are made; the other batch is used again."""
    group = stopped(batches.copy(tmp_path))
    image_file(group.first, "00-txt2img", 1).unlink()
    backend = painter()
    result = resumed_with_reuse(group.second, backend)
    assert asked(backend) == [("00-txt2img", 0), *UPSCALED]
    assert [len(one.artifacts) for one in reused(group.second)] == [1]
    check_told_once(result.events)


def test_a_lost_image_of_a_batch_that_was_used_again_is_copied_again(
    batches: Group, tmp_path: Path
) -> None:
    """The other image of the batch stays the file that it is."""
    group = batches.copy(tmp_path)
    image_file(group.second, "00-txt2img", 0).unlink()
    kept = image_file(group.second, "00-txt2img", 1).stat().st_ino
    backend = painter()
    result = resumed_with_reuse(group.second, backend)
    assert asked(backend) == []
    assert image_file(group.second, "00-txt2img", 1).stat().st_ino == kept
    assert [len(one.artifacts) for one in reused(group.second)] == [2, 1, 2]
    check_whole(result, group)


@pytest.mark.parametrize("salt", ["", "another"], ids=["the same", "another"])
def test_a_lost_image_whose_maker_is_gone_is_made_again(group: Group, salt: str) -> None:
    """What was made from it is made anew only where it comes out different."""
    image_file(group.second, "00-txt2img", 1).unlink()
    remove_run(group.first)
    backend = painter(salt=salt)
    result = resumed_with_reuse(group.second, backend)
    assert result.state is RunState.COMPLETED
    assert asked(backend) == [("00-txt2img", 1), *([("01-upscale", 1)] if salt else [])]
    assert verify_run(group.second).finished


def test_a_run_goes_on_after_the_run_that_made_its_images_is_gone(group: Group) -> None:
    """Its copies are its own."""
    cut_before(group.second, CallRequested, 1)
    remove_run(group.first)
    backend = painter()
    result = resumed_with_reuse(group.second, backend)
    assert asked(backend) == UPSCALED[1:]
    assert (result.state, verify_run(group.second).finished) == (RunState.COMPLETED, True)
    assert only(result.events, CallReused) == reused(group.second)


def test_what_was_reused_is_made_again_when_its_source_comes_out_different(
    tmp_path: Path,
) -> None:
    """The record of a reused image says what it was made from, as that of a request does."""
    config = small("txt2img", "img2img", "upscale")
    first, second = ran_group(tmp_path, config=config)
    assert [one.stage_id for one in reused(second)] == [*["00-txt2img"] * 2, *["01-img2img"] * 2]
    image_file(second, "00-txt2img", 1).unlink()
    remove_run(first)
    backend = painter(salt="another")
    result = resumed_with_reuse(second, backend)
    assert asked(backend) == [("00-txt2img", 1), ("01-img2img", 1), ("02-upscale", 1)]
    assert (result.state, verify_run(second).finished) == (RunState.COMPLETED, True)


def test_a_request_that_a_dead_process_left_is_sent_again_and_not_reused(tmp_path: Path) -> None:
    """The backend may still work on it, which only another request to it settles."""
    group = controller(tmp_path).start_group(small(*TWO, images=3), vary=[FACTORS]).wait(60)
    second = tmp_path / str(group.variants[1].run_id)
    cut_before(second, CallCompleted)
    backend = painter()
    resumed_with_reuse(second, backend)
    assert asked(backend) == [("00-txt2img", 0), *UPSCALED]
    assert backend.requests[0].unanswered == (f"{second.name}.00-txt2img.00000.0",)
    assert [one.image_index for one in reused(second)] == [1, 2]


def test_images_that_were_reused_are_reused_from_where_they_are(tmp_path: Path) -> None:
    """The first run is gone: a third one copies from the second, and names the first."""
    first, second, third = ran_group(
        tmp_path, config=small(*TWO, images=3), vary="upscale.factor=1.5,2,3"
    )
    stopped(Group(first, third))
    remove_run(first)
    backend = painter()
    resumed_with_reuse(third, backend)
    assert asked(backend) == UPSCALED
    assert {one.origin.run_id for one in reused(third)} == {first.name}
    assert reused(second)[0].origin == reused(third)[0].origin


def test_removed_images_that_had_been_reused_stay_removed(group: Group) -> None:
    """``rm --keep-last-stage``: the run is sound, and a resume has nothing to do."""
    remove_earlier_images(group.second, reason="to save space", clock=SystemClock())
    assert not list(group.second.glob("images/00-txt2img/*"))
    backend = painter()
    check_whole(resumed_with_reuse(group.second, backend), group)
    assert asked(backend) == []


def test_a_salvaged_run_keeps_reused_images_as_reused(group: Group) -> None:
    """With their origin, and without a request that was never sent."""
    kept = [(one.origin, one.request_sha256, one.artifacts) for one in reused(group.second)]
    spoil(group.second, sum(1 for _ in iterate(group.second)) - 2)
    found = salvage(group.second)
    new = Path(found.folder)
    assert [(one.origin, one.request_sha256, one.artifacts) for one in reused(new)] == kept
    assert {one.stage_id for one in replay(new).events if isinstance(one, CallRequested)} == {
        "01-upscale"
    }
    assert verify_run(new).sound
    backend = painter()
    result = resumed_with_reuse(new, backend)
    assert (result.state, asked(backend)) == (RunState.COMPLETED, [])


def test_a_salvage_that_lost_the_record_of_a_reused_image_keeps_the_image(group: Group) -> None:
    """Its announcement is left: it is kept as an image whose answer is not known."""
    second = reused(group.second)[1]
    spoil(group.second, second.seq)
    new = Path(salvage(group.second).folder)
    assert [one.image_index for one in reused(new)] == [0, 2]
    assert sources(replay(new), "00-txt2img") == group.pictures
    assert verify_run(new).sound
