"""The guide: what it shows are parts of programs that run, and they are run here."""

from __future__ import annotations

import ast
import inspect
import os
import re
import sys
import textwrap
from pathlib import Path
from subprocess import PIPE, STDOUT, CompletedProcess, run
from types import ModuleType
from typing import NamedTuple

import pytest
from stagewright.events import (
    CallCompleted,
    CallFailed,
    EventRecorder,
    RecordedEvents,
    StepProgress,
    subscribe,
)
from stagewright.statemachine import PipelineController

from .command_line import Start, stagewright, until, write_config
from .support import controller, document
from .test_docs import load

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
GUIDE = ROOT / "docs" / "guide.md"


class Block(NamedTuple):
    """A fenced block of Python: what stands behind ``python``, and the program."""

    said: str
    code: str


def blocks() -> list[Block]:
    """The guide's Python, in order."""
    text = GUIDE.read_text(encoding="utf-8")
    return [Block(*found) for found in re.findall(r"```python ?(.*?)\n(.*?)```", text, re.DOTALL)]


def words_of(title: str) -> str:
    """A section of the guide without its programs."""
    section = GUIDE.read_text(encoding="utf-8").split(f"\n## {title}")[1].split("\n## ")[0]
    return re.sub(r"```.*?```", "", section, flags=re.DOTALL)


def python(*arguments: str | Path, folder: Path) -> CompletedProcess[str]:
    """Run a program with warnings as errors, as its reader does, without our pytest options."""
    strict = [sys.executable, "-W", "error", *map(str, arguments)]
    env = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    return run(
        strict, cwd=folder, env=env, stdout=PIPE, stderr=STDOUT, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block.said or "fragment")
def test_what_the_guide_shows_is_what_runs(block: Block, tmp_path: Path) -> None:
    """A block is part of the example that it names, or is a program by itself, or parses."""
    if block.said.startswith("examples/"):
        program = (ROOT / block.said).read_text(encoding="utf-8")
        assert block.code.strip("\n") in program
    elif block.said == "run":
        (tmp_path / "program.py").write_text(block.code, encoding="utf-8")
        done = python("program.py", folder=tmp_path)
        assert done.returncode == 0, done.stdout
        assert "LifecycleChanged" in done.stdout or "-> COMPLETED" in done.stdout
    else:
        ast.parse(textwrap.dedent(block.code))


def test_the_guide_shows_every_example_and_both_ways_into_a_loop() -> None:
    """Each program that it links to is there; asyncio's way is run, Qt's is shown."""
    text = GUIDE.read_text(encoding="utf-8")
    programs = {f"examples/{path.name}" for path in EXAMPLES.glob("[a-z]*.py")}
    assert programs == set(re.findall(r"\(\.\./(examples/\w+\.py)\)", text))
    assert programs <= {block.said for block in blocks()}
    assert any(block.said == "run" and "call_soon_threadsafe" in block.code for block in blocks())
    assert any("QObject" in block.code for block in blocks())


def test_the_guide_tells_everything_of_subscribing() -> None:
    """Every argument, and every public name of the handle, stands in its section."""
    section = words_of("Subscribing")
    told = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", section))))
    assert set(inspect.signature(subscribe).parameters) <= told
    assert {"close", "dropped", "faults", "error"} <= told


def test_the_guide_tells_every_view_and_assertion_of_a_recorder() -> None:
    """What an author can ask a recorder is in the table of its section."""
    section = words_of("A recorder")
    public = {name for name in dir(EventRecorder) if not name.startswith("_")}
    assert {name for name in public if f"`{name}" not in section} <= {"run_ids"}


