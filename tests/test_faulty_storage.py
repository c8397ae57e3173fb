"""The disk of the simulation: what it keeps, what it may lose, and how a process dies on it."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stagewright.events import FileEventLog, LogWriteError

from .faulty_storage import Deed, Fault, FaultyStorage, SimulatedCrash
from .simulated_disk import SECTOR_BYTES, SimulatedDisk, Sync, what_is_left
from .support import fill_log, run_opened

_OLD, _NEW = b"o" * 1300, b"n" * 1700


def disk_at(root: Path, seed: int = 0, **options: frozenset[Sync]) -> SimulatedDisk:
    """A disk whose root holds what is there already."""
    root.mkdir(parents=True, exist_ok=True)
    return SimulatedDisk(root, Random(seed), **options)


def tree(root: Path) -> dict[str, bytes]:
    """Every file below a folder, and what is in it."""
    found = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def after_power_loss(
    root: Path, work: Callable[[FaultyStorage, Path], None], *, seeds: int = 60
) -> list[dict[str, bytes]]:
    """What different disks hold after the same work and a power loss."""
    trees = []
    for seed in range(seeds):
        folder = root / str(seed)
        disk = disk_at(folder, seed)
        work(FaultyStorage(disk), folder)
        disk.lose_power()
        trees.append(tree(folder))
    return trees


@given(
    durable=st.binary(max_size=3000),
    more=st.binary(min_size=1, max_size=3000),
    seed=st.integers(0, 2**32),
)
def test_a_power_loss_keeps_what_was_synced_and_takes_whole_sectors_of_the_rest(
    durable: bytes, more: bytes, seed: int
) -> None:
    """Synced bytes stay, and each further sector is as it was written or reads as zeros."""
    written = durable + more
    left = what_is_left(durable, written, Random(seed))
    assert len(durable) <= len(left) <= len(written)
    assert left.startswith(durable)
    for start in range(0, len(left), SECTOR_BYTES):
        sector = left[start : start + SECTOR_BYTES]
        old = durable[start : start + SECTOR_BYTES].ljust(len(sector), b"\0")
        assert sector in (written[start : start + len(sector)], old)


def test_a_disk_may_lose_all_or_nothing_or_a_hole_of_what_was_not_synced() -> None:
    """Among many power losses are all that a log must be able to survive."""
    left = [what_is_left(_OLD, _OLD + _NEW, Random(seed)) for seed in range(200)]
    assert _OLD in left
    assert _OLD + _NEW in left
    holes = [one for one in left if one.endswith(b"n") and b"\0" in one]
    assert holes, "no power loss reordered the sectors"
    assert any(len(one) % SECTOR_BYTES for one in left), "every size was a whole sector's"


@settings(max_examples=50, deadline=None)
@given(
    pieces=st.lists(st.tuples(st.binary(min_size=1, max_size=900), st.booleans()), max_size=6),
    seed=st.integers(0, 1000),
)
def test_a_log_keeps_each_append_whose_sync_returned(
    pieces: list[tuple[bytes, bool]], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is appended, a power loss takes nothing of what a later sync covered."""
    root = tmp_path_factory.mktemp("disk")
    (root / "log").write_bytes(b"first")
    disk = disk_at(root, seed)
    file = FaultyStorage(disk).open_append(root / "log")
    written = synced = b"first"
    for piece, then_sync in pieces:
        assert file.write(piece) == len(piece)
        written += piece
        if then_sync:
            file.sync()
            synced = written
    file.close()
    assert (root / "log").read_bytes() == written
    disk.lose_power()
    left = (root / "log").read_bytes()
    assert left.startswith(synced)
    assert len(left) <= len(written)


def test_a_durable_file_is_there_whole_after_any_power_loss(tmp_path: Path) -> None:
    """A file that was written, synced, renamed and whose folder was synced stays."""

    def work(storage: FaultyStorage, folder: Path) -> None:
        storage.make_folder(folder / "deep" / "er")
        storage.write_file(folder / "deep" / "er" / "file", _NEW)

    for held in after_power_loss(tmp_path, work):
        assert held == {"deep/er/file": _NEW}


def test_a_file_that_was_not_synced_may_be_anything_under_its_new_name(tmp_path: Path) -> None:
    """A rename that lasts says nothing of the bytes that were never synced."""

    def work(storage: FaultyStorage, folder: Path) -> None:
        storage.write_file(folder / "file", _NEW, durable=False)
        storage.sync_folder(folder)

    held = after_power_loss(tmp_path, work)
    assert all(list(one) == ["file"] for one in held)
    assert any(one["file"] == b"" for one in held)
    assert any(b"\0" in one["file"] for one in held)
    assert any(one["file"] == _NEW for one in held)


