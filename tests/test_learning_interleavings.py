"""However runs, deletions, deaths and updates follow each other: the bytes of a rebuild."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stagewright.adapters import LearningRecordsError, LearningRecordWriter
from stagewright.adapters.projections.learning.unrecorded_file import UNRECORDED_NAME
from stagewright.events import RunState, replay

from .faulty_storage import Deed, Fault, FaultyStorage, SimulatedCrash
from .learning import NAME, bytes_of, cancelled, rebuilt
from .resuming import LOG, cut, dies_at, painter, ran, resumed, small
from .simulated_disk import SimulatedDisk

Step = tuple[str, int]
STEPS = (
    "run", "fail", "miss", "cancel", "opt out", "resume", "fail again", "die", "delete",
    "rename", "update", "update elsewhere", "tear the file", "tear the notes",
)  # fmt: skip


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each kind, to be put where it is wanted: a copy of a run is a run."""
    runs = tmp_path_factory.mktemp("library")
    return {
        "run": ran(runs, small("txt2img", "upscale", images=1)),
        "fail": ran(runs, small(images=2), painter(dies_at(("00-txt2img", 1)))),
        "miss": ran(
            runs,
            small(images=2, run={"on_image_error": "continue"}),
            painter(dies_at(("00-txt2img", 0))),
        ),
        "cancel": cancelled(runs, small(images=2)),
        "opt out": ran(runs, small(images=1, run={"learning": False})),
    }


class Life:
    """A folder of runs, a writer that lives as long, and all that can happen there."""

    def __init__(self, runs: Path, library: dict[str, Path]) -> None:
        self.runs = runs
        self._library = library
        self._writer = LearningRecordWriter(runs)
        self._made = 0

    def live(self, what: str, which: int) -> None:
        """Do one step; ``which`` chooses among the runs, or a place in one."""
        if what in self._library:
            self._made += 1
            name = f"{which % 10}-{self._made}-{what.replace(' ', '-')}"
            shutil.copytree(self._library[what], self.runs / name)
        elif what.startswith("update"):
            self.check(self._writer if what == "update" else LearningRecordWriter(self.runs))
        elif what == "tear the file":
            data = bytes_of(self.runs)
            (self.runs / NAME).write_bytes(data[: which * len(data) // 100])
        elif what == "tear the notes":
            notes = self.runs / UNRECORDED_NAME
            data = notes.read_bytes() if notes.exists() else b"{}"
            notes.write_bytes(data[: which * len(data) // 100])
        elif folders := sorted(log.parent for log in self.runs.glob(f"*/{LOG}")):
            self._disturb(what, folders[which % len(folders)], which)

    def _disturb(self, what: str, folder: Path, which: int) -> None:
        if what == "delete":
            shutil.rmtree(folder)
        elif what == "rename":
            folder.rename(folder.with_name(f"{which}-{folder.name}"[:60]))
        elif what == "die":
            self._kill(folder, which)
        elif replay(folder).state != RunState.COMPLETED:
            backend = painter(dies_at(("00-txt2img", 1)) if what == "fail again" else None)
            resumed(folder, backend, force=True)

    def _kill(self, folder: Path, which: int) -> None:
        """Leave the beginning of a log, and a torn tail: its process is killed there."""
        count = len((folder / LOG).read_bytes().splitlines())
        cut(folder, 1 + which % count, torn=b'{"h":"0000'[: which % 11])

    def check(self, writer: LearningRecordWriter) -> None:
        """Bring the file up to date: it is what a rebuild would make."""
        update = writer.update()
        assert bytes_of(self.runs) == rebuilt(self.runs)
        assert update.records == len(bytes_of(self.runs).splitlines())


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 99)), max_size=14))
def test_an_update_gives_the_bytes_of_a_rebuild(
    library: dict[str, Path], steps: list[Step]
) -> None:
    """After any interleaving, by a writer that saw it all, and by one that saw nothing."""
    with tempfile.TemporaryDirectory() as place:
        life = Life(Path(place), library)
        for what, which in steps:
            life.live(what, which)
        life.live("update", 0)
        life.live("update elsewhere", 0)


def writing(runs: Path, library: dict[str, Path]) -> None:
    """One run has its record; one goes, and one that sorts before and one that sorts after come."""
    shutil.copytree(library["run"], runs / "5")
    shutil.copytree(library["fail"], runs / "6")
    LearningRecordWriter(runs).update()
    shutil.rmtree(runs / "6")
    shutil.copytree(library["miss"], runs / "3")
    shutil.copytree(library["cancel"], runs / "7")


