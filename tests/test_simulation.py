"""The whole runner, simulated from seeds: nothing is lost, and each barrier is needed for that."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any, BinaryIO

import filelock
import pytest
from stagewright.events import LogWriteError
from stagewright.events.folds import Fold
from stagewright.events.log.reader import read_log
from stagewright.events.model import CallRequested, CallReused
from stagewright.statemachine import PipelineController
from stagewright.statemachine.files.recorded_files import FileState, WrongFile, check_file
from stagewright.statemachine.plan.plan import StageExecutionPlan
from stagewright.statemachine.resume import inspection, reopen
from stagewright.statemachine.run.image_files import ImageFiles

from .command_line import run_python
from .faulty_storage import Deed, Fault, FaultyStorage, SimulatedCrash
from .simulate import command_for, main, survey
from .simulated_backend import Happening, Server, SimulatedBackend
from .simulated_checks import Violation, check_end, check_facts, expected_sources, first_loss
from .simulated_disk import Sync
from .simulated_life import READER, Life, new_world
from .simulated_world import same_machine_everywhere
from .simulation import simulate
from .support import document

_SEEDS = 1500
_CHUNK = 50
TakeOut = Callable[[pytest.MonkeyPatch], Iterable[Sync]]


@pytest.mark.sampled(30)
@pytest.mark.parametrize("first", range(0, _SEEDS, _CHUNK))
def test_nothing_is_lost_in_any_simulated_run(
    first: int, record_property: Callable[[str, object], None]
) -> None:
    """Whatever befalls processes and disks, each run keeps every promise and ends complete."""
    met, broken = survey(first, _CHUNK)
    record_property("simulated", {"runs": _CHUNK, **met, "broken promises": len(broken)})
    assert not broken, "\n".join(f"{what}: {command_for(seed)}" for seed, what in broken)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("deed", [Deed.DIE_BEFORE, Deed.FAIL])
@pytest.mark.parametrize("second", [None, Fault(at=5, deed=Deed.DIE_BEFORE)], ids=["end", "die"])
def test_a_power_loss_takes_nothing_from_a_resume_wherever_the_process_before_it_ended(
    deed: Deed, second: Fault | None, tmp_path: Path
) -> None:
    """What a resume records stays, whatever the process before it had no time to sync."""
    lost = _losses_by_power(tmp_path, deed, second)
    assert not lost, "\n".join(lost)


def test_a_resume_that_does_not_rewrite_what_a_failed_sync_left_loses_it(tmp_path: Path) -> None:
    """After a failed sync the log is read from the cache, and only a rewrite reaches the disk."""
    lost = _losses_by_power(tmp_path, Deed.FAIL, None, ignored=frozenset({Sync.REWRITE}))
    assert any("sync log" in one and "corrupt" in one for one in lost), lost


def _losses_by_power(
    root: Path, deed: Deed, second: Fault | None, *, ignored: frozenset[Sync] = frozenset()
) -> list[str]:
    """What a power loss after a resume takes, for each place where the process before it ends."""
    lost = []
    for at in itertools.count(1):
        faults = (Fault(at=at, deed=deed), second)
        with same_machine_everywhere():
            met_at, what = _resume_and_lose_power(root / str(at), faults, ignored)
        lost += [f"{deed} at {at} ({met_at}): {what}"] if what else []
        if not met_at:
            break
    assert at > 30
    return lost


def _resume_and_lose_power(
    root: Path, faults: tuple[Fault, Fault | None], ignored: frozenset[Sync]
) -> tuple[str, str]:
    """A process ends early, another goes on with its run, the power is lost, a third ends it.

    At which operation the first one ended, and what was lost.
    """
    root.mkdir()
    first, second = faults
    world = new_world(root, Random(root.name), document("txt2img", "upscale"), ignored=ignored)
    storage = FaultyStorage(world.disk, first)
    for one in (storage, FaultyStorage(world.disk, second)):
        with contextlib.suppress(SimulatedCrash, LogWriteError):
            Life(world, one, {}).live()
        if (folder := world.run_folder()) is not None:
            check_facts(folder, world.history, power_lost=False)
    sent = sum(world.server.received.values())
    world.disk.lose_power()
    try:
        if (folder := world.run_folder()) is None:
            return storage.met_at, "the whole run is gone" if world.history.durable else ""
        check_facts(folder, world.history, power_lost=True)
        Life(world, FaultyStorage(world.disk), {}).live()
        check_end(folder, *check_facts(folder, world.history, power_lost=False))
    except Violation as violation:
        return storage.met_at, str(violation)
    again = second is None and sum(world.server.received.values()) > sent
    return storage.met_at, "finished images are made again" if again else ""


def test_the_simulation_meets_with_everything_that_can_happen(
    record_property: Callable[[str, object], None],
) -> None:
    """Some seeds see every way to die, to fail and to be cancelled, and lose nothing."""
    counts, broken = survey(_SEEDS, 150)
    record_property("simulated", {"runs": 150, **counts, "broken promises": len(broken)})
    assert not broken, "\n".join(f"{what}: {command_for(seed)}" for seed, what in broken)
    expected = {
        *(happening.name.lower() for happening in Happening),
        *(f"disk: {deed}" for deed in Deed),
        *("kills", "power losses", "files spoilt", "torn tails", "requests", "images reused"),
    }
    assert {name for name in expected if not counts[name]} == set()


def test_a_seed_always_gives_the_same_run() -> None:
    """Everything that happens follows from the seed."""
    for seed in range(4):
        told: list[list[str]] = [[], []]
        for lines in told:
            simulate(seed, tell=lines.append)
        assert told[0] == told[1]
        assert len(told[0]) > 20


def test_an_uninterrupted_run_makes_the_images_that_the_simulation_expects(
    tmp_path: Path,
) -> None:
    """What every simulated run is compared with is what a plain run on a plain disk makes."""
    backend = SimulatedBackend(Server(), {}, lambda _: None)
    controller = PipelineController(backend=backend, runs=tmp_path, inputs=READER)
    stages = ("txt2img", "img2img", "upscale", "adetailer")
    handle = controller.start(document(*stages, images=3))
    handle.wait(30)
    fold = Fold()
    timeline = read_log(handle.folder, fold.apply_all)
    check_end(handle.folder, fold, timeline)
    assert len(expected_sources(fold, StageExecutionPlan.from_document(fold.plan))) == 12


def _only_looks(folder: Path, path: str, digest: str) -> WrongFile | None:
    """Take a file that is there for the one that was recorded."""
    found = check_file(folder, path, digest)
    return None if found is not None and found.state is FileState.ALTERED else found


def _careless_inspection(*args: Any, **named: Any) -> inspection.RunInspection:
    """Inspect a run without digests; ``verify``, which inspects it too, goes on to check them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspection, "check_file", _only_looks)
        return inspection.inspect_run(*args, **named)


