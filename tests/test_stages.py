"""Stages are classes in a registry: other packages add theirs, and no other code names one."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from stagewright.events import RunState, StageType, replay
from stagewright.statemachine import StageConfig, register_stage
from stagewright.statemachine.errors import ConfigurationError
from stagewright.statemachine.stages import stage_types

from . import command_line

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "own_stage.py"
PLAN = "txt2img -> upscale -> rembg -> adetailer"
FAILS = """
import sys, own_stage
from pathlib import Path
from stagewright.adapters import PillowInputReader
from stagewright.statemachine import BackendError, PipelineController

class Failing(own_stage.RembgBackend):
    def generate_images(self, request, **more):
        if request.stage_type == "rembg" and request.image_index == 1:
            raise BackendError("out of paper")
        return super().generate_images(request, **more)

own_stage.register()
backend = Failing() if sys.argv[1] == "start" else own_stage.RembgBackend()
controller = PipelineController(backend=backend, runs=Path("runs"), inputs=PillowInputReader())
start = lambda: controller.start(own_stage.CONFIG)
handle = start() if sys.argv[1] == "start" else controller.resume(sys.argv[2])
print(handle.run_id, handle.wait(60).state)
"""


def python(*arguments: str | Path, folder: Path) -> str:
    """The output of a program that finds the example as a module."""
    env = {**os.environ, "PYTHONPATH": str(EXAMPLE.parent)}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def stagewright(
    *arguments: str | Path, folder: Path, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """One command; packages in ``path`` are as good as installed."""
    env = {**os.environ, "PYTHONPATH": str(path or "")}
    return command_line.stagewright(*arguments, folder=folder, env=env)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The example as an installed package, whose entry point registers its stage."""
    folder = tmp_path / "site"
    information = folder / "own_stage-1.dist-info"
    information.mkdir(parents=True)
    shutil.copy(EXAMPLE, folder)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: own-stage\nVersion: 1\n")
    (information / "entry_points.txt").write_text(
        "[stagewright.stages]\nrembg = own_stage:register\n"
    )
    return folder


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The example's configuration as a file."""
    code = "import json, own_stage; print(json.dumps(own_stage.CONFIG))"
    file = tmp_path / "cut.json"
    file.write_text(python("-c", code, folder=tmp_path))
    return file


def test_the_example_runs_and_its_report_compares_what_was_used(tmp_path: Path) -> None:
    """Its stage stands where it was registered, and its settings are in the report."""
    summary, state, report = python(EXAMPLE, folder=tmp_path).splitlines()
    assert (summary, state) == (PLAN, RunState.COMPLETED)
    (folder,) = (tmp_path / "runs").glob("*-cut-out-*")
    assert [stage.stage_type for stage in replay(folder).stages] == PLAN.split(" -> ")
    row = '<th scope="row">tolerance</th><td class="words">0.1</td><td class="words">0.1</td>'
    assert row in (tmp_path / report).read_text(encoding="utf-8")


def test_a_run_with_a_stage_that_is_not_registered_is_shown_and_not_resumed(
    tmp_path: Path,
) -> None:
    """Every command reads its log; a resume names the stage, and succeeds once it is there."""
    program = tmp_path / "program.py"
    program.write_text(FAILS)
    run_id, state = python(program, "start", folder=tmp_path).split()
    assert state == RunState.ERROR
    for command in ("list", "verify", "replay", "report"):
        told = stagewright(command, *(() if command == "list" else (run_id,)), folder=tmp_path)
        assert run_id[-6:] in told.stdout, told
        assert "Traceback" not in told.stderr
    refused = stagewright("resume", run_id, folder=tmp_path)
    assert refused.returncode == 1
    assert "no stage 'rembg' is registered" in refused.stderr
    assert python(program, "resume", run_id, folder=tmp_path).split() == [run_id, "COMPLETED"]
    result = replay(tmp_path / "runs" / run_id)
    assert (len(result.images), result.resumes, result.missing) == (2, 1, ())


def test_an_installed_package_adds_its_stage(package: Path, config: Path, tmp_path: Path) -> None:
    """Configurations, plans and the schema have its table; without the package it is unknown."""
    planned = stagewright("plan", config, folder=tmp_path, path=package)
    assert planned.stdout.startswith(f"{PLAN}\n")
    schema = json.loads(stagewright("schema", folder=tmp_path, path=package).stdout)
    (named,) = [part for part in schema["$defs"].values() if "rembg" in part.get("properties", {})]
    assert set(schema["$defs"]["RembgConfig"]["properties"]) == {
        *("enabled", "farm_hint", "model", "tolerance")
    }
    assert "txt2img" in named["properties"]
    wrong = stagewright("plan", config, "--set", "rembg.tolerance=2", folder=tmp_path, path=package)
    assert "rembg.tolerance = 2 must be at least 0, at most 1" in wrong.stderr
    near = stagewright("plan", config, "--set", "rembg.tollerance=1", folder=tmp_path, path=package)
    assert "unknown key rembg.tollerance; did you mean rembg.tolerance?" in near.stderr
    off = stagewright("plan", config, "--set", "rembg.enabled=false", folder=tmp_path, path=package)
    assert off.stdout.startswith("txt2img -> upscale -> adetailer\n")
    without = stagewright("plan", config, folder=tmp_path)
    assert without.returncode == 2
    assert "unknown key rembg" in without.stderr


