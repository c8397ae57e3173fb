"""kill -9 by the kernel's hand: at every write and sync of the log and every rename of a file."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from stagewright.events import RunOpened, RunState, StageEvent, replay
from stagewright.events.log.storage import AppendFile, Storage
from stagewright.statemachine import PipelineController
from stagewright.statemachine.ports import SystemClock

from .crashing import (
    KILLED,
    LOG,
    Counts,
    check_history,
    sent_calls,
    voyage,
)
from .forking import SENT, ForkServer, Json, note_requests
from .support import START
from .tools import needs_strace

TITLE = "kills by strace"
pytestmark = [pytest.mark.linux, needs_strace]

STAGES = ("txt2img", "upscale")
PLANNED = 4
CHUNKS = 4
RENAME = "/^rename"
ROOT = Path(__file__).resolve().parent.parent
KNOWN_RUN = "20261120T225226.123456Z-voyage-000000"
"""The id of the run that this module makes as a program: of a path, strace must be told."""


@pytest.fixture(scope="module")
def reference(forks: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Json:
    """The result of the run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    ended = forks.command("run", voyage(folder, *STAGES, images=2), "--json", folder=folder)
    assert ended.status == 0, ended.stderr
    return ended.result()


def run_until(folder: Path, call: str, number: int) -> int:
    """Run in ``folder``, killed as it enters a system call for the ``number``th time; its status.

    Of writes and syncs those of the log are counted.
    """
    folder.mkdir()
    config = voyage(folder, *STAGES, images=2)
    only = [] if call == RENAME else ["-P", str(folder / "runs" / KNOWN_RUN / LOG)]
    inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"]
    tracer = ["strace", "-f", "-qq", "-o", "trace", *only, *inject]
    done = subprocess.run(
        [*tracer, sys.executable, "-B", "-m", "tests.test_kill_by_strace", str(config)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert b"Traceback" not in done.stderr, done.stderr
    return done.returncode


def resume_and_check(folder: Path, forks: ForkServer, counts: Counts, reference: Json) -> None:
    """See that after a resume nothing shows of one kill."""
    one = Counts(kills=1, resumed=1)
    ended = forks.command("resume", "last", "--json", folder=folder)
    assert ended.status == 0, ended.stderr
    one.compare(ended.result(), reference)
    one.take_requests(len(sent_calls(folder)), PLANNED)
    counts.add(one)
    check_history(folder / "runs" / KNOWN_RUN)
    assert forks.command("verify", "last", folder=folder).status == 0


def written(run: Path) -> list[StageEvent]:
    """The records that were appended to the log, whole."""
    return [one for one in replay(run).events if not isinstance(one, RunOpened)]


def synced(run: Path) -> list[StageEvent]:
    """Those of them that are barriers."""
    return [one for one in written(run) if one.barrier]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize("call", ["write", "fdatasync"])
def test_a_run_killed_at_any_write_or_sync_of_its_log_ends_as_if_it_had_not_been(
    call: str, chunk: int, tmp_path: Path, forks: ForkServer, counts: Counts, reference: Json
) -> None:
    """Each in turn until there are no more; a write does not happen, a sync has its record."""
    for number in itertools.count(chunk + 1, CHUNKS):
        folder = tmp_path / str(number)
        run = folder / "runs" / KNOWN_RUN
        status = run_until(folder, call, number)
        if status == 0:
            break
        assert status == KILLED
        assert number == (len(written(run)) + 1 if call == "write" else len(synced(run)))
        counts.places.append(f"{call} {number}")
        resume_and_check(folder, forks, counts, reference)
    last = len(written(run) if call == "write" else synced(run))
    assert last < number <= last + CHUNKS


@pytest.mark.parametrize("number", range(1, 2 + PLANNED))
def test_a_run_killed_at_the_rename_of_a_file_ends_as_if_it_had_not_been(
    number: int, tmp_path: Path, forks: ForkServer, counts: Counts, reference: Json
) -> None:
    """An image is made again; without its log, which is the first to be renamed, it is no run."""
    folder = tmp_path / "killed"
    run = folder / "runs" / KNOWN_RUN
    assert run_until(folder, RENAME, number) == KILLED
    counts.places.append(f"rename {number}")
    assert len(list(run.glob("images/*/*.png"))) == max(0, number - 2)
    if number > 1:
        assert len(list(run.glob("images/*/.*.part"))) == 1
        resume_and_check(folder, forks, counts, reference)
    else:
        counts.kills += 1
        assert json.loads(forks.command("list", "--json", folder=folder).stdout) == []
        assert forks.command("resume", "last", folder=folder).status == 2


def test_no_file_is_renamed_but_the_log_and_the_images(tmp_path: Path) -> None:
    """So that one more rename than there are files is never come to."""
    assert run_until(tmp_path / "whole", RENAME, 2 + PLANNED) == 0


class _StepStorage(Storage):
    """Lets every thread make as many writes, syncs and renames as all of them together.

    strace counts the calls of each thread for itself; so the number that it is given means
    the same call whichever thread comes to it. What is added has no effect.
    """

    def __init__(self) -> None:
        super().__init__()
        self._made: Counter[str] = Counter()
        self._made_here = threading.local()

    def open_append(self, path: Path) -> AppendFile:
        return _StepFile(path, self)

    def rename(self, source: Path, target: Path) -> None:
        self.step("rename", lambda: super(_StepStorage, self).rename(source, source))
        super().rename(source, target)

    def step(self, call: str, make: Callable[[], object]) -> None:
        """Make up for the calls that other threads have made; the caller makes the next."""
        for _ in range(getattr(self._made_here, call, 0), self._made[call]):
            make()
        self._made[call] += 1
        setattr(self._made_here, call, self._made[call])


class _StepFile(AppendFile):
    def __init__(self, path: Path, storage: _StepStorage) -> None:
        super().__init__(path, storage)
        self._step = storage.step

    def write(self, data: bytes) -> int:
        write = super().write
        self._step("write", lambda: write(b""))
        return write(data)

    def sync(self) -> None:
        self._step("sync", super().sync)
        super().sync()


class _StoppedClock(SystemClock):
    def now(self) -> datetime:
        return START


def _run_of_known_id(config: Path) -> int:
    """Run a configuration on the embedded backend, on files that strace can be told of."""
    from stagewright.adapters.backends.embedded.backend import EmbeddedBackend
    from stagewright.adapters.inputs import PillowInputReader

    note_requests(Path(SENT))
    controller = PipelineController(
        backend=EmbeddedBackend(),
        runs=Path("runs").resolve(),
        inputs=PillowInputReader(),
        clock=_StoppedClock(),
        random_below=lambda _end: 0,
        storage=_StepStorage(),
    )
    return int(controller.start(config).wait().state != RunState.COMPLETED)


if __name__ == "__main__":
    sys.exit(_run_of_known_id(Path(sys.argv[1])))
