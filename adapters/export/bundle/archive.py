"""A zip that appears whole, and into which no byte goes unseen."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from ..output_file import atomic_output

_EARLIEST, _LATEST = (1980, 1, 1, 0, 0, 0), (2107, 12, 31, 23, 59, 58)
"""Before and after them a zip knows no time."""
_LEVEL = 6
_PLAIN_FILE = 0o100644

Check = Callable[[bytes, str], None]
"""Raises where bytes may not be written; also given the member's name."""


class Archive:
    """A zip of one folder, written under a temporary name and renamed at its end.

    Every member is given to ``check`` before it is written, with ``overlap`` bytes of what
    came before. The same members make the same bytes. Every method may raise OSError.
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
        """A new member; what is yielded writes more of it. ``packed`` bytes are stored as is.

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
        """A whole member at once."""
        with self.member(name, packed=packed) as write:
            write(data)

    def close(self) -> None:
        """Write the directory of the zip."""
        self._zip.close()


@contextmanager
def new_archive(
    path: Path, folder: str, *, at: datetime | None, check: Check, overlap: int
) -> Iterator[Archive]:
    """An archive that is at ``path`` once this is left without an error, and not before.

    Another file of that name is replaced then. Raises OSError.
    """
    with atomic_output(path) as stream:
        archive = Archive(stream, folder, at=at, check=check, overlap=overlap)
        try:
            yield archive
        except BaseException:
            # It is thrown away, and what else may go wrong with it tells nothing new.
            with suppress(OSError, ValueError):
                archive.close()
            raise
        archive.close()
