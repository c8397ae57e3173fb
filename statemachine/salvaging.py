"""A new run from what is sound of a corrupt one; the old one is read and never written to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from ..events.errors import LogCorruptError, LogLockedError, LogWriteError, StagewrightError
from ..events.file_log import LOG_NAME
from ..events.lock import RunLock, is_locked, lock_holder
from ..events.model import RunState
from ..events.reading import log_path, read_log
from ..events.rescue import CopiedFile, LogDraft, RescuedLog, choose, copy_file
from ..events.storage import OsStorage, Storage
from .ports import Clock, RandomBelow
from .resume.verify import Flaw, verify_run
from .retelling import LeftOut, OldFiles, Retelling
from .run.recorded_files import check_file
from .run_folder import new_run_id

CORRUPT_SUFFIX = ".corrupt"
"""Ends the name of a corrupt log's copy in the run that was made from it."""
_NAMES_TRIED = 10


class SalvageRefusedError(StagewrightError, ValueError):
    """A run whose log is not corrupt: there is nothing to salvage, and nothing was written."""


class SalvagedRun(msgspec.Struct, frozen=True, kw_only=True):
    """The new run, and what of the old one is in it.

    ``records`` of the ``known_records`` (up to the last sound one) were copied, ``lost_records``
    of them stand in no sound bytes; ``rebuilt`` follow from the plan and were written anew.
    ``images`` is how many image files were copied. ``corrupt_at`` is the first byte at which
    the old log fails, ``reason`` says how. ``left_out`` are places without a sound record, and
    sound records that have no place in the new log, by kind; ``lost_files`` are recorded images
    that are not there as recorded, ``lost_inputs`` the same of inputs: what needs them cannot
    be made. ``advice`` says what a resume would do.
    """

    run_id: str
    folder: str
    salvaged_from: str
    old_folder: str
    records: int
    known_records: int
    lost_records: int
    rebuilt: int
    images: int
    corrupt_at: int
    reason: str
    copied_to: str
    left_out: tuple[LeftOut, ...]
    lost_files: tuple[Flaw, ...]
    lost_inputs: tuple[Flaw, ...]
    state: RunState
    advice: str


def salvage_run(
    folder: Path,
    runs: Path,
    *,
    clock: Clock,
    random_below: RandomBelow,
    storage: Storage | None = None,
) -> SalvagedRun:
    """Copy what is sound of the corrupt run in ``folder`` into a new run below ``runs``.

    Every sound record is taken, whatever stands before it, in order of sequence numbers; with
    them the inputs and images whose digests are right, and the whole corrupt log. The new log
    appears when all of this is durable; before that the new folder is no run.

    Raises RunNotFoundError, LogLockedError, SalvageRefusedError for a log that is not corrupt,
    PlanLostError (a LogCorruptError) where RunOpened is lost, LogWriteError where the new run
    cannot be written (what was made of it is removed), OSError where the old cannot be read.
    """
    storage = storage or OsStorage()
    path = log_path(folder)
    if is_locked(folder):
        raise LogLockedError(str(lock_holder(folder) or "unknown"), path=path)
    corruption = _corruption(folder, storage)
    rescued = RescuedLog(path, storage=storage)
    new = _new_folder(runs, _name_of(rescued), clock, random_below, storage)
    salvage = _Salvage(rescued, folder, new, clock, storage)
    _write(salvage, new, corruption, storage)
    return salvage.result(corruption)


def _write(salvage: _Salvage, new: Path, corruption: LogCorruptError, storage: Storage) -> None:
    """Write the new run while its lock is held; what fails leaves nothing of it."""
    lock: RunLock | None = None
    try:
        lock = RunLock(new)
        salvage.write(corruption)
    except BaseException as error:
        storage.remove_tree(new)
        if isinstance(error, OSError):
            raise LogWriteError(f"the run cannot be salvaged: {error}", path=new) from error
        raise
    finally:
        if lock is not None:
            lock.release()


def _corruption(folder: Path, storage: Storage) -> LogCorruptError:
    """What is wrong with the log. Raises SalvageRefusedError if nothing is."""
    try:
        timeline = read_log(folder, lambda _events: None, storage=storage)
    except LogCorruptError as error:
        return error
    if timeline.torn is None:
        raise SalvageRefusedError(f"{folder}: its log is sound: there is nothing to salvage")
    raise SalvageRefusedError(
        f"{folder}: its log is not corrupt, only its tail is torn: resume repairs it"
    )


def _name_of(rescued: RescuedLog) -> str:
    name = rescued.opened.config.get("name")
    return name if isinstance(name, str) else "-".join(rescued.opened.run_id.split("-")[1:-1])


