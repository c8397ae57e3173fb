"""What commands tell: how a run goes on, what a resume would do, how far all runs are."""

from __future__ import annotations

import importlib.util
import json
import os
import py_compile
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stagewright.adapters import open_controller
from stagewright.adapters.cli.commands import schema
from stagewright.events import CallCompleted, CallRequested, RunState, StageEnd, iterate, replay
from stagewright.events.log.lock import FileLock

from .command_line import SCRIPT, Start, run_python, stagewright, until, write_config
from .log_format import flip, split_lines
from .resuming import LOG, copied, cut, cut_before, files, image_file, made, painter, ran, small
from .support import png

TWO = small("txt2img", "img2img")
ODD = """
import sys
from stagewright.__main__ import main

def watch(event, arguments):
    if event == "open" and str(arguments[0]).endswith(odd + "/events.jsonl"):
        raise RuntimeError("how odd")

odd = sys.argv.pop(1)
sys.addaudithook(watch)
main()
"""


def died(runs: Path, config: dict[str, Any] = TWO) -> Path:
    """A run whose process died while its second image was being made."""
    return made(runs, config, dead=True)


def tired(runs: Path) -> Path:
    """A run that five processes in a row sent a request for, without an image."""
    folder = made(runs, small(images=1))
    for nth in range(5):
        requests = [one for one in iterate(folder) if isinstance(one, CallRequested)]
        cut(folder, requests[-1].seq + 1)
        if nth < 4:
            open_controller(runs).resume(folder.name).wait(30)
    return folder


