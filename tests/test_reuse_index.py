"""The index of requests: it finds every run that sent one, whatever becomes of the catalogue."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from stagewright.adapters import open_controller
from stagewright.adapters.projections.catalogue import Catalogue
from stagewright.adapters.projections.reuse_index import CatalogueReuseIndex
from stagewright.events import CallRequested

from .resuming import small

CATALOGUE = "catalogue.sqlite"
HOLDER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.readline()
"""
REFRESHER = """
import sys
from pathlib import Path
from stagewright.adapters.projections.reuse_index import CatalogueReuseIndex

print("ready", flush=True)
sys.stdin.readline()
for _ in range(10):
    index = CatalogueReuseIndex(Path(sys.argv[1]))
    index.refresh()
    assert index.find(sys.argv[2]) != [], "it was not found"
"""


class Runs:
    """Runs below a folder, and the digests of their requests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = CatalogueReuseIndex(folder)

    def add(self, prompt: str = "a lighthouse") -> tuple[Path, str]:
        """A run of one image: its folder, and the digest of its request."""
        config: dict[str, Any] = small("txt2img", images=1)
        config["prompt"] = prompt
        result = open_controller(self.folder).start(config).wait(30)
        (digest,) = [e.request_sha256 for e in result.events if isinstance(e, CallRequested)]
        return self.folder / result.run_id, digest

    def find(self, digest: str) -> list[Path]:
        """What a refreshed index finds."""
        self.index.refresh()
        return list(self.index.find(digest))

    def anew(self, digest: str) -> list[Path]:
        """What an index of another process finds."""
        return Runs(self.folder).find(digest)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """A folder without runs."""
    return Runs(tmp_path / "runs")


def test_the_newest_run_with_a_request_comes_first(runs: Runs) -> None:
    """And other requests are not found with it."""
    (first, digest), (_, other), (second, _) = runs.add(), runs.add("a pier"), runs.add()
    assert runs.find(digest) == [second, first]
    assert len(runs.find(other)) == 1
    assert runs.find("0" * 64) == []


def test_a_folder_without_runs_has_no_catalogue(runs: Runs) -> None:
    """Nothing is found there, and nothing is written."""
    assert runs.find("0" * 64) == []
    runs.folder.mkdir()
    assert runs.find("0" * 64) == []
    assert list(runs.folder.iterdir()) == []


def test_a_log_that_grows_is_read_on_from_where_it_ended(runs: Runs) -> None:
    """A line that is not whole yet is read when it is."""
    folder, digest = runs.add()
    log = folder / "events.jsonl"
    whole = log.read_bytes()
    place = whole.index(digest.encode())
    for end in (whole.rindex(b"\n", 0, place) + 1, place + 20, whole.index(b"\n", place)):
        log.write_bytes(whole[:end])
        assert runs.find(digest) == []
    log.write_bytes(whole)
    assert runs.find(digest) == [folder]


def test_a_log_that_became_shorter_is_read_again(runs: Runs) -> None:
    """As one that was replaced by another."""
    (first, digest), (second, other) = runs.add(), runs.add("a pier with a much longer prompt")
    assert runs.find(other) == [second]
    shutil.copy(first / "events.jsonl", second / "events.jsonl")
    assert runs.find(digest) == [second, first]


def test_removed_runs_are_gone_and_archived_ones_are_found_there(runs: Runs) -> None:
    """Also after the catalogue had them at their old place."""
    (first, digest), (second, _) = runs.add(), runs.add()
    assert runs.find(digest) == [second, first]
    shutil.rmtree(first)
    moved = runs.folder / "archive" / second.name
    moved.parent.mkdir()
    second.rename(moved)
    assert runs.find(digest) == [moved]
    with closing(sqlite3.connect(runs.folder / CATALOGUE)) as database:
        assert database.execute("SELECT count(*) FROM requests").fetchone() == (1,)


def forged(column: str, value: object) -> Callable[[sqlite3.Connection], object]:
    """A change of one column of each row of the logs."""
    return lambda database: database.execute(f"UPDATE indexed_logs SET {column} = ?", (value,))


@pytest.mark.parametrize(
    "place", ["../elsewhere", "/elsewhere", "..", "archive/..", "a/b", "a\0b", ""]
)
def test_a_forged_row_leads_to_no_other_folder(runs: Runs, place: str) -> None:
    """Only folders of runs of this folder are looked into."""
    _, digest = runs.add()
    runs.index.refresh()
    with closing(sqlite3.connect(runs.folder / CATALOGUE)) as database, database:
        forged("folder", place)(database)
    assert runs.index.find(digest) == []
    assert len(runs.anew(digest)) == 1


@pytest.mark.parametrize(
    "harm",
    [
        b"", b"SQLite format 3\0", b"x" * 5000,
        "DROP TABLE requests", "DROP TABLE indexed_logs",
        "ALTER TABLE indexed_logs RENAME COLUMN folder TO other",
        "UPDATE indexed_logs SET bytes = 'x'", "UPDATE indexed_logs SET read_bytes = -5",
        "UPDATE indexed_logs SET read_bytes = x'ff'", "UPDATE indexed_logs SET changed_ns = 'x'",
        "UPDATE indexed_logs SET folder = CAST(x'ff' AS TEXT)",
        "UPDATE indexed_logs SET folder = x'ff'",
    ],
)  # fmt: skip
def test_a_damaged_catalogue_is_built_anew(runs: Runs, harm: bytes | str) -> None:
    """Cut, overwritten, or with other rows: the request is found, by this process and the next."""
    folder, digest = runs.add()
    runs.index.refresh()
    path = runs.folder / CATALOGUE
    if isinstance(harm, bytes):
        path.write_bytes(harm)
    else:
        with closing(sqlite3.connect(path)) as database, database:
            database.execute(harm)
    assert runs.find(digest) == [folder]
    assert runs.anew(digest) == [folder]
    assert [entry.folder for entry in Catalogue(runs.folder).entries()] == [folder.name]


def test_a_catalogue_that_breaks_between_refresh_and_look_up_is_built_anew(runs: Runs) -> None:
    """A look-up does not fail."""
    folder, digest = runs.add()
    runs.index.refresh()
    (runs.folder / CATALOGUE).write_bytes(b"x" * 5000)
    assert runs.index.find(digest) == [folder]


def test_the_catalogue_of_a_newer_version_is_left_alone(runs: Runs) -> None:
    """The logs are searched instead."""
    folder, digest = runs.add()
    runs.index.refresh()
    path = runs.folder / CATALOGUE
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DROP TABLE requests")
        database.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    assert runs.find(digest) == [folder]
    assert runs.anew(digest) == [folder]
    assert path.read_bytes() == before


def test_the_catalogue_of_an_older_version_gets_new_tables(runs: Runs) -> None:
    """What it held is made again."""
    folder, digest = runs.add()
    with closing(sqlite3.connect(runs.folder / CATALOGUE)) as database, database:
        database.execute("CREATE TABLE runs (past)")
        database.execute("PRAGMA user_version = 3")
    assert runs.find(digest) == [folder]
    assert [entry.folder for entry in Catalogue(runs.folder).entries()] == [folder.name]


def test_a_locked_catalogue_is_left_alone_and_the_logs_are_searched(runs: Runs) -> None:
    """A run that was made meanwhile is found as well."""
    first, digest = runs.add()
    runs.index.refresh()
    path = runs.folder / CATALOGUE
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        second = first.with_name(f"{first.name[:-1]}{'0' if first.name[-1] != '0' else '1'}")
        shutil.copytree(first, second)
        inode = path.stat().st_ino
        assert set(runs.find(digest)) == {first, second}
        assert path.stat().st_ino == inode
        holder.communicate("\n", timeout=30)


def test_a_folder_that_cannot_be_written_is_searched(runs: Runs) -> None:
    """A folder stands where the catalogue would be."""
    folder, digest = runs.add()
    (runs.folder / CATALOGUE).unlink(missing_ok=True)
    (runs.folder / CATALOGUE).mkdir()
    assert runs.find(digest) == [folder]


def test_several_processes_use_the_catalogue_at_once(runs: Runs) -> None:
    """Each finds the request each time, and so does the next one."""
    (folder, digest), _ = runs.add(), runs.add("a pier")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", REFRESHER, str(runs.folder), digest],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
    assert runs.find(digest) == [folder]
