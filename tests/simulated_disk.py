"""A disk that loses what was not synced: real files, and beside them a model of what is durable.

The files are real, so that all production code can work on them; no sync is. What a power
loss may take is known from the model: the bytes and the folder entries that were synced.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from enum import StrEnum
from fnmatch import fnmatch
from pathlib import Path
from random import Random

SECTOR_BYTES = 512
"""What a disk writes whole or not at all."""
PAGE_BYTES = 4096
"""What a kernel keeps in its cache whole, and takes for written or not."""


class Sync(StrEnum):
    """The kinds of sync, each of which a disk can be told to ignore."""

    LOG = "log"
    FILE = "file"
    FOLDER = "folder"
    REWRITE = "rewrite"


class _File:
    """A file, whatever its name: what it holds after a power loss at the least.

    ``forgotten`` are pages that a failed sync left in the cache as if they were on the disk, as
    Linux does: they are read as they were written, and no later sync writes them.
    """

    __slots__ = ("durable", "forgotten")

    def __init__(self, durable: bytes = b"") -> None:
        self.durable = durable
        self.forgotten: set[int] = set()

    def as_flushed(self, written: bytes) -> bytes:
        """What the disk holds once everything but the forgotten pages is written to it."""
        flushed = bytearray(written)
        for page in self.forgotten:
            start, end = page * PAGE_BYTES, min((page + 1) * PAGE_BYTES, len(written))
            if start < end:
                flushed[start:end] = self.durable[start:end].ljust(end - start, b"\0")
        return bytes(flushed)


_Change = tuple[tuple[str, "_File | _Folder | None"], ...]
"""What each of some names stands for after one atomic operation."""


class _Folder:
    """A folder: its entries now and at its last sync, and the operations between the two."""

    __slots__ = ("durable", "now", "pending")

    def __init__(self) -> None:
        self.now: dict[str, _File | _Folder] = {}
        self.durable: dict[str, _File | _Folder] = {}
        self.pending: list[_Change] = []

    def change(self, *names: tuple[str, _File | _Folder | None]) -> None:
        _apply(self.now, names)
        self.pending.append(names)

    def sync(self) -> None:
        self.durable = dict(self.now)
        self.pending.clear()

    def survivors(self, random: Random) -> dict[str, _File | _Folder]:
        """Entries that a disk may hold: of each name's operations, in order, the first few."""
        kept, forgotten = dict(self.durable), set[str]()
        share = random.choice((0.0, 0.5, 0.9, 1.0))
        for change in self.pending:
            names = {name for name, _ in change}
            if forgotten.isdisjoint(names) and random.random() < share:
                _apply(kept, change)
            else:
                forgotten |= names
        return kept


def _apply(entries: dict[str, _File | _Folder], change: _Change) -> None:
    for name, entry in change:
        if entry is None:
            entries.pop(name, None)
        else:
            entries[name] = entry


