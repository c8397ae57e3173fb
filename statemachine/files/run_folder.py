"""The folders of runs: made, found by name, and the order to cancel in them."""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from unicodedata import category, normalize

import msgspec

from ...events.codec import DECODE_ERRORS, encode_line
from ...events.errors import LogWriteError, RunNotFoundError
from ...events.log.format import MAX_LINE_BYTES, check
from ...events.log.kind import LOG_NAME, RUN_LOG, LogKind
from ...events.log.lock import FileLock
from ...events.log.storage import PART_SUFFIX, Storage, is_regular, open_regular
from ...events.model import CancelMode
from ...events.result import PipelineRunResult
from ..ports import RandomBelow

SUFFIXES = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}
"""The media types of a run's images, and the suffixes of their files."""
CANCEL_NAME = "cancel.request"
ARCHIVE_NAME = "archive"
"""The folder beside the runs that `archive` moves runs to."""
_RUN_ID = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[^/\\\x00-\x1f]+-[0-9a-f]{6}")
"""A foreign log may name a run: no such name may lead to another folder."""
_LONGEST_SLUG, _MOST_SLUG_BYTES = 40, 120
_MAX_ORDER_BYTES = 64 * 1024
_SHOWN = 4
_IDS_DRAWN = 10
_MOST_DIGITS = 10
_logger = logging.getLogger("stagewright.runner")
T = TypeVar("T")


class CancelOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What ``cancel.request`` holds."""

    mode: CancelMode = CancelMode.NOW
    reason: str = ""


def new_run_id(name: str, opened: datetime, random_below: RandomBelow) -> str:
    """``20261120T225226.123456Z-portrait-7f3a9c``: UTC, a slug of the name, six hex digits."""
    return f"{opened:%Y%m%dT%H%M%S.%f}Z-{slug_of(name) or 'run'}-{random_below(1 << 24):06x}"


def slug_of(name: str) -> str:
    """A name as a part of file names: letters and digits of any script, and ``-`` for the rest.

    It has at most 40 characters and 120 bytes; a name without letters and digits has none.
    """
    kept = ""
    for letter in normalize("NFC", normalize("NFC", name).lower()):
        # Vowel signs and accents that do not combine are parts of the letter before them.
        is_part = category(letter) in ("Mn", "Mc") and kept[-1:] not in ("", "-")
        kept += letter if letter.isalnum() or is_part else "-"
    slug = re.sub("-+", "-", kept).strip("-")[:_LONGEST_SLUG]
    return slug.encode()[:_MOST_SLUG_BYTES].decode(errors="ignore").strip("-")


def unused_id(place: Path, name: str, opened: datetime, random_below: RandomBelow) -> str:
    """An id that no folder in ``place`` has, unless ``random_below`` gives one number for ever."""
    for _ in range(_IDS_DRAWN):
        found = new_run_id(name, opened, random_below)
        if not (place / found).exists():
            break
    return found


class RunFolder:
    """The folder of one run, and the order to cancel the run that is in it."""

    def __init__(self, path: Path, *, storage: Storage | None = None) -> None:
        self.path = path
        self.storage: Storage = storage or Storage()

    def order_cancel(self, order: CancelOrder) -> None:
        """Ask the process that runs this run to stop it.

        Not synced: after a power loss there is no process that it could stop.
        """
        self.storage.write_file(self.path / CANCEL_NAME, encode_line(order), durable=False)

    def cancel_order(self) -> CancelOrder | None:
        """The order that is waiting, if any; one that cannot be read means to stop now.

        None where the folder cannot be read either: callers look again.
        """
        if self.cancel_stamp() is None:
            return None
        try:
            with open_regular(self.path / CANCEL_NAME) as stream:
                return msgspec.json.decode(stream.read(_MAX_ORDER_BYTES), type=CancelOrder)
        except FileNotFoundError:
            return None
        except (OSError, *DECODE_ERRORS):
            return CancelOrder(reason="an unreadable cancel.request")

    def cancel_stamp(self) -> tuple[int, int] | None:
        """What identifies an order among others in its place; None where none can be seen."""
        return _stamp(self.path / CANCEL_NAME)

    def take_cancel_order(self, obey: Callable[[CancelOrder], object]) -> None:
        """Have the order obeyed that is waiting, if any, and remove it once that is recorded.

        Raises what ``obey`` raises; the order stays then.
        """
        stamp = self.cancel_stamp()
        # The stamp comes first: without it, a newer order could be removed in place of this one.
        order = None if stamp is None else self.cancel_order()
        if order is None:
            return
        obey(order)
        # It is recorded durably by now, so no crash can lose it.
        try:
            # A newer order, written while this one was recorded, waits for the next look.
            self.forget_cancel_order(stamp)
        except OSError as error:
            _logger.warning("%s: %s stays: %s", self.path.name, CANCEL_NAME, error)

    def forget_cancel_order(self, stamp: tuple[int, int] | None = None) -> None:
        """Remove the order; with a ``stamp``, only the order that has it. Raises OSError."""
        path = self.path / CANCEL_NAME
        if stamp is None:
            self.storage.remove(path)
            return
        # Moved before it is looked at, so that no newer order can take its place in between.
        aside = path.with_name(f".{CANCEL_NAME}{PART_SUFFIX}")
        self.storage.rename(path, aside)
        if _stamp(aside) == stamp:
            self.storage.remove(aside)
        else:
            self.storage.rename(aside, path)


@contextmanager
def new_folder(
    path: Path, storage: Storage, kind: LogKind[Any] = RUN_LOG
) -> Iterator[tuple[RunFolder, FileLock]]:
    """The new folder of a run, or of another log, and its lock, which the caller releases.

    What a process left there that died before there was a log is removed. If the block raises, the
    folder is removed and the lock released. Raises LogWriteError, also in place of an OSError.
    """
    lock: FileLock | None = None
    try:
        if path.exists():
            _remove_unopened(path, storage, kind)
        storage.make_folder(path, new=True)
    except OSError as error:
        raise LogWriteError(f"the {kind.noun} cannot be made: {error}", path=path) from error
    try:
        # Before anything is in it: `run` removes a folder without a log whose lock is free.
        lock = FileLock(path, kind.lock_name, noun=kind.noun)
        yield RunFolder(path, storage=storage), lock
    except BaseException as error:
        try:
            storage.remove_tree(path)
        finally:
            if lock is not None:
                lock.release()
        if isinstance(error, OSError):
            raise LogWriteError(f"the {kind.noun} cannot be made: {error}", path=path) from error
        raise


def _remove_unopened(path: Path, storage: Storage, kind: LogKind[Any]) -> None:
    if is_regular(path / kind.file_name):
        raise LogWriteError(f"the {kind.noun} cannot be made: it is there already", path=path)
    lock = FileLock(path, kind.lock_name, noun=kind.noun)
    try:
        storage.remove_tree(path)
    finally:
        lock.release()


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def run_folders(runs: Path) -> Iterator[Path]:
    """Every folder with a log below ``runs`` and ``runs/archive``, oldest first.

    A folder that may not be read counts as one if its name is a run's id.
    """
    found = list(runs.iterdir()) if runs.is_dir() else []
    if (archive := runs / ARCHIVE_NAME).is_dir():
        found += archive.iterdir()
    for folder in sorted(found, key=lambda folder: folder.name):
        if _may_hold_log(folder):
            yield folder


def _may_hold_log(folder: Path) -> bool:
    try:
        return is_regular(folder / LOG_NAME)
    except OSError:
        return is_run_id(folder.name)


def is_run_id(name: str) -> bool:
    """Whether a folder's name is one that ``new_run_id`` makes."""
    return _RUN_ID.fullmatch(name) is not None


def name_in_run_id(run_id: str) -> str:
    """The name within ``20261120T225226.123456Z-portrait-7f3a9c``."""
    return "-".join(run_id.split("-")[1:-1]) or run_id


class _Config(msgspec.Struct):
    name: Any = None


class _Opened(msgspec.Struct):
    """What names a run, from its first record; empty where that is damaged."""

    run_id: str = ""
    ts: str = ""
    config: _Config = msgspec.field(default_factory=_Config)


def _read_opened(folder: Path) -> _Opened:
    """Raises OSError."""
    return read_first_record(folder / LOG_NAME, _Opened)


def read_first_record(log: Path, kind: type[T]) -> T:
    """The first record of a log; without values where it is damaged. Raises OSError."""
    with open_regular(log) as stream:
        body = check(stream.readline(MAX_LINE_BYTES))
    try:
        return msgspec.json.decode(body or b"", type=kind)
    except DECODE_ERRORS:
        return kind()


def find_run(
    runs: Path, name: str, on_unreadable: Callable[[OSError], object] = lambda _error: None
) -> Path:
    """The folder of one run, as ``RunFinder`` finds it."""
    return RunFinder(runs, on_unreadable).find(name)


