"""The pytest plugin as an author of a GUI has it."""

from __future__ import annotations

import re

import pytest
from stagewright.events import RunState, replay

# Plugins of others that take longer to load than an author's test takes to run.
LIGHT = ("-p", "no:hypothesispytest", "-p", "no:benchmark")
STRICT = ("-W", "error", "--strict-markers", "--strict-config", "-p", "no:cacheprovider")
PROGRAM = """
from pathlib import Path

import pytest
from stagewright.events import StageImageProgress, subscribe

CONFIG = {
    "name": "gui", "prompt": "a lighthouse", "seed": 5, "images": 2,
    "txt2img": {
        "model": "base", "sampler": "Euler a", "steps": 4, "cfg_scale": 7.0,
        "width": 64, "height": 64,
    },
}


class Window:
    def __init__(self):
        self.titles = []

    def show(self, event):
        self.titles.append(f"{event.image_index + 1} of {event.total_images}")
"""


def author(pytester: pytest.Pytester, *options: str, **tests: str) -> tuple[pytest.RunResult, str]:
    """Run an author's tests with warnings as errors; the result and what was printed."""
    if tests:
        pytester.makepyfile(**{name: PROGRAM + body for name, body in tests.items()})
    done = pytester.runpytest(*STRICT, *options)
    return done, done.stdout.str()


GUI_TESTS = """
def test_titles(stagewright_controller, recorded_events):
    window = Window()
    with subscribe(window.show, StageImageProgress):
        stagewright_controller.start(CONFIG).wait(30)
    assert window.titles == ["1 of 2", "2 of 2"]
    recorded_events.assert_images_per_stage({"txt2img": 2})
    recorded_events.assert_no_faults()


@pytest.mark.parametrize("stagewright_step_delay_s", [3600.0])
def test_cancel(stagewright_controller, recorded_events):
    handle = stagewright_controller.start(CONFIG)
    stagewright_controller.cancel(handle.run_id)
    handle.wait(30)
    recorded_events.assert_lifecycle("IDLE", "RUNNING", "CANCELLED")
"""


def test_a_gui_test_passes(pytester: pytest.Pytester) -> None:
    """Fixtures are there without an import, and nothing of ours is printed."""
    done, text = author(pytester, test_gui=GUI_TESTS)
    done.assert_outcomes(passed=2)
    assert "stagewright timeline" not in text


def test_a_gui_test_passes_on_two_workers(pytester: pytest.Pytester) -> None:
    """Fixtures are there without an import, in processes of their own."""
    pytester.makepyfile(test_gui=PROGRAM + GUI_TESTS)
    done = pytester.runpytest_subprocess(
        *STRICT, *LIGHT, "-n", "2", "--import-mode=importlib", timeout=60
    )
    done.assert_outcomes(passed=2)


def test_a_test_that_fails_shows_the_timeline_and_the_faults(pytester: pytest.Pytester) -> None:
    """The message says what was recorded, and the report what happened, and nothing of ours."""
    done, text = author(
        pytester,
        test_gui="""
def broken(event):
    raise ValueError("no such widget")


def test_stages(stagewright_controller, recorded_events):
    with subscribe(broken, StageImageProgress):
        stagewright_controller.start(CONFIG).wait(30)
    with pytest.raises(ValueError):
        stagewright_controller.start({**CONFIG, "images": 0})
    recorded_events.assert_stages("txt2img", "upscale")
""",
    )
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(
        [
            '>*recorded_events.assert_stages("txt2img", "upscale")',
            "E*AssertionError: stages",
            "E*expected: txt2img -> upscale",
            "E*recorded: txt2img",
            "*- stagewright timeline -*",
            "run-1 #0   RunOpened *",
            "run-1 #* StageImageProgress *",
            "*stagewright configurations that did not start*",
            "Config Error: images = 0*",
            "*stagewright subscribers that raised or blocked*",
            "broken: 2",
        ]
    )
    assert "recorded_events.py:" not in text


SNAPSHOT = """
def test_timeline(stagewright_controller, recorded_events):
    stagewright_controller.start(CONFIG).wait(30)
    recorded_events.assert_timeline(Path("timelines/gui.txt"))
"""


