"""Disks that are full, limited, broken or read-only, and odd names: told, survived, resumed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from stagewright.events import RunState, replay

from .command_line import SCRIPT, stagewright, write_config
from .real_disks import (
    FEW,
    Done,
    MountSpace,
    assert_ends_the_same,
    assert_one_clear_line,
    mount_space,
    only_run,
    sources,
    undisturbed,
)
from .tools import needs_strace

NO_SPACE = "No space left on device"
RECORD = "could not be written"

pytestmark = pytest.mark.linux


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The images of FEW when nothing goes wrong."""
    return undisturbed(tmp_path_factory.mktemp("images"), FEW)


@pytest.fixture
def space() -> Iterator[MountSpace]:
    with mount_space() as mounts:
        yield mounts


def under(prefix: list[str], *arguments: str | Path, folder: Path) -> Done:
    """Run one command of ours under another program."""
    return subprocess.run(
        [*prefix, str(SCRIPT), *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def fill_the_disk(space: MountSpace, config: Path, disk: Path, size_kib: int) -> tuple[Done, Path]:
    """Run FEW on a disk of so many KiB."""
    space.mount("-t", "tmpfs", "-o", f"size={size_kib}k", "none", disk)
    done = space.stagewright("run", config, "--runs", disk / "runs")
    return done, only_run(space.seen(disk / "runs"))


def test_a_full_disk_in_an_image_or_a_record_ends_the_run_which_resumes_once_there_is_room(
    space: MountSpace, tmp_path: Path, images: list[str]
) -> None:
    """Every size of the disk, page by page: a clear line, a sound log, then the same images."""
    config = write_config(tmp_path, FEW)
    in_an_image = in_a_record = 0
    for size_kib in range(8, 32, 4):
        disk = tmp_path / f"disk-{size_kib}"
        disk.mkdir()
        done, run = fill_the_disk(space, config, disk, size_kib)
        assert_one_clear_line(done, run.name)
        in_an_image += "image cannot be written" in done.stderr and NO_SPACE in done.stderr
        if RECORD in done.stderr:
            in_a_record += 1
            assert "the disk is full" in done.stderr or NO_SPACE in done.stderr
        checked = stagewright("verify", run, folder=tmp_path)
        assert checked.returncode in (0, 1), checked.stdout
        kept = sources(run)
        assert kept == images[: len(kept)]
        space.mount("-o", "remount,size=8m", disk)
        resumed = space.stagewright("resume", "last", "--runs", disk / "runs")
        assert_ends_the_same(run, images, resumed)
    assert in_an_image
    assert in_a_record


def test_a_resume_on_a_disk_that_is_still_full_loses_nothing_and_says_why(
    space: MountSpace, tmp_path: Path, images: list[str]
) -> None:
    """However often it is tried, the true cause is told, and the images come once there is room."""
    config = write_config(tmp_path, FEW)
    disk = tmp_path / "disk"
    disk.mkdir()
    _, run = fill_the_disk(space, config, disk, 16)
    kept = sources(run)
    said = []
    for _ in range(4):
        again = space.stagewright("resume", "last", "--runs", disk / "runs")
        assert_one_clear_line(again, run.name)
        said.append(again.stderr)
        assert sources(run) == kept
    space.mount("-o", "remount,size=8m", disk)
    resumed = space.stagewright("resume", "last", "--runs", disk / "runs", "--force")
    assert_ends_the_same(run, images, resumed)
    causes = (NO_SPACE, "bytes were taken")
    assert [line for line in said if not any(cause in line for cause in causes)] == []


def test_a_disk_too_small_for_a_run_leaves_none(space: MountSpace, tmp_path: Path) -> None:
    """Where not even the first record fits, the folder of runs stays empty."""
    config = write_config(tmp_path, FEW)
    disk = tmp_path / "disk"
    disk.mkdir()
    space.mount("-t", "tmpfs", "-o", "size=4k", "none", disk)
    done = space.stagewright("run", config, "--runs", disk / "runs")
    assert_one_clear_line(done, str(disk), NO_SPACE)
    assert list(space.seen(disk / "runs").iterdir()) == []


@pytest.mark.parametrize(
    ("limit", "hit"),
    [
        (1500, "events.jsonl"),
        (3000, "events.jsonl"),
        (5000, "00000-42.png"),
        (6780, "00001-43.png"),
    ],
)
def test_a_limit_on_the_size_of_files_ends_the_run_which_resumes_without_it(
    tmp_path: Path, images: list[str], limit: int, hit: str
) -> None:
    """It hits the log or an image: exit 1 naming the file, and the rest is made without it."""
    config = write_config(tmp_path, FEW)
    done = under(["prlimit", f"--fsize={limit}"], "run", config, folder=tmp_path)
    run = only_run(tmp_path / "runs")
    assert_one_clear_line(done, run.name, hit)
    assert stagewright("verify", run, folder=tmp_path).returncode in (0, 1)
    assert_ends_the_same(run, images, stagewright("resume", "last", folder=tmp_path))


def broken(call: str, when: str, error: str = "EIO") -> list[str]:
    """A system whose ``call`` fails; each thread counts its own calls."""
    trace = ["-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={when}"]
    return ["strace", "-f", "-qq", "-o", os.devnull, *trace]


@needs_strace
@pytest.mark.sampled(2)
@pytest.mark.parametrize("when", [1, 2, 3, 4])
def test_a_record_that_cannot_be_synced_ends_the_run_which_resumes_on_a_sound_disk(
    tmp_path: Path, images: list[str], when: int
) -> None:
    """EIO at the start, at the first image, between two images: nothing more is written after."""
    config = write_config(tmp_path, FEW)
    done = under(broken("fdatasync", str(when)), "run", config, folder=tmp_path)
    run = only_run(tmp_path / "runs")
    assert_one_clear_line(done, str(Path("runs") / run.name), "Input/output error")
    assert replay(run).state is RunState.RUNNING
    assert stagewright("verify", run, folder=tmp_path).returncode == 1
    assert_ends_the_same(run, images, stagewright("resume", "last", folder=tmp_path))


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """A run that failed before its first image."""
    runs = tmp_path / "runs"
    config = write_config(tmp_path, FEW)
    done = under(["prlimit", "--fsize=5000"], "run", config, folder=tmp_path)
    assert done.returncode == 1, done.stderr
    return only_run(runs)


@needs_strace
@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("call", "when"),
    [("fsync", 1), ("fsync", 2), ("fsync", 3), *(("fdatasync", when) for when in range(1, 5))],
)
def test_a_resume_whose_syncs_fail_can_be_resumed(
    interrupted: Path, images: list[str], call: str, when: int
) -> None:
    """EIO at an image, at its folder, at each record of the new epoch."""
    folder = interrupted.parents[1]
    done = under(broken(call, str(when)), "resume", "last", folder=folder)
    assert_one_clear_line(done, interrupted.name, "Input/output error")
    assert stagewright("verify", interrupted, folder=folder).returncode in (0, 1)
    assert_ends_the_same(interrupted, images, stagewright("resume", "last", folder=folder))


@needs_strace
@pytest.mark.parametrize("when", [1, 2, 3])
def test_a_run_that_cannot_be_made_leaves_no_folder(tmp_path: Path, when: int) -> None:
    """EIO while the run's folder and first record are made: exit 1, and nothing is left of it."""
    config = write_config(tmp_path, FEW)
    (tmp_path / "runs").mkdir()
    done = under(broken("fsync", str(when)), "run", config, folder=tmp_path)
    assert_one_clear_line(done, str(Path("runs")), "cannot be made", "Input/output error")
    assert [path.name for path in (tmp_path / "runs").iterdir() if path.is_dir()] == []


@needs_strace
def test_calls_that_are_interrupted_are_made_again(tmp_path: Path, images: list[str]) -> None:
    """EINTR at every second write and sync: the run completes as if nothing had been."""
    config = write_config(tmp_path, FEW)
    prefix = broken("fsync,fdatasync,write", "1+2", "EINTR")
    done = under(prefix, "run", config, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sources(only_run(tmp_path / "runs")) == images


def test_a_folder_of_runs_that_is_read_only_is_told_and_can_still_be_read(
    space: MountSpace, interrupted: Path, images: list[str]
) -> None:
    """`run` and `resume` exit 1 naming the folder; `verify`, `list` and `replay` work as ever."""
    runs = interrupted.parent
    config = runs.parent / "small.toml"
    space.mount("--bind", runs, runs)
    space.mount("-o", "remount,ro,bind", runs)
    before = (interrupted / "events.jsonl").read_bytes()
    for command in (["run", str(config)], ["resume", "last"], ["resume", "--all"]):
        done = space.stagewright(*command, "--runs", runs)
        last = done.stderr.splitlines(keepends=True)[-1:]
        assert len(last) == 1, done.stdout
        assert_one_clear_line(done, str(runs), "Read-only file system")
    for command in (["list"], ["replay", "last"], ["verify", "last"], ["show", "last"]):
        done = space.stagewright(*command, "--runs", runs)
        assert done.returncode == 0, (command, done.stderr)
        assert done.stderr == ""
    assert (interrupted / "events.jsonl").read_bytes() == before
    resumed = stagewright("resume", "last", folder=runs.parent)
    assert_ends_the_same(interrupted, images, resumed)


ODD_FOLDERS = [
    'two words/it\'s "quoted" `here` $HOME/ünïcödé/🦊🗻',
    "new\nline/tab\tand \x1b[31mred/*",
    "-dash",
    "x" * 255,
    os.fsdecode(b"no utf-8 \xff"),
    "last",
]


@pytest.mark.parametrize("name", ODD_FOLDERS, ids=range(len(ODD_FOLDERS)))
def test_runs_live_in_folders_with_odd_names(tmp_path: Path, images: list[str], name: str) -> None:
    """A run there fails, is listed and resumed by its folder, as anywhere else."""
    config = write_config(tmp_path, FEW)
    home = tmp_path / name
    home.mkdir(parents=True)
    done = under(["prlimit", "--fsize=5000"], "run", config, "--runs", f"{name}/r", folder=tmp_path)
    assert_one_clear_line(done, "File too large")
    assert "\x1b" not in done.stdout + done.stderr
    run = only_run(home / "r")
    listed = stagewright("list", "--runs", f"./{name}/r", folder=tmp_path)
    assert run.name[-6:] in listed.stdout
    assert listed.stderr == ""
    assert_ends_the_same(run, images, stagewright("resume", run, folder=tmp_path))


def test_a_folder_name_that_is_too_long_is_told(tmp_path: Path) -> None:
    """Exit 1, or 2 where it was only looked up, in one line; nothing is made."""
    config = write_config(tmp_path, FEW)
    for runs in (tmp_path / ("x" * 256), tmp_path / "/".join(["y" * 200] * 25)):
        for command in (["run", str(config)], ["resume", "last"], ["verify", "last"], ["list"]):
            done = stagewright(*command, "--runs", runs, folder=tmp_path)
            assert_one_clear_line(done, "File name too long")
    assert [path.name for path in tmp_path.iterdir()] == ["small.toml"]


def test_a_run_may_have_any_name(tmp_path: Path) -> None:
    """A name is a label: it never leaves the folder of runs, and never steers the terminal."""
    config = write_config(tmp_path, FEW)
    for name in ("x" * 10_000, "🦊\n'\"`", "../../up", "--help", "\u202e\x1b[31m"):
        done = stagewright("run", config, "--set", f"name={name}", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout + done.stderr
        assert "\u202e" not in done.stdout + done.stderr
    assert len(list((tmp_path / "runs").glob("*/events.jsonl"))) == 5
    assert stagewright("verify", "--all", folder=tmp_path).returncode == 0


ODD_RUNS = [
    "../x",
    "..",
    "",
    "a/b",
    "*",
    "last/..",
    "--",
    "new\nline",
    os.fsdecode(b"\xff"),
    "x" * 5000,
]


def test_a_run_that_is_no_run_is_refused(tmp_path: Path) -> None:
    """Exit 2 and one line that names what was given, whatever stands beside the runs."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "events.jsonl").write_bytes(b"")
    (tmp_path / "runs").mkdir()
    for name in ODD_RUNS:
        done = stagewright("resume", "--runs", "runs", "--", name, folder=tmp_path)
        assert_one_clear_line(done, "there is no run", status=2)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == []
