"""A backend of another package, found by its entry point."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from stagewright.adapters import open_controller
from stagewright.adapters.backends.registry import ServerChoice, kind_of_server
from stagewright.events import RunOpened, RunState, replay
from stagewright.statemachine import build_stage_execution_plan
from stagewright.statemachine.errors import ConfigurationError, PreflightError
from stagewright.statemachine.files.png import source_of

from .command_line import stagewright, write_config
from .support import document, png

EXAMPLE = Path(__file__).parent.parent / "examples" / "own_backend.py"
ENTRY_POINT = "[stagewright.backends]\n{name} = {value}\n"


def installed_below(
    folder: Path, name: str = "pngs", value: str = "own_backend:PREPARED_PNGS"
) -> Path:
    """A folder of packages with the example, as a tiny distribution that has an entry point."""
    packages = folder / "packages"
    information = packages / "own_backend-1.0.dist-info"
    information.mkdir(parents=True)
    shutil.copy(EXAMPLE, packages)
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: own-backend\nVersion: 1.0\n"
    )
    (information / "entry_points.txt").write_text(ENTRY_POINT.format(name=name, value=value))
    return packages


def prepared(folder: Path, count: int) -> list[bytes]:
    """So many files in the folder ``pictures``; their bytes, in order."""
    (folder / "pictures").mkdir(exist_ok=True)
    files = [png(number, (64, 64)) for number in range(count)]
    for number, data in enumerate(files):
        (folder / "pictures" / f"{number:03}.png").write_bytes(data)
    return files


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of the folder ``pictures``; the package is installed in this process."""
    monkeypatch.syspath_prepend(installed_below(tmp_path))
    return f"pngs://{(tmp_path / 'pictures').as_posix()}"


def config(*, preflight: bool = True, server: Mapping[str, Any] = {}) -> dict[str, Any]:
    """A run of two images."""
    return document(images=2, run={"preflight": preflight}, server=server)


def test_a_run_on_the_backend_of_another_package_keeps_its_images(tmp_path: Path) -> None:
    """The log names kind and address, and the report the settings that the backend used."""
    packages = installed_below(tmp_path)
    address = f"pngs://{(tmp_path / 'pictures').as_posix()}"
    env = {**os.environ, "PYTHONPATH": str(packages)}
    files = prepared(tmp_path, 2)
    done = stagewright("run", write_config(tmp_path), "--server", address, folder=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    (run,) = tmp_path.glob("runs/2*")
    kept = sorted(run.glob("images/00-txt2img/*.png"))
    assert [source_of(file.read_bytes()) for file in kept] == files
    (opened,) = [event for event in replay(run).events if isinstance(event, RunOpened)]
    assert (opened.backend.kind, opened.backend.url) == ("pngs", address)
    reported = stagewright("report", "last", "--output", "page.html", folder=tmp_path, env=env)
    assert reported.returncode == 0, reported.stderr
    assert "pictures" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_resume_uses_the_backend_that_the_log_names(tmp_path: Path, url: str) -> None:
    """A run that stopped for want of a file is completed once the file is there."""
    prepared(tmp_path, 1)
    failed = open_controller(tmp_path / "runs", url).start(config(preflight=False)).wait(60)
    assert failed.error is not None
    assert "there is no file for image 2" in failed.error.message
    prepared(tmp_path, 2)
    done = open_controller(tmp_path / "runs").resume(failed.run_id).wait(60)
    assert done.state is RunState.COMPLETED


@pytest.mark.parametrize(("count", "complaints"), [(2, 0), (1, 1)])
def test_doctor_is_told_what_the_backend_reports(
    tmp_path: Path, url: str, count: int, complaints: int
) -> None:
    """With a configuration the problems, without one what it offers."""
    prepared(tmp_path, count)
    kind, choice = kind_of_server(url), ServerChoice(url=url, named_by_user=True)
    report = kind.inspect(choice, build_stage_execution_plan(config()))
    assert report.product == "prepared PNGs"
    assert len(report.complaints) == complaints
    assert kind.inspect(choice, None).offers == {"files": count}


def test_a_run_that_preflight_refuses_is_not_started(tmp_path: Path, url: str) -> None:
    """The backend's own preflight decides."""
    prepared(tmp_path, 1)
    with pytest.raises(PreflightError, match="2 images need as many files; 1 are there"):
        open_controller(tmp_path / "runs", url).start(config())
    assert not list(tmp_path.glob("runs/2*"))


def test_a_resume_without_the_package_names_what_is_missing(tmp_path: Path, url: str) -> None:
    """One line on standard error, exit status 2, and nothing is written."""
    prepared(tmp_path, 1)
    open_controller(tmp_path / "runs", url).start(config(preflight=False)).wait(60)
    (log,) = tmp_path.glob("runs/2*/events.jsonl")
    before = log.read_bytes()
    done = stagewright("resume", "last", folder=tmp_path)
    assert (done.returncode, log.read_bytes()) == (2, before)
    assert "a backend of kind 'pngs', which is not available" in done.stderr


def test_a_backend_that_cannot_be_loaded_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is a scheme that no installed backend has."""
    with pytest.raises(ConfigurationError, match="the scheme must be one of http, https"):
        kind_of_server("pngs:///tmp")
    monkeypatch.syspath_prepend(installed_below(tmp_path, value="own_backend:MISSING"))
    words = r"the backend 'pngs' \(own_backend:MISSING\) cannot be loaded"
    with pytest.raises(ConfigurationError, match=words):
        kind_of_server("pngs:///tmp")


@pytest.mark.parametrize("is_named", [False, True])
def test_the_kind_in_a_configuration_is_used(tmp_path: Path, url: str, is_named: bool) -> None:
    """It counts for the address beside it and for that of the caller."""
    prepared(tmp_path, 2)
    address = {} if is_named else {"url": url}
    controller = open_controller(tmp_path / "runs", url if is_named else None)
    done = controller.start(config(server={"kind": "pngs", **address})).wait(60)
    assert done.state is RunState.COMPLETED
    with pytest.raises(ConfigurationError, match="http"):
        controller.start(config(server={"kind": "webui", **address}))


@pytest.mark.usefixtures("url")
def test_an_unknown_kind_is_refused_with_those_that_are_installed(tmp_path: Path) -> None:
    """Also where no server is named, and nothing is started."""
    words = "server.kind = 'webiu': only webui, pngs is installed; install the package of that"
    with pytest.raises(ConfigurationError, match=words):
        open_controller(tmp_path / "runs").start(config(server={"kind": "webiu"}))
    assert not list(tmp_path.glob("runs/2*"))