def test_a_rename_is_atomic(tmp_path: Path) -> None:
    """After a power loss a replaced file is the old one or the new one, never neither."""

    def work(storage: FaultyStorage, folder: Path) -> None:
        storage.write_file(folder / "file", _OLD)
        part = storage.write_part(folder / "file", _NEW)
        storage.rename(part, folder / "file")

    held = after_power_loss(tmp_path, work)
    assert {one["file"] for one in held} == {_OLD, _NEW}
    for one in held:
        assert one["file"] == _OLD or len(one) == 1, "the file stands under both names"


def test_an_entry_that_was_not_synced_may_be_forgotten(tmp_path: Path) -> None:
    """Made and removed files may be as they were before, until their folder is synced."""

    def work(storage: FaultyStorage, folder: Path) -> None:
        storage.write_file(folder / "kept", _OLD)
        storage.write_file(folder / "removed", _OLD)
        storage.write_part(folder / "made", _NEW)
        storage.remove(folder / "removed", durable=False)

    names = {tuple(sorted(one)) for one in after_power_loss(tmp_path, work)}
    part = f".made.{os.getpid()}.part"
    assert names == {("kept",), (part, "kept"), (part, "kept", "removed"), ("kept", "removed")}


def test_a_removal_lasts_once_its_folder_is_synced(tmp_path: Path) -> None:
    """A file that was durably removed does not come back."""

    def work(storage: FaultyStorage, folder: Path) -> None:
        storage.write_file(folder / "file", _OLD)
        storage.remove(folder / "file")

    assert not any(after_power_loss(tmp_path, work))


def test_a_folder_whose_parent_was_not_synced_may_go_with_all_that_is_in_it(
    tmp_path: Path,
) -> None:
    """Syncing a folder does not make its own name durable."""

    def work(storage: FaultyStorage, folder: Path) -> None:
        (folder / "new").mkdir()
        storage.write_file(folder / "new" / "file", _NEW)

    held = after_power_loss(tmp_path, work)
    assert {} in held
    assert {"new/file": _NEW} in held


def test_a_removed_folder_may_come_back(tmp_path: Path) -> None:
    """The removal of a folder is not durable before its parent is synced."""

    def work(storage: FaultyStorage, folder: Path) -> None:
        storage.make_folder(folder / "new")
        storage.write_file(folder / "new" / "file", _NEW)
        storage.remove_tree(folder / "new")

    held = after_power_loss(tmp_path, work)
    assert {} in held
    assert {"new/file": _NEW} in held


@pytest.mark.parametrize(
    ("ignored", "lost"),
    [(Sync.FILE, b""), (Sync.FOLDER, None), (Sync.LOG, _NEW)],
    ids=["file", "folder", "log"],
)
def test_a_disk_can_be_told_to_ignore_one_kind_of_sync(
    ignored: Sync, lost: bytes | None, tmp_path: Path
) -> None:
    """With one kind of sync ignored a power loss takes just what that one would have kept."""
    seen = set()
    for seed in range(40):
        root = tmp_path / str(seed)
        disk = disk_at(root, seed, ignored=frozenset({ignored}))
        storage = FaultyStorage(disk)
        storage.write_file(root / "file", _NEW)
        file = storage.open_append(root / "file")
        file.write(_OLD)
        file.sync()
        file.close()
        disk.lose_power()
        seen.add(tree(root).get("file"))
    assert lost in seen or (ignored is Sync.FILE and _NEW + _OLD in seen)
    assert (ignored is Sync.FILE) == (seen == {_NEW + _OLD})


def test_a_failing_sync_makes_nothing_durable(tmp_path: Path) -> None:
    """What was written before a sync that failed may be lost."""
    seen = set()
    for seed in range(40):
        root = tmp_path / str(seed)
        root.mkdir()
        (root / "log").write_bytes(_OLD)
        disk = disk_at(root, seed)
        storage = FaultyStorage(disk, Fault(at=3, deed=Deed.FAIL))
        file = storage.open_append(root / "log")
        file.write(_NEW)
        with pytest.raises(OSError, match="Input/output") as failed:
            file.sync()
        assert failed.value.errno == errno.EIO
        file.close()
        disk.lose_power()
        seen.add((root / "log").read_bytes())
    assert _OLD in seen


def work_through(storage: FaultyStorage, root: Path) -> None:
    """Every operation there is, once at least."""
    storage.make_folder(root / "run", new=True)
    storage.write_file(root / "run" / "file", _OLD)
    file = storage.open_append(root / "run" / "file")
    try:
        file.write(_NEW)
        file.sync()
        file.truncate(len(_OLD))
    finally:
        file.close()
    storage.remove(root / "run" / "file")
    storage.remove_tree(root / "run")


