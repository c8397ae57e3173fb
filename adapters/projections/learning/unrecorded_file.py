"""A cache of the runs without a record, so that their logs are not read again.

Only reading a whole log shows that a run died, has opted out or is corrupt. The file saves this
with the stamp of the log. If it is lost or invalid, the logs are read again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import msgspec

from ....events.codec import DECODE_ERRORS
from ....events.log.lock import is_locked
from ....events.log.storage import PART_SUFFIX, Storage, open_regular
from ....events.version import VERSION
from .record_file import FileStamp
from .records import SCHEMA_VERSION

UNRECORDED_NAME = ".learning.unrecorded"
MAX_BYTES = 64 * 1024 * 1024

_logger = logging.getLogger("stagewright.learning")


class UnrecordedRun(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A log without a record; ``is_unreadable`` if the log is at fault."""

    stamp: FileStamp
    is_unreadable: bool


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of the file; it is valid only for the version that wrote it."""

    schema_version: int
    software: str
    runs: dict[str, UnrecordedRun]


class UnrecordedFile:
    """Loads and saves the runs without records; the caller holds the lock. Raises nothing."""

    def __init__(self, runs: Path, storage: Storage) -> None:
        self._runs = runs
        self._path = runs / UNRECORDED_NAME
        self._storage = storage
        self._held: dict[str, UnrecordedRun] = {}

    def load(self) -> Mapping[str, UnrecordedRun]:
        """The saved runs by folder; empty if the file is invalid."""
        self._held = self._read()
        return self._held

    def _read(self) -> dict[str, UnrecordedRun]:
        try:
            with open_regular(self._path) as stream:
                document = msgspec.json.decode(stream.read(MAX_BYTES), type=_Document)
        except FileNotFoundError:
            return {}
        except (OSError, *DECODE_ERRORS) as error:
            _logger.info("%s is ignored: %s", self._path, error)
            return {}
        is_ours = (document.schema_version, document.software) == (SCHEMA_VERSION, VERSION)
        return document.runs if is_ours else {}

    def save(self, runs: Mapping[str, UnrecordedRun]) -> None:
        """Replace the saved runs by these, except those that a process is executing."""
        lasting = {
            folder: run
            for folder, run in runs.items()
            if self._held.get(folder) == run or (_is_text(folder) and not self._is_held(folder))
        }
        if lasting == self._held:
            return
        try:
            self._write(lasting)
        except OSError as error:
            _logger.info("%s cannot be written: %s", self._path, error)
        else:
            self._held = lasting

    def _is_held(self, folder: str) -> bool:
        try:
            return is_locked(self._runs / folder)
        except OSError:
            return True

    def _write(self, runs: dict[str, UnrecordedRun]) -> None:
        for left in self._runs.glob(f".{UNRECORDED_NAME}.*{PART_SUFFIX}"):
            self._storage.remove(left, durable=False)
        if not runs:
            self._storage.remove(self._path, durable=False)
            return
        document = _Document(schema_version=SCHEMA_VERSION, software=VERSION, runs=runs)
        self._storage.write_file(self._path, msgspec.json.encode(document), durable=False)


def _is_text(folder: str) -> bool:
    """Whether the name of a folder is valid text, as JSON requires."""
    return folder.encode("utf-8", "replace").decode() == folder
