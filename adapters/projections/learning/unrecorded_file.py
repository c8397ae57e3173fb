"""The runs that have no record, as a file: a process need not read their logs to know that.

A run whose process died, one that is to leave no record and one whose log is corrupt are told
from one that ended only by reading all of the log. So what was found is noted with the stamp of
the log. The file is of no other use: where it is lost, or of no use, the logs are read again.
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
    """A log of which no record can be made; ``is_unreadable`` says that this is a fault in it."""

    stamp: FileStamp
    is_unreadable: bool


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose answers these are, for another version may find records; the runs, by folder."""

    schema_version: int
    software: str
    runs: dict[str, UnrecordedRun]


class UnrecordedFile:
    """Keeps the runs without records; whoever calls it holds the lock. It raises nothing."""

    def __init__(self, runs: Path, storage: Storage) -> None:
        self._runs = runs
        self._path = runs / UNRECORDED_NAME
        self._storage = storage
        self._held: dict[str, UnrecordedRun] = {}

    def load(self) -> Mapping[str, UnrecordedRun]:
        """By folder what is noted; nothing where the file is of no use."""
        self._held = self._read()
        return self._held

    def _read(self) -> dict[str, UnrecordedRun]:
        try:
            with open_regular(self._path) as stream:
                document = msgspec.json.decode(stream.read(MAX_BYTES), type=_Document)
        except FileNotFoundError:
            return {}
        except (OSError, *DECODE_ERRORS) as error:
            _logger.info("%s is of no use: %s", self._path, error)
            return {}
        is_ours = (document.schema_version, document.software) == (SCHEMA_VERSION, VERSION)
        return document.runs if is_ours else {}

    def save(self, runs: Mapping[str, UnrecordedRun]) -> None:
        """Note these and no others, as far as they will stay as they are: nobody runs them."""
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
    """Names of folders may hold any bytes; JSON may not."""
    return folder.encode("utf-8", "replace").decode() == folder
