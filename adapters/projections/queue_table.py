"""The jobs of a queue in ``queue.sqlite``: a projection of its log, made again where it is gone.

Every look-up goes by an index, so that 100,000 jobs take no longer than 1,000.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG
from typing import Any

import msgspec

from ...events.queue.jobs import Job, JobState, JobTable, JobTableError, QueueState, ServerWork
from ...events.queue.model import JobAdded, StageWork

QUEUE_TABLE_NAME = "queue.sqlite"
_VERSION = 2
_LOCK_WAIT_S = 60.0
"""How long to wait for another process: reading a log of 100,000 jobs anew takes some seconds."""
_SCHEMA = """
CREATE TABLE state (number INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE jobs (
    job_id TEXT PRIMARY KEY, digits TEXT NOT NULL, name TEXT NOT NULL, state TEXT NOT NULL,
    priority INTEGER NOT NULL, position REAL NOT NULL, not_before TEXT, checkpoint TEXT,
    server TEXT NOT NULL, begun_seq INTEGER NOT NULL, ended_seq INTEGER NOT NULL, body BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE added (job_id TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX waiting ON jobs (priority DESC, position) WHERE state = 'waiting';
CREATE INDEX alike ON jobs (priority, checkpoint, position) WHERE state = 'waiting';
CREATE INDEX begun ON jobs (priority, position) WHERE begun_seq >= 0;
CREATE INDEX others ON jobs (state, ended_seq DESC) WHERE state <> 'waiting';
CREATE TABLE counts (state TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE work (
    server TEXT NOT NULL, stage_type TEXT NOT NULL, model TEXT NOT NULL, pixels REAL NOT NULL,
    jobs INTEGER NOT NULL, weight REAL NOT NULL,
    PRIMARY KEY (server, stage_type, model, pixels)
) WITHOUT ROWID;
CREATE INDEX digits ON jobs (digits);
CREATE INDEX names ON jobs (name);
"""
_DAMAGED = (
    sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR,
)  # fmt: skip
_WAITING = "state = 'waiting'"
_UNKNOWN = -1.0
"""Stands for a size that is not known: NULL is equal to no other value."""
_DUE = "(not_before IS NULL OR not_before <= ?)"
_logger = logging.getLogger("stagewright.queue")
_encode = msgspec.json.encode
_job_of = msgspec.json.Decoder(Job).decode
_jobs_of = msgspec.json.Decoder(list[Job]).decode
_state_of = msgspec.json.Decoder(QueueState).decode
_added_of = msgspec.json.Decoder(JobAdded).decode


class SqliteJobTable(JobTable):
    """The jobs of the queue below ``runs``; see ``JobTable``.

    Where the file cannot be written, or is damaged, the jobs are in memory, and the log is read
    once more for that.
    """

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._database: sqlite3.Connection | None = None
        self._counts: Counter[JobState] = Counter()
        self._work: dict[tuple[str, str, str, float], tuple[int, float]] = {}
        self._opened: tuple[int, int] | None = None
        """The file that was opened: another process may have deleted it, and made it anew."""

    @contextmanager
    def updating(self) -> Iterator[None]:
        """A transaction."""
        try:
            database = self._begin()
            self._counts, self._work = Counter(), {}
            yield
            self._write_counts()
        except (sqlite3.DatabaseError, msgspec.MsgspecError) as error:
            self._give_up(error)
            raise JobTableError(
                f"{self._runs / QUEUE_TABLE_NAME} cannot be used ({error}); repeat the command, "
                "and if that does not help, delete the file: it is made again from queue.jsonl"
            ) from error
        except BaseException:
            if self._database is not None:
                self._database.rollback()
            raise
        try:
            database.commit()
        except sqlite3.DatabaseError as error:
            # The log has what was recorded: it is read again.
            self._give_up(error)

    def clear(self) -> None:
        self._counts, self._work = Counter(), {}
        for table in ("state", "jobs", "added", "counts", "work"):
            self._do(f"DELETE FROM {table}")  # noqa: S608 - names of this module

    def state(self) -> QueueState:
        row = self._do("SELECT body FROM state").fetchone()
        return QueueState() if row is None else _state_of(row[0])

    def put_state(self, state: QueueState) -> None:
        self._do("INSERT OR REPLACE INTO state VALUES (0, ?)", _encode(state))

    def job(self, job_id: str) -> Job | None:
        return self._one("SELECT body FROM jobs WHERE job_id = ?", job_id)

    def put(self, job: Job) -> None:
        old = self.job(job.job_id)
        if old is not None:
            self._count(old, -1)
        self._count(job, 1)
        self._do(
            "INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            job.job_id,
            job.job_id[-6:],
            job.name,
            str(job.state),
            job.priority,
            job.position,
            _time(job.not_before),
            job.first_checkpoint,
            job.server or "",
            job.begun_seq,
            job.ended_seq,
            _encode(job),
        )

    def added(self, job_id: str) -> JobAdded | None:
        row = self._do("SELECT body FROM added WHERE job_id = ?", job_id).fetchone()
        return None if row is None else _added_of(row[0])

    def put_added(self, event: JobAdded) -> None:
        self._do("INSERT OR REPLACE INTO added VALUES (?, ?)", event.job_id, _encode(event))

    def jobs(self, state: JobState, most: int | None = None) -> Iterator[Job]:
        order = "priority DESC, position" if state is JobState.WAITING else "ended_seq DESC"
        # A literal, for SQLite uses a partial index only where it sees the condition.
        where = f"state = '{state.value}'"
        where += "" if state is JobState.WAITING else " AND state <> 'waiting'"
        rows = self._do(
            f"SELECT body FROM jobs WHERE {where} ORDER BY {order} LIMIT ?",  # noqa: S608 - of an enum
            -1 if most is None else most,
        )
        # At once, which takes half the time.
        return iter(_jobs_of(b"[" + b",".join(body for (body,) in rows) + b"]"))

    def ids_like(self, name: str) -> list[str]:
        # A range, unlike LIKE, goes by the index.
        rows = self._do(
            "SELECT job_id FROM jobs WHERE job_id >= ? AND job_id < ? "
            "UNION SELECT job_id FROM jobs WHERE digits = ? "
            "UNION SELECT job_id FROM jobs WHERE name = ?",
            name,
            f"{name}\U0010ffff",
            name,
            name,
        )
        return [job_id for (job_id,) in rows]

    def counts(self) -> dict[JobState, int]:
        self._write_counts()
        rows = self._do("SELECT state, number FROM counts")
        return dict.fromkeys(JobState, 0) | {JobState(state): number for state, number in rows}

    def work_left(self) -> list[ServerWork]:
        self._write_counts()
        rows = self._do("SELECT server, stage_type, model, pixels, weight FROM work WHERE jobs > 0")
        return [
            ServerWork(
                server or None,
                StageWork(
                    stage_type=stage_type,
                    model=model,
                    weight=weight,
                    pixels=None if pixels == _UNKNOWN else pixels,
                ),
            )
            for server, stage_type, model, pixels, weight in rows
        ]

    def first_due(
        self,
        now: datetime,
        *,
        priority: int | None = None,
        checkpoint: str | None = None,
        passed_over: Collection[str] = (),
    ) -> Job | None:
        others = ", ".join("?" * len(passed_over))
        due = f"{_DUE} AND job_id NOT IN ({others}) AND server NOT IN ({others})"
        values = (_time(now), *passed_over, *passed_over)
        if priority is None:
            return self._first_waiting(f"{due} ORDER BY priority DESC, position", *values)
        condition = f"priority = ? AND checkpoint = ? AND {due} ORDER BY position"
        return self._first_waiting(condition, priority, checkpoint, *values)

    def overtakers(self, job: Job, most: int) -> int:
        query = """SELECT count(*) FROM (SELECT 1 FROM jobs WHERE begun_seq >= 0 AND priority = ?
            AND position > ? AND begun_seq > ? LIMIT ?)"""
        (found,) = self._do(query, job.priority, job.position, job.added_seq, most).fetchone()
        return int(found)

    def first_of(self, priority: int) -> Job | None:
        return self._first_waiting("priority = ? ORDER BY position", priority)

    def neighbour(self, job: Job, *, is_next: bool) -> Job | None:
        side, order = (">", "ASC") if is_next else ("<", "DESC")
        condition = f"priority = ? AND position {side} ? ORDER BY position {order}"
        return self._first_waiting(condition, job.priority, job.position)

    def waiting_ahead(self, job: Job) -> int:
        query = f"""SELECT (SELECT count(*) FROM jobs WHERE {_WAITING} AND priority > ?)
            + (SELECT count(*) FROM jobs WHERE {_WAITING} AND priority = ? AND position < ?)"""  # noqa: S608 - of this module
        (found,) = self._do(query, job.priority, job.priority, job.position).fetchone()
        return int(found)

    def close(self) -> None:
        """Close the file."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _count(self, job: Job, by: int) -> None:
        """Add a job to what is counted of all, or take it out."""
        self._counts[job.state] += by
        for work in job.work if job.is_left else ():
            pixels = _UNKNOWN if work.pixels is None else work.pixels
            key = job.server or "", work.stage_type, work.model, pixels
            jobs, weight = self._work.get(key, (0, 0.0))
            self._work[key] = jobs + by, weight + by * work.weight

    def _write_counts(self) -> None:
        """Write what has changed since the last time: once for many jobs."""
        counts, self._counts = self._counts, Counter()
        for state, by in counts.items():
            self._do(
                "INSERT INTO counts VALUES (?, ?) ON CONFLICT DO UPDATE "
                "SET number = number + excluded.number",
                str(state),
                by,
            )
        work, self._work = self._work, {}
        for key, (jobs, weight) in work.items():
            self._do(
                "INSERT INTO work VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE "
                "SET jobs = jobs + excluded.jobs, weight = weight + excluded.weight",
                *key,
                jobs,
                weight,
            )

    def _first_waiting(self, condition: str, *values: Any) -> Job | None:
        query = f"SELECT body FROM jobs WHERE {_WAITING} AND {condition} LIMIT 1"  # noqa: S608 - of this module
        return self._one(query, *values)

    def _one(self, query: str, *values: Any) -> Job | None:
        row = self._do(query, *values).fetchone()
        return None if row is None else _job_of(row[0])

    def _do(self, query: str, *values: Any) -> sqlite3.Cursor:
        assert self._database is not None
        return self._database.execute(query, values)

    def _begin(self) -> sqlite3.Connection:
        """Begin a transaction, in the file or, where that is of no use, in memory."""
        path = self._runs / QUEUE_TABLE_NAME
        if self._database is None:
            for place in (path, path, Path(":memory:")):
                try:
                    if place is path and not self._runs.is_dir():
                        continue  # nothing is made before there is a queue
                    self._database = _open(place)
                    self._opened = _file_id(path)
                    break
                except (sqlite3.DatabaseError, OSError, *_DECODE_ERRORS) as error:
                    _logger.info("%s cannot be used (%s); it is made anew", place, error)
                    _remove(place)
        elif self._opened != _file_id(path):
            self.close()
            return self._begin()
        else:
            self._database.execute("BEGIN IMMEDIATE")
        assert self._database is not None
        return self._database

    def _give_up(self, error: Exception) -> None:
        """Forget a file that is of no use, so that the next look makes it anew."""
        _logger.info("%s cannot be used: %s", QUEUE_TABLE_NAME, error)
        self.close()
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in _DAMAGED:
            _remove(self._runs / QUEUE_TABLE_NAME)


_DECODE_ERRORS = (msgspec.MsgspecError, ValueError)


def _open(path: Path) -> sqlite3.Connection:
    """The file with a transaction begun, and with tables of this version."""
    database = sqlite3.connect(
        path, timeout=_LOCK_WAIT_S, isolation_level=None, check_same_thread=False
    )
    try:
        database.execute("BEGIN IMMEDIATE")
        version = int(database.execute("PRAGMA user_version").fetchone()[0])
        if version != _VERSION:
            if version:
                raise sqlite3.DatabaseError(f"it is of version {version}")  # noqa: TRY301 - as one that is damaged
            for statement in _SCHEMA.split(";"):
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {_VERSION}")
            # They stay where what is read now is given up.
            database.commit()
            database.execute("BEGIN IMMEDIATE")
        row = database.execute("SELECT body FROM state").fetchone()
        if row is not None:
            _state_of(row[0])
    except BaseException:
        database.close()
        raise
    return database


def _file_id(path: Path) -> tuple[int, int] | None:
    """What identifies a file; None where there is none, or a folder."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if S_ISREG(found.st_mode) else None


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
        path.with_name(f"{path.name}-journal").unlink(missing_ok=True)
    except OSError as error:
        _logger.info("%s cannot be removed: %s", path, error)


def _time(moment: datetime | None) -> str | None:
    """A time in UTC with six digits, so that texts are in the order of times."""
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="microseconds")