def _new_folder(
    runs: Path, name: str, clock: Clock, random_below: RandomBelow, storage: Storage
) -> Path:
    """A folder that nobody else has. Raises LogWriteError."""
    now = clock.now()
    for _ in range(_NAMES_TRIED):
        path = runs / new_run_id(name, now, random_below)
        try:
            storage.make_folder(path, new=True)
        except FileExistsError as error:
            taken = error
            continue
        except OSError as error:
            storage.remove_tree(path)  # it may be there, and only not be durable
            raise LogWriteError(f"the run cannot be salvaged: {error}", path=path) from error
        return path
    raise LogWriteError(f"the run cannot be salvaged: {taken}", path=runs) from taken


class _Salvage:
    """One salvage into a new folder whose lock is held."""

    def __init__(
        self, rescued: RescuedLog, old: Path, new: Path, clock: Clock, storage: Storage
    ) -> None:
        self._rescued = rescued
        self._old = old
        self._new = new
        self._clock = clock
        self._storage = storage
        self._files = OldFiles(old)
        self._retelling: Retelling | None = None
        self._copied: set[str] = set()
        self._lost_inputs: list[Flaw] = []
        self._corrupt_name = ""

    def write(self, corruption: LogCorruptError) -> None:
        """Write the new run; its log, and so the run, is there at the end.

        Raises OSError, LogWriteError, LogCorruptError if the old log changes meanwhile.
        """
        self._copy_inputs()
        choice = choose(self._rescued, self._files.is_there)
        self._retelling = telling = Retelling(self._rescued.opened, self._new.name, choice)
        draft = LogDraft(self._new, storage=self._storage)
        try:
            for record in self._rescued.records():
                for body in telling.retold(record):
                    draft.append(body)
                self._copy_images(telling.images)
                self._copy_aside(telling.asides)
            self._sync_folders()
            copy = self._copy_log()
            now = self._clock.now()
            draft.append_last(telling.provenance(now, corruption.offset, copy, self._corrupt_name))
            draft.publish()
        finally:
            draft.close()

    def result(self, corruption: LogCorruptError) -> SalvagedRun:
        """What came of it, with the new run read back from the disk."""
        rescued, telling = self._rescued, self._retelling
        assert telling is not None
        found = verify_run(self._new)
        return SalvagedRun(
            run_id=self._new.name,
            folder=str(self._new),
            salvaged_from=rescued.opened.run_id,
            old_folder=str(self._old),
            records=telling.copied,
            known_records=len(rescued) + rescued.lost,
            lost_records=rescued.lost,
            rebuilt=telling.rebuilt,
            images=len(self._copied),
            corrupt_at=corruption.offset,
            reason=corruption.reason,
            copied_to=self._corrupt_name,
            left_out=telling.left_out(rescued),
            lost_files=self._files.flaws,
            lost_inputs=tuple(self._lost_inputs),
            state=found.state,
            advice=found.advice,
        )

    def _copy_inputs(self) -> None:
        for record in self._rescued.opened.inputs:
            wrong = self._files.wrong(record.path, record.sha256)
            if wrong is None:
                self._copy(record.path, record.sha256)
            else:
                self._lost_inputs.append(Flaw(place=record.path, what=wrong))

    def _copy_images(self, images: Iterable[tuple[str, str]]) -> None:
        for path, digest in images:
            # A record that a later one has replaced stays, and its file is the later one's.
            if path not in self._copied and self._files.sound.get(path) == digest:
                self._copy(path, digest)
                self._copied.add(path)

    def _copy_aside(self, asides: Iterable[tuple[str, str]]) -> None:
        """Copy what an earlier repair put beside the log, if it is still there."""
        for path, digest in asides:
            plain = path.startswith(f"{LOG_NAME}.") and "/" not in path
            if plain and check_file(self._old, path, digest) is None:
                self._copy(path, digest)

    def _copy(self, path: str, digest: str) -> None:
        target = self._new / path
        self._storage.make_folder(target.parent)
        if copy_file(self._old / path, target, storage=self._storage).sha256 != digest:
            raise LogWriteError("it changed while it was being copied", path=self._old / path)

    def _copy_log(self) -> CopiedFile:
        name = f"{self._rescued.path.name}{CORRUPT_SUFFIX}"
        if (self._new / name).exists():
            # The run was itself made from a corrupt one, whose log is there by that name.
            name = f"{name}-{self._retelling.epoch + 1 if self._retelling else 0}"
        self._corrupt_name = name
        return copy_file(self._rescued.path, self._new / name, storage=self._storage)

    def _sync_folders(self) -> None:
        """Make the names of all copied files durable; the log's folder is synced with the log."""
        for folder in _folders_below(self._new):
            self._storage.sync_folder(folder)


def _folders_below(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir():
            yield path
            yield from _folders_below(path)
