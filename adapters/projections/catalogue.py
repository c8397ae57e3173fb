"""The catalogue of runs: a SQLite projection of the logs, rebuilt where it is damaged."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ...events.codec import DECODE_ERRORS
from ...events.errors import LogCorruptError, RunNotFoundError
from ...events.folds import Fold, recorded_stages
from ...events.log.kind import LOG_NAME
from ...events.log.lock import is_locked
from ...events.log.reader import read_log
from ...events.model import BackendDescription, Outcome, RunOpened, RunState
from ...events.origins import prompt_of, servers_of
from ...statemachine.files.run_folder import ARCHIVE_NAME, name_in_run_id, run_folders
from ...statemachine.states import can_go_on, is_fruitless
from ..text import escaped
from .catalogue_file import (
    CATALOGUE_NAME,
    SCHEMA_VERSION,
    UNUSABLE,
    begin_writing,
    connect,
    remove_if_damaged,
    version_of,
)

CORRUPT = "CORRUPT"
UNREADABLE = "UNREADABLE"
DIED = "DIED"
"""A filter: RUNNING in the log, but no process is executing the run."""
_MAX_PROMPT = 2_000
"""The characters of a prompt that are kept; beyond them no search was asked for."""


class CatalogueEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One run in the catalogue; ``folder`` is relative to the folder of the runs.

    ``state`` is CORRUPT if the log is corrupt, and UNREADABLE if it cannot be read; in that case
    ``error`` says why, and nothing else is known. ``alive`` says whether a process is executing
    the run; a run that is RUNNING and not alive has died. ``resumable`` says whether the run can
    be resumed, ``needs_force`` that this needs ``--force``, ``cancelled`` that its last process was
    asked to stop. ``prompt`` is that of the first image. ``opened`` is RFC 3339. ``server`` is that
    on which it began, as ``server_of`` names it, and ``servers`` are all if it began on several.
    ``images`` of ``total_images`` have finished the
    last stage; ``stage_images`` of ``total_stage_images`` are finished, over all stages. ``scores``
    are the different scores of its images, the best first, where they were looked up.
    ``parent_run_id`` is the run that a rerun repeats.
    """

    run_id: str
    folder: str
    name: str
    state: str
    prompt: str = ""
    opened: str = ""
    outcome: Outcome | None = None
    summary: str = ""
    images: int = 0
    total_images: int = 0
    stage_images: int = 0
    total_stage_images: int = 0
    models: tuple[str, ...] = ()
    server: str = ""
    servers: tuple[str, ...] = ()
    resumes: int = 0
    group_id: str | None = None
    parent_run_id: str | None = None
    variant_index: int | None = None
    alive: bool = False
    resumable: bool = False
    needs_force: bool = False
    cancelled: bool = False
    scores: tuple[int, ...] = ()
    error: str = ""

    @property
    def all_servers(self) -> tuple[str, ...]:
        """The servers on which it began, one or several."""
        return self.servers or (self.server,)

    @property
    def died(self) -> bool:
        """Whether its process died, and no other has resumed it."""
        return self.state == RunState.RUNNING and not self.alive

    @property
    def shown_state(self) -> str:
        """The state as people see it: DIED where the log still says RUNNING."""
        return DIED if self.died else self.state

    @property
    def is_archived(self) -> bool:
        """Whether ``archive`` has moved it."""
        return self.folder.startswith(f"{ARCHIVE_NAME}/")

    @property
    def waits(self) -> bool:
        """Whether it can be resumed, and was neither cancelled nor archived."""
        return self.resumable and not self.cancelled and not self.is_archived


