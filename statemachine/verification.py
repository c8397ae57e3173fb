"""Whether a run on disk is what its log says: chain, seal, and the digest of every image."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from enum import Enum
from hashlib import file_digest
from pathlib import Path

import msgspec

from ..events.errors import LogCorruptError
from ..events.folding import Fold
from ..events.lock import is_locked, lock_holder
from ..events.model import RunOpened, RunState
from ..events.reading import read_log
from ..events.result import PipelineRunResult
from ..events.scan import TornTail


class Flaw(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as recorded: ``place`` is a path, or a byte offset in the log."""

    place: str
    what: str


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in a run folder; nothing was written.

    ``corrupt`` says that the log is, so that nothing may be written to it; ``advice`` what a
    resume would do, "" where nothing is left to do, or nothing can be done.
    """

    run_id: str
    folder: str
    events: int
    images: int
    state: RunState
    sealed: bool
    torn: TornTail | None
    running: str | None
    flaws: tuple[Flaw, ...]
    corrupt: bool
    advice: str

    @property
    def sound(self) -> bool:
        """Whether log and images are what was recorded, finished or not."""
        return not self.flaws

    @property
    def finished(self) -> bool:
        """Whether the log is whole and its last epoch closed."""
        return self.sealed and self.torn is None


OnFile = Callable[[int, int], None]
"""Told, after each file that has been checked, how many have been, of how many."""


def verify_run(folder: Path, on_file: OnFile | None = None) -> Verification:
    """Check a run, its log first.

    Raises RunNotFoundError. A corrupt log is a flaw of the result, not an error.
    """
    fold = Fold()
    holder = str(lock_holder(folder) or "unknown") if is_locked(folder) else None
    try:
        timeline = read_log(folder, fold.apply_all)
    except LogCorruptError as error:
        flaw = Flaw(place=f"byte {error.offset} of {error.path}", what=error.reason)
        found = _verification(folder, fold, error.seq, 0, None, holder, (flaw,))
        return msgspec.structs.replace(found, corrupt=True, advice="")
    flaws: list[Flaw] = []
    images = 0
    assert fold.opened is not None
    total = len(fold.opened.inputs) + sum(one.finished.count for one in fold.stages.values())
    files = _recorded_files(fold.result(timeline), fold.opened)
    checker = FileChecker(folder)
    for place, (path, digest) in enumerate(files, start=1):
        images += place > len(fold.opened.inputs)
        if (what := checker.check(path, digest)) is not None:
            flaws.append(Flaw(place=path, what=str(what)))
        if on_file is not None:
            on_file(place, total)
    # A writer may be in the middle of a record; what it left open is no torn tail.
    torn = None if holder else timeline.torn
    return _verification(folder, fold, len(timeline), images, torn, holder, tuple(flaws))


class FileState(Enum):
    """In which way a recorded file is not what was recorded."""

    MISSING = "missing"
    ALTERED = "altered"
    UNREADABLE = "unreadable"


class WrongFile(msgspec.Struct, frozen=True):
    """A recorded file that is not what was recorded; as text, what is wrong with it."""

    state: FileState
    words: str

    def __str__(self) -> str:
        return self.words


class FileChecker:
    """Compares the files of one run folder with their recorded digests; follows no link."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._linked: dict[str, bool] = {}

    def check(self, path: str, digest: str) -> WrongFile | None:
        """What is wrong with a recorded file, or None."""
        if self._is_below_a_link(path.rpartition("/")[0]):
            return _LINK
        try:
            descriptor = os.open(self._folder / path, _FLAGS)
        except OSError as error:
            return self._unopened(path, error)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return _NO_FILE
        with open(descriptor, "rb", buffering=0) as stream:
            try:
                actual = file_digest(stream, "sha256").hexdigest()
            except OSError as error:
                return _unreadable(error)
        return None if actual == digest else _ALTERED

    def _is_below_a_link(self, parent: str) -> bool:
        if not parent:
            return False
        known = self._linked.get(parent)
        if known is None:
            above = self._is_below_a_link(parent.rpartition("/")[0])
            known = self._linked[parent] = above or (self._folder / parent).is_symlink()
        return known

    def _unopened(self, path: str, error: OSError) -> WrongFile:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return _MISSING
        try:
            mode = (self._folder / path).lstat().st_mode
        except OSError:
            return _unreadable(error)
        if stat.S_ISLNK(mode):
            return _LINK
        return _unreadable(error) if stat.S_ISREG(mode) else _NO_FILE


_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a pipe in the place of an image must not hold us up
)
_MISSING = WrongFile(FileState.MISSING, "it is missing")
_ALTERED = WrongFile(FileState.ALTERED, "it has been altered: its digest differs")
_LINK = WrongFile(FileState.ALTERED, "a link stands in its place")
_NO_FILE = WrongFile(FileState.ALTERED, "it is no file")


def _unreadable(error: OSError) -> WrongFile:
    return WrongFile(FileState.UNREADABLE, f"it cannot be read: {error.strerror}")


def _recorded_files(result: PipelineRunResult, opened: RunOpened) -> Iterator[tuple[str, str]]:
    """Path and digest of every file that the log vouches for."""
    for record in opened.inputs:
        yield record.path, record.sha256
    for stage in result.stages:
        for image in stage.images:
            yield image.path, image.sha256


def _verification(
    folder: Path,
    fold: Fold,
    events: int,
    images: int,
    torn: TornTail | None,
    holder: str | None,
    flaws: tuple[Flaw, ...],
) -> Verification:
    return Verification(
        run_id=fold.run_id or folder.name,
        folder=str(folder),
        events=events,
        images=images,
        state=fold.state,
        sealed=fold.sealed,
        torn=torn,
        running=holder,
        flaws=flaws,
        corrupt=False,
        advice="" if holder else _advice(fold, torn, flaws),
    )


def _advice(fold: Fold, torn: TornTail | None, flaws: tuple[Flaw, ...]) -> str:
    """What a resume of the run would do, in the order of the resume protocol."""
    missing = len(fold.missing())
    steps = []
    if torn is not None:
        steps.append(f"cut the torn tail ({torn.bytes} bytes at {torn.offset})")
    if fold.state == RunState.RUNNING:
        steps.append('record the failure "process died"')
    lost = sum(flaw.place.startswith("images/") for flaw in flaws)
    if lost:
        steps.append(f"make {lost} missing or altered images again")
    if missing:
        steps.append(f"make {missing} images that are not finished")
    if fold.state == RunState.COMPLETED and not fold.sealed:
        steps.append("seal the log")
    return ", ".join(steps)
