"""The status bar for Tk, on a real display: looked at, and its button pressed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from stagewright.adapters import open_controller
from stagewright.adapters.webui_server import EmbeddedServer
from stagewright.events import (
    CancelRequested,
    Outcome,
    RunState,
    iterate,
    replay,
)
from stagewright.statemachine.groups.folder import find_group
from stagewright.statemachine.groups.result import replay_group

from .command_line import Start, until
from .group_runs import group_process
from .queueing import bare_job, sqlite_queue
from .resuming import small
from .screens import WindowProcess, status_window, virtual_display
from .support import TXT2IMG
from .tools import needs_display

EXAMPLE = Path(__file__).parent.parent / "examples" / "tk_app.py"
SLOW: dict[str, Any] = {**small("txt2img", "img2img", images=2), "name": "slow"}
SLOW["txt2img"] = {**TXT2IMG, "steps": 20}
SLOW["img2img"] = {**SLOW["img2img"], "steps": 20}


@pytest.fixture(scope="module", params=[pytest.param("Xvfb", marks=needs_display)])
def display() -> Iterator[str]:
    with virtual_display() as name:
        yield name


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    """A server on which ``SLOW`` takes about a second."""
    with EmbeddedServer([TXT2IMG["model"]], step_delay_s=0.012) as running:
        yield running


@pytest.fixture
def window(display: str, server: EmbeddedServer, tmp_path: Path) -> Iterator[WindowProcess]:
    with status_window(display, tmp_path / "runs", server.url) as opened:
        yield opened


def seen(window: WindowProcess, text: str, bar: int = 0) -> dict[str, Any]:
    """What is seen of a bar once one of its labels begins like this."""
    found: list[dict[str, Any]] = []

    def is_there() -> bool:
        found.append(window.look(bar))
        return any(label.startswith(text) for label in found[-1]["labels"])

    until(is_there, f"the window says {text!r}")
    return found[-1]


def runs_in(folder: Path) -> list[Path]:
    """The run folders in a folder of runs."""
    return [path for path in folder.iterdir() if path.is_dir() and path.name != "groups"]


def run_in(folder: Path) -> Path:
    """The only run folder in a folder of runs."""
    (run,) = runs_in(folder)
    return run


def group_state(runs: Path) -> RunState:
    """The state of the only group in a folder of runs."""
    return replay_group(find_group(runs, "last-group"), runs).state


def filled(picture: Image.Image, bar: tuple[int, int, int, int]) -> float:
    """How much of the bar is filled on the picture, 0 to 1: its first colour, in a middle row."""
    left, top, width, height = bar
    row = [picture.getpixel((left + x, top + height // 2)) for x in range(2, width - 2)]
    return row.count(row[2]) / len(row)


def test_a_run_is_seen_from_its_start_to_its_end(window: WindowProcess) -> None:
    """State, stage, image, step, percentage and times; the picture shows what the bar says.

    A configuration that does not start is an error with its reason, in words.
    """
    idle = window.look()
    assert idle["labels"][0] == "Idle"
    assert (idle["value"], idle["button"]) == (0.0, ["Cancel", "disabled"])
    window.do("start", config={**SLOW, "images": 0})
    refused = seen(window, "Config Error: images = 0")
    assert (refused["labels"][0], refused["button"]) == ("Config Error", ["Cancel", "disabled"])
    window.do("start", config=SLOW)
    now = seen(window, "Running: stage 1 of 2 00-txt2img  image 2 of 2")
    until(lambda: "left" in window.look()["labels"][2], "there is an estimate")

    def is_drawn() -> bool:
        now = window.look()
        return bool(abs(filled(window.picture(), now["bar"]) - now["value"] / 100) < 0.08)

    until(is_drawn, "the picture shows what the bar says")
    now = window.look()
    assert now["button"] == ["Cancel", "normal"]
    assert now["labels"][1] == f"{int(now['value'])}%"
    done = seen(window, "Completed: 2 images")
    assert (done["labels"][1], done["value"]) == ("100%", 100.0)
    assert filled(window.picture(), done["bar"]) > 0.98
    assert done["button"] == ["Cancel", "disabled"]


def test_the_group_of_a_run_is_shown_below_it(window: WindowProcess, tmp_path: Path) -> None:
    """Its variant, a thin bar with its percentage and its remaining time; Cancel stops all of it.

    A bar that did not see it begin shows it resumed where it was, and hides it for a lone run.
    """
    window.do("size", width=460, height=320)
    assert "group_value" not in window.look()
    window.do("close_bar")
    window.do("group", steps=[30, 10, 40], held=[0, 3])
    assert seen(window, "variant 1 of 3: steps 30")["group_value"] == 0
    window.do("let_go")
    seen(window, "variant 2 of 3: steps 10")
    until(lambda: window.look()["labels"][-1].endswith(" left"), "there is an estimate")
    until(lambda: window.look()["group_value"] == 43.75, "the variant has half of its images")
    picture, now = window.picture(), window.look()
    assert filled(picture, now["group_bar"]) == pytest.approx(now["group_value"] / 100, abs=0.08)
    assert now["group_bar"][3] < now["bar"][3]
    assert now["labels"][-1].startswith("group 43%, about ")
    assert now["cut"] == []
    window.do("press", text="Cancel")
    seen(window, "Group cancelled: 1 of 3 variants")
    until(lambda: window.look()["button"] == ["Cancel", "disabled"], "the group has ended")
    assert len(runs_in(tmp_path / "runs")) == 2
    window.do("resume_group", held=[0])
    seen(window, "variant 2 of 3: steps 10", bar=1)
    assert seen(window, "group 43%, about ", bar=1)["group_value"] == 43.75
    window.do("let_go")
    done = seen(window, "Group completed: 3 variants", bar=1)
    assert (done["group_value"], done["labels"][-1]) == (100.0, "group 100%")
    open_controller(tmp_path / "other").start(small(images=3)).wait(30)
    window.do("show", folder=str(run_in(tmp_path / "other")))
    assert "group_value" not in seen(window, "Completed: 3 images")


def test_a_run_of_a_group_of_another_process_is_shown_with_its_group(
    window: WindowProcess, tmp_path: Path
) -> None:
    """And Cancel stops that group."""
    window.do("size", width=460, height=320)
    with group_process(tmp_path / "runs", [2, 3], held=[0]):
        run = run_in(tmp_path / "runs")
        window.do("show", folder=str(run))
        now = seen(window, "variant 1 of 2: steps 2")
        assert now["group_value"] == 0
        window.do("press", text="Cancel")
        seen(window, "Cancelled")
        until(lambda: group_state(tmp_path / "runs") == RunState.CANCELLED, "the group has stopped")


def test_no_text_is_cut_at_any_width(window: WindowProcess, server: EmbeddedServer) -> None:
    """They are wrapped; an error of any length is elided, and whole when it is pointed at."""
    window.do("size", width=200, height=260)
    window.do("start", config={**SLOW, "name": "x" * 300})
    assert seen(window, "Running: stage 1")["cut"] == []
    server.close()
    failed = seen(window, "Error: stage 1 of 2 00-txt2img")
    until(lambda: window.look()["cut"] == [], "the new texts have their room")
    (told,) = [text for text in failed["labels"] if text.startswith("Error: 00-txt2img, image")]
    assert told.endswith("...")
    window.do("point")
    (tip,) = window.look()["tips"]
    assert tip.startswith(told.removesuffix("..."))
    assert len(tip) > len(told)
    for width in (320, 640):
        window.do("size", width=width, height=260)
        until(lambda: window.look()["cut"] == [], "the texts have their room at another width")


def test_a_run_of_another_process_is_shown_and_can_be_cancelled(
    start: Start, window: WindowProcess, server: EmbeddedServer, config: Path, tmp_path: Path
) -> None:
    """From its log, however late; its process is asked to stop."""
    other = start("run", config, "--server", server.url, folder=tmp_path)
    until(lambda: bool(list(tmp_path.glob("runs/*/images/*/*.png"))), "an image is there")
    window.do("show", folder=str(run_in(tmp_path / "runs")))
    assert seen(window, "Running")["button"] == ["Cancel", "normal"]
    window.do("press", text="Cancel")
    seen(window, "Cancelled")
    assert other.wait(30) == 3


def test_a_run_that_nobody_runs_cannot_be_cancelled(window: WindowProcess, tmp_path: Path) -> None:
    """The window says so, and leaves no order behind."""
    open_controller(tmp_path / "other").start(small()).wait(30)
    folder = run_in(tmp_path / "other")
    log = folder / "events.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:4]))
    window.do("show", folder=str(folder))
    seen(window, "Running")
    window.do("press", text="Cancel")
    seen(window, "The process of this run died; it can be resumed.")
    assert window.look()["button"] == ["Cancel", "normal"]
    assert not (folder / "cancel.request").exists()


@pytest.mark.parametrize("ends", ["destroy", "native"])
def test_a_window_may_be_closed_in_the_middle_of_a_run(
    display: str, server: EmbeddedServer, tmp_path: Path, ends: str
) -> None:
    """By whichever way it goes: the run goes on, and its process ends in peace after it."""
    with status_window(display, tmp_path / "runs", server.url) as window:
        window.do("start", config=SLOW)
        seen(window, "Running")
        window.do("end_with", way=ends)
    assert replay(run_in(tmp_path / "runs")).state is RunState.COMPLETED


def test_several_bars_show_different_runs(window: WindowProcess, tmp_path: Path) -> None:
    """One that of its controller, another one a run from its log; a destroyed one shows none.

    It leaves neither a subscription nor an exception, and the run goes on.
    """
    open_controller(tmp_path / "other").start(small(images=3)).wait(30)
    window.do("start", config=SLOW)
    seen(window, "Running: stage 1 of 2")
    window.do("another", folder=str(run_in(tmp_path / "other")))
    seen(window, "Completed: 3 images", bar=1)
    seen(window, "Running: stage 1 of 2")
    assert window.do("state")["subscriptions"] == 2
    window.do("close_bar")
    until(lambda: window.do("state")["run"] is None, "the run has ended")
    assert window.do("state")["subscriptions"] == 1
    assert window.look()["labels"][0] == "Completed: 3 images"
    assert replay(run_in(tmp_path / "runs")).state is RunState.COMPLETED


LATE = """
import queue, sys, threading, tkinter
from stagewright.adapters import open_controller
from stagewright.adapters.tk import TkLoop, TkStatusBar
from tests.resuming import small

