"""The wildcards of a folder: a text file for each, with a text on each line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path, PurePosixPath

from ...events.model import SourceFile
from .text_files import MAX_TEXT_BYTES, read_text_file

_WEIGHT = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)::(.*)", re.DOTALL)
_MOST_FILES = 10_000


class WildcardFolder:
    """``sources`` are the files that were read so far; ``named`` is the folder as written."""

    def __init__(self, folder: Path | None, named: str) -> None:
        self._folder = folder
        self._named = named
        self._bytes = 0
        self.sources: list[SourceFile] = []

    def values(self, name: str) -> list[tuple[float, str]]:
        """The lines of ``name``.txt, each once, with their weights (``2::red``; otherwise 1).

        A name with ``*`` stands for all files that match. Empty lines, and those that begin with
        ``#``, are left out. Raises ValueError, in words for after the wildcard's name.
        """
        parts = name.split("/")
        if "\\" in name or any(part in ("", ".", "..") for part in parts) or ":" in name:
            raise ValueError(f"is not the name of a file within {self._named}")
        if self._folder is None:
            raise ValueError("is missing: no folder of wildcards was looked for")
        found: dict[str, float] = {}
        for one in self._matching(name) if "*" in name else [name]:
            for weight, line in self._lines(one):
                found.setdefault(line, weight)
        if not found:
            raise ValueError(f"is empty: {self._shown(name)} holds no text")
        return [(weight, line) for line, weight in found.items()]

    def _matching(self, name: str) -> list[str]:
        assert self._folder is not None
        paths = list(islice(self._folder.rglob("*.txt"), _MOST_FILES + 1))
        if len(paths) > _MOST_FILES:
            raise ValueError(f"matches among more than {_MOST_FILES} files")
        names = (path.relative_to(self._folder).as_posix()[: -len(".txt")] for path in paths)
        matching = sorted(one for one in names if fnmatchcase(one, name))
        if not matching:
            raise ValueError(f"is missing: no file matches {self._shown(name)}")
        return matching

    def _lines(self, name: str) -> Iterator[tuple[float, str]]:
        assert self._folder is not None
        shown = self._shown(name)
        path = self._folder / f"{name}.txt"
        try:
            if not path.is_file():
                raise ValueError(f"is missing: there is no file {shown}")
        except OSError as error:
            raise ValueError(f"is not the name of a file: {error.strerror}") from error
        try:
            file = read_text_file(path)
        except ValueError as error:
            raise ValueError(f"cannot be used: {shown} {error}") from error
        self._bytes += len(file.text)
        if self._bytes > MAX_TEXT_BYTES:
            raise ValueError(f"makes the wildcards longer than {MAX_TEXT_BYTES} characters")
        source = SourceFile(path=shown, sha256=file.sha256)
        if source not in self.sources:
            self.sources.append(source)
        for _, line in file.lines():
            text = line.strip()
            if text and not text.startswith("#"):
                weighted = _WEIGHT.fullmatch(text)
                yield (float(weighted[1]), weighted[2]) if weighted else (1.0, text)

    def _shown(self, name: str) -> str:
        return str(PurePosixPath(self._named) / f"{name}.txt")