def operations(tmp_path: Path) -> int:
    """How many operations ``work_through`` makes."""
    storage = FaultyStorage(disk_at(tmp_path / "count"))
    work_through(storage, tmp_path / "count")
    return storage.operations


@pytest.mark.parametrize("deed", [Deed.DIE_BEFORE, Deed.DIE_WITHIN, Deed.DIE_AFTER])
def test_a_process_that_died_changes_nothing_more(deed: Deed, tmp_path: Path) -> None:
    """Wherever it dies, kill -9 leaves the disk as it is, whatever its code does afterwards."""
    places = operations(tmp_path)
    assert places >= 12
    for at in range(1, places + 1):
        root = tmp_path / f"{at}"
        storage = FaultyStorage(disk_at(root), Fault(at=at, deed=deed))
        with pytest.raises(SimulatedCrash):
            work_through(storage, root)
        left = tree(root)
        for further in (
            lambda: storage.write_file(root / "late", b""),  # noqa: B023 - called at once
            lambda: storage.remove_tree(root),  # noqa: B023 - the same
            lambda: storage.open_read(root / "run" / "file"),  # noqa: B023 - the same
            lambda: storage.make_folder(root / "late"),  # noqa: B023 - the same
        ):
            with pytest.raises(SimulatedCrash):
                further()
        assert tree(root) == left
        assert not (root / "late").exists()


def test_a_process_may_die_in_the_middle_of_a_write(tmp_path: Path) -> None:
    """A record, or a file under its temporary name, is cut off anywhere; nothing else is hurt."""
    sizes = set()
    for seed in range(30):
        root = tmp_path / str(seed)
        storage = FaultyStorage(disk_at(root, seed), Fault(at=1, deed=Deed.DIE_WITHIN))
        with pytest.raises(SimulatedCrash):
            storage.write_file(root / "file", _NEW)
        (part,) = root.iterdir()
        assert part.suffix == ".part"
        assert _NEW.startswith(part.read_bytes())
        sizes.add(part.stat().st_size)
    assert len(sizes) > 10


def test_every_operation_can_fail_and_leaves_no_half_file(tmp_path: Path) -> None:
    """An error at any operation reaches the caller, and no temporary file stays behind."""
    for at in range(1, 5):
        root = tmp_path / str(at)
        storage = FaultyStorage(disk_at(root), Fault(at=at, deed=Deed.FAIL, error=errno.EIO))
        with pytest.raises(OSError, match="Input/output"):
            storage.write_file(root / "file", _NEW)
        assert set(tree(root)) <= {"file"}, "a temporary file stays"


def test_a_full_disk_stays_full_where_it_is_lasting(tmp_path: Path) -> None:
    """A lasting lack of space refuses every later write, and nothing else."""
    (tmp_path / "log").write_bytes(_OLD)
    fault = Fault(at=2, deed=Deed.FAIL, error=errno.ENOSPC, lasting=True)
    storage = FaultyStorage(disk_at(tmp_path), fault)
    file = storage.open_append(tmp_path / "log")
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            file.write(_NEW)
    file.truncate(10)
    file.close()
    with pytest.raises(OSError, match="No space"):
        storage.write_file(tmp_path / "file", _NEW)
    assert tree(tmp_path) == {"log": _OLD[:10]}


def test_a_log_on_a_short_write_is_cut_back(tmp_path: Path) -> None:
    """A short write is told to the log's writer, who leaves whole records only."""
    folder = tmp_path / "run"
    folder.mkdir()
    storage = FaultyStorage(disk_at(tmp_path), Fault(at=8, deed=Deed.TAKE_LESS))
    log = FileEventLog.create(folder, run_opened("run"), storage=storage)
    with pytest.raises(LogWriteError, match="bytes were taken"):
        fill_log(log)
    log.close()
    assert storage.fault_met
    assert (folder / "events.jsonl").read_bytes().endswith(b"\n")


def test_the_lock_of_a_process_that_died_is_free(tmp_path: Path) -> None:
    """A process that dies while it holds a run gives its lock and its descriptors back."""
    folder = tmp_path / "run"
    folder.mkdir()
    disk = disk_at(tmp_path)
    log = FileEventLog.create(
        folder, run_opened("run"), storage=FaultyStorage(disk, Fault(at=9, deed=Deed.DIE_WITHIN))
    )
    with pytest.raises(SimulatedCrash), contextlib.closing(log):
        fill_log(log)
    FileEventLog.open(folder, storage=FaultyStorage(disk), wait_s=0).close()
