"""The names that users' programs import, and the packages that are installed."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import stagewright.adapters
import stagewright.events
import stagewright.statemachine

import stagewright

from .command_line import run_python
from .tools import needs_tkinter

ROOT = Path(__file__).parent.parent
ROOMS = ("events", "statemachine", "adapters")

EVENTS = [
    "Artifact", "BackendDescription", "CallCompleted", "CallFailed", "CallRequested",
    "CallReused", "CancelMode", "CancelRequested", "Durability", "EVENT_TYPES", "ErrorDetail",
    "EventLog",
    "EventLogError", "EventRecorder", "FileEventLog", "FinishedImage",
    "ImageAlteredError", "ImagePrompt", "ImagesRemoved", "InputRecord",
    "LifecycleChanged", "LogCorruptError", "LogLockedError", "LogRepaired", "LogTail",
    "LogWriteError",
    "MemoryEventLog", "MissingImage", "OriginalFile", "Outcome", "PipelineRunResult",
    "RecordedEvents", "ReuseOrigin", "RunNotFoundError",
    "RunOpened", "RunResumed", "RunSealed", "RunState", "SequenceError", "ServerDescription",
    "SourceFile", "StageEnd",
    "StageEvent", "StageImageProgress", "StageResult", "StageStart", "StageType",
    "StagewrightError", "StepProgress", "StorageLimited", "SubscriberMutedError", "Subscription",
    "UnknownEvent", "fold", "follow", "iterate", "replay", "replay_many", "signals", "subscribe",
]  # fmt: skip
STATEMACHINE = {
    "RunConfig", "StageType", "StageConfig", "StageExecution", "StageExecutionPlan",
    "build_stage_execution_plan", "InvalidStagePlanError", "StageConflictError", "RunState",
    "RunLifecycle", "CancelToken", "ImageBackend", "GenerateRequest", "GenerateAnswer",
    "PipelineRunner", "PipelineController", "InputReader", "BackendError",
}  # fmt: skip
ADAPTERS = {"open_controller"}


@pytest.mark.parametrize(
    "room", ["events", "statemachine", pytest.param("adapters", marks=needs_tkinter)]
)
def test_every_module_of_a_room_loads(room: str) -> None:
    """Nothing that one of them needs is left out of the package."""
    package = importlib.import_module(f"stagewright.{room}")
    modules = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    loaded = [
        importlib.import_module(module.name)
        for module in modules
        if not module.name.endswith("__main__")  # which would begin to work
    ]
    assert len(loaded) > 20


def test_the_names_of_events_are_pinned() -> None:
    """``stagewright.events`` offers exactly these names; a change here is a change for users."""
    assert sorted(stagewright.events.__all__) == sorted(EVENTS)


def test_the_names_of_statemachine_are_there() -> None:
    """``stagewright.statemachine`` offers what the contract promises."""
    assert set(stagewright.statemachine.__all__) >= STATEMACHINE


def test_the_names_of_adapters_are_there() -> None:
    """``stagewright.adapters`` offers the one call for authors of GUIs."""
    assert set(stagewright.adapters.__all__) >= ADAPTERS


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_resolves(room: str) -> None:
    """Each name of ``__all__`` is there, is listed by ``dir``, and no other name is."""
    package = importlib.import_module(f"stagewright.{room}")
    for name in package.__all__:
        assert getattr(package, name) is not None, name
    assert sorted(dir(package)) == sorted(package.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = package.no_such_name


def test_the_root_offers_the_public_names_of_all_packages() -> None:
    """``import stagewright`` is enough: each name is the object that its package offers."""
    assert stagewright.__version__ == version("stagewright")
    assert stagewright.open_controller is stagewright.adapters.open_controller
    for room in ROOMS:
        package = importlib.import_module(f"stagewright.{room}")
        for name in package.__all__:
            assert getattr(stagewright, name) is getattr(package, name)
            assert name in dir(stagewright)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = stagewright.no_such_name


def test_the_root_loads_nothing_before_it_is_used() -> None:
    """``import stagewright`` costs a command that prints the version no more than its text."""
    program = "import stagewright, sys; print(*sys.modules)"
    loaded = run_python("-c", program).stdout.split()
    assert "stagewright.events" in loaded
    assert not {"msgspec", "blinker", "transitions", "requests", "PIL"} & set(loaded)


def test_the_package_runs_as_a_program() -> None:
    """``python -m stagewright`` is the command."""
    ended = run_python("-m", "stagewright", "--version")
    assert ended.stdout == f"stagewright, version {stagewright.__version__}\n"


@pytest.mark.parametrize("name", [name for name in EVENTS if name.endswith("Error")])
def test_every_error_has_the_one_root(name: str) -> None:
    """``except StagewrightError`` catches all that we raise on purpose."""
    assert issubclass(getattr(stagewright.events, name), stagewright.events.StagewrightError)


def room_folder(room: str) -> Path:
    """The folder of a room: beside this one, or, for a copy of the tests, the installed one."""
    beside = ROOT / room
    if beside.is_dir():
        return beside
    spec = importlib.util.find_spec(f"stagewright.{room}")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0])


def packages_on_disk() -> set[str]:
    return {"stagewright", "stagewright.examples"} | {
        ".".join(["stagewright", room, *init.parent.relative_to(room_folder(room)).parts])
        for room in ROOMS
        for init in room_folder(room).rglob("__init__.py")
    }


def test_every_package_is_named_in_pyproject() -> None:
    """Setuptools installs what is named: a subpackage left out would be missing from the wheel."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert set(tool["packages"]) == packages_on_disk()
    folders = {
        package: package.removeprefix("stagewright.").replace(".", "/")  # the root has its own
        for package in tool["packages"]
    }
    assert tool["package-dir"] == folders


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_says_that_it_is_typed(room: str) -> None:
    """``py.typed`` stands in each room, or type checkers would ignore its annotations."""
    assert (room_folder(room) / "py.typed").is_file()
