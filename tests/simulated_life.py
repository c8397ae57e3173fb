"""One process of a simulated run: it makes or resumes the run, and works until it ends or dies."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import msgspec
from stagewright.adapters.inputs import PillowInputReader
from stagewright.events import LogWriteError
from stagewright.events.errors import LogLockedError
from stagewright.events.folds import Fold
from stagewright.events.log.storage import Storage
from stagewright.events.model import Durability, RunState
from stagewright.statemachine import (
    PipelineController,
    PipelineRunner,
    build_stage_execution_plan,
)
from stagewright.statemachine.config.inputs import resolve_config
from stagewright.statemachine.config.schema import Reuse, RunConfig
from stagewright.statemachine.files.run_folder import CancelOrder, RunFolder, run_folders
from stagewright.statemachine.ports import UNKNOWN_FILES
from stagewright.statemachine.resume.reopen import ReopenedRun, reopen_run
from stagewright.statemachine.run.creation import NewRun, create_run, resolve_choices
from stagewright.statemachine.run.reuse import EarlierImages, RunIdentity

from .faulty_storage import FaultyStorage
from .simulated_backend import CANCELS, ORDERS, Happening, Server, SimulatedBackend
from .simulated_checks import demand
from .simulated_disk import SimulatedDisk, Sync
from .simulated_pool import SimulatedPool
from .simulated_world import History, JumpingClock, WitnessedLog

READER = PillowInputReader()
Run = TypeVar("Run", NewRun, ReopenedRun)


class World(msgspec.Struct, frozen=True):
    """What all processes of a simulated run share.

    ``earlier`` is the folder of a run whose images they may use again. Of several ``servers`` each
    process uses some, and ``server`` remembers the requests of all of them.
    """

    random: Random
    disk: SimulatedDisk
    runs: Path
    config: RunConfig
    clock: JumpingClock
    server: Server
    history: History
    counts: Counter[str]
    earlier: Path | None = None
    servers: int = 1

    def run_folder(self) -> Path | None:
        """The run, once its log is there."""
        found = list(run_folders(self.runs))
        demand(len(found) <= 1, f"{len(found)} runs were made of one")
        return found[0] if found else None


def new_world(
    root: Path,
    random: Random,
    configuration: Mapping[str, Any],
    *,
    ignored: frozenset[Sync] = frozenset(),
    earlier: Path | None = None,
    servers: int = 1,
) -> World:
    """A world in which nothing has happened yet; ``root`` holds what the configuration names."""
    runs = root / "runs"
    config = resolve_config(configuration, inputs=READER, runs=runs)
    return World(
        random=random,
        disk=SimulatedDisk(root, random, ignored=ignored),
        runs=runs,
        config=config,
        clock=JumpingClock(random),
        server=Server(),
        history=History(),
        counts=Counter(),
        earlier=earlier,
        servers=servers,
    )


def make_earlier_run(runs: Path, seed: int, configuration: Mapping[str, Any]) -> Path:
    """The folder of a run that nothing happens to."""
    random, storage = Random(seed), Storage()
    storage.syncs = False
    controller = PipelineController(
        backend=SimulatedBackend(Server(), {}, lambda _: None),
        runs=runs,
        inputs=READER,
        clock=JumpingClock(random),
        random_below=random.randrange,
        storage=storage,
    )
    handle = controller.start(dict(configuration))
    demand(handle.wait(30).state is RunState.COMPLETED, "the earlier run is not complete")
    return handle.folder


class Life:
    """One process, on a storage of its own."""

    def __init__(
        self, world: World, storage: FaultyStorage, happenings: Mapping[int, Happening]
    ) -> None:
        self.fold: Fold | None = None
        """What the runner knows, once there is one."""
        self.backend = self._backend_in(world, happenings)
        self._world = world
        self._storage = storage
        self._runner: PipelineRunner | None = None

    def _backend_in(
        self, world: World, happenings: Mapping[int, Happening]
    ) -> SimulatedBackend | SimulatedPool:
        if world.servers == 1:
            return SimulatedBackend(world.server, happenings, self._bring_about)
        return SimulatedPool(
            world.servers, world.random, world.server, happenings, self._bring_about
        )

    def live(self) -> None:
        """Make or resume the run, and work on it. Raises SimulatedCrash, StagewrightError."""
        folder = self._world.run_folder()
        if folder is None:
            self._make()
        else:
            self._resume(folder)

    def _make(self) -> None:
        world, random_below = self._world, self._world.random.randrange
        config = resolve_choices(world.config, random_below)
        plan = build_stage_execution_plan(config)
        new = create_run(
            world.runs,
            config,
            plan,
            self.backend.description,
            inputs=READER,
            clock=world.clock,
            random_below=random_below,
            storage=self._storage,
        )
        assert new.fold.opened is not None
        world.history.add(new.fold.opened, durable=True)
        self._work(self._witnessed(new))

    def _resume(self, folder: Path) -> None:
        run = self._witnessed(reopen_run(folder, storage=self._storage, wait_s=0))
        if run.is_complete:
            self.fold = run.fold
            run.end(self._world.clock)
        else:
            self._work(run)

    def _witnessed(self, run: Run) -> Run:
        world = self._world
        every = world.config.run.durability is Durability.EVERY
        log = WitnessedLog(run.log, world.history, every=every)
        return msgspec.structs.replace(run, log=log)

    def _work(self, run: NewRun | ReopenedRun) -> None:
        self.fold = run.fold
        if isinstance(self.backend, SimulatedPool):
            self.backend.settle(run.fold)
        self._runner = PipelineRunner(
            run,
            backend=self.backend,
            inputs=READER,
            clock=self._world.clock,
            earlier=self._earlier_images(run.fold.run_id),
        )
        self._runner.start()
        self._runner.work()

    def _earlier_images(self, run_id: str) -> EarlierImages | None:
        """The images of the earlier run, which is this one's parent."""
        folder = self._world.earlier
        if folder is None:
            return None
        identity = RunIdentity(run_id, None, folder.name, self.backend.description)
        return EarlierImages(identity, Reuse.GROUP, lambda _: [folder], UNKNOWN_FILES)

    def _bring_about(self, happening: Happening) -> None:
        """What happens to this process while the server works on its request."""
        world, runner, folder = self._world, self._runner, self._world.run_folder()
        assert runner is not None
        assert folder is not None
        world.counts[happening.name.lower()] += 1
        if happening in (Happening.DIE, Happening.DIE_UNSENT):
            self._storage.die("at a request")
        if happening in CANCELS:
            # Where the order cannot be recorded, whoever gave it is told, and the run goes on.
            with contextlib.suppress(LogWriteError):
                runner.cancel(CANCELS[happening], "a person cancels")
        if happening in ORDERS:
            order = CancelOrder(mode=ORDERS[happening], reason="somebody orders")
            RunFolder(folder, storage=FaultyStorage(world.disk)).order_cancel(order)
        if happening is Happening.RIVAL:
            self._meet_rival()

    def _meet_rival(self) -> None:
        """A second process that wants the run is refused; one that is not goes on with it."""
        apart = msgspec.structs.replace(self._world, history=History())
        rival = Life(apart, FaultyStorage(self._world.disk), {})
        try:
            rival.live()
        except LogLockedError as refused:
            demand("process" in str(refused), f"the holder is not named: {refused}")
        else:
            self._world.counts["rivals let in"] += 1
