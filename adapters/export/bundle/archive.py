"""Writes a zip atomically, and checks every byte before it is written."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from ..output_file import atomic_output

_EARLIEST, _LATEST = (1980, 1, 1, 0, 0, 0), (2107, 12, 31, 23, 59, 58)
"""The range of times in a zip."""
_LEVEL = 6
_PLAIN_FILE = 0o100644

Check = Callable[[bytes, str], None]
"""Receives bytes and the name of the member; raises if they may not be written."""


class Archive:
    """A zip of one folder.

    ``check`` receives all bytes before they are written, together with the ``overlap`` bytes
    before them. The same members make the same bytes. Every method may raise OSError.
    """

    def __init__(
        self, stream: BinaryIO, folder: str, *, at: datetime | None, check: Check, overlap: int
    ) -> None:
        self._zip = zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL)
        self._folder = folder
        moment = at.timetuple()[:6] if at is not None else _EARLIEST
        self._at = min(max(_EARLIEST, moment), _LATEST)
        self._check = check
        self._overlap = overlap
        self._names: set[str] = set()

    @contextmanager
    def member(self, name: str, *, packed: bool = False) -> Iterator[Callable[[bytes], None]]:
        """A new member; yields the function that writes it. ``packed`` bytes are not compressed.

        Raises FileExistsError for a name that is taken.
        """
        whole = f"{self._folder}/{name}"
        if whole in self._names:
            raise FileExistsError(17, "Two files of the run have one name in the bundle", whole)
        self._names.add(whole)
        self._check(whole.encode(), "the names of its files")
        entry = zipfile.ZipInfo(whole, self._at)
        entry.compress_type = zipfile.ZIP_STORED if packed else zipfile.ZIP_DEFLATED
        entry.external_attr = _PLAIN_FILE << 16
        tail = b""
        with self._zip.open(entry, "w", force_zip64=True) as stream:

            def write(data: bytes) -> None:
                nonlocal tail
                seen = tail + data
                self._check(seen, name)
                tail = seen[-self._overlap :] if self._overlap else b""
                stream.write(data)

            yield write

    def add(self, name: str, data: bytes, *, packed: bool = False) -> None:
        """Add a member with these bytes."""
        with self.member(name, packed=packed) as write:
            write(data)

    def close(self) -> None:
        """Write the directory of the zip."""
        self._zip.close()


@contextmanager
def new_archive(
    path: Path, folder: str, *, at: datetime | None, check: Check, overlap: int
) -> Iterator[Archive]:
    """An archive that is put at ``path`` at the end of the block, unless the block raises.

    It replaces a file of that name. Raises OSError.
    """
    with atomic_output(path) as stream:
        archive = Archive(stream, folder, at=at, check=check, overlap=overlap)
        try:
            yield archive
        except BaseException:
            # The file is discarded, so errors of closing it do not matter.
            with suppress(OSError, ValueError):
                archive.close()
            raise
        archive.close()
