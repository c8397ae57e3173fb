"""A whole run, simulated from one seed: processes die, disks fail, and it ends all the same."""

from __future__ import annotations

import errno
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import msgspec
from stagewright.events import LogWriteError, StagewrightError
from stagewright.statemachine.plan.plan import StageExecutionPlan

from .faulty_storage import Deed, Fault, FaultyStorage, SimulatedCrash
from .simulated_backend import Happening, picture
from .simulated_checks import (
    Violation,
    check_end,
    check_facts,
    check_files,
    check_rebuilt,
    check_requests,
    check_unlocked,
    demand,
    planned_requests,
)
from .simulated_disk import Sync
from .simulated_life import Life, make_earlier_run, new_world
from .simulated_world import same_machine_everywhere
from .support import STAGE_TABLES, document

_CHAINS = (
    ("txt2img",),
    ("txt2img", "img2img"),
    ("txt2img", "upscale"),
    ("txt2img", "adetailer"),
    ("img2img",),
    ("upscale",),
    ("img2img", "upscale", "adetailer"),
    ("txt2img", "img2img", "upscale", "adetailer"),
)
_ERRORS = (errno.ENOSPC, errno.EIO, errno.EINTR)
_DYING = (Deed.DIE_BEFORE, Deed.DIE_WITHIN, Deed.DIE_AFTER)
_FAILING = (Deed.FAIL, Deed.FAIL, Deed.TAKE_LESS)
_MOST_FAULTY_EPOCHS = 4

Tell = Callable[[str], None]


class EpochPlan(msgspec.Struct, frozen=True):
    """What one process meets with: a fault of its disk, and things that happen to its requests."""

    fault: Fault | None = None
    happenings: Mapping[int, Happening] = {}
    dangerous: bool = True
    """Whether the power may be lost after it."""


def simulate(
    seed: int,
    *,
    ignored: frozenset[Sync] = frozenset(),
    tell: Tell | None = None,
    servers: int = 1,
) -> Counter[str]:
    """Run one seed to its end; how often what happened.

    A seed gives the same story each time, unless several ``servers`` share the work.
    Raises Violation where a promise is not kept. ``ignored`` are kinds of sync that the disk
    does not do; ``tell`` hears of everything that happens.
    """
    memory = Path("/dev/shm")
    base = str(memory) if memory.is_dir() else None
    with same_machine_everywhere(), tempfile.TemporaryDirectory(dir=base) as root:
        return Simulation(seed, Path(root), ignored=ignored, tell=tell, servers=servers).run()


