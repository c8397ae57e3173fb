"""Which runs have sent a request: an index of the logs, in the catalogue."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple
from weakref import finalize

from ...events.log.kind import LOG_NAME
from ...statemachine.files.run_folder import ARCHIVE_NAME, run_folders
from .catalogue_file import (
    CATALOGUE_NAME,
    SCHEMA_VERSION,
    UNUSABLE,
    begin_writing,
    connect,
    remove_if_damaged,
    version_of,
)

_DIGEST = re.compile(rb'"request_sha256":"([0-9a-f]{64})"')
_CHUNK_BYTES = 1 << 20


class CatalogueReuseIndex:
    """Finds runs by a request's digest; see ``ReuseIndex``. Safe from any thread.

    Logs are searched for digests without being verified, because the run that uses what it finds
    verifies it. Where the catalogue cannot be used, the index is made in memory.
    """

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._path = runs / CATALOGUE_NAME
        self._lock = threading.Lock()
        self._in_memory: sqlite3.Connection | None = None
        self._is_rebuilt = False

    def refresh(self) -> None:
        """Read what is new in the logs. Never fails."""
        with self._lock:
            self._refresh()

    def find(self, request_sha256: str) -> Sequence[Path]:
        """The folders of runs whose logs have the digest, newest first."""
        with self._lock:
            while True:
                try:
                    found = self._find(request_sha256)
                    break
                except UNUSABLE as error:
                    self._set_right(error)
                    self._refresh()
        names = sorted(filter(_is_run_folder, found), key=_name, reverse=True)
        return [self._runs / folder for folder in names]

    def _find(self, request_sha256: str) -> list[str]:
        if self._in_memory is None and not self._path.exists():
            return []
        with self._open() as database:
            rows = database.execute(
                "SELECT folder FROM requests JOIN indexed_logs ON log = number WHERE sha256 = ?",
                (bytes.fromhex(request_sha256),),
            )
            return [str(folder) for (folder,) in rows]

    def _refresh(self) -> None:
        try:
            logs = {log.folder: log for log in _logs(self._runs)}
        except OSError:
            return  # the folder cannot be listed now
        while logs or self._path.exists():
            try:
                with self._open() as database:
                    _update(database, self._runs, logs)
                break
            except UNUSABLE as error:
                self._set_right(error)

    def _set_right(self, error: Exception) -> None:
        """Continue with a new file if this one is damaged, the first time; else in memory."""
        if self._in_memory is not None:
            raise error
        if self._is_rebuilt or not remove_if_damaged(self._path, error):
            # Used under the lock only, so that any thread may.
            self._in_memory = sqlite3.connect(":memory:", check_same_thread=False)
            finalize(self, self._in_memory.close)
            with self._in_memory:
                begin_writing(self._in_memory)
        self._is_rebuilt = True

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        if self._in_memory is not None:
            yield self._in_memory
            return
        with closing(connect(self._path)) as database:
            yield database


class _Log(NamedTuple):
    """A log as it is on disk; ``read_bytes`` have been searched."""

    folder: str
    bytes: int
    changed_ns: int
    read_bytes: int = 0


def _name(folder: str) -> str:
    """Run ids begin with the time."""
    return folder.rpartition("/")[2]


def _is_run_folder(folder: str) -> bool:
    """Whether a row may name a run of this folder; nothing else is looked into."""
    *above, name = folder.split("/")
    return above in ([], [ARCHIVE_NAME]) and name not in ("", ".", "..") and "\0" not in name


def _logs(runs: Path) -> Iterator[_Log]:
    for folder in run_folders(runs):
        place = folder.relative_to(runs).as_posix()
        try:
            place.encode()
            status = (folder / LOG_NAME).stat()
        except (OSError, UnicodeEncodeError):
            continue
        yield _Log(place, status.st_size, status.st_mtime_ns)


def _update(database: sqlite3.Connection, runs: Path, logs: Mapping[str, _Log]) -> None:
    """Search what is new in the logs, then write it in one short transaction."""
    known = {log.folder: log for log in _stored(database)}
    gone = known.keys() - logs.keys()
    searched = []
    for folder, log in logs.items():
        before = known.get(folder)
        if before is not None and before[:3] == log[:3]:
            continue
        start = before.read_bytes if before is not None and before.bytes < log.bytes else 0
        try:
            digests, end = _digests(runs / folder / LOG_NAME, start, log.bytes)
        except OSError:
            continue
        searched.append((log._replace(read_bytes=end), digests))
    if not searched and not gone:
        return
    with database:
        begin_writing(database)
        database.executemany("DELETE FROM indexed_logs WHERE folder = ?", [(one,) for one in gone])
        if gone:
            database.execute(
                "DELETE FROM requests WHERE log NOT IN (SELECT number FROM indexed_logs)"
            )
        for log, digests in searched:
            _write(database, log, digests)


def _stored(database: sqlite3.Connection) -> Iterator[_Log]:
    version = version_of(database)
    tables = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'indexed_logs'")
    if version != SCHEMA_VERSION or not tables.fetchone():
        return
    for row in database.execute("SELECT folder, bytes, changed_ns, read_bytes FROM indexed_logs"):
        log = _Log._make(row)
        numbers = (log.bytes, log.read_bytes)
        if all(isinstance(one, int) for one in numbers) and 0 <= log.read_bytes <= log.bytes:
            yield log


def _write(database: sqlite3.Connection, log: _Log, digests: set[bytes]) -> None:
    database.execute(
        "INSERT INTO indexed_logs (folder, bytes, changed_ns, read_bytes) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (folder) DO UPDATE SET bytes = excluded.bytes,"
        " changed_ns = excluded.changed_ns, read_bytes = excluded.read_bytes",
        log,
    )
    (number,) = database.execute(
        "SELECT number FROM indexed_logs WHERE folder = ?", (log.folder,)
    ).fetchone()
    database.executemany(
        "INSERT OR IGNORE INTO requests VALUES (?, ?)", [(digest, number) for digest in digests]
    )


def _digests(path: Path, start: int, size: int) -> tuple[set[bytes], int]:
    """The digests in whole lines of a log from ``start`` on, and where these lines end.

    Raises OSError.
    """
    found: set[bytes] = set()
    rest, end = b"", start
    with path.open("rb") as stream:
        stream.seek(start)
        while stream.tell() < size and (chunk := stream.read(_CHUNK_BYTES)):
            lines, newline, rest = (rest + chunk).rpartition(b"\n")
            found.update(bytes.fromhex(digits.decode()) for digits in _DIGEST.findall(lines))
            end += len(lines) + len(newline)
    return found, end