class SimulatedDisk:
    """The files below ``root``, which are durable as they are, and what becomes of them.

    ``ignored`` are kinds of sync that it does not do, for paths that match ``ignored_paths``.
    """

    def __init__(
        self,
        root: Path,
        random: Random,
        *,
        ignored: frozenset[Sync] = frozenset(),
        ignored_paths: str = "*",
    ) -> None:
        self.root = root
        self.random = random
        self.ignored = ignored
        self._ignored_paths = ignored_paths
        self._top = _adopted(root)

    def lose_power(self) -> None:
        """Leave on disk what it may hold when all processes end and the cache is gone."""
        self._settle(self._top, self.root)

    def put(self, path: Path, data: bytes | None) -> None:
        """Somebody else writes a file, durably, or removes it (None)."""
        folder = self._folder(path.parent)
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)
        change = ((path.name, None if data is None else _File(data)),)
        _apply(folder.now, change)
        _apply(folder.durable, change)

    def observe(self, path: Path) -> _Folder:
        """Take note of what was made and removed in a folder since the last look."""
        folder = self._folder(path)
        with contextlib.suppress(FileNotFoundError), os.scandir(path) as listing:
            there = sorted((entry.name, entry.is_dir()) for entry in listing)
            for name, is_folder in there:
                if name not in folder.now:
                    folder.change((name, _Folder() if is_folder else _File()))
            if len(there) != len(folder.now):
                for name in sorted(folder.now.keys() - {name for name, _ in there}):
                    folder.change((name, None))
        return folder

    def sync(self, kind: Sync, path: Path) -> None:
        """A file's bytes, or a folder's entries, are durable from now on.

        The name of a file that is synced need not be. What is above ``root`` is not this disk's.
        """
        if not path.is_relative_to(self.root):
            return
        if kind in self.ignored and fnmatch(str(path), self._ignored_paths):
            return
        if kind is Sync.FOLDER:
            self.observe(path).sync()
            return
        entry = self._file(path)
        entry.durable = entry.as_flushed(path.read_bytes())

    def fail_sync(self, path: Path) -> None:
        """A sync of a file has failed: the kernel forgets that its pages are not on the disk."""
        entry, written = self._file(path), path.read_bytes()
        for start in range(0, len(written), PAGE_BYTES):
            page = slice(start, start + PAGE_BYTES)
            if written[page] != entry.durable[page]:
                entry.forgotten.add(start // PAGE_BYTES)

    def drop_cache(self, path: Path) -> None:
        """The kernel reads a file anew from the disk: forgotten pages are what they were there."""
        entry = self._file(path)
        if entry.forgotten:
            path.write_bytes(entry.as_flushed(path.read_bytes()))

    def note_write(self, path: Path, start: int, end: int) -> None:
        """Bytes from ``start`` to ``end`` were written: their pages are for the next sync."""
        pages = range(start // PAGE_BYTES, -(-end // PAGE_BYTES))
        self._file(path).forgotten.difference_update(pages)

    def _file(self, path: Path) -> _File:
        entry = self.observe(path.parent).now[path.name]
        assert isinstance(entry, _File)
        return entry

    def note_rename(self, source: Path, target: Path) -> None:
        """A file was renamed, after ``observe`` had seen it; in two folders that is two changes."""
        here, there = self._folder(source.parent), self._folder(target.parent)
        entry = here.now[source.name]
        if here is there:
            here.change((source.name, None), (target.name, entry))
        else:
            here.change((source.name, None))
            there.change((target.name, entry))

    def _folder(self, path: Path) -> _Folder:
        here = self._top
        for name in path.parts[len(self.root.parts) :]:
            entry = here.now.get(name)
            if not isinstance(entry, _Folder):
                entry = _Folder()
                here.change((name, entry))
            here = entry
        return here

    def _settle(self, folder: _Folder, path: Path) -> None:
        """Make a real folder what a power loss leaves of it."""
        if path.exists():
            self.observe(path)
        else:
            path.mkdir()
        held = {
            entry: (path / name).read_bytes()
            for name, entry in folder.now.items()
            if isinstance(entry, _File) and (path / name).exists()
        }
        kept = folder.survivors(self.random)
        for name in folder.now.keys() - kept.keys():
            remove(path / name)
        for name, entry in kept.items():
            if isinstance(entry, _Folder):
                self._settle(entry, path / name)
                continue
            written = held.get(entry, entry.durable)
            left = what_is_left(entry.durable, entry.as_flushed(written), self.random)
            entry.forgotten.clear()
            if entry not in held or folder.now.get(name) is not entry or left != written:
                (path / name).write_bytes(left)
            entry.durable = left
        folder.now = kept
        folder.sync()


def _adopted(path: Path) -> _Folder:
    folder = _Folder()
    for entry in sorted(path.iterdir()):
        folder.now[entry.name] = _adopted(entry) if entry.is_dir() else _File(entry.read_bytes())
    folder.sync()
    return folder


def what_is_left(durable: bytes, written: bytes, random: Random) -> bytes:
    """A file after a power loss: each sector as synced or as written, the size in between."""
    if durable == written:
        return durable
    smaller, larger = sorted((len(durable), len(written)))
    size = random.choice((smaller, larger, random.randint(smaller, larger)))
    share = random.choice((0.0, 0.5, 0.5, 1.0))
    left = bytearray()
    for start in range(0, size, SECTOR_BYTES):
        old, new = (data[start : start + SECTOR_BYTES] for data in (durable, written))
        kept = new if old != new and random.random() < share else old
        left += kept.ljust(SECTOR_BYTES, b"\0")
    return bytes(left[:size])


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
