"""Resume and the files of a run: missing, altered, made again, left over, and a torn log."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from stagewright.events import (
    CallCompleted,
    CallRequested,
    LogRepaired,
    PipelineRunResult,
    RunResumed,
    RunState,
    StageStart,
    replay,
)
from stagewright.statemachine.resume.verify import verify_run

from .command_line import SCRIPT
from .log_format import split_lines
from .resuming import (
    ALTERED,
    FOUR,
    LOG,
    STAGE_IDS,
    asked,
    check_story,
    comparable,
    copied,
    cut,
    cut_before,
    dies_at,
    epoch_of,
    files,
    image_file,
    linked,
    made_a_folder,
    only,
    painter,
    piped,
    ran,
    removed,
    resumed,
    rewritten,
    small,
    sources,
    words,
)
from .tools import needs_strace


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sealed run of four stages and two images."""
    return ran(tmp_path_factory.mktemp("whole"), small(*FOUR))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage."""
    return copied(whole, tmp_path)


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def dangling(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


DAMAGES = [
    removed, rewritten, cut_short, emptied, linked, dangling, made_a_folder,
    pytest.param(piped, marks=pytest.mark.posix),
]  # fmt: skip


@pytest.mark.sampled(3)
@pytest.mark.parametrize("stage_id", STAGE_IDS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_missing_or_altered_is_made_again_and_nothing_else(
    whole: Path, folder: Path, damage: Callable[[Path], None], stage_id: str
) -> None:
    """COMPLETED -> reset -> RUNNING; the remade source is equal, so its descendants stand."""
    file = image_file(folder, stage_id, 1)
    data, untouched = file.read_bytes(), files(folder)
    damage(file)
    backend = painter()
    result = resumed(folder, backend)
    assert asked(backend) == [(stage_id, 1)]
    assert words(epoch_of(result, 1))[:3] == ["reset", "RunResumed", "start"]
    assert [one.stage_id for one in only(epoch_of(result, 1), StageStart)] == [stage_id]
    assert only(epoch_of(result, 1), RunResumed)[0].completed_images == 7
    assert comparable(result) == comparable(replay(whole))
    assert file.is_file()
    assert not file.is_symlink()
    assert len(file.read_bytes()) == len(data)
    aside = file.with_name(f"{file.name}.altered-1")
    assert os.path.lexists(aside) == (damage is not removed)
    name = str(file.relative_to(folder))
    now = files(folder)
    assert {path for path in untouched if untouched[path] != now[path]} == {name, LOG}
    assert verify_run(folder).finished
    assert verify_run(folder).sound


def test_what_stood_in_the_place_of_an_image_is_kept_as_it_was(folder: Path) -> None:
    """Bytes, a link's target, a folder's content: under the new name they are the same."""
    for index, (stage_id, damage) in enumerate(
        [("00-txt2img", rewritten), ("01-img2img", made_a_folder), ("02-upscale", linked)]
    ):
        damage(image_file(folder, stage_id, index % 2))
    outside = folder.parent / "elsewhere.png"
    before = outside.read_bytes()
    resumed(folder)
    text, directory, link = sorted(folder.glob("images/*/*.altered-1"))
    assert text.read_bytes() == ALTERED
    assert (directory / "inside.txt").read_bytes() == ALTERED
    assert link.is_symlink()
    assert outside.read_bytes() == before


def test_a_file_altered_in_two_epochs_has_two_names(folder: Path) -> None:
    """The epoch is in the name, so that the first is not overwritten by the second."""
    for words_in_it in (b"first", b"second"):
        image_file(folder, "00-txt2img", 0).write_bytes(words_in_it)
        resumed(folder)
    kept = sorted(folder.glob("images/00-txt2img/*.altered-*"))
    assert [path.name[-9:] for path in kept] == ["altered-1", "altered-2"]
    assert [path.read_bytes() for path in kept] == [b"first", b"second"]


@pytest.mark.parametrize("harm", [rewritten, linked])
def test_left_overs_do_not_count_and_do_not_stay(
    folder: Path, whole: Path, harm: Callable[[Path], None]
) -> None:
    """A file or link that no record names is replaced; what the link leads to stays as it is."""
    cut_before(folder, CallCompleted, 1)
    left = image_file(folder, "00-txt2img", 1)
    harm(left)
    before = left.resolve(), left.read_bytes()
    part = left.with_name(f".{left.name}.4711.part")
    part.write_bytes(b"half a pict")
    assert verify_run(folder).sound
    assert comparable(resumed(folder)) == comparable(replay(whole))
    assert not part.exists()
    assert not left.is_symlink()
    assert left.read_bytes() != ALTERED
    assert list(folder.glob("images/*/*.altered-*")) == []
    assert harm is rewritten or before[0].read_bytes() == before[1]


def test_a_folder_where_no_record_names_anything_is_said(folder: Path, whole: Path) -> None:
    """It is nothing that a crash leaves: the run fails and names it; without it the run goes on."""
    cut_before(folder, CallCompleted, 1)
    left = image_file(folder, "00-txt2img", 1)
    made_a_folder(left)
    error = resumed(folder).error
    assert error is not None
    assert str(left) in error.message
    shutil.rmtree(left)
    assert comparable(resumed(folder)) == comparable(replay(whole))


@pytest.mark.parametrize("place", ["images", "images/00-txt2img"])
def test_a_link_in_place_of_a_folder_leads_nothing_out_of_the_run(
    folder: Path, whole: Path, place: str
) -> None:
    """Recorded images in it are altered; the link is set aside and a folder made."""
    outside = folder.parent / "outside"
    (folder / place).rename(outside)
    (folder / place).symlink_to(outside)
    before = files(outside)
    result = resumed(folder)
    assert comparable(result) == comparable(replay(whole))
    assert files(outside) == before
    assert not (folder / place).is_symlink()
    assert (folder / f"{place}.altered-1").is_symlink()


@pytest.mark.parametrize("place", ["images", "images/00-txt2img"])
def test_nothing_is_written_through_a_link_that_no_record_led_through(
    folder: Path, whole: Path, place: str
) -> None:
    """Before the first image is recorded a link stands where its folder is to be."""
    cut_before(folder, CallCompleted, 0)
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / ".theirs.part").write_bytes(b"theirs")
    shutil.rmtree(folder / "images")
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).symlink_to(outside)
    result = resumed(folder)
    assert {path.name for path in outside.iterdir()} == {".theirs.part"}
    assert result.state is RunState.ERROR or comparable(result) == comparable(replay(whole))


def test_a_source_that_is_made_differently_takes_its_descendants_along(folder: Path) -> None:
    """All that was made from the old one is made again, from the new one; image 0 stays."""
    before = replay(folder)
    removed(image_file(folder, "00-txt2img", 1))
    backend = painter(salt="another driver")
    result = resumed(folder, backend)
    assert asked(backend) == [(stage_id, 1) for stage_id in STAGE_IDS]
    assert result.state is RunState.COMPLETED
    for place, stage_id in enumerate(STAGE_IDS):
        old, new = sources(before, stage_id), sources(result, stage_id)
        assert old[0] == new[0]
        assert old[1] != new[1]
        if place:
            request = only(epoch_of(result, 1), CallRequested)[place]
            assert request.inputs == (sources(result, STAGE_IDS[place - 1])[1],)
    check_story(result.events)
    assert verify_run(folder).sound


def test_verify_knows_that_a_source_has_become_another(folder: Path) -> None:
    """A process died behind the remade source: what was made from the old one counts no more."""
    removed(image_file(folder, "00-txt2img", 1))
    derived = [image_file(folder, stage_id, 1) for stage_id in STAGE_IDS[1:]]
    before = {file: file.read_bytes() for file in derived}
    result = resumed(folder, painter(salt="another driver"))
    cut(folder, only(epoch_of(result, 1), CallRequested)[1].seq)
    for file, data in before.items():
        file.write_bytes(data)
    assert "make 1 image again" in verify_run(folder).advice
    backend = painter(salt="another driver")
    resumed(folder, backend)
    assert asked(backend) == [(stage_id, 1) for stage_id in STAGE_IDS[1:]]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("nth", range(1, 8))
def test_a_death_at_any_place_of_a_remake_leaves_no_old_descendant(folder: Path, nth: int) -> None:
    """The second epoch is cut before its nth record about a call."""
    removed(image_file(folder, "00-txt2img", 0))
    result = resumed(folder, painter(salt="another driver"))
    images = comparable(result)["images"]
    calls = [event.seq for event in epoch_of(result, 1)
             if isinstance(event, CallRequested | CallCompleted)]  # fmt: skip
    lines = (folder / LOG).read_bytes().splitlines(keepends=True)
    (folder / LOG).write_bytes(b"".join(lines[: calls[nth]]))
    again = resumed(folder, painter(salt="another driver"))
    check_made_from_what_is_there(again)
    assert comparable(again)["images"] == images
    assert verify_run(folder).sound


def check_made_from_what_is_there(result: PipelineRunResult) -> None:
    """The last finished request of each image names the source that is there now."""
    assert result.state is RunState.COMPLETED
    requests = {one.call_id: one for one in only(result.events, CallRequested)}
    made_from: dict[tuple[str, int], tuple[str, ...]] = {}
    for completed in only(result.events, CallCompleted):
        request = requests[completed.call_id]
        for image in completed.artifacts:
            made_from[(request.stage_id, image.image_index)] = request.inputs
    stage_ids = [stage.stage_id for stage in result.stages]
    for (stage_id, index), inputs in made_from.items():
        place = stage_ids.index(stage_id)
        if place:
            assert inputs == (sources(result, stage_ids[place - 1])[index],), (stage_id, index)


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_one_lost_image_of_a_batch_repeats_its_whole_request(tmp_path: Path, lost: int) -> None:
    """The very same request; its CallCompleted supersedes the earlier one for all its images."""
    folder = ran(tmp_path, small("txt2img", "img2img", images=3, batch=2))
    before = replay(folder)
    removed(image_file(folder, "00-txt2img", lost))
    backend = painter()
    result = resumed(folder, backend)
    assert asked(backend) == [("00-txt2img", lost // 2 * 2)]
    assert backend.requests[0].count == (2 if lost < 2 else 1)
    first, *_ = only(before.events, CallRequested)
    (again,) = only(epoch_of(result, 1), CallRequested)
    assert lost == 2 or (again.request_sha256, again.count) == (first.request_sha256, first.count)
    assert comparable(result) == comparable(before)
    assert verify_run(folder).sound


def test_a_sibling_that_is_made_differently_takes_its_descendants_along(tmp_path: Path) -> None:
    """Image 0 of a batch is lost; image 1 comes out different too, and so does what follows."""
    folder = ran(tmp_path, small("txt2img", "img2img", "upscale", batch=2))
    removed(image_file(folder, "00-txt2img", 0))
    result = resumed(folder, painter(salt="another driver"))
    check_made_from_what_is_there(result)


def test_a_sound_image_is_not_lost_where_its_batch_cannot_be_repeated(tmp_path: Path) -> None:
    """Its last CallCompleted holds, and its file is still there."""
    folder = ran(tmp_path, small("txt2img", images=2, batch=2))
    removed(image_file(folder, "00-txt2img", 0))
    result = resumed(folder, painter(dies_at(("00-txt2img", 0))))
    assert result.state is RunState.ERROR
    assert [image.image_index for image in result.images] == [1]
    assert [gap.image_index for gap in result.missing] == [0]


@pytest.mark.linux
@needs_strace
def test_a_file_that_cannot_be_read_is_neither_lost_nor_made_again(folder: Path) -> None:
    """Nobody knows whether it is altered: exit 4, and nothing is written."""
    file, before = image_file(folder, "00-txt2img", 1), files(folder)
    failing = ("-P", str(file), "-e", "trace=openat", "-e", "inject=openat:error=EIO")
    command = ["strace", "-f", "-qq", "-o", os.devnull, *failing, str(SCRIPT), "resume"]
    done = subprocess.run(
        [*command, str(folder)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 4, done.stderr
    assert f"{file}: it cannot be read" in done.stderr
    assert files(folder) == before


def torn_tails(lines: list[bytes], records: int) -> dict[str, bytes]:
    """Tails of each kind that a crash may leave behind so many records."""
    line = lines[records]
    return {
        "a byte": line[:1],
        "in the header": line[:20],
        "the header": line[:48],
        "in the record": line[: len(line) // 2],
        "no newline": line[:-1],
        "zeros": bytes(512),
        "zeros in the record": line[:60] + bytes(len(line) - 61) + b"\n",
        "two records": line[:60] + bytes(len(line) - 60) + lines[records + 1][:30],
    }


@pytest.mark.sampled(2)
@pytest.mark.parametrize("records", [1, 4, 12])
@pytest.mark.parametrize("kind", list(torn_tails([b"x" * 99] * 2, 0)))
def test_a_torn_tail_is_copied_aside_cut_and_recorded_first(
    whole: Path, tmp_path: Path, kind: str, records: int
) -> None:
    """LogRepaired names the place, the size, the digest and the copy, which holds what was cut."""
    folder = copied(whole, tmp_path)
    lines = split_lines((folder / LOG).read_bytes())
    tail = torn_tails(lines, records)[kind]
    cut(folder, records, torn=tail)
    result = resumed(folder)
    repaired = epoch_of(result, 1)[0]
    assert isinstance(repaired, LogRepaired)
    assert repaired.seq == records
    assert repaired.offset == sum(map(len, lines[:records]))
    assert (repaired.bytes, repaired.sha256) == (len(tail), sha256(tail).hexdigest())
    assert (folder / repaired.copied_to).read_bytes() == tail
    assert (folder / repaired.copied_to).parent == folder
    assert comparable(result) == comparable(replay(whole))


def test_a_sealed_run_with_a_torn_tail_is_repaired_and_sealed(whole: Path, tmp_path: Path) -> None:
    """Nothing else is to be done."""
    folder = copied(whole, tmp_path)
    cut(folder, 36, torn=b'{"h":"000')
    result = resumed(folder)
    assert words(epoch_of(result, 1)) == ["LogRepaired", "RunSealed"]
    assert verify_run(folder).finished