class Simulation:
    """One run, from its making to its end, and all who meddle with it."""

    def __init__(
        self,
        seed: int,
        root: Path,
        *,
        ignored: frozenset[Sync],
        tell: Tell | None,
        servers: int = 1,
    ) -> None:
        self._random = random = Random(seed)
        self._tell = tell
        self._made_before: frozenset[str] = frozenset()
        """The stages whose images an earlier run has made."""
        config = self._draw_config(root)
        earlier = self._draw_earlier(root, config) if random.random() < 0.3 else None
        self._world = new_world(
            root, random, config, ignored=ignored, earlier=earlier, servers=servers
        )
        self._counts = self._world.counts
        self._spoilt: dict[str, int] = {}
        """Files that somebody deleted or altered, and the number of facts at that time."""

    def run(self) -> Counter[str]:
        """Live through all epochs. Raises Violation."""
        for _ in range(self._random.randrange(_MOST_FAULTY_EPOCHS + 1)):
            self._live(self._draw_epoch())
            self._meddle()
        self._say("the last epoch, without faults")
        self._live(EpochPlan(dangerous=False))
        folder = self._world.run_folder()
        assert folder is not None
        fold, timeline = check_facts(folder, self._world.history, power_lost=False)
        check_end(folder, fold, timeline)
        self._counts["images reused"] = sum(len(one.reused) for one in fold.stages.values())
        self._check_count(StageExecutionPlan.from_document(fold.plan))
        demand(not self._counts["rivals let in"], "two processes worked on one run")
        return self._counts

    def _draw_config(self, root: Path) -> dict[str, Any]:
        """A configuration, and the files that it names."""
        random = self._random
        chain = random.choice(_CHAINS)
        images = random.randrange(1, 5)
        top: dict[str, Any] = {"images": images, "seed": random.choice((-1, 7, 100000))}
        if chain[0] != "txt2img":
            given = root / "given"
            given.mkdir()
            for place in range(random.randrange(1, 3)):
                (given / f"{place}.png").write_bytes(picture("given", place))
            top.update(images=max(1, images // 2), input_image=str(given))
            if chain[0] == "upscale":
                top["images"] = 1
        drawn = document(*chain, **top)
        if "txt2img" in drawn:
            drawn["txt2img"]["batch_size"] = random.randrange(1, 4)
        drawn["run"] = {
            "on_image_error": random.choice(("stop", "continue")),
            "durability": random.choice(("checkpoint", "checkpoint", "every")),
        }
        drawn["server"] = {"retries": random.randrange(3), "backoff_s": 1e-6}
        self._say(f"{' -> '.join(chain)}, {drawn['images']} images, {drawn['run']}")
        return drawn

    def _draw_earlier(self, root: Path, config: dict[str, Any]) -> Path:
        """A run that has made the images of the first stages of this configuration."""
        chain = [stage for stage in STAGE_TABLES if stage in config]
        kept = chain[: self._random.randrange(1, len(chain) + 1)]
        config["seed"] = 7
        left_out = set(chain) - set(kept)
        known = {key: value for key, value in config.items() if key not in left_out}
        folder = make_earlier_run(root / "earlier", self._random.randrange(1 << 30), known)
        self._made_before = frozenset(one.name for one in (folder / "images").iterdir())
        self._say(f"an earlier run has made {' -> '.join(kept)}")
        return folder

    def _draw_epoch(self) -> EpochPlan:
        random, fault = self._random, None
        # An image takes nine operations; a fault that is drawn too late does not come.
        last = 30 + 10 * self._world.config.images
        if random.random() < 0.75:
            deed = random.choice(_DYING if random.random() < 0.7 else _FAILING)
            early = random.random() < 0.3
            fault = Fault(
                at=random.randrange(1, 16 if early else last),
                deed=deed,
                error=random.choice(_ERRORS),
                lasting=random.random() < 0.5,
            )
        happenings = {
            random.randrange(random.choice((1, 3, 8))): random.choice(tuple(Happening))
            for _ in range(random.choice((0, 1, 1, 2)))
        }
        return EpochPlan(fault, happenings)

    def _live(self, plan: EpochPlan) -> None:
        """One process, from its start to its end or death, and a look at what it leaves."""
        self._counts["epochs"] += 1
        self._say(f"epoch: {plan}")
        storage = FaultyStorage(self._world.disk, plan.fault, tell=self._tell)
        life = Life(self._world, storage, plan.happenings)
        crashed = False
        try:
            life.live()
        except SimulatedCrash:
            crashed = True
        except StagewrightError as error:
            expected = isinstance(error, LogWriteError) and storage.fault_met
            demand(expected, f"{type(error).__name__}: {error}")
            self._say(f"  it ends: {error}".replace(str(self._world.disk.root), ""))
        power_lost = plan.dangerous and self._random.random() < (0.5 if crashed else 0.1)
        self._counts["operations"] += storage.operations
        if plan.fault is not None and storage.fault_met:
            self._counts[f"disk: {plan.fault.deed}"] += 1
            self._counts["disk faults"] += 1
        self._counts["kills"] += crashed and not power_lost
        self._counts["power losses"] += power_lost
        facts = len(self._world.history.events)
        if power_lost:
            self._say("  power loss")
            self._world.disk.lose_power()
        self._check(power_lost=power_lost)
        for mistake in (*life.backend.mistakes, *self._world.history.mistakes):
            raise Violation(mistake)
        if life.fold is not None and len(self._world.history.events) >= facts:
            check_rebuilt(life.fold, self._world.history.events[:facts])

    def _check(self, *, power_lost: bool) -> None:
        folder, history = self._world.run_folder(), self._world.history
        if folder is None:
            lost = history.durable if power_lost else len(history.events)
            demand(not lost, "the whole run is gone")
            history.events = []
            demand(not self._world.server.received, "requests were sent, and no run knows of them")
            return
        check_unlocked(folder)
        fold, timeline = check_facts(folder, history, power_lost=power_lost)
        for stage in fold.stages.values():
            for index, seq in stage.finished.items():
                path = f"{stage.stage_id}/{index:05d}"
                for spoilt in [one for one in self._spoilt if path in one]:
                    if seq >= self._spoilt[spoilt]:
                        del self._spoilt[spoilt]
        check_files(folder, fold, timeline, self._spoilt)
        check_requests(self._world.server, history)

    def _check_count(self, plan: StageExecutionPlan) -> None:
        # Images of a backend without an address are not trusted at servers that have one.
        made_before = self._made_before if self._world.servers == 1 else frozenset()
        planned = planned_requests(plan, made_before)
        sent = sum(self._world.server.received.values())
        excused = (
            self._world.server.fruitless
            + self._counts["disk faults"]
            + self._counts["files spoilt"]
            # Whatever ends a process takes the requests of the other servers with it.
            + (self._world.servers - 1) * self._counts["epochs"]
        )
        demand(
            sent <= planned + excused,
            f"{sent} requests for {planned} planned ones and {excused} that came to nothing",
        )
        self._counts["requests"] += sent

    def _meddle(self) -> None:
        """What befalls a run that nobody is working on."""
        folder = self._world.run_folder()
        if folder is None:
            return
        meddles = [self._spoil, self._leave_garbage, self._tear]
        meddles += [self._spoil_earlier] if self._world.earlier else []
        for meddle in meddles:
            if self._random.random() < 0.2:
                meddle(folder)

    def _spoil(self, folder: Path) -> None:
        """Somebody deletes or alters an image."""
        found = sorted(folder.glob("images/*/0*.png"))
        if not found:
            return
        path = self._random.choice(found)
        self._spoil_file(path)
        for one in self._made_together(path):
            self._spoilt[one.relative_to(folder).as_posix()] = len(self._world.history.events)

    def _spoil_earlier(self, folder: Path) -> None:
        """Somebody deletes or alters an image of the earlier run."""
        del folder
        assert self._world.earlier is not None
        found = sorted(self._world.earlier.glob("images/*/0*.png"))
        if found:
            self._spoil_file(self._random.choice(found))

    def _spoil_file(self, path: Path) -> None:
        data = bytearray(path.read_bytes())
        place = self._random.randrange(len(data) + 1) if data else 0
        flipped = (
            data[:place] + bytes(one ^ 1 for one in data[place : place + 1]) + data[place + 1 :]
        )
        self._world.disk.put(path, self._random.choice((None, bytes(flipped), b"", b"altered")))
        self._counts["files spoilt"] += 1
        self._say(f"somebody spoils {path.name}")

    def _made_together(self, path: Path) -> list[Path]:
        """The images of one request: it is repeated as a whole, and puts all in place anew."""
        table = self._world.config.txt2img
        batch = (table.batch_size or 1) if table and "txt2img" in path.parent.name else 1
        first = int(path.name[:5]) // batch * batch
        found = [path.parent.glob(f"{index:05d}-*.png") for index in range(first, first + batch)]
        return [path, *(one for some in found for one in some)]

    def _leave_garbage(self, folder: Path) -> None:
        """A file that another crash left half written."""
        stages = sorted(folder.glob("images/*"))
        if stages:
            path = self._random.choice(stages) / ".00000-7.png.99.part"
            self._world.disk.put(path, b"half a picture")

    def _tear(self, folder: Path) -> None:
        """The first bytes of a record that was never written to its end."""
        log = folder / "events.jsonl"
        data = log.read_bytes()
        if data.endswith(b"\n"):
            record = data.splitlines(keepends=True)[-1]
            with open(log, "ab") as stream:
                stream.write(record[: self._random.randrange(1, len(record))])
            self._counts["torn tails"] += 1
            self._say("the log gets a torn tail")

    def _say(self, what: str) -> None:
        if self._tell is not None:
            self._tell(what)
