"""Commands that are killed: each a forked process of its own, many a second, and what they left.

As a program (``python -m tests.crashing``) it is the process that forks them: stagewright is
loaded once, and each child runs one whole command line.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from stagewright.events import (
    CallCompleted,
    CallRequested,
    LifecycleChanged,
    LogRepaired,
    RunSealed,
    RunState,
    StageEnd,
    StageEvent,
    StageImageProgress,
    StageStart,
    replay,
)
from stagewright.events.storage import PART_SUFFIX
from stagewright.statemachine import CancelToken, GenerateAnswer, GenerateRequest
from stagewright.statemachine.ports import OnStep
from stagewright.statemachine.states import TRANSITIONS

from .command_line import write_config
from .support import document

Json = dict[str, Any]
KILLED = -getattr(signal, "SIGKILL", 9)
LOG = "events.jsonl"
TOO_LONG_S = 60.0
SENT = "sent"


class Ended(NamedTuple):
    """How a process ended: its exit status, or the negative number of the signal."""

    status: int
    stdout: str
    stderr: str

    def result(self) -> Json:
        """The document that it printed."""
        document_printed: Json = json.loads(self.stdout)
        return document_printed


class ForkServer:
    """Runs command lines in processes that are forked from one; a context manager."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crashing"],
            cwd=Path(__file__).resolve().parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()

    def command(
        self,
        *arguments: str | Path,
        folder: Path,
        failpoint: str | None = None,
        kill_after_s: float | None = None,
    ) -> Ended:
        """One command in ``folder``, killed at ``failpoint``, or after a time, or not at all.

        The embedded backend notes the id of each request that reaches it; see ``sent_calls``.
        """
        order = _Order(list(map(str, arguments)), str(folder), failpoint, kill_after_s)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(order)).encode() + b"\n")
        self._process.stdin.flush()
        ended = Ended(*json.loads(self._process.stdout.readline()))
        assert "Traceback" not in ended.stderr, ended.stderr
        return ended


def sent_calls(folder: Path) -> list[str]:
    """The ids of the requests that reached the embedded backend of commands in ``folder``."""
    path = folder / SENT
    return path.read_text(encoding="ascii").splitlines() if path.exists() else []


def voyage(folder: Path, *stages: str, **top: Any) -> Path:
    """A configuration file in ``folder`` of a run called voyage, of three small images."""
    content = document(*stages, **{"name": "voyage", "images": 3, **top})
    return write_config(folder, json.dumps(content), "voyage.json")


def only_run(folder: Path) -> Path:
    """The folder of the one run below ``folder``."""
    (log,) = folder.glob(f"runs/*/{LOG}")
    return log.parent


def as_made(result: Json) -> Json:
    """A result without what two runs may differ in: ids, digests of stamped files, times."""
    kept = {key: result[key] for key in result if key not in ("run_id", "resumes", "events")}
    kept["stages"] = [
        {key: stage[key] for key in stage if key != "duration_ms"}
        | {"images": [_as_made(image) for image in stage["images"]]}
        for stage in result["stages"]
    ]
    kept["images"] = [_as_made(image) for image in result["images"]]
    return kept


def _as_made(image: Json) -> Json:
    return {key: value for key, value in image.items() if key not in ("sha256", "bytes")}


def sources(result: Json) -> dict[tuple[str, int], str]:
    """By stage and index, the digest of each image as the backend gave it."""
    return {
        (stage["stage_id"], image["image_index"]): image["source_sha256"]
        for stage in result["stages"]
        for image in stage["images"]
    }


