"""The catalogue between processes: whoever has it locked or is newer loses nothing by it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from .command_line import run_json, stagewright, write_config

HOLDER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN EXCLUSIVE")
database.execute("CREATE TABLE mine (one)")
print("locked", flush=True)
sys.stdin.readline()
database.execute("COMMIT")
"""

OBSERVER = """
import sqlite3, sys
from pathlib import Path
from stagewright.adapters.projections.catalogue import CATALOGUE_NAME, Catalogue

runs = Path(sys.argv[1])
other = sqlite3.connect(runs / CATALOGUE_NAME, timeout=0, isolation_level=None)

def look(event, arguments):
    if event == "open" and str(arguments[0]).endswith("events.jsonl"):
        try:
            other.execute("BEGIN IMMEDIATE")
            other.execute("ROLLBACK")
            print("free")
        except sqlite3.OperationalError as error:
            print(error)

sys.addaudithook(look)
Catalogue(runs).entries()
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two finished runs and their catalogue."""
    folder = tmp_path_factory.mktemp("made")
    for _ in range(2):
        run_json(write_config(folder))
    assert stagewright("list", folder=folder).returncode == 0
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it, with the times of its logs."""
    return shutil.copytree(made, tmp_path / "copy")


def listed(folder: Path) -> list[str]:
    done = stagewright("list", "--json", folder=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return [entry["run_id"] for entry in json.loads(done.stdout)]


def test_a_locked_catalogue_is_left_alone_and_list_answers_from_the_logs(folder: Path) -> None:
    """The process that holds the lock can commit afterwards, into the same file."""
    catalogue = folder / "runs" / "catalogue.sqlite"
    before = listed(folder)
    inode = catalogue.stat().st_ino
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(catalogue)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        assert listed(folder) == before
        assert catalogue.stat().st_ino == inode
        holder.communicate("\n", timeout=30)
    assert holder.returncode == 0
    with closing(sqlite3.connect(catalogue)) as database:
        assert database.execute("SELECT count(*) FROM mine").fetchone() == (0,)


def test_the_catalogue_is_not_locked_while_logs_are_read(folder: Path) -> None:
    """Another process can write to it before each log of a first list is opened."""
    (folder / "runs" / "catalogue.sqlite").unlink()
    done = subprocess.run(
        [sys.executable, "-c", OBSERVER, str(folder / "runs")],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.split("\n") == ["free", "free", ""]


def test_the_catalogue_of_a_newer_version_is_left_alone(folder: Path) -> None:
    """Its table and its rows stay; the answer comes from the logs."""
    catalogue = folder / "runs" / "catalogue.sqlite"
    before = listed(folder)
    with closing(sqlite3.connect(catalogue)) as database, database:
        database.execute("DROP TABLE runs")
        database.execute("CREATE TABLE runs (future)")
        database.execute("INSERT INTO runs VALUES ('kept')")
        database.execute("PRAGMA user_version = 99")
    assert listed(folder) == before
    with closing(sqlite3.connect(catalogue)) as database:
        assert database.execute("SELECT future FROM runs").fetchall() == [("kept",)]


@pytest.mark.parametrize(
    "harm",
    [
        b"", b"SQLite format 3\0", b"x" * 5000,
        "DROP TABLE runs", "ALTER TABLE runs RENAME COLUMN entry TO other",
        "UPDATE runs SET bytes = 'x'",
        "UPDATE runs SET folder = CAST(x'ff' AS TEXT) WHERE folder = :last",
        "UPDATE runs SET entry = x'ff'", "UPDATE runs SET entry = 7",
        "UPDATE runs SET entry = '{\"x\":' || printf('%.100000c', '[')",
    ],
)  # fmt: skip
def test_a_damaged_catalogue_is_built_anew(folder: Path, harm: bytes | str) -> None:
    """Cut, overwritten, or with other rows: the next list answers and leaves a whole one."""
    path = folder / "runs" / "catalogue.sqlite"
    expected = listed(folder)
    if isinstance(harm, bytes):
        path.write_bytes(harm)
    else:
        with closing(sqlite3.connect(path)) as database, database:
            database.execute(harm, {"last": expected[0]})
    assert listed(folder) == expected
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT count(*) FROM runs WHERE json_valid(entry)").fetchone()
    assert rows == (2,)
    assert listed(folder) == expected