root = tkinter.Tk()
bar = TkStatusBar(root, controller := open_controller(sys.argv[1]))
order = []
threads = [threading.Thread(target=lambda: bar.loop(lambda: order.append(1))) for _ in range(3)]
for thread in threads:
    thread.start()
controller.start(small()).wait(30)
assert (bar.status.state, order) == ("IDLE", [])
controller.start(small(images=4)).wait(30)

def fail():
    raise queue.Empty("a fault of the receiver, which ends no other call")

def look():
    if bar.status.state != "COMPLETED":
        root.after(10, look)
        return
    print(bar.status.headline, order)
    root.destroy()

said = []
root.report_callback_exception = lambda kind, error, _: said.append(kind.__name__)
bar.loop(fail)
bar.loop(look)
root.mainloop()
print(said)
try:
    bar.loop(look)
except RuntimeError as error:
    print(error)
"""


def test_the_main_loop_may_start_late(display: str, tmp_path: Path) -> None:
    """What came before it waits for it; a call that fails is Tk's to report, and ends nothing."""
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", LATE, str(tmp_path)], env={"DISPLAY": display, "PATH": "/usr/bin"},
        cwd=root, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    lines = ["Completed: 4 images [1, 1, 1]", "['Empty']", "the window is gone"]
    assert done.stdout.splitlines() == lines


