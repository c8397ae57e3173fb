"""``rm`` and ``archive``: what they take, what they keep, and a kill at each of their steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest
from stagewright.events import (
    Artifact,
    ImagesRemoved,
    LogRepaired,
    RunSealed,
    RunState,
    iterate,
    replay,
)
from stagewright.events.log.lock import FileLock
from stagewright.statemachine.files.run_folder import run_folders
from stagewright.statemachine.resume.verify import verify_run

from .command_line import SCRIPT, stagewright
from .crashing import KILLED, LOG
from .forking import ForkServer
from .resuming import FOUR, STAGE_IDS, copied, made, resumed, small

EARLIER = [(stage, index) for stage in STAGE_IDS[:-1] for index in range(2)]
BARRIER = ("record-before", "record-half", "record-written", "record-synced")
IN_THE_LOG = [f"{place} {kind}" for kind in ("ImagesRemoved", "RunSealed") for place in BARRIER]
OF_FILES = [f"file-removed {stage}/{index:05d}-" for stage, index in EARLIER]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two images through four stages; nobody may change it."""
    return made(tmp_path_factory.mktemp("whole"), small(*FOUR))


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return copied(whole, tmp_path / "runs")


def images(folder: Path) -> list[tuple[str, int]]:
    """Stage and index of every image file."""
    found = sorted(folder.glob("images/*/*"))
    return [(path.parent.name, int(path.name[:5])) for path in found]


def check_thinned(folder: Path) -> None:
    """See that the last stage alone is left, that the log says so, and that all is sound."""
    assert images(folder) == [(STAGE_IDS[-1], 0), (STAGE_IDS[-1], 1)]
    found = verify_run(folder)
    assert (found.sound, found.finished, found.removed_images) == (True, True, len(EARLIER))
    events = list(iterate(folder))
    (removed,) = (event for event in events if isinstance(event, ImagesRemoved))
    stages = [(artifact.path.split("/")[1], artifact.image_index) for artifact in removed.artifacts]
    assert stages == EARLIER
    assert removed.epoch > 0
    assert isinstance(events[removed.seq - 1], RunSealed)
    assert {type(event) for event in events[removed.seq + 1 :]} <= {LogRepaired, RunSealed}