def test_a_backend_that_does_not_serve_a_stage_says_so(
    package: Path, config: Path, tmp_path: Path
) -> None:
    """The run ends in ERROR, and the reason names the stage."""
    done = stagewright("run", config, folder=tmp_path, path=package)
    assert done.returncode == 1
    assert "the embedded backend does not serve the stage 'rembg'" in done.stderr


def test_a_package_that_cannot_be_loaded_is_named(
    package: Path, config: Path, tmp_path: Path
) -> None:
    """Only a configuration with an unknown table loads it, so no other is refused."""
    (package / "own_stage.py").write_text("raise RuntimeError('half installed')")
    refused = stagewright("plan", config, folder=tmp_path, path=package)
    assert refused.returncode == 2
    expected = "the stage 'rembg' (own_stage:register) cannot be loaded: half installed"
    assert expected in refused.stderr
    portrait = ROOT / "examples" / "portrait.toml"
    assert stagewright("plan", portrait, folder=tmp_path, path=package).returncode == 0


def test_packages_are_not_looked_for_without_need() -> None:
    """A configuration of built-in stages is planned without reading the list of packages."""
    code = f"""
import sys
from pathlib import Path
from stagewright.statemachine.config.document import parse_document
from stagewright.statemachine.config.formats import read_document
config = parse_document(read_document(Path({str(ROOT / "examples" / "portrait.toml")!r})))
print(config.stages.keys() == {{"txt2img", "img2img", "upscale", "adetailer"}})
print("importlib.metadata" in sys.modules)
"""
    assert python("-c", code, folder=ROOT).split() == ["True", "False"]


def test_a_stage_that_makes_images_from_a_prompt_comes_first() -> None:
    """Two such stages in one configuration are refused; each alone is a plan."""
    code = """
from stagewright.statemachine import InvalidStagePlanError, StageConfig, register_stage
from stagewright.statemachine import build_stage_execution_plan as plan
from own_stage import CONFIG

class Sketch(StageConfig, frozen=True, kw_only=True):
    stage_type = "sketch"
    takes_prompt = True

register_stage(Sketch, before="txt2img")
both = {key: CONFIG[key] for key in ("prompt", "txt2img")} | {"sketch": {}}
try:
    plan(both)
except InvalidStagePlanError as error:
    print(error)
print(plan({"sketch": {}}).stages[0].input_source)
"""
    refused, source = python("-c", code, folder=ROOT).splitlines()
    assert refused == "txt2img makes images from the prompt, so no stage can come before it"
    assert source == "prompt"


class Unplaced(StageConfig, frozen=True, kw_only=True):
    """A stage that is refused."""

    stage_type = "unplaced"


class SecondUpscale(StageConfig, frozen=True, kw_only=True):
    """A stage with the name of another."""

    stage_type = "upscale"


def test_a_stage_that_has_no_place_is_refused() -> None:
    """A name belongs to one class, a neighbour must be there, and the built-in ones keep theirs."""
    with pytest.raises(ConfigurationError, match="'upscale'"):
        register_stage(SecondUpscale)
    with pytest.raises(ConfigurationError, match="'sharpen' is not registered"):
        register_stage(Unplaced, before="sharpen")
    register_stage(stage_types()["upscale"], before="txt2img")
    assert [*stage_types()] == [*StageType]


def source_files() -> Iterator[Path]:
    """All code but the stages, and the backends, which serve them."""
    for layer in ("events", "statemachine", "adapters"):
        for path in sorted((ROOT / layer).rglob("*.py")):
            if not {"stages", "backends"} & set(path.relative_to(ROOT).parts):
                yield path


def test_no_other_code_asks_for_the_type_of_a_stage() -> None:
    """A further stage takes a class and a backend: nothing compares names or classes of stages."""
    classes = {kind.__name__ for kind in stage_types().values()}
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in source_files()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.expr | ast.pattern) and asks_for_a_stage(node, classes)
    ]
    assert found == []


def asks_for_a_stage(node: ast.expr | ast.pattern, classes: set[str]) -> bool:
    """Whether a node is a comparison with a stage's name, or a test for its class."""
    if isinstance(node, ast.Compare):
        parts = [part for side in (node.left, *node.comparators) for part in ast.walk(side)]
        return any(
            (isinstance(part, ast.Constant) and part.value in [*StageType])
            or (isinstance(part, ast.Name) and part.id == "StageType")
            for part in parts
        )
    if isinstance(node, ast.MatchClass):
        return isinstance(node.cls, ast.Name) and node.cls.id in classes
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
        return node.func.id == "isinstance" and bool(names & classes)
    return False