def test_a_snapshot_is_written_compared_and_updated(pytester: pytest.Pytester) -> None:
    """Missing: the option is named. Written: it agrees. Altered: a diff. Updated: as before.

    The file lies beside its test, wherever pytest is started.
    """
    folder = pytester.mkdir("gui")
    (folder / "test_gui.py").write_text(PROGRAM + SNAPSHOT)
    kept = folder / "timelines" / "gui.txt"
    done, text = author(pytester)
    done.assert_outcomes(failed=1)
    assert "timelines/gui.txt does not exist; --stagewright-update writes it" in text
    assert not kept.exists()

    author(pytester, "--stagewright-update")[0].assert_outcomes(passed=1)
    written = kept.read_bytes()
    assert written.startswith(b"run-1 #0   RunOpened seeds=[5, 6]")
    assert b"\r" not in written
    author(pytester)[0].assert_outcomes(passed=1)

    kept.write_bytes(written.replace(b"total_images=2", b"total_images=3", 1))
    done, text = author(pytester)
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["E*--- *gui.txt", "E*+++ recorded", "E*-*images=3", "E*+*images=2"])
    author(pytester, "--stagewright-update")
    assert kept.read_bytes() == written


def test_a_run_that_still_goes_on_ends_with_its_test(pytester: pytest.Pytester) -> None:
    """The fixture cancels it, so neither pytest nor the next test has to wait for it."""
    done, _ = author(
        pytester,
        "--basetemp=kept",
        test_gui="""
@pytest.mark.parametrize("stagewright_step_delay_s", [3600.0])
def test_leaves(stagewright_controller):
    stagewright_controller.start(CONFIG)


def test_is_not_disturbed(recorded_events):
    assert recorded_events.events == ()
""",
    )
    done.assert_outcomes(passed=2)
    # pytest puts a link to the latest folder beside it.
    found = (pytester.path / "kept").glob("test_leaves*/runs/*/events.jsonl")
    (log,) = {path.resolve() for path in found}
    result = replay(log)
    assert result.state is RunState.CANCELLED
    assert result.events[-2].reason == "the test has ended"  # type: ignore[attr-defined]  # a LifecycleChanged


def test_a_failure_before_the_test_itself_is_reported_as_well(pytester: pytest.Pytester) -> None:
    """A fixture of the author's that fails behind ours shows the timeline too."""
    done, _ = author(
        pytester,
        test_gui="""
@pytest.fixture
def window(stagewright_controller, recorded_events):
    stagewright_controller.start(CONFIG).wait(30)
    raise RuntimeError("no display")


def test_window(window):
    pass
""",
    )
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*RuntimeError: no display", "*stagewright timeline*"])


def test_other_people_s_suites_are_left_alone(pytester: pytest.Pytester) -> None:
    """With the plugin loaded, and unused, nothing of weight is imported and nothing is changed.

    Modules called like our rooms are none of the plugin's business.
    """
    pytester.makepyfile(
        events="NAME = 'mine'",
        adapters="NAME = 'mine too'",
        test_other="""
import sys

import adapters
import events


def test_other(pytestconfig):
    assert pytestconfig.pluginmanager.hasplugin("stagewright")
    assert (events.NAME, adapters.NAME) == ("mine", "mine too")
    heavy = {"msgspec", "blinker", "PIL", "transitions", "filelock", "requests", "rich", "click"}
    assert heavy.isdisjoint(sys.modules)
    assert sorted(name for name in sys.modules if name.startswith("stagewright.")) == [
        "stagewright.adapters", "stagewright.adapters.testing",
        "stagewright.adapters.testing.pytest_plugin",
        "stagewright.events", "stagewright.events.lazy_imports", "stagewright.events.version",
        "stagewright.statemachine",
    ]
""",
    )
    pytester.runpytest_subprocess(*STRICT, *LIGHT, timeout=60).assert_outcomes(passed=1)


def test_the_option_and_the_fixtures_explain_themselves(pytester: pytest.Pytester) -> None:
    """``--help`` and ``--fixtures`` say what there is."""
    assert re.search(r"--stagewright-update\s+Rewrite", pytester.runpytest("--help").stdout.str())
    text = pytester.runpytest("--fixtures").stdout.str()
    for name in ("recorded_events", "stagewright_controller", "stagewright_step_delay_s"):
        assert re.search(rf"^{name} -- .*\n    [A-Z]", text, re.MULTILINE), name