@pytest.mark.parametrize("command", ["rm", "archive"])
def test_the_last_stage_is_kept_and_the_log_says_what_was_removed(run: Path, command: str) -> None:
    """The run stays COMPLETED; nothing is made again, and a second time nothing is left to do."""
    folder = run.parent.parent
    before = list(replay(run).images)
    done = stagewright(command, "last", "--keep-last-stage", "--yes", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "6 images of earlier stages" in done.stdout
    (run,) = run_folders(run.parent)
    assert run.parent.name == ("archive" if command == "archive" else "runs")
    check_thinned(run)
    assert list(replay(run).images) == before
    log = (run / LOG).read_bytes()
    again = stagewright(command, "last", "--keep-last-stage", "--yes", folder=folder)
    assert "0 images of earlier stages" in again.stdout
    assert "already complete" in stagewright("resume", "last", folder=folder).stderr
    assert (run / LOG).read_bytes() == log
    shown = stagewright("verify", "last", folder=folder)
    assert (shown.returncode, "6 were removed on purpose" in shown.stdout) == (0, True)
    for other in ("report", "bundle", "replay", "show", "learning", "list"):
        words = () if other in ("learning", "list") else ("last",)
        assert stagewright(other, *words, folder=folder).returncode == 0


@pytest.mark.posix
@pytest.mark.sampled(3)
@pytest.mark.parametrize("command", ["rm", "archive"])
@pytest.mark.parametrize("at", [*IN_THE_LOG, *OF_FILES])
def test_a_removal_of_images_that_is_killed_leaves_a_sound_run(
    run: Path, forks: ForkServer, command: str, at: str
) -> None:
    """``verify`` agrees with the log after the kill, and the next try completes it."""
    folder = run.parent.parent
    order = (command, "last", "--keep-last-stage", "--yes")
    killed = forks.command(*order, folder=folder, failpoint=at)
    assert killed.status == KILLED, killed
    assert images(run)[-2:] == [(STAGE_IDS[-1], 0), (STAGE_IDS[-1], 1)]
    found = verify_run(run)
    assert found.sound
    assert found.state == RunState.COMPLETED
    recorded = found.removed_images == len(EARLIER)
    assert recorded or images(run)[:-2] == EARLIER
    assert forks.command(*order, folder=folder).status == 0
    (run,) = run_folders(run.parent)
    check_thinned(run)


@pytest.mark.posix
@pytest.mark.sampled(3)
@pytest.mark.parametrize("at", IN_THE_LOG)
def test_a_resume_after_a_killed_removal_makes_nothing(
    run: Path, forks: ForkServer, at: str
) -> None:
    """It seals the log where that is lacking; the images are not made again."""
    folder = run.parent.parent
    forks.command("rm", "last", "--keep-last-stage", "--yes", folder=folder, failpoint=at)
    sent = len(list(iterate(run)))
    assert forks.command("resume", "last", folder=folder).status == 0
    assert verify_run(run).finished
    assert len(list(iterate(run))) <= sent + 2


MOVES = ["folder-made {place}", "file-renamed {place}", "file-in-place {place}"]


@pytest.mark.posix
@pytest.mark.parametrize("at", [*MOVES, "file-removed events.jsonl", "file-removed 03-adetailer"])
def test_a_killed_removal_of_a_run_leaves_it_whole_or_gone(
    run: Path, forks: ForkServer, at: str
) -> None:
    """What was left of its files goes with the next removal."""
    folder = run.parent.parent
    other = made(run.parent, small())
    at = at.format(place=".removed")
    killed = forks.command("rm", run.name, "--yes", folder=folder, failpoint=at)
    assert killed.status == KILLED, killed
    assert [one.name for one in run_folders(run.parent)] in ([other.name], [run.name, other.name])
    if run.exists():
        assert verify_run(run).finished
        assert forks.command("rm", run.name, "--yes", folder=folder).status == 0
    else:
        assert forks.command("rm", "no such run", "--yes", folder=folder).status == 2
    assert list(run_folders(run.parent)) == [other]
    assert not (run.parent / ".removed").exists()


@pytest.mark.posix
@pytest.mark.parametrize("at", MOVES)
def test_a_killed_move_to_the_archive_leaves_the_run_whole(
    run: Path, forks: ForkServer, at: str
) -> None:
    """In one place or the other; archiving it again changes nothing more."""
    folder = run.parent.parent
    at = at.format(place="archive")
    assert forks.command("archive", "last", "--yes", folder=folder, failpoint=at).status == KILLED
    (found,) = run_folders(run.parent)
    assert verify_run(found).finished
    assert forks.command("archive", "last", "--yes", folder=folder).status == 0
    assert list(run_folders(run.parent)) == [run.parent / "archive" / run.name]


def test_an_archived_run_has_its_id_as_its_name(run: Path) -> None:
    """Also one whose folder was renamed; every command finds it, and ``rm`` removes it."""
    folder = run.parent.parent
    run.rename(run.parent / "best")
    done = stagewright("archive", "best", "--yes", folder=folder)
    assert f"archived in {Path('runs', 'archive', run.name)}" in done.stdout
    for words in (("verify", "last"), ("show", run.name[-6:]), ("verify", "--all")):
        assert stagewright(*words, folder=folder).returncode == 0
    (entry,) = json.loads(stagewright("list", "--json", folder=folder).stdout)
    assert entry["folder"] == f"archive/{run.name}"
    assert stagewright("rm", "last", "--yes", folder=folder).returncode == 0
    assert list(run_folders(run.parent)) == []


def altered(run: Path) -> None:
    next(run.glob("images/00-*/*")).write_bytes(b"somebody's work")


def lost(run: Path) -> None:
    next(run.glob("images/03-*/*")).unlink()


def unfinished(run: Path) -> None:
    made(run.parent, small("txt2img", "upscale"), dead=True)


def corrupt(run: Path) -> None:
    data = bytearray((run / LOG).read_bytes())
    data[len(data) // 2] ^= 1
    (run / LOG).write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "status", "told"),
    [
        (altered, 2, "it has been altered: its digest differs; resume it first"),
        (lost, 2, "it is missing; resume it first"),
        (unfinished, 2, "only of a COMPLETED run"),
        (corrupt, 4, "corrupt at byte"),
    ],
)
def test_images_of_a_run_that_needs_them_are_not_removed(
    run: Path, harm: Callable[[Path], None], status: int, told: str
) -> None:
    """Of none of the runs that are named, if one of them is not finished and sound."""
    folder = run.parent.parent
    harm(run)
    last = sorted(run_folders(run.parent))[-1]
    before = [images(one) for one in run_folders(run.parent)]
    done = stagewright("rm", last.name, "--keep-last-stage", "--yes", folder=folder)
    assert (done.returncode, told in done.stderr) == (status, True), done.stderr
    assert [images(one) for one in run_folders(run.parent)] == before