@dataclass
class Counts:
    """What a test counts of its kills; the end of the test session adds them up."""

    kills: int = 0
    resumed: int = 0
    requests: int = 0
    planned: int = 0
    differ: int = 0
    places: list[str] = field(default_factory=list)

    def add(self, other: Counts) -> None:
        """Take what was counted elsewhere into account."""
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))

    def compare(self, result: Json, reference: Json) -> None:
        """See whether a resumed run ended as the uninterrupted one did."""
        made, wanted = sources(result), sources(reference)
        self.differ += sum(made.get(key) != wanted.get(key) for key in made.keys() | wanted.keys())
        assert self.differ == 0, (made, wanted)
        assert as_made(result) == as_made(reference)

    def take_requests(self, sent: int, planned: int) -> None:
        """Add requests of one run, of which each kill may have cost one."""
        self.requests += sent
        self.planned += planned
        assert sent <= planned + self.kills, f"{sent} requests for {planned}, {self.kills} kills"


def summary_lines(properties: Iterable[tuple[str, Any]]) -> Iterator[str]:
    """A line for each title among properties ``kills: TITLE`` of tests, whose counts are added."""
    totals: dict[str, Counts] = {}
    for name, value in properties:
        if name.startswith("kills: "):
            totals.setdefault(name.removeprefix("kills: "), Counts()).add(Counts(**value))
    for title, total in sorted(totals.items()):
        places = len(set(total.places))
        at = f" at {places} places" if places else ""
        yield (
            f"{title}: {total.kills} kills{at}, {total.resumed} resumed, {total.requests} "
            f"requests for {total.planned} planned, {total.differ} images differ"
        )


def check_history(folder: Path, *, remade: int = 0) -> list[StageEvent]:
    """See that the log of a run that ended well tells a legal story; its events.

    ``remade`` images were made twice, because their files had been altered.
    """
    events = list(replay(folder).events)
    for kind in (CallRequested, CallCompleted):
        call_ids = Counter(one.call_id for one in events if isinstance(one, kind))
        assert max(call_ids.values()) == 1, call_ids
    told = Counter(
        (one.stage_id, one.image_index) for one in events if isinstance(one, StageImageProgress)
    )
    made = Counter(
        artifact.path
        for one in events
        if isinstance(one, CallCompleted)
        for artifact in one.artifacts
    )
    assert sum(told.values()) == len(told) + remade, told
    assert sum(made.values()) == len(made) + remade, made
    assert len(told) == len(made)
    _check_stages(events)
    _check_lifecycle(events)
    _check_files(folder, made)
    _check_repairs(folder, events)
    assert isinstance(events[-1], RunSealed)
    return events


def _check_stages(events: Sequence[StageEvent]) -> None:
    starts, ends = (
        Counter((one.stage_id, one.epoch) for one in events if isinstance(one, kind))
        for kind in (StageStart, StageEnd)
    )
    assert max(starts.values()) == 1
    assert max(ends.values()) == 1
    assert ends.keys() <= starts.keys()


def _check_lifecycle(events: Sequence[StageEvent]) -> None:
    state = RunState.IDLE
    for one in events:
        if isinstance(one, LifecycleChanged):
            assert one.source == state
            assert (one.trigger, one.source, one.dest) in TRANSITIONS
            state = one.dest
    assert state == RunState.COMPLETED
    epochs = [one.epoch for one in events]
    assert epochs == sorted(epochs)


def _check_files(folder: Path, recorded: Counter[str]) -> None:
    """Below ``images`` lie the recorded files, whole; left-overs bear names that say so."""
    found = {path for path in folder.glob("images/*/*") if path.suffix != PART_SUFFIX}
    kept = {path for path in found if ".altered-" in path.name}
    assert found - kept == {folder / path for path in recorded}


def _check_repairs(folder: Path, events: Sequence[StageEvent]) -> None:
    """Each copy of what was cut is named by one repair, with its size and digest."""
    repairs = [one for one in events if isinstance(one, LogRepaired)]
    copies = [copy.name for copy in folder.glob(f"{LOG}.torn-*")]
    assert sorted(copies) == sorted(one.copied_to for one in repairs)
    for one in repairs:
        cut = (folder / one.copied_to).read_bytes()
        assert (len(cut), sha256(cut).hexdigest()) == (one.bytes, one.sha256)


