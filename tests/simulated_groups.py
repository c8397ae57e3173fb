"""A group of runs, simulated from one seed: the whole controller on a disk that loses things."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from stagewright.events import CancelMode, LogWriteError, RunState, StagewrightError
from stagewright.events.errors import LogLockedError, RunNotFoundError
from stagewright.events.log import lock
from stagewright.events.log.record_file import RecordFile
from stagewright.events.model import Durability
from stagewright.statemachine import InvalidTransitionError, PipelineController, RunHandle
from stagewright.statemachine.files.run_folder import CancelOrder, RunFolder, run_folders
from stagewright.statemachine.groups.folder import group_folders

from .faulty_storage import Deed, Fault, FaultyStorage, SimulatedCrash
from .simulated_backend import CANCELS, ORDERS, Happening, Server, SimulatedBackend, picture
from .simulated_checks import Violation, demand
from .simulated_disk import SimulatedDisk, Sync
from .simulated_group_checks import Facts, check_group, check_group_end
from .simulated_life import READER
from .simulated_world import JumpingClock, same_machine_everywhere
from .simulation import Tell
from .support import document

_CHAINS = (("txt2img",), ("img2img",), ("txt2img", "upscale"))
_DYING = (Deed.DIE_BEFORE, Deed.DIE_WITHIN, Deed.DIE_AFTER)
_FAILING = (Deed.FAIL, Deed.TAKE_LESS)
_MOST_FAULTY_EPOCHS = 4


class LostSyncs(msgspec.Struct, frozen=True):
    """Syncs that a simulated disk does not do: of these kinds, for paths that match."""

    kinds: frozenset[Sync] = frozenset()
    paths: str = "*"


def simulate_group(
    seed: int, *, lost: LostSyncs | None = None, tell: Tell | None = None
) -> Counter[str]:
    """Run one seed of a group to its end; how often what happened.

    Raises Violation where a promise is not kept. The disk does not do the ``lost`` syncs;
    ``tell`` hears of everything that happens.
    """
    memory = Path("/dev/shm")
    base = str(memory) if memory.is_dir() else None
    with tempfile.TemporaryDirectory(dir=base) as root:
        simulation = GroupSimulation(seed, Path(root), lost=lost or LostSyncs(), tell=tell)
        with same_machine_everywhere(), simulation.witnessed():
            return simulation.run()


class GroupSimulation:
    """One group from its making to its end, and all that happens to it."""

    def __init__(self, seed: int, root: Path, *, lost: LostSyncs, tell: Tell | None) -> None:
        self.random = random = Random(seed)
        self.runs = root / "runs"
        self.config, self.axis = _draw_config(random, root)
        self.disk = SimulatedDisk(root, random, ignored=lost.kinds, ignored_paths=lost.paths)
        self.clock = JumpingClock(random)
        self.server = Server()
        self.facts = Facts()
        self.counts: Counter[str] = Counter()
        self.watched: dict[str, threading.Event] = {}
        """By id, set once the thread of the group waits for this run to end."""
        self._tell = tell

    def run(self) -> Counter[str]:
        """Live through all epochs. Raises Violation."""
        for _ in range(self.random.randrange(1, _MOST_FAULTY_EPOCHS + 1)):
            self._live_dangerously(self._draw_fault(), self._draw_happenings())
            self._tear()
        self.live()
        excused = self.server.fruitless + self.counts["disk faults"]
        self.counts["requests"] += check_group_end(self.runs, self.server, excused)
        self.lose_power()
        return self.counts

    def lose_power(self) -> None:
        """See what a power loss leaves. Raises Violation."""
        self.say("  power loss")
        self.counts["power losses"] += 1
        self.disk.lose_power()
        check_group(self.runs, self.facts, self.server, power_lost=True)

    @contextlib.contextmanager
    def witnessed(self) -> Iterator[None]:
        """Every record is noted once its append has returned; no wait for a lock takes time."""
        append, wait_ended = RecordFile.append, RunHandle.wait_ended
        ticks = itertools.count()

        def noted_append(log: RecordFile[Any], event: Any) -> None:
            append(log, event)
            durable = event.barrier or log.durability is Durability.EVERY
            self.facts.note(log.path.parent.name, event, durable=durable)

        def noted_wait(handle: RunHandle, timeout_s: float | None = None) -> bool:
            self.watched.setdefault(handle.run_id, threading.Event()).set()
            return wait_ended(handle, timeout_s)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RecordFile, "append", noted_append)
            patch.setattr(RunHandle, "wait_ended", noted_wait)
            quick = SimpleNamespace(monotonic=lambda: next(ticks), sleep=lambda _seconds: None)
            patch.setattr(lock, "time", quick)
            yield

    def _draw_fault(self) -> Fault | None:
        random = self.random
        if random.random() < 0.15:
            return None
        deed = random.choice(_DYING if random.random() < 0.75 else _FAILING)
        last = 12 if random.random() < 0.3 else 110
        return Fault(at=random.randrange(1, last), deed=deed, lasting=random.random() < 0.5)

    def _draw_happenings(self) -> dict[int, Happening]:
        random = self.random
        return {
            random.randrange(random.choice((1, 3, 6))): random.choice(tuple(Happening))
            for _ in range(random.choice((0, 1, 1, 3)))
        }

    def live(
        self,
        fault: Fault | None = None,
        happenings: Mapping[int, Happening] = {},
        *,
        alone: Path | None = None,
    ) -> FaultyStorage:
        """One process, from its start to its end or death, and a look at what it leaves.

        It starts or resumes the group, or resumes one of its runs ``alone``. Raises Violation.
        """
        self.counts["epochs"] += 1
        self.say(f"epoch: {fault}, {happenings}")
        self.watched.clear()
        storage = FaultyStorage(self.disk, fault, tell=self._tell)
        life = _Life(self, storage, happenings)
        try:
            if alone is None:
                life.live()
            else:
                life.resume_alone(alone)
        except SimulatedCrash:
            pass
        except StagewrightError as error:
            expected = isinstance(error, LogWriteError) and storage.fault_met
            demand(expected, f"{type(error).__name__}: {error}")
        self.counts["disk faults"] += storage.fault_met
        for mistake in life.backend.mistakes:
            raise Violation(mistake)
        check_group(self.runs, self.facts, self.server, power_lost=False)
        return storage

    def _live_dangerously(self, fault: Fault | None, happenings: Mapping[int, Happening]) -> None:
        """One process, of the group or of one run alone, after which the power may be lost."""
        alone, runs = None, list(run_folders(self.runs))
        if runs and self.random.random() < 0.15:
            self.counts["runs resumed alone"] += 1
            alone = self.random.choice(runs)
        storage = self.live(fault, happenings, alone=alone)
        if self.random.random() < (0.6 if storage.dead else 0.2):
            self.lose_power()
        else:
            self.counts["kills"] += storage.dead

    def _tear(self) -> None:
        """The first bytes of a record that was never written to its end."""
        for folder in group_folders(self.runs):
            log = folder / "group.jsonl"
            data = log.read_bytes()
            if data.endswith(b"\n") and self.random.random() < 0.2:
                record = data.splitlines(keepends=True)[-1]
                torn = data + record[: self.random.randrange(1, len(record))]
                self.disk.put(log, torn)
                self.counts["torn tails"] += 1

    def say(self, what: str) -> None:
        """Tell what happens."""
        if self._tell is not None:
            self._tell(what)


class _Life:
    """One process, with a controller on a storage of its own."""

    def __init__(
        self,
        simulation: GroupSimulation,
        storage: FaultyStorage,
        happenings: Mapping[int, Happening],
    ) -> None:
        self.backend = SimulatedBackend(simulation.server, happenings, self._bring_about)
        self._simulation = simulation
        self._storage = storage
        self._begun = threading.Event()
        self._controller = PipelineController(
            backend=self.backend,
            runs=simulation.runs,
            inputs=READER,
            clock=simulation.clock,
            random_below=simulation.random.randrange,
            storage=storage,
        )

    def live(self) -> None:
        """Start or resume the group, and wait for its end. Raises SimulatedCrash."""
        facts = self._simulation.facts
        with self._dying():
            if not group_folders(self._simulation.runs):
                config, axis = self._simulation.config, self._simulation.axis
                handle = self._controller.start_group(config, vary=[axis])
            else:
                facts.promise_any()
                handle = self._controller.resume_group("last-group")
            facts.promise(RunState.RUNNING)
            self._begun.set()
            facts.promise(handle.wait().state)

    def resume_alone(self, folder: Path) -> None:
        """Resume the run of a variant without its group, and wait for its end."""
        self._simulation.facts.promise(None)
        with self._dying():
            handle = self._controller.resume(folder.name)
            self._begun.set()
            handle.wait()

    @contextlib.contextmanager
    def _dying(self) -> Iterator[None]:
        try:
            yield
        except StagewrightError:
            self._storage.check_alive()  # the thread that died has reported it as an error
            raise

    def _bring_about(self, happening: Happening) -> None:
        """What happens to this process while the server works on its request."""
        simulation, run_id = self._simulation, self._controller.current_run_id or ""
        simulation.counts[happening.name.lower()] += 1
        # How far other threads have come must not depend on the machine.
        watched = simulation.watched.setdefault(run_id, threading.Event())
        assert watched.wait(30)
        assert self._begun.wait(30)
        if happening in (Happening.DIE, Happening.DIE_UNSENT):
            self._storage.die("at a request")
        if happening in CANCELS:
            self._cancel(CANCELS[happening])
        if happening in ORDERS:
            order = CancelOrder(mode=ORDERS[happening], reason="a person orders")
            simulation.facts.promise_any()
            (group,) = group_folders(simulation.runs)
            RunFolder(group, storage=FaultyStorage(simulation.disk)).order_cancel(order)
        if happening is Happening.RIVAL:
            self._meet_rival(run_id)

    def _cancel(self, mode: CancelMode) -> None:
        facts, group_id = self._simulation.facts, self._controller.current_group_id
        facts.promise_any()
        # Where the order cannot be recorded, its giver gets the error, and the group goes on.
        with contextlib.suppress(LogWriteError, InvalidTransitionError, RunNotFoundError):
            owner = group_id or self._controller.current_run_id or ""
            self._controller.cancel(owner, mode=mode, reason="somebody cancels")
            if group_id:
                facts.promise(RunState.CANCELLED)

    def _meet_rival(self, run_id: str) -> None:
        """A second process that wants the group, or its run, is refused."""
        simulation = self._simulation
        rival = _Life(simulation, FaultyStorage(simulation.disk), {})
        wanted = [run_id] if self._controller.current_group_id is None else [run_id, "last-group"]
        for name in wanted:
            resume = rival.resume_group if name == "last-group" else rival.resume_run
            try:
                resume(name)
            except LogLockedError as refused:
                demand("process" in str(refused), f"the holder is not named: {refused}")
            else:
                raise Violation(f"two processes worked on {name}")

    def resume_group(self, name: str) -> None:
        """Resume the group, without promises."""
        self._controller.resume_group(name).wait()

    def resume_run(self, name: str) -> None:
        """Resume a run, without promises."""
        self._controller.resume(name).wait()


def _draw_config(random: Random, root: Path) -> tuple[dict[str, Any], str]:
    """A configuration, whose input is there, and an axis with three values."""
    chain = random.choice(_CHAINS)
    top: dict[str, Any] = {"images": random.randrange(1, 3), "seed": random.choice((-1, 7))}
    if chain[0] != "txt2img":
        given = root / "given.png"
        given.write_bytes(picture("given", 0))
        top["input_image"] = str(given)
    drawn = document(*chain, **top)
    drawn["run"] = {"durability": random.choice(("checkpoint", "checkpoint", "every"))}
    drawn["server"] = {"retries": random.randrange(2), "backoff_s": 1e-6}
    return drawn, f"{chain[0]}.steps=1,2,3"
