"""A backend of another package, found by its entry point, on the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from stagewright.events import RunOpened, replay
from stagewright.statemachine.files.png import source_of

from .command_line import SMALL, stagewright, write_config
from .support import png

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


class Shell:
    """Commands in a folder, with the packages that are installed below it."""

    def __init__(self, folder: Path, packages: Path) -> None:
        self.folder = folder
        self.url = f"pngs://{(folder / 'pictures').as_posix()}"
        self._env = {**os.environ, "PYTHONPATH": str(packages)}

    def __call__(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return stagewright(*arguments, folder=self.folder, env=self._env)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path, installed_below(tmp_path))


def test_a_run_on_the_backend_of_another_package_keeps_its_images(shell: Shell) -> None:
    """The log names kind and address, and the report the settings that the backend used."""
    files = prepared(shell.folder, 2)
    done = shell("run", write_config(shell.folder, SMALL), "--server", shell.url)
    assert done.returncode == 0, done.stderr
    (run,) = shell.folder.glob("runs/2*")
    kept = sorted(run.glob("images/00-txt2img/*.png"))
    assert [source_of(file.read_bytes()) for file in kept] == files
    (opened,) = [event for event in replay(run).events if isinstance(event, RunOpened)]
    assert (opened.backend.kind, opened.backend.url) == ("pngs", shell.url)
    reported = shell("report", "last", "--output", "page.html")
    assert reported.returncode == 0, reported.stderr
    assert "pictures" in (shell.folder / "page.html").read_text(encoding="utf-8")


def test_a_resume_uses_the_backend_that_the_log_names(shell: Shell) -> None:
    """A run that stopped for want of a file is completed once the file is there."""
    prepared(shell.folder, 1)
    config = write_config(shell.folder, SMALL)
    failed = shell("run", config, "--server", shell.url, "--no-preflight")
    assert failed.returncode == 1
    assert "there is no file for image 2" in failed.stderr
    prepared(shell.folder, 2)
    done = shell("resume", "last", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["state"] == "COMPLETED"


@pytest.mark.parametrize(
    ("count", "status", "last"), [(2, 0, "ready"), (1, 2, "not ready: 2 images")]
)
def test_doctor_shows_what_the_backend_reports(
    shell: Shell, count: int, status: int, last: str
) -> None:
    """With a configuration the problems, without one what it offers."""
    prepared(shell.folder, count)
    done = shell("doctor", "--server", shell.url, write_config(shell.folder, SMALL))
    assert done.returncode == status, done.stderr
    assert "product: prepared PNGs" in done.stdout
    assert done.stdout.splitlines()[-1].startswith(last)
    counted = json.loads(shell("doctor", "--server", shell.url, "--json").stdout)
    assert counted["offers"] == {"files": count}


def test_a_run_that_preflight_refuses_is_not_started(shell: Shell) -> None:
    """The backend's own preflight decides, and the exit status is 2."""
    prepared(shell.folder, 1)
    done = shell("run", write_config(shell.folder, SMALL), "--server", shell.url)
    assert (done.returncode, list(shell.folder.glob("runs/2*"))) == (2, [])
    assert "2 images need as many files; 1 are there" in done.stderr


def test_a_resume_without_the_package_names_what_is_missing(shell: Shell) -> None:
    """One line on standard error, exit status 2, and nothing is written."""
    prepared(shell.folder, 1)
    shell("run", write_config(shell.folder, SMALL), "--server", shell.url, "--no-preflight")
    (log,) = shell.folder.glob("runs/2*/events.jsonl")
    before = log.read_bytes()
    done = stagewright("resume", "last", folder=shell.folder)
    assert (done.returncode, log.read_bytes()) == (2, before)
    assert "a backend of kind 'pngs', which is not available" in done.stderr


def test_a_backend_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    """So is a scheme that no installed backend has."""
    shell = Shell(tmp_path, installed_below(tmp_path, value="own_backend:MISSING"))
    done = shell("doctor", "--server", "pngs:///tmp")
    assert done.returncode == 2
    assert "the backend 'pngs' (own_backend:MISSING) cannot be loaded" in done.stderr
    unknown = stagewright("doctor", "--server", "pngs:///tmp", folder=tmp_path)
    assert "the scheme must be one of http, https" in unknown.stderr


@pytest.mark.parametrize("server", [(), ("--server",)])
def test_the_kind_in_a_configuration_is_used(shell: Shell, server: tuple[str, ...]) -> None:
    """It counts for the address beside it and for that of --server."""
    prepared(shell.folder, 2)
    address = f'url = "{shell.url}"\n' if not server else ""
    config = write_config(shell.folder, f'{SMALL}\n[server]\nkind = "pngs"\n{address}')
    assert shell("run", config, *server, *((shell.url,) if server else ())).returncode == 0
    config = write_config(shell.folder, f'{SMALL}\n[server]\nkind = "webui"\n{address}')
    refused = shell("run", config, *server, *((shell.url,) if server else ()))
    assert refused.returncode == 2
    assert "http" in refused.stderr


def test_an_unknown_kind_is_refused_with_those_that_are_installed(shell: Shell) -> None:
    """Also where no server is named, and nothing is started."""
    config = write_config(shell.folder, f'{SMALL}\n[server]\nkind = "webiu"\n')
    for command in ("run", "doctor"):
        more = ("--server", "http://127.0.0.1:1") if command == "doctor" else ()
        refused = shell(command, config, *more)
        assert refused.returncode == 2
        words = "server.kind = 'webiu': only webui, pngs is installed; install the package of that"
        assert words in refused.stderr
    assert not list(shell.folder.glob("runs/2*"))