def torn_tail(folder: Path) -> bytes:
    """The bytes behind the last whole record of a log."""
    return (folder / LOG).read_bytes().rpartition(b"\n")[2]


def kept_aside(folder: Path, cut: bytes) -> bool:
    """Whether these bytes of a torn tail are in a copy beside the log."""
    return any(cut in copy.read_bytes() for copy in folder.glob(f"{LOG}.torn-*"))


@dataclass
class _Order:
    """What the forking process is asked for."""

    arguments: list[str]
    folder: str
    failpoint: str | None
    kill_after_s: float | None


def _serve() -> None:
    """Fork a child for each order on standard input; a line of output says how it ended."""
    _load()
    for line in sys.stdin.buffer:
        order = _Order(**json.loads(line))
        pipes = [os.pipe(), os.pipe()]
        child = os.fork()
        if child == 0:
            _be_command(order, [write_end for _, write_end in pipes])
        for _, write_end in pipes:
            os.close(write_end)
        texts = _attend(child, [read_end for read_end, _ in pipes], order.kill_after_s)
        _, status = os.waitpid(child, 0)
        ended = Ended(os.waitstatus_to_exitcode(status), *texts)
        sys.stdout.buffer.write(json.dumps(ended).encode() + b"\n")
        sys.stdout.buffer.flush()


def _load() -> None:
    """Import what commands import, so that a child need not."""
    import filelock
    import stagewright.adapters.cli.listing
    import stagewright.adapters.cli.resuming
    import stagewright.adapters.cli.running
    import stagewright.adapters.cli.verifying
    import stagewright.adapters.webui.backend
    import stagewright.adapters.webui.preflight
    import stagewright.events.failpoints
    from PIL import Image

    Image.init()
    del filelock, stagewright


def _attend(child: int, pipes: list[int], kill_after_s: float | None) -> Iterator[str]:
    """Read what a child prints until it has ended, and kill it when its time has come."""
    texts = dict.fromkeys(pipes, b"")
    waiting = set(pipes)
    end = time.monotonic() + (TOO_LONG_S if kill_after_s is None else kill_after_s)
    while waiting:
        left = max(0.0, end - time.monotonic())
        for pipe in select.select(waiting, [], [], left)[0]:
            data = os.read(pipe, 65536)
            texts[pipe] += data
            if not data:
                os.close(pipe)
                waiting.remove(pipe)
        if waiting and time.monotonic() >= end:
            os.kill(child, signal.SIGKILL)
            end = time.monotonic() + TOO_LONG_S
            if kill_after_s is None:
                texts[pipes[1]] += f"it took more than {TOO_LONG_S} s\n".encode()
    return (texts[pipe].decode() for pipe in pipes)


def _be_command(order: _Order, streams: list[int]) -> None:
    """The child: run the command and leave, as the program ``stagewright`` does."""
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, stream in enumerate(streams, start=1):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(order.folder)
        if order.failpoint is not None:
            os.environ["STAGEWRIGHT_FAILPOINT"] = order.failpoint
        note_requests(Path(order.folder) / SENT)
        from stagewright.adapters.cli.commands import run_command_line

        status = run_command_line(order.arguments)
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001 - a child must not go on as the forking process
        traceback.print_exc()
        status = 70
    os._exit(status)


def note_requests(path: Path) -> None:
    """Let the embedded backend append the id of each request to a file before it begins."""
    from stagewright.adapters.embedded.backend import EmbeddedBackend

    generate = EmbeddedBackend.generate_images

    def noted(
        backend: EmbeddedBackend,
        request: GenerateRequest,
        *,
        cancel: CancelToken,
        on_step: OnStep,
    ) -> GenerateAnswer:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.write(descriptor, f"{request.call_id}\n".encode("ascii"))
        os.close(descriptor)
        return generate(backend, request, cancel=cancel, on_step=on_step)

    EmbeddedBackend.generate_images = noted  # type: ignore[method-assign, assignment]  # counted, for this child alone


if __name__ == "__main__":
    _serve()