def test_without_tkinter_the_error_says_what_to_install() -> None:
    """It is one of ours, and an ImportError; everything else of the package works without."""
    said = "type(error) is adapters.MissingToolkitError, error"
    script = (
        "import sys; sys.modules['tkinter'] = None\n"
        "import stagewright.adapters as adapters\n"
        "names = [getattr(adapters, name) for name in adapters.__all__]\n"
        "try:\n    import stagewright.adapters.tk\n"
        f"except ImportError as error:\n    print({said})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("True tkinter is not installed for this Python: install")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """``SLOW`` as a file."""
    path = tmp_path / "slow.json"
    path.write_text(json.dumps(SLOW), encoding="utf-8")
    return path


@pytest.fixture
def app(
    display: str, server: EmbeddedServer, config: Path, tmp_path: Path
) -> Iterator[WindowProcess]:
    """The example program, as it is."""
    with status_window(display, tmp_path / "runs", server.url, EXAMPLE, config) as opened:
        yield opened


def test_the_example_starts_cancels_once_and_resumes(app: WindowProcess, tmp_path: Path) -> None:
    """Each by its button; a resume continues where the run was; the last image is shown.

    Cancel stays visible at 420 x 400 pixels, also beside an image: the preview gives way.
    """
    app.do("size", width=420, height=400)
    app.do("press", text="Start")
    seen(app, "Running: stage 1 of 2 00-txt2img  image 2 of 2")
    assert app.do("is_inside", text="Cancel")
    assert app.do("press", text="Cancel", times=2) == ["Stopping...", "disabled"]
    stopped = seen(app, "Cancelled: stage 1 of 2 00-txt2img  image 2 of 2")
    assert stopped["labels"][2].startswith("reason: Cancel was pressed")
    app.do("press", text="Cancel")
    until(lambda: app.do("can_press", text="Resume"), "the run can be resumed")
    folder = run_in(tmp_path / "runs")
    assert sum(isinstance(event, CancelRequested) for event in iterate(folder)) == 1
    app.do("press", text="Resume")
    resumed = seen(app, "Running")
    assert resumed["value"] >= stopped["value"] >= 25
    assert resumed["button"] == ["Cancel", "normal"]
    seen(app, "Completed: 2 images")
    assert app.do("is_inside", text="Cancel")
    assert replay(folder).resumes == 1
    app.do("size", width=600, height=600)
    # Grey, black and the few colours of texts and buttons would be all without the preview.
    until(lambda: len(app.picture().getcolors(2**24) or ()) > 300, "the last image is shown")


def test_the_example_runs_and_resumes_a_sweep(app: WindowProcess, tmp_path: Path) -> None:
    """Cancel stops the whole of it, and Resume continues the whole of it."""
    app.do("type", place=1, text="txt2img.steps=10,20")
    app.do("press", text="Start")
    seen(app, "variant 2 of 2: steps 20")
    app.do("press", text="Cancel")
    stopped = seen(app, "Group cancelled: 1 of 2 variants")
    until(lambda: app.do("can_press", text="Resume"), "the group can be resumed")
    app.do("press", text="Resume")
    resumed = seen(app, "variant 2 of 2: steps 20")
    assert resumed["group_value"] >= stopped["group_value"]
    seen(app, "Group completed: 2 variants")
    assert group_state(tmp_path / "runs") == RunState.COMPLETED


def test_the_example_shows_the_queue_of_its_folder(
    display: str, server: EmbeddedServer, config: Path, tmp_path: Path
) -> None:
    """Also what other processes add to it and begin; closed, it stops its run cleanly."""
    with status_window(display, tmp_path / "runs", server.url, EXAMPLE, config) as app:
        queue = sqlite_queue(tmp_path / "runs")
        queue.add([bare_job(f"job{number}") for number in range(5)])
        until(lambda: app.do("has_text", text="queue: job0 waits"), "the first job is shown")
        assert app.do("has_text", text="queue: 2 more wait")
        taken = queue.take()
        assert taken is not None
        until(lambda: app.do("has_text", text="queue: job0 is running"), "it is shown as running")
        queue.end(taken, Outcome.COMPLETED)
        until(lambda: not app.do("has_text", text="job0"), "it is over")
        app.do("press", text="Start")
        seen(app, "Running: stage 1 of 2 00-txt2img  image 2 of 2")
    stopped = [run for run in runs_in(tmp_path / "runs") if run.name != "queue"]
    assert [replay(run).state for run in stopped] == [RunState.CANCELLED]
