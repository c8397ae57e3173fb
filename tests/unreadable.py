"""Runs that cannot be read or vanish, and commands of a user without special rights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .command_line import run_python
from .resuming import LOG

NOBODY = 65534
_HERE = Path(__file__).resolve().parent.parent

# Everything is loaded before the rights are given up: the interpreter may lie in root's home.
_AS_ANOTHER_USER = f"""
import os, sys
from pathlib import Path
from tests.command_line import called
from tests.forking import _load
_load()
os.chdir(sys.argv.pop(1))
if os.geteuid() == 0:
    os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
"""
_COMMANDS = """
import json
ended = [called(command, Path()) for command in json.loads(sys.argv[1])]
print(json.dumps([[done.args, done.returncode, done.stdout, done.stderr] for done in ended]))
"""

_WATCHING = """
import errno, os, shutil, sys
from stagewright.__main__ import main

def watch(event, arguments):
    if event == "open" and str(arguments[0]).endswith(name + "/events.jsonl"):
        {deed}

name, folder = sys.argv[1:3]
del sys.argv[1:3]
sys.addaudithook(watch)
main()
"""
STALE = 'raise OSError(errno.ESTALE, "Stale file handle", str(arguments[0]))'
REMOVE = "shutil.rmtree(folder, ignore_errors=True)"


def make_looping(folder: Path) -> None:
    """Put a link to itself in the log's place, which not even root can open."""
    (folder / LOG).unlink()
    (folder / LOG).symlink_to(LOG)


def command_watched(
    *arguments: str | Path, folder: Path, opens: Path, deed: str, other: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one command in whose process something happens when it opens the log of ``opens``."""
    return _python(
        _WATCHING.format(deed=deed), opens.name, other or opens, *arguments, folder=folder
    )


@contextmanager
def folder_of_anybody() -> Iterator[Path]:
    """A folder that a user without rights may enter; under root pytest's own are closed."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def commands_of_anybody(
    *commands: Sequence[str], folder: Path
) -> list[subprocess.CompletedProcess[str]]:
    """Run commands as a user without rights, to whom all in ``folder`` is given."""
    done = program_of_anybody(_COMMANDS, json.dumps(commands), folder=folder)
    assert done.returncode == 0, done.stderr
    return [subprocess.CompletedProcess(*ended) for ended in json.loads(done.stdout)]


def program_of_anybody(
    program: str, *arguments: str | Path, folder: Path
) -> subprocess.CompletedProcess[str]:
    """Run a program in ``folder`` likewise."""
    if sys.platform == "win32":
        raise OSError("not on Windows")
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    return _python(_AS_ANOTHER_USER + program, folder, *arguments, folder=_HERE)


def _python(program: str, *arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    done = run_python("-c", program, *arguments, folder=folder)
    assert "Traceback" not in done.stderr, done.stderr
    return done