class RunFinder:
    """Finds runs in a folder of runs, which is read once; also those renamed or archived.

    ``last`` skips runs that cannot be read; ``on_unreadable`` is called for each.
    """

    def __init__(
        self, runs: Path, on_unreadable: Callable[[OSError], object] = lambda _error: None
    ) -> None:
        self._runs = runs
        self._on_unreadable = on_unreadable

    @cached_property
    def _folders(self) -> list[Path]:
        return list(run_folders(self._runs))

    @cached_property
    def _names(self) -> dict[Path, _Names]:
        return {folder: _names_of(folder) for folder in self._folders}

    def find(self, name: str, *, noun: str = "run") -> Path:
        """The folder of a run; ``noun`` says what the name may stand for, in an error.

        ``name`` is the path of the folder or of its log, ``last`` (opened last), or a run id, the
        six digits at its end, a name that only one run has, or a unique prefix of an id. Raises
        RunNotFoundError, and OSError where the path of a run cannot be read.
        """
        if (folder := _run_at(name)) is not None:
            return folder
        # Only a plain name may be looked up below the folder of runs.
        found = self._folders if name and Path(name).name == name else []
        if name == "last" and found:
            return _last_of(found, self._runs, self._on_unreadable)
        if exact := [folder for folder in found if folder.name == name]:
            return exact[0]
        fitting = self._fitting(name) if found else []
        if len(fitting) == 1:
            return fitting[0]
        where = f"in {self._runs}"
        if fitting:
            named = ", ".join(folder.name for folder in fitting[:_SHOWN])
            more = f", and {len(fitting) - _SHOWN} more" if len(fitting) > _SHOWN else ""
            raise RunNotFoundError(f"{name!r} fits {len(fitting)} runs {where}: {named}{more}")
        what = "no run yet" if name == "last" else f"no {noun} {name!r}"
        raise RunNotFoundError(f"there is {what} {where}")

    def _fitting(self, name: str) -> list[Path]:
        """The runs that a name fits, by the first that fits any: id, digits, name, prefix."""
        fits: tuple[Callable[[_Names], bool], ...] = (
            lambda one: name in one.ids,
            lambda one: any(is_run_id(run_id) and run_id[-6:] == name for run_id in one.ids),
            lambda one: name in one.names,
            lambda one: any(run_id.startswith(name) for run_id in one.ids),
        )
        every = self._names.items()
        chosen = ([folder for folder, names in every if fit(names)] for fit in fits)
        return next(filter(None, chosen), [])


def _run_at(name: str) -> Path | None:
    """The run folder that ``name`` is the path of, or that holds the log of this path."""
    path = Path(name)
    try:
        if name and is_regular(path / LOG_NAME):
            return path
        if path.name == LOG_NAME and is_regular(path):
            return path.parent
    except OSError as error:
        if path.name != name and error.errno != errno.ENAMETOOLONG:
            raise
    return None


class _Names(NamedTuple):
    ids: tuple[str, ...]
    names: tuple[str, ...]


def _names_of(folder: Path) -> _Names:
    """The ids of a run, from its log and from its folder's name, and its names."""
    try:
        opened = _read_opened(folder)
    except OSError:  # the command that is given the run reports it
        opened = _Opened()
    run_id = opened.run_id or folder.name
    name = opened.config.name
    return _Names(
        (run_id, folder.name), (*([name] if isinstance(name, str) else []), name_in_run_id(run_id))
    )


def split_image_number(name: str) -> tuple[str, int | None]:
    """A run, and the number of one of its images, from 1, where ``name`` is ``RUN#3``."""
    run, mark, number = name.rpartition("#")
    if mark and number.isascii() and number.isdigit() and len(number) < _MOST_DIGITS:
        return run, int(number)
    return name, None


def why_no_image(result: PipelineRunResult, number: int) -> str:
    """Why a run has no image with this number."""
    total = len(result.seeds)
    why = f"image {number} of {total}"
    return f"run {result.run_id} has {'finished ' if 1 <= number <= total else ''}no {why}"


def _last_of(folders: list[Path], runs: Path, on_unreadable: Callable[[OSError], object]) -> Path:
    """The run that was opened last, of those whose log can be read."""
    opened: dict[Path, str] = {}
    for folder in folders:
        try:
            opened[folder] = _read_opened(folder).ts
        except FileNotFoundError:
            continue  # it has just been removed
        except OSError as error:
            on_unreadable(error)
    if not opened:
        raise RunNotFoundError(f"none of the {len(folders)} runs in {runs} can be read")
    return max(opened, key=lambda folder: (opened[folder], folder.name))