class Catalogue:
    """Lists all runs below one folder; the logs alone decide the content.

    With ``stores`` false the catalogue is read, and never written.
    """

    def __init__(self, runs: Path, *, stores: bool = True) -> None:
        self._runs = runs
        self._stores = stores

    def entries(
        self,
        *,
        state: str | None = None,
        since: datetime | None = None,
        model: str | None = None,
        limit: int | None = None,
    ) -> list[CatalogueEntry]:
        """The matching runs, newest first.

        ``state`` may be DIED; ``model`` matches any part of a model's name, ignoring case;
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
        living = map(self._with_liveness, fitting)
        return list(islice((one for one in living if wanted != DIED or one.died), limit))

    def _with_liveness(self, entry: CatalogueEntry) -> CatalogueEntry:
        if not entry.resumable:
            return entry
        held = is_locked(self._runs / entry.folder)
        alive = held and entry.state == RunState.RUNNING
        return msgspec.structs.replace(entry, alive=alive, resumable=not held)

    def _all(self) -> list[CatalogueEntry]:
        """All runs, newest first."""
        if not self._runs.is_dir():
            return []
        known = self._load()
        rows = list(_rows(self._runs, known or {}))
        if known is not None and self._stores:
            self._store(rows, known)
        ordered = sorted(rows, key=lambda row: (row.entry.opened, row.folder), reverse=True)
        return [row.entry for row in ordered]

    def _load(self) -> dict[str, _Row] | None:
        """The content of the catalogue by folder; None if it must not be written to."""
        path = self._runs / CATALOGUE_NAME
        if not self._stores and not path.exists():
            return {}  # to connect to it would make it
        try:
            with closing(connect(path)) as database:
                if version_of(database) < SCHEMA_VERSION:
                    return {}
                return {row.folder: row for row in _stored_rows(database)}
        except UNUSABLE as error:
            return self._disable(error)

    def _store(self, rows: Sequence[_Row], known: Mapping[str, _Row]) -> None:
        """Write the changes in one short transaction."""
        gone = [(folder,) for folder in known.keys() - {row.folder for row in rows}]
        changed = [
            (row.folder, *row.stamp, msgspec.json.encode(row.entry))
            for row in rows
            if row.stamp is not None and row != known.get(row.folder)
        ]
        if not gone and not changed:
            return
        try:
            with closing(connect(self._runs / CATALOGUE_NAME)) as database, database:
                begin_writing(database)
                database.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?)", changed)
                database.executemany("DELETE FROM runs WHERE folder = ?", gone)
        except UNUSABLE as error:
            self._disable(error)

    def _disable(self, error: Exception) -> dict[str, _Row] | None:
        """Continue without the catalogue; remove it if it is damaged."""
        if not self._stores:
            return {}
        return {} if remove_if_damaged(self._runs / CATALOGUE_NAME, error) else None


class _Row(NamedTuple):
    """A run in the catalogue; ``stamp`` is size and time of its log, None if not to be stored."""

    folder: str
    stamp: tuple[int, int] | None
    entry: CatalogueEntry


_DECODER = msgspec.json.Decoder(CatalogueEntry)


def _stored_rows(database: sqlite3.Connection) -> Iterator[_Row]:
    """The rows that can be decoded; the others are rebuilt from their logs."""
    found = database.execute("SELECT folder, bytes, changed_ns, CAST(entry AS BLOB) FROM runs")
    for folder, size, changed_ns, entry in found:
        try:
            yield _Row(folder, (size, changed_ns), _DECODER.decode(entry))
        except (*DECODE_ERRORS, TypeError):
            continue


def _rows(runs: Path, known: Mapping[str, _Row]) -> Iterator[_Row]:
    for folder in run_folders(runs):
        place = folder.relative_to(runs).as_posix()
        try:
            place.encode()
            status = (folder / LOG_NAME).stat()
            stamp = (status.st_size, status.st_mtime_ns)
            row = known.get(place)
            if row is None or row.stamp != stamp:
                entry = msgspec.structs.replace(catalogue_entry(folder), folder=place)
                row = _Row(place, stamp, entry)
            yield row
        except (FileNotFoundError, RunNotFoundError):
            continue  # the folder was removed just now
        except OSError as error:
            yield _unreadable(place, error.strerror or str(error))
        except UnicodeEncodeError:
            yield _unreadable(escaped(place), "the name of its folder is not valid text")


def _unreadable(folder: str, why: str) -> _Row:
    run_id = folder.rpartition("/")[2]
    entry = CatalogueEntry(run_id=run_id, folder=folder, name=run_id, state=UNREADABLE, error=why)
    return _Row(folder, None, entry)


def catalogue_entry(folder: Path) -> CatalogueEntry:
    """The catalogue entry of a run, made from its log.

    Raises RunNotFoundError, OSError.
    """
    fold = Fold()
    state: str
    try:
        read_log(folder, fold.apply_all)
        state = fold.state
    except LogCorruptError:
        state = CORRUPT
    opened, plan = fold.opened, fold.plan
    if opened is None:
        return CatalogueEntry(
            run_id=fold.run_id or folder.name, folder=folder.name, name=folder.name, state=state
        )
    stage_ids = fold.planned_stage_ids()
    finished = [len(fold.stages[one].finished) if one in fold.stages else 0 for one in stage_ids]
    missing = fold.missing() if fold.error else ()
    can_resume = can_go_on(fold.state, fold.error, missing, sealed=fold.sealed)
    unfinished = len(stage_ids) * len(fold.seeds) - sum(finished)
    return CatalogueEntry(
        run_id=fold.run_id,
        folder=folder.name,
        name=_name(opened),
        prompt=_prompt(opened),
        opened=opened.ts.isoformat(),
        state=state,
        outcome=fold.outcome,
        summary=str(plan.get("summary", "")),
        images=finished[-1] if finished else 0,
        total_images=len(fold.seeds),
        stage_images=sum(finished),
        total_stage_images=len(stage_ids) * len(fold.seeds),
        models=tuple(sorted(set(_models(recorded_stages(plan))))),
        server=server_of(opened.backend),
        servers=tuple(one.url for one in servers_of(opened.backend)),
        resumes=fold.resumes,
        group_id=opened.group_id,
        parent_run_id=opened.parent_run_id or None,
        variant_index=opened.variant_index,
        resumable=state != CORRUPT and can_resume,
        needs_force=unfinished > 0 and is_fruitless(fold.epochs_without_progress),
        cancelled=fold.cancel_requested and fold.state != RunState.COMPLETED,
    )


def server_of(backend: BackendDescription) -> str:
    """The address of a backend, or its kind where it has none, as the embedded backend."""
    return backend.url or backend.kind


def _name(opened: RunOpened) -> str:
    return str(opened.config.get("name") or name_in_run_id(opened.run_id))


def _prompt(opened: RunOpened) -> str:
    """The prompt of the first image, as far as it is shown."""
    own = prompt_of(opened, 0)
    if own is not None:
        return own.prompt[:_MAX_PROMPT]
    configs = (opened.config, *(stage["config"] for stage in recorded_stages(opened.plan)))
    return next((str(config["prompt"]) for config in configs if config.get("prompt")), "")[
        :_MAX_PROMPT
    ]


def _models(stages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for stage in stages:
        config = stage["config"]
        for part in (config, config.get("refiner"), config.get("hires")):
            if isinstance(part, Mapping) and part.get("model"):
                yield str(part["model"])