def appending(runs: Path, library: dict[str, Path]) -> None:
    """Two runs have their records, and a third comes behind them."""
    for name, what in (("5", "run"), ("6", "fail")):
        shutil.copytree(library[what], runs / name)
    LearningRecordWriter(runs).update()
    shutil.copytree(library["miss"], runs / "7")


def beginning(runs: Path, library: dict[str, Path]) -> None:
    """There is no file yet."""
    shutil.copytree(library["run"], runs / "5")
    shutil.copytree(library["fail"], runs / "6")


def ending(runs: Path, library: dict[str, Path]) -> None:
    """The only run goes, and the file with it."""
    shutil.copytree(library["run"], runs / "5")
    LearningRecordWriter(runs).update()
    shutil.rmtree(runs / "5")


def noting(runs: Path, library: dict[str, Path]) -> None:
    """One of two runs without a record goes, and another one comes, besides one that has one."""
    shutil.copytree(library["opt out"], runs / "3")
    shutil.copytree(library["opt out"], runs / "4")
    LearningRecordWriter(runs).update()
    shutil.rmtree(runs / "3")
    shutil.copytree(library["opt out"], runs / "5")
    shutil.copytree(library["run"], runs / "6")


@pytest.mark.parametrize("loses_power", [False, True], ids=["killed", "power lost"])
@pytest.mark.parametrize("prepare", [writing, appending, beginning, ending, noting])
def test_a_process_that_dies_anywhere_in_an_update_leaves_what_the_next_makes_good(
    tmp_path: Path,
    library: dict[str, Path],
    prepare: Callable[[Path, dict[str, Path]], None],
    loses_power: bool,
) -> None:
    """Before, within and after every operation on the disk, with and without a power loss."""
    met = 0
    for deed in (Deed.DIE_BEFORE, Deed.DIE_WITHIN, Deed.DIE_AFTER):
        for at in range(1, 30):
            runs = tmp_path / f"{deed}-{at}"
            runs.mkdir()
            prepare(runs, library)
            disk = SimulatedDisk(runs, Random(at))
            storage = FaultyStorage(disk, Fault(at=at, deed=deed))
            try:
                LearningRecordWriter(runs, storage=storage).update()
            except SimulatedCrash:
                met += 1
            if loses_power:
                disk.lose_power()
            LearningRecordWriter(runs).update()
            assert bytes_of(runs) == rebuilt(runs), (deed, at)
            assert [path.name for path in runs.glob(".*.part")] == []
            if not storage.fault_met:
                break
    assert met >= 3


@pytest.mark.parametrize("prepare", [writing, appending, beginning, ending, noting])
def test_what_an_update_has_written_is_durable(
    tmp_path: Path, library: dict[str, Path], prepare: Callable[[Path, dict[str, Path]], None]
) -> None:
    """A power loss afterwards takes nothing of it."""
    for seed in range(8):
        runs = tmp_path / str(seed)
        runs.mkdir()
        prepare(runs, library)
        disk = SimulatedDisk(runs, Random(seed))
        LearningRecordWriter(runs, storage=FaultyStorage(disk)).update()
        disk.lose_power()
        assert bytes_of(runs) == rebuilt(runs)


@pytest.mark.parametrize("prepare", [writing, appending, beginning, ending, noting])
def test_a_disk_that_fails_or_is_full_harms_nothing(
    tmp_path: Path, library: dict[str, Path], prepare: Callable[[Path, dict[str, Path]], None]
) -> None:
    """The file is as it was, or as it should be, and the same writer makes it good."""
    met = 0
    for at in range(1, 30):
        runs = tmp_path / str(at)
        runs.mkdir()
        prepare(runs, library)
        before = bytes_of(runs)
        storage = FaultyStorage(SimulatedDisk(runs, Random(at)), Fault(at=at, deed=Deed.FAIL))
        writer = LearningRecordWriter(runs, storage=storage)
        try:
            writer.update()
        except LearningRecordsError:
            met += 1
            assert bytes_of(runs) in (before, rebuilt(runs))
        writer.update()
        assert bytes_of(runs) == rebuilt(runs), at
        if not storage.fault_met:
            break
    assert met >= 1
