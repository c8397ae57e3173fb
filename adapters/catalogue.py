"""The catalogue of runs: a SQLite projection of the logs, rebuilt whenever it is in doubt."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from ..events.errors import LogCorruptError
from ..events.folding import Fold, recorded_stages
from ..events.lock import is_locked
from ..events.model import Outcome, RunState
from ..events.reading import log_path, read_log
from ..statemachine.run_folder import run_folders
from ..statemachine.states import can_go_on, is_fruitless

_logger = logging.getLogger("stagewright.catalogue")

CATALOGUE_NAME = "catalogue.sqlite"
SCHEMA_VERSION = 3
CORRUPT = "CORRUPT"
DIED = "DIED"
"""As a filter: RUNNING, says the log, and nobody runs it."""

_TABLE = """
CREATE TABLE runs (
    folder TEXT PRIMARY KEY, bytes INTEGER NOT NULL, changed_ns INTEGER NOT NULL,
    opened TEXT NOT NULL, state TEXT NOT NULL, entry TEXT NOT NULL
) WITHOUT ROWID
"""


class CatalogueEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One run in the catalogue.

    ``state`` is CORRUPT where the log is. ``alive`` says whether some process holds the run
    now; a run that is RUNNING and not alive has died. ``resumable`` says whether a resume
    would go on with it, ``needs_force`` that it would only with ``--force``. ``opened`` is
    RFC 3339. ``images`` of ``total_images`` have been through the last stage;
    ``stage_images`` of ``total_stage_images`` are finished, over all stages.
    """

    run_id: str
    folder: str
    name: str
    opened: str
    state: str
    outcome: Outcome | None
    summary: str
    images: int
    total_images: int
    stage_images: int
    total_stage_images: int
    models: tuple[str, ...]
    resumes: int
    group_id: str | None = None
    alive: bool = False
    resumable: bool = False
    needs_force: bool = False

    @property
    def died(self) -> bool:
        """Whether its process died, and nobody has taken it up since."""
        return self.state == RunState.RUNNING and not self.alive


class Catalogue:
    """Answers questions about all runs below one folder; the logs alone decide the answers."""

    def __init__(self, runs: Path) -> None:
        self._runs = runs

    def entries(
        self,
        *,
        state: str | None = None,
        since: datetime | None = None,
        model: str | None = None,
        limit: int | None = None,
    ) -> list[CatalogueEntry]:
        """The runs that fit, the latest first.

        ``state`` may be DIED; ``model`` fits any part of a model's name, in either case;
        ``since`` is inclusive.
        """
        wanted = None if state is None else state.upper()
        recorded = RunState.RUNNING if wanted == DIED else wanted
        fitting = (
            entry
            for entry in self._all()
            if (recorded is None or entry.state == recorded)
            and (since is None or (entry.opened and datetime.fromisoformat(entry.opened) >= since))
            and (model is None or any(model.lower() in name.lower() for name in entry.models))
        )
        living = map(self._with_life, fitting)
        return list(islice((one for one in living if wanted != DIED or one.died), limit))

    def _with_life(self, entry: CatalogueEntry) -> CatalogueEntry:
        if not entry.resumable:
            return entry
        held = is_locked(self._runs / entry.folder)
        alive = held and entry.state == RunState.RUNNING
        return msgspec.structs.replace(entry, alive=alive, resumable=not held)

    def _all(self) -> list[CatalogueEntry]:
        """Every run, the latest first; the logs know all that a lost catalogue knew."""
        if not self._runs.is_dir():
            return []
        path = self._runs / CATALOGUE_NAME
        try:
            return self._query(str(path))
        except (sqlite3.DatabaseError, msgspec.DecodeError) as error:
            _logger.info("%s is of no use (%s); it is built anew", path, error)
        try:
            path.unlink(missing_ok=True)
            return self._query(str(path))
        except (sqlite3.DatabaseError, OSError) as error:
            _logger.info("%s cannot be written (%s); answering from memory", path, error)
        return self._query(":memory:")

    def _query(self, database_name: str) -> list[CatalogueEntry]:
        with closing(sqlite3.connect(database_name, timeout=10)) as database:
            self._lay_out(database)
            with database:
                self._refresh(database)
            rows = database.execute("SELECT entry FROM runs ORDER BY opened DESC, folder DESC")
            return [msgspec.json.decode(row[0], type=CatalogueEntry) for row in rows]

    def _lay_out(self, database: sqlite3.Connection) -> None:
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version == SCHEMA_VERSION:
            return
        with database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("DROP TABLE IF EXISTS runs")
            database.execute(_TABLE)
            database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _refresh(self, database: sqlite3.Connection) -> None:
        known: dict[str, tuple[int, int]] = {
            folder: (size, changed)
            for folder, size, changed in database.execute(
                "SELECT folder, bytes, changed_ns FROM runs"
            )
        }
        present = set()
        for folder in run_folders(self._runs):
            present.add(folder.name)
            status = log_path(folder).stat()
            stamp = (status.st_size, status.st_mtime_ns)
            if known.get(folder.name) != stamp:
                entry = catalogue_entry(folder)
                database.execute(
                    "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?)",
                    (folder.name, *stamp, entry.opened, entry.state, msgspec.json.encode(entry)),
                )
        gone = [(folder,) for folder in known.keys() - present]
        database.executemany("DELETE FROM runs WHERE folder = ?", gone)


def catalogue_entry(folder: Path) -> CatalogueEntry:
    """What the catalogue says of a run, from its log alone."""
    fold = Fold()
    state: str
    try:
        read_log(folder, fold.apply_all)
        state = fold.state
    except LogCorruptError:
        state = CORRUPT
    opened = fold.opened
    plan = fold.plan
    stage_ids = fold.planned_stage_ids()
    finished = [fold.stages[one].finished.count if one in fold.stages else 0 for one in stage_ids]
    unfinished = len(stage_ids) * len(fold.seeds) - sum(finished)
    return CatalogueEntry(
        run_id=fold.run_id or folder.name,
        folder=folder.name,
        name=str(opened.config.get("name") or _slug(folder.name)) if opened else folder.name,
        opened=opened.ts.isoformat() if opened else "",
        state=state,
        outcome=fold.outcome,
        summary=str(plan.get("summary", "")),
        images=finished[-1] if finished else 0,
        total_images=len(fold.seeds),
        stage_images=sum(finished),
        total_stage_images=len(stage_ids) * len(fold.seeds),
        models=tuple(sorted(set(_models(recorded_stages(plan))))),
        resumes=fold.resumes,
        group_id=opened.group_id if opened else None,
        resumable=state != CORRUPT and can_go_on(fold.state, fold.error, sealed=fold.sealed),
        needs_force=unfinished > 0 and is_fruitless(fold.fruitless_epochs),
    )


def _slug(run_id: str) -> str:
    """The name within ``20261120T225226.123456Z-portrait-7f3a9c``."""
    return "-".join(run_id.split("-")[1:-1]) or run_id


def _models(stages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for stage in stages:
        config = stage["config"]
        for part in (config, config.get("refiner"), config.get("hires")):
            if isinstance(part, Mapping) and part.get("model"):
                yield str(part["model"])