def test_an_author_s_tests_pass(tmp_path: Path) -> None:
    """The recorder's example is a test file that pytest collects when it is named."""
    done = python(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest",
        "-p", "no:benchmark", f"--basetemp={tmp_path / 'kept'}", f"--rootdir={EXAMPLES}",
        EXAMPLES / "testing_my_program.py", folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout


def test_a_run_is_watched_in_every_way(tmp_path: Path) -> None:
    """Worker, publisher, loop and steps each hear what they asked for, on their own thread."""
    done = python(EXAMPLES / "watch_run.py", folder=tmp_path)
    assert done.returncode == 0, done.stdout
    heard = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert {(way, thread) for way, thread, _ in heard} == {
        ("worker", "stagewright-subscription"),
        ("publisher", "stagewright-dispatcher"),
        ("loop", "MainThread"),
        ("steps", "stagewright-subscription"),
        ("late", "MainThread"),
    }
    assert [what for way, _, what in heard if way == "loop"] == ["RUNNING -> COMPLETED"]
    assert "12 of 12 events" in heard[-1][2]


def test_a_run_of_another_process_is_followed_to_its_end(tmp_path: Path, start: Start) -> None:
    """The example prints each image as it comes, and ends when the run does."""
    config = write_config(tmp_path)
    server = start(
        "serve-embedded",
        "--port=0",
        "--step-delay=0.1",
        "--model=base.safetensors",
        folder=tmp_path,
    )
    assert server.stdout is not None
    url = re.search(r"http://\S+", server.stdout.readline())
    assert url is not None
    running = start("run", config, f"--server={url[0]}", folder=tmp_path)
    until(lambda: any(tmp_path.glob("runs/*/events.jsonl")), "the run begins")
    (folder,) = [log.parent for log in tmp_path.glob("runs/*/events.jsonl")]
    followed = python(EXAMPLES / "watch_run.py", folder, folder=tmp_path)
    assert running.wait(60) == 0
    assert followed.returncode == 0, followed.stdout
    lines = followed.stdout.splitlines()
    assert lines[0] == "#1 IDLE -> RUNNING"
    assert [line for line in lines if ": image " in line] == [
        f"#5 00-txt2img: image 1, {folder}/images/00-txt2img/00000-42.png",
        f"#8 00-txt2img: image 2, {folder}/images/00-txt2img/00001-43.png",
    ]
    assert lines[-1] == "#10 RUNNING -> COMPLETED"


def test_what_runs_have_taught_is_printed(tmp_path: Path) -> None:
    """One line for each of the settings, with the images and the time that each took."""
    config = write_config(tmp_path)
    for steps in ("4", "4", "6"):
        assert stagewright("run", config, f"--set=txt2img.steps={steps}", folder=tmp_path)
    done = python(EXAMPLES / "learn_from_runs.py", folder=tmp_path)
    assert done.returncode == 0, done.stdout
    table = [line.split() for line in done.stdout.splitlines()[1:]]
    assert [row[:2] + row[4:6] for row in table] == [
        ["txt2img", "base.safetensors", "4", "4"],
        ["txt2img", "base.safetensors", "6", "2"],
    ]
    assert all(float(row[6]) > 0 and row[7:] == ["0", "of", row[5]] for row in table)


@pytest.fixture(scope="module")
def own_backend() -> ModuleType:
    """The example's module."""
    module: ModuleType = load(EXAMPLES / "own_backend.py")
    return module


def painted(own_backend: ModuleType, runs: Path, **slowness: float) -> PipelineController:
    return controller(runs, own_backend.PainterBackend(**slowness))


def test_a_backend_of_one_s_own_runs(tmp_path: Path) -> None:
    """The program ends in COMPLETED and prints two pictures that are there."""
    done = python(EXAMPLES / "own_backend.py", folder=tmp_path)
    assert done.returncode == 0, done.stdout
    state, *pictures = done.stdout.splitlines()
    assert state == "COMPLETED"
    assert [Path(tmp_path, picture).is_file() for picture in pictures] == [True, True]


def test_a_backend_of_one_s_own_gives_the_same_again(
    own_backend: ModuleType, tmp_path: Path
) -> None:
    """Seeds count on through a batch, and a second run gives the same files."""
    config = document(images=3)
    config["txt2img"]["batch_size"] = 2
    digests = [
        [
            image.source_sha256
            for image in painted(own_backend, tmp_path).start(config).wait(60).images
        ]
        for _ in range(2)
    ]
    assert digests[0] == digests[1]
    assert len(set(digests[0])) == 3


def test_a_backend_of_one_s_own_tells_its_steps_and_stops(
    own_backend: ModuleType, tmp_path: Path
) -> None:
    """A cancel in the middle of a picture ends the run, and nothing is painted any more."""
    painter = painted(own_backend, tmp_path, step_s=0.05)
    config = document()
    config["txt2img"]["steps"] = 10_000

    def stop(progress: StepProgress) -> None:
        if progress.step > 1 and painter.current_run_id is not None:
            painter.cancel(painter.current_run_id)

    with subscribe(lambda _event: None, on_step=stop, on="publisher"):
        handle = painter.start(config)
        result = handle.wait(30)
    recorded = RecordedEvents(result.events)
    recorded.assert_lifecycle("IDLE", "RUNNING", "CANCELLED")
    (failed,) = recorded.of_type(CallFailed)
    assert (failed.error.kind, failed.settled) == ("GenerationCancelled", True)


def test_a_backend_of_one_s_own_settles_what_it_gave_up(
    own_backend: ModuleType, tmp_path: Path
) -> None:
    """A request that takes too long is tried again, once the first attempt is out of the way."""
    painter = painted(own_backend, tmp_path, step_s=0.02, patience_s=0.1)
    config = document(server={"retries": 2, "backoff_s": 0.01})
    config["txt2img"]["steps"] = 1000
    result = painter.start(config).wait(30)
    recorded = RecordedEvents(result.events)
    failures = recorded.of_type(CallFailed)
    assert [one.will_retry for one in failures] == [True, True, False]
    assert result.error is not None
    assert result.error.message == "the painter needs more than 0.1 s"
    config["txt2img"]["steps"] = 1
    assert RecordedEvents(painter.start(config).wait(30).events).of_type(CallCompleted)


def test_a_backend_of_one_s_own_refuses_what_it_cannot_do(
    own_backend: ModuleType, tmp_path: Path
) -> None:
    """Not transient: the stage is named, and not tried twice."""
    result = painted(own_backend, tmp_path).start(document("txt2img", "adetailer")).wait(30)
    (failed,) = RecordedEvents(result.events).of_type(CallFailed)
    assert failed.error.message == "the painter cannot do adetailer"
    assert failed.will_retry is False