def _requests_unsynced(patch: pytest.MonkeyPatch) -> Iterable[Sync]:
    patch.setattr(CallRequested, "barrier", False)
    return ()


def _digests_unchecked(patch: pytest.MonkeyPatch) -> Iterable[Sync]:
    patch.setattr(reopen, "inspect_run", _careless_inspection)
    return ()


def _copies_uncompared(patch: pytest.MonkeyPatch) -> Iterable[Sync]:
    patch.setattr(ImageFiles, "_compare", lambda *_: None)
    return ()


def _copies_unsynced(patch: pytest.MonkeyPatch) -> Iterable[Sync]:
    copy_part = FaultyStorage.copy_part

    def unsynced(storage: FaultyStorage, source: BinaryIO, path: Path) -> Path:
        storage.syncs = False
        try:
            return copy_part(storage, source, path)
        finally:
            storage.syncs = True

    patch.setattr(FaultyStorage, "copy_part", unsynced)
    return ()


def _reuse_unsynced(patch: pytest.MonkeyPatch) -> Iterable[Sync]:
    patch.setattr(CallReused, "barrier", False)
    return ()


def _lock_for_all(patch: pytest.MonkeyPatch) -> Iterable[Sync]:
    patch.setattr(filelock, "lock_descriptor", lambda *_, **_how: True)
    return ()


@pytest.mark.parametrize(
    ("take_out", "first", "shown"),
    [
        pytest.param(_requests_unsynced, 0, "the log knows nothing of it", id="append-before-send"),
        pytest.param(lambda _: {Sync.LOG}, 0, "durably; the log has|knows nothing", id="log-sync"),
        pytest.param(lambda _: {Sync.FILE}, 0, "its bytes are others", id="sync-before-rename"),
        pytest.param(lambda _: {Sync.FOLDER}, 0, "not there|run is gone|no run knows", id="folder"),
        pytest.param(_digests_unchecked, 0, "verify|sends another source", id="digest-at-resume"),
        pytest.param(_copies_uncompared, 0, "its bytes are others", id="digest-of-a-copy"),
        pytest.param(_copies_unsynced, 0, "its bytes are others", id="sync-of-a-copy"),
        pytest.param(_reuse_unsynced, 0, "announced before", id="record-before-announcement"),
        pytest.param(_lock_for_all, 80, "corrupt|sent 2 times|the log has", id="lock"),
    ],
)
def test_without_any_one_barrier_the_simulation_finds_the_loss(
    take_out: TakeOut,
    first: int,
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
    request: pytest.FixtureRequest,
) -> None:
    """A seed that keeps every promise breaks one as soon as the barrier is taken out.

    The search begins at ``first``, a little before the seed that was found when this was written.
    """
    seed, what = _first_loss(take_out, first, monkeypatch)
    record_property("found without a barrier", f"{request.node.callspec.id}: seed {seed}: {what}")
    assert re.search(shown, what), f"seed {seed}: {what} ({command_for(seed)})"


def _first_loss(take_out: TakeOut, first: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    def simulate_without(seed: int) -> None:
        with monkeypatch.context() as patch:
            simulate(seed, ignored=frozenset(take_out(patch)))

    return first_loss(simulate, simulate_without, first)


def test_the_command_shows_a_failing_seed_and_how_to_run_it_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of many seeds it prints those that fail, with the command that shows each one whole."""
    assert main(["--runs", "60", "--processes", "1", "--without", "folder"]) == 1
    told = capsys.readouterr().out
    found = re.search(r"^seed (\d+): (.+)\n  again: (.+)$", told, re.MULTILINE)
    assert found, told
    seed, what, command = found.groups()
    assert command == f"python -m tests.simulate --seed {seed} --without folder"
    again = run_python(*command.split()[1:])
    assert again.returncode == 1, again.stderr
    assert f"seed {seed}: {what}" in again.stdout
    assert "power loss" in again.stdout
