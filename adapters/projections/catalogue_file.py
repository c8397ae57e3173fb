"""The SQLite file of a folder of runs: its tables, its version, and what is done about damage.

Everything in it is derived from the logs, so that it can be deleted at any time.
"""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

CATALOGUE_NAME = "catalogue.sqlite"
SCHEMA_VERSION = 10

_logger = logging.getLogger("stagewright.catalogue")

_DAMAGE = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
"""Errors of a damaged file, unlike those of locks and disks; SQLITE_ERROR is a missing column."""
_LOCK_WAIT_S = 2.0
"""How long to wait for another process that writes the catalogue."""
_TABLES = {
    "runs": """(
        folder TEXT PRIMARY KEY, bytes INTEGER NOT NULL, changed_ns INTEGER NOT NULL,
        entry TEXT NOT NULL
    ) WITHOUT ROWID""",
    "indexed_logs": """(
        number INTEGER PRIMARY KEY, folder TEXT NOT NULL UNIQUE, bytes INTEGER NOT NULL,
        changed_ns INTEGER NOT NULL, read_bytes INTEGER NOT NULL
    )""",
    "requests": """(
        sha256 BLOB NOT NULL, log INTEGER NOT NULL, PRIMARY KEY (sha256, log)
    ) WITHOUT ROWID""",
}


UNUSABLE = (sqlite3.DatabaseError, UnicodeDecodeError)
"""Errors of a file that cannot be used: it is damaged, locked or of a newer version."""


class NewerCatalogueError(sqlite3.DatabaseError):
    """A newer version has written the file, so that it is left alone."""

    sqlite_errorcode = sqlite3.SQLITE_MISMATCH


def connect(path: Path) -> sqlite3.Connection:
    """A connection to the file, which is made if there is none."""
    return sqlite3.connect(path, timeout=_LOCK_WAIT_S)


def version_of(database: sqlite3.Connection) -> int:
    """The version of its tables; 0 while there are none. Raises NewerCatalogueError."""
    version = int(database.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise NewerCatalogueError("it is of a newer version")
    return version


def begin_writing(database: sqlite3.Connection) -> None:
    """Begin a transaction in which all tables are there. Raises NewerCatalogueError."""
    database.execute("BEGIN IMMEDIATE")
    version = version_of(database)
    for name, columns in _TABLES.items():
        if version < SCHEMA_VERSION:
            database.execute(f"DROP TABLE IF EXISTS {name}")
        database.execute(f"CREATE TABLE IF NOT EXISTS {name} {columns}")
    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def remove_if_damaged(path: Path, error: Exception) -> bool:
    """Remove the file if the error shows damage; whether it can be made again."""
    if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF not in _DAMAGE:
        _logger.info("%s cannot be used (%s); reading the logs instead", path, error)
        return False
    _logger.info("%s is damaged (%s); rebuilding it", path, error)
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True