def pasted(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A printed command, run by a shell."""
    path = f"{SCRIPT.parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["/bin/sh", "-c", line], cwd=folder, env={**os.environ, "PATH": path},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def commands_in(text: str) -> list[str]:
    """Every ``stagewright resume`` that is printed, up to the end of its line."""
    return re.findall(r"stagewright resume .*", text)


@pytest.mark.parametrize(
    ("runs", "command", "dead"),
    [("runs", "show", 1), ("it's mine", "replay", 1), ("runs", "run", 1), ("it's mine", "run", 2)],
)
def test_a_printed_resume_works_when_it_is_pasted(
    tmp_path: Path, runs: str, command: str, dead: int
) -> None:
    """Of one run or of all, whatever their folder is called, the default one or another."""
    folders = [died(tmp_path / runs) for _ in range(dead)]
    named = write_config(tmp_path) if command == "run" else "last"
    shown = stagewright(command, named, "--runs", runs, folder=tmp_path)
    (line,) = commands_in(shown.stdout + shown.stderr)
    assert ("--all" in line) == (dead > 1)
    assert pasted(line, tmp_path).returncode == 0
    assert {replay(folder).state for folder in folders} == {RunState.COMPLETED}


def test_list_names_another_folder_of_runs(tmp_path: Path) -> None:
    """In both commands that it offers."""
    died(tmp_path / "its own")
    shown = stagewright("list", "--runs", "its own", folder=tmp_path).stdout
    assert "stagewright resume RUN --runs 'its own', or resume --all --runs 'its own'" in shown


def test_a_run_is_found_by_the_path_of_its_log(tmp_path: Path) -> None:
    """From elsewhere and from within its folder."""
    folder = made(tmp_path / "runs", TWO)
    for name, where in ((f"runs/{folder.name}/{LOG}", tmp_path), (LOG, folder)):
        done = stagewright("replay", name, "--json", folder=where)
        assert json.loads(done.stdout)["run_id"] == folder.name


@pytest.mark.parametrize(("runs", "end"), [(4, "Z-3"), (5, "Z-3, and 1 more"), (9, ", and 5 more")])
def test_a_prefix_that_fits_many_runs_says_how_many_are_not_named(
    tmp_path: Path, runs: int, end: str
) -> None:
    """Four are named."""
    for nth in range(runs):
        (tmp_path / "runs" / f"Z-{nth}").mkdir(parents=True)
        (tmp_path / "runs" / f"Z-{nth}" / LOG).touch()
    done = stagewright("replay", "Z", folder=tmp_path)
    assert done.returncode == 2
    assert f"fits {runs} runs in runs: Z-0, Z-1, Z-2, Z-3" in done.stderr
    assert done.stderr.rstrip().endswith(end)


def test_all_tells_of_every_run_and_counts_them(tmp_path: Path) -> None:
    """One line before each, one at the end; a refusal and a corrupt log name their runs."""
    runs = tmp_path / "runs"
    folders = [died(runs), tired(runs), made(runs, TWO), died(runs)]
    flip(folders[2] / LOG, -100)
    done = stagewright("resume", "--all", folder=tmp_path)
    assert done.returncode == 4
    lines = done.stderr.splitlines()
    told = [line for line in lines if re.match(r"run \d of ", line)]
    assert told == [f"run {nth} of 4: {one.name}" for nth, one in enumerate(folders, start=1)]
    assert lines[-1] == "2 completed, 1 refused, 1 corrupt"
    errors = [line for line in lines if line.startswith("stagewright: ")]
    for line, folder in zip(errors, folders[1:3], strict=True):
        assert folder.name in line


def test_all_with_json_tells_the_same_on_standard_error(tmp_path: Path) -> None:
    """Standard output is one list of the runs that were resumed."""
    runs = tmp_path / "runs"
    folders = [died(runs), tired(runs)]
    done = stagewright("resume", "--all", "--json", folder=tmp_path)
    assert [one["run_id"] for one in json.loads(done.stdout)] == [folders[0].name]
    assert f"run 2 of 2: {folders[1].name}" in done.stderr.splitlines()
    assert done.stderr.splitlines()[-1] == "1 completed, 1 refused"


def test_a_refusal_that_does_not_name_its_run_is_given_its_name(tmp_path: Path) -> None:
    """Of a backend that is not at hand, for one."""
    folder = ran(tmp_path / "runs", small(), painter())
    cut_before(folder, CallCompleted)
    done = stagewright("resume", "--all", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[1].startswith(f"stagewright: {folder.name}: ")


def test_all_passes_over_a_run_that_another_process_holds(tmp_path: Path) -> None:
    """It is told in one line with its holder, and does not change the exit status."""
    runs = tmp_path / "runs"
    held, other = died(runs), died(runs)
    lock = FileLock(held)
    try:
        done = stagewright("resume", "--all", folder=tmp_path)
    finally:
        lock.release()
    assert done.returncode == 0
    assert f"{held.name}: another process is running it (process {os.getpid()} on" in done.stderr
    assert done.stderr.splitlines()[-1] == "1 completed, 1 held by another process"
    assert replay(held).state is RunState.RUNNING
    assert replay(other).state is RunState.COMPLETED


@pytest.mark.parametrize("variables", [{}, {"STAGEWRIGHT_TRACEBACK": "1"}], ids=["", "traceback"])
def test_what_nobody_expected_of_one_run_keeps_no_other_from_going_on(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    """Python itself raises where its log is opened; the next run is resumed all the same."""
    odd, other = died(tmp_path / "runs"), died(tmp_path / "runs")
    stagewright("list", folder=tmp_path)  # so that the catalogue need not read the log again
    environment = {**os.environ, **variables}
    done = run_python("-c", ODD, odd.name, "resume", "--all", folder=tmp_path, env=environment)
    assert done.returncode == 1
    assert replay(other).state is RunState.COMPLETED
    assert done.stderr.splitlines()[-1] == "1 completed, 1 failed"
    assert f"{odd.name}: internal error" in done.stderr
    assert ("Traceback" in done.stderr) == bool(variables)


def test_all_that_is_stopped_says_how_many_were_not_tried(start: Start, tmp_path: Path) -> None:
    """It dies by SIGINT; the run after it is as it was."""
    runs = tmp_path / "runs"
    first, second = died(runs, small(images=120)), died(runs)
    before = files(second)
    process = start("resume", "--all", folder=tmp_path)
    told = b'"StageImageProgress"'
    until(lambda: (first / LOG).read_bytes().count(told) > 2, "more images")
    process.send_signal(signal.SIGINT)
    _, told_last = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT
    assert told_last.splitlines()[-1] == "1 cancelled, 1 not tried"
    assert files(second) == before


@pytest.mark.parametrize("left_out", [0, 1])
def test_a_complete_run_is_said_to_be_so(tmp_path: Path, left_out: int) -> None:
    """In one line on standard error; and that a seal was all it lacked."""
    folder = made(tmp_path / "runs", TWO)
    cut(folder, len(split_lines((folder / LOG).read_bytes())) - left_out)
    words = "its log has been sealed" if left_out else "nothing to do"
    done = stagewright("resume", "last", folder=tmp_path)
    assert done.stderr == f"{folder.name}: already complete; {words}\n"
    told = stagewright("resume", "last", "--json", folder=tmp_path)
    assert json.loads(told.stdout)["run_id"] == folder.name
    assert told.stderr == f"{folder.name}: already complete; nothing to do\n"
    assert stagewright("verify", "last", folder=tmp_path).returncode == 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed run of two stages and two images from one input."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "given.png").write_bytes(png(1))
    config = small("img2img", "upscale", input_image=str(folder / "given.png"))
    return made(folder / "runs", config)


def lose(folder: Path, *places: tuple[str, int], cut_at: int | None = None) -> None:
    """Remove the files of these images, of a run that died before its nth request."""
    if cut_at is not None:
        cut_before(folder, CallRequested, cut_at)
    for stage_id, index in places:
        image_file(folder, stage_id, index).unlink()


@pytest.mark.parametrize(
    ("harm", "finished", "words"),
    [
        (lambda one: cut_before(one, CallRequested, 0), 0, "make 4 images"),
        (lambda one: cut_before(one, CallRequested, 1), 1, "make 3 images"),
        (lambda one: cut_before(one, CallRequested, 3), 3, "make 1 image"),
        (lambda one: lose(one, ("01-upscale", 1)), 4, "make 1 image again"),
        (lambda one: lose(one, ("00-img2img", 0), ("01-upscale", 1)), 4, "make 2 images again"),
        (lambda one: lose(one, ("00-img2img", 1), cut_at=3), 3, "make 2 images (1 again)"),
        (lambda one: cut(one, 1), 0, "make 4 images"),
        (lambda one: cut_before(one, StageEnd, 1), 4, "bring it to its end"),
    ],
)
def test_verify_counts_what_a_resume_then_makes(
    whole: Path, tmp_path: Path, harm: Callable[[Path], object], finished: int, words: str
) -> None:
    """Over all stages, with what is lost; and so many requests are sent."""
    folder = copied(whole, tmp_path / "runs")
    harm(folder)
    told = stagewright("verify", "last", folder=tmp_path).stdout
    assert f"{finished} of 4 images" in told
    assert re.search(rf"resume would .*{re.escape(words)}(,|$)", told.rstrip())
    assert stagewright("resume", "last", folder=tmp_path).returncode == 0
    requests = [one for one in iterate(folder) if isinstance(one, CallRequested) and one.epoch]
    assert [str(len(requests))] == (re.findall(r"make (\d)", words) or ["0"])
    assert "4 of 4 images" in stagewright("verify", "last", folder=tmp_path).stdout


@pytest.mark.parametrize(("requests", "status"), [(1, 4), (2, 0)])
def test_verify_promises_nothing_that_a_resume_refuses_for_an_input(
    whole: Path, tmp_path: Path, requests: int, status: int
) -> None:
    """An input that is gone matters where the stage that takes it is not finished."""
    folder = copied(whole, tmp_path / "runs")
    cut_before(folder, CallRequested, requests)
    copy = next((folder / "inputs").iterdir())
    copy.unlink()
    told = stagewright("verify", "last", folder=tmp_path).stdout
    refusal = (
        f"resume would refuse: {Path('runs', folder.name, 'inputs', copy.name)}: it is missing; "
        "images that are still to be made need it: put back the file that was recorded"
    )
    assert (refusal in told) == (status == 4)
    assert ("make 2 images" in told) == (status == 0)
    assert stagewright("resume", "last", folder=tmp_path).returncode == status


def test_verify_says_that_a_mask_is_needed(tmp_path: Path) -> None:
    """Altered, not missing; put back, the run goes on."""
    (tmp_path / "mask.png").write_bytes(png(2, mode="L"))
    config = small("txt2img", "img2img")
    config["img2img"] = {**config["img2img"], "mask": str(tmp_path / "mask.png")}
    folder = died(tmp_path / "runs", config)
    (copy,) = (folder / "inputs").iterdir()
    recorded = copy.read_bytes()
    copy.write_bytes(png(3, mode="L"))
    told = stagewright("verify", "last", folder=tmp_path).stdout
    place = Path("runs", folder.name, "inputs", copy.name)
    assert f"resume would refuse: {place}: it has been altered" in told
    assert "need it: put back the file that was recorded" in told
    assert stagewright("resume", "last", folder=tmp_path).returncode == 4
    copy.write_bytes(recorded)
    assert "make 3 images" in stagewright("verify", "last", folder=tmp_path).stdout
    assert stagewright("resume", "last", folder=tmp_path).returncode == 0


def test_verify_and_list_know_a_run_that_only_goes_on_with_force(tmp_path: Path) -> None:
    """And ``run`` names the command that works."""
    folder = tired(tmp_path / "runs")
    told = stagewright("verify", "last", folder=tmp_path).stdout
    assert "resume would refuse: 5 epochs in a row" in told
    assert "--force tries again" in told
    assert stagewright("resume", "last", folder=tmp_path).returncode == 1
    listed = stagewright("list", folder=tmp_path).stdout
    assert "1 run of these can be resumed only with --force" in listed
    shown = stagewright("run", write_config(tmp_path), folder=tmp_path).stderr
    (line,) = commands_in(shown)
    died(tmp_path / "runs")
    listed = stagewright("list", folder=tmp_path).stdout
    assert "1 run of these can be resumed; 1 more only with --force" in listed
    assert pasted(line, tmp_path).returncode == 0
    assert replay(folder).state is RunState.COMPLETED


def test_list_says_how_far_each_run_is(tmp_path: Path) -> None:
    """A quarter of all stage images, though none has been through the last stage."""
    runs = tmp_path / "runs"
    complete, dead = made(runs, TWO), died(runs)
    columns = ("--columns", "run_id,state,images,done")
    _, *rows = stagewright("list", *columns, folder=tmp_path).stdout.splitlines()
    assert rows[0].split() == ["*", dead.name, "DIED", "0/2", "25%"]
    assert rows[1].split() == [complete.name, "COMPLETED", "2/2", "100%"]
    entries = json.loads(stagewright("list", "--json", folder=tmp_path).stdout)
    told = [(one["images"], one["stage_images"], one["total_stage_images"]) for one in entries]
    assert told == [(0, 1, 4), (2, 4, 4)]


def test_list_can_be_narrowed_down_to_runs_that_died(tmp_path: Path) -> None:
    """Not those that run; the limit counts what is shown."""
    runs = tmp_path / "runs"
    dead, held, _ = died(runs), died(runs), made(runs, TWO)

    def listed(state: str) -> list[str]:
        arguments = ("list", "--state", state, "--limit", "1", "--json")
        done = stagewright(*arguments, folder=tmp_path)
        return [one["run_id"] for one in json.loads(done.stdout)]

    lock = FileLock(held)
    try:
        assert listed("died") == [dead.name]
        assert listed("running") == [held.name]
    finally:
        lock.release()
    assert listed("DIED") == [held.name]


@pytest.mark.parametrize("command", ["replay", "verify", "resume", "show", "cancel", "salvage"])
def test_help_says_how_a_run_is_named(tmp_path: Path, command: str) -> None:
    """In one sentence, with all ways."""
    told = " ".join(stagewright(command, "--help", folder=tmp_path).stdout.split())
    assert (
        "RUN is a run id, a unique prefix of one, its six digits, a name that only one run has, "
        "`last`, or the path of a run folder."
    ) in told


@pytest.mark.parametrize("command", ["report", "bundle"])
def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, command: str) -> None:
    """In the words of the system, without its number of the error."""
    made(tmp_path / "runs", small())
    done = stagewright(command, "last", "--output", "none/x", folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("stagewright: none")
    assert done.stderr.endswith(": No such file or directory\n")


def test_every_summary_in_the_list_of_commands_fits_its_line(tmp_path: Path) -> None:
    """None is cut, and none is longer than 80 columns; every command has one."""
    shown: list[str] = []
    lists = {(): "Make images:\n", ("queue",): "Commands:\n", ("farm",): "Commands:\n"}
    for names, heading in lists.items():
        _, _, listed = stagewright(*names, "--help", folder=tmp_path).stdout.partition(heading)
        shown += [line for line in listed.splitlines() if line and not line.endswith(":")]
    assert len(shown) == 29 + 12 + 4
    assert all(line.endswith(".") and not line.endswith("..") for line in shown)
    assert max(map(len, shown)) <= 80


def test_help_of_resume_lists_its_exit_statuses(tmp_path: Path) -> None:
    """Each on a line of its own."""
    lines = stagewright("resume", "--help", folder=tmp_path).stdout.splitlines()
    numbers = [line.split()[0] for line in lines if re.match(r" +\d  \w", line)]
    assert numbers == ["0", "1", "2", "3", "4"]


def test_replay_tells_how_many_images_a_resume_found_lost(tmp_path: Path) -> None:
    """Two of one stage and one of the other; of another resume nothing is said."""
    folder = made(tmp_path / "runs", small("txt2img", "img2img", images=3))
    lose(folder, ("00-txt2img", 0), ("00-txt2img", 2), ("01-img2img", 1))
    done = stagewright("resume", "last", folder=tmp_path)
    assert (done.returncode, "already complete" in done.stdout) == (0, False)
    cut_before(folder, CallRequested, 8)
    assert stagewright("resume", "last", folder=tmp_path).returncode == 0
    told = stagewright("replay", "last", folder=tmp_path).stdout
    first, second = (line for line in told.splitlines() if "RunResumed" in line)
    assert first.endswith("RunResumed: epoch 1, 3 images finished, 3 images lost")
    assert second.endswith("RunResumed: epoch 2, 5 images finished")


def test_a_compiled_module_that_is_cut_off_is_no_interruption(tmp_path: Path) -> None:
    """Python raises EOFError for it, which the command line's library takes for Ctrl-D."""
    source = Path(str(schema.__file__))
    name = Path(importlib.util.cache_from_source(str(source))).name
    place = tmp_path / source.parent.relative_to(source.anchor)
    compiled = py_compile.compile(str(source), str(place / name), doraise=True)
    Path(str(compiled)).write_bytes(Path(str(compiled)).read_bytes()[:40])
    env = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)}
    done = run_python("-B", "-m", "stagewright", "schema", env=env)
    assert done.returncode == 1
    assert "a compiled module of Python is cut off" in done.stderr
    assert "Traceback" not in done.stderr
    assert "interrupted" not in done.stderr
