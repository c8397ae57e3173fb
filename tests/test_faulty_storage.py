"""The disk of the simulation: what it keeps, what it may lose, and how a process dies on it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .faulty_storage import Deed, Fault, FaultyStorage, SimulatedCrash
from .simulated_disk import SECTOR_BYTES, SimulatedDisk, what_is_left

_OLD, _NEW = b"o" * 1300, b"n" * 1700


def disk_at(root: Path, seed: int = 0, **options: Any) -> SimulatedDisk:
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


def make_durably(storage: FaultyStorage, folder: Path) -> None:
    storage.make_folder(folder / "new")
    storage.write_file(folder / "new" / "file", _NEW)


def make_in_unsynced_folder(storage: FaultyStorage, folder: Path) -> None:
    (folder / "new").mkdir()
    storage.write_file(folder / "new" / "file", _NEW)


def remove_durably(storage: FaultyStorage, folder: Path) -> None:
    storage.write_file(folder / "file", _OLD)
    storage.remove(folder / "file")


def remove_with_folder(storage: FaultyStorage, folder: Path) -> None:
    make_durably(storage, folder)
    storage.remove_tree(folder / "new")


def replace_durably(storage: FaultyStorage, folder: Path) -> None:
    storage.write_file(folder / "file", _OLD)
    storage.write_file(folder / "file", _NEW)


def rename_unsynced(storage: FaultyStorage, folder: Path) -> None:
    storage.write_file(folder / "file", b"")
    part = storage.write_part(folder / "file", b"n", durable=False)
    storage.rename(part, folder / "file")
    storage.sync_folder(folder)


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (make_durably, [{"new/file": _NEW}]),
        (make_in_unsynced_folder, [{}, {"new/file": _NEW}]),
        (remove_durably, [{}]),
        (remove_with_folder, [{}, {"new/file": _NEW}]),
        (replace_durably, [{"file": _NEW}]),
        (rename_unsynced, [{"file": b""}, {"file": b"n"}, {"file": b"\0"}]),
    ],
)
def test_a_power_loss_leaves_what_the_syncs_of_files_and_folders_have_made_durable(
    tmp_path: Path,
    work: Callable[[FaultyStorage, Path], None],
    expected: list[dict[str, bytes]],
) -> None:
    """All of these and nothing else: contents, names, removals and whole folders."""
    held = after_power_loss(tmp_path, work)
    assert all(one in held for one in expected)
    assert all(one in expected for one in held)


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