def test_an_image_whose_source_was_removed_is_not_made_again(run: Path) -> None:
    """``verify`` reports it as lost, and a resume says what to do."""
    folder = run.parent.parent
    stagewright("rm", "last", "--keep-last-stage", "--yes", folder=folder)
    next(run.glob("images/03-*/00001*")).unlink()
    told = "image 2 of 03-adetailer is missing or altered, and what it was made from was removed"
    done = stagewright("verify", "last", folder=folder)
    assert (done.returncode, told in done.stdout) == (4, True)
    done = stagewright("resume", "last", folder=folder)
    assert (done.returncode, told in done.stderr) == (1, True)


def test_a_file_in_the_place_of_a_removed_one_stays(run: Path) -> None:
    """Somebody has put it there since; only what was recorded is removed."""
    folder = run.parent.parent
    place = next(run.glob("images/00-*/*"))
    stagewright("rm", "last", "--keep-last-stage", "--yes", folder=folder)
    place.write_bytes(b"somebody's work")
    assert stagewright("rm", "last", "--keep-last-stage", "--yes", folder=folder).returncode == 0
    assert place.read_bytes() == b"somebody's work"


def test_a_salvage_does_not_bring_removed_images_back(run: Path) -> None:
    """The new run knows that they were removed, and has its last stage."""
    stagewright("rm", "last", "--keep-last-stage", "--yes", folder=run.parent.parent)
    data = (run / LOG).read_bytes()
    (run / LOG).write_bytes(data.replace(b'"trigger":"start"', b'"trigger":"stars"', 1))
    told = json.loads(stagewright("salvage", "last", "--json", folder=run.parent.parent).stdout)
    assert (told["images"], told["lost_files"]) == (8, [])
    new = run.parent / told["run_id"]
    assert resumed(new).state == RunState.COMPLETED
    assert images(new) == [(STAGE_IDS[-1], 0), (STAGE_IDS[-1], 1)]


EARLIER_IMAGES = "remove 6 images of earlier stages of 1 run"


@pytest.mark.parametrize(
    ("words", "question"),
    [
        (("rm",), "remove the whole of 1 run"),
        (("rm", "--keep-last-stage"), EARLIER_IMAGES),
        (("archive",), "archive 1 run"),
        (("archive", "--keep-last-stage"), f"archive 1 run, and {EARLIER_IMAGES}"),
    ],
)
def test_nothing_happens_without_a_confirmation(
    run: Path, words: tuple[str, ...], question: str
) -> None:
    """The sizes are shown, and a line says what is lacking; a run that is worked on is refused."""
    folder = run.parent.parent
    before = images(run)
    done = stagewright(*words, "last", folder=folder)
    assert done.returncode == 2
    assert f"{run.name}  test, COMPLETED: " in done.stdout
    assert f"not confirmed: {question}, " in done.stderr
    assert "--yes does it without asking" in done.stderr
    lock = FileLock(run)
    try:
        done = stagewright(*words, "last", "--yes", folder=folder)
    finally:
        lock.release()
    assert (done.returncode, "another process works on this run" in done.stderr) == (2, True)
    assert images(run) == before


@pytest.mark.posix
@pytest.mark.parametrize(
    ("answer", "status", "signal"),
    [("n\r", 2, None), ("y\r", 0, None), ("\x04", 2, None), ("\x03", None, 2)],
)
def test_a_terminal_is_asked(
    run: Path, answer: str, status: int | None, signal: int | None
) -> None:
    """Only a yes removes the run; Ctrl-D is a no, and Ctrl-C ends the command."""
    command = pexpect.spawn(str(SCRIPT), ["rm", "last"], cwd=str(run.parent.parent), timeout=30)
    command.expect("Remove the whole of 1 run, [0-9.]+ KB\\? ")
    command.send(answer)
    command.expect(pexpect.EOF)
    command.close()
    assert run.exists() == (status != 0)
    assert (command.exitstatus, command.signalstatus) == (status, signal)


def test_an_event_names_only_images_of_stages() -> None:
    """A foreign log that says its own file was removed says nothing."""
    from stagewright.events.folds import Fold

    from .samples import one_of_each

    fold = Fold()
    events = one_of_each("run")
    fold.apply_all(events[:5])
    wrong = Artifact(
        path="events.jsonl", image_index=0, sha256="", source_sha256="", bytes=1,
        media_type="image/png", width=8, height=8, seed=1,
    )  # fmt: skip
    at = {"run_id": "run", "seq": 5, "ts": events[0].ts}
    fold.apply(ImagesRemoved(**at, artifacts=(wrong,), reason=""))  # type: ignore[arg-type]  # from a table
    assert fold.stages["00-txt2img"].removed == set()
