"""Commands as forked processes of their own, many a second; some of them are killed.

As a program (``python -m tests.forking``) it is the process that forks them: stagewright is
loaded once, and each child runs one whole command line and ends as the program does.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import pkgutil
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from stagewright.statemachine import CancelToken, GenerateAnswer, GenerateRequest
from stagewright.statemachine.ports import OnStep

Json = dict[str, Any]
TOO_LONG_S = 60.0
_TOO_LONG = f"it took more than {TOO_LONG_S} s\n"
SENT = "sent"
_AT_THE_START = ("PYTHON", "LC_", "LANG", "TZ")
"""So begin the names of what Python looks at only when it starts."""
_PATHS = "PYTHONPATH"
"""The one of them that a child can follow."""


class Ended(NamedTuple):
    """How a process ended: its exit status, or the negative number of the signal."""

    status: int
    stdout: str
    stderr: str

    def result(self) -> Json:
        """The document that it printed."""
        document_printed: Json = json.loads(self.stdout)
        return document_printed


@dataclass
class _Order:
    """What the forking process is asked for."""

    arguments: list[str]
    folder: str
    environment: dict[str, str]
    program: str = ""
    notes_requests: bool = False
    failpoint: str | None = None
    kill_after_s: float | None = None


class ForkServer:
    """Runs command lines in processes that are forked from one; a context manager."""

    def __init__(self) -> None:
        self._start = looked_at_when_starting(os.environ)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forking"],
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

    def serves(self, environment: Mapping[str, str]) -> bool:
        """Whether a process of this environment would start as those do that are forked here."""
        return looked_at_when_starting(environment) == self._start

    def run(self, *arguments: str, folder: Path, environment: Mapping[str, str]) -> Ended:
        """One command in ``folder``, as a user runs it."""
        return self._ask(_Order(list(arguments), str(folder), dict(environment)))

    def command(
        self,
        *arguments: str | Path,
        folder: Path,
        failpoint: str | None = None,
        kill_after_s: float | None = None,
        program: str = "",
    ) -> Ended:
        """One command in ``folder``, killed at ``failpoint``, or after a time, or not at all.

        ``program`` is a module whose ``main`` is given the arguments in place of the command line.
        The embedded backend notes the id of each request that reaches it; see ``sent_calls``.
        """
        ended = self._ask(
            _Order(
                list(map(str, arguments)), str(folder), dict(os.environ), program,
                notes_requests=True, failpoint=failpoint, kill_after_s=kill_after_s,
            )
        )  # fmt: skip
        assert "Traceback" not in ended.stderr, ended.stderr
        return ended

    def _ask(self, order: _Order) -> Ended:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(order)).encode() + b"\n")
        self._process.stdin.flush()
        ended = Ended(*json.loads(self._process.stdout.readline()))
        assert _TOO_LONG not in ended.stderr, ended
        return ended


def looked_at_when_starting(environment: Mapping[str, str]) -> dict[str, str]:
    """What Python itself reads of an environment, which a forked process does not read again."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(_AT_THE_START) and name != _PATHS
    }


def _serve() -> None:
    """Fork a child for each order on standard input; a line of output says how it ended."""
    if sys.platform == "win32":
        raise OSError("not on Windows")
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
    """Import what commands import, and make what they make at first, so that a child need not."""
    import stagewright.adapters.cli
    import stagewright.events.testing.failpoints
    import stagewright.statemachine.config.inputs
    from PIL import Image

    import stagewright.__main__

    cli = stagewright.adapters.cli
    for module in pkgutil.walk_packages(cli.__path__, f"{cli.__name__}."):
        import_module(module.name)
    for name in (
        "backends.webui.backend",
        "backends.webui.preflight",
    ):
        import_module(f"stagewright.adapters.{name}")
    for name in ("filelock", "jinja2"):
        import_module(name)
    Image.init()
    # The schema of configurations is made at its first use, which takes 30 ms.
    example = Path(__file__).parents[1] / "examples" / "portrait.toml"
    stagewright.statemachine.config.inputs.load_document(example).parse()
    gc.freeze()


def _attend(child: int, pipes: list[int], kill_after_s: float | None) -> Iterator[str]:
    """Read what a child prints until it has ended, and kill it when its time has come."""
    if sys.platform == "win32":
        raise OSError("not on Windows")
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
                texts[pipes[1]] += _TOO_LONG.encode()
    return (texts[pipe].decode() for pipe in pipes)


def _be_command(order: _Order, streams: list[int]) -> None:
    """The child: run the command and end, as the program ``stagewright`` does."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, stream in enumerate(streams, start=1):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdout, sys.stderr = (
        open(number, "w", encoding="utf-8", buffering=buffering, closefd=False)  # noqa: SIM115 - for good
        for number, buffering in ((1, -1), (2, 1))
    )
    try:
        os.chdir(order.folder)
        os.environ.clear()
        os.environ.update(order.environment)
        if paths := order.environment.get(_PATHS):
            sys.path[:0] = paths.split(os.pathsep)
        if order.failpoint is not None:
            os.environ["STAGEWRIGHT_FAILPOINT"] = order.failpoint
        if order.notes_requests:
            note_requests(Path(order.folder) / SENT)
    except BaseException:  # noqa: BLE001 - a child must not go on as the forking process
        traceback.print_exc()
        os._exit(70)
    sys.argv = ["stagewright", *order.arguments]
    status: object = 70
    try:
        import_module(order.program or "stagewright.__main__").main()
        status = 0
    except SystemExit as exits:
        status = exits.code
        if isinstance(status, str):
            sys.stderr.write(f"{status}\n")
            status = 1
    except BaseException:  # noqa: BLE001 - as Python shows it
        traceback.print_exc()
        status = 1
    _end(status if isinstance(status, int) else 0)


def _end(status: int) -> None:
    """End as Python does, but for taking all modules apart, which takes it most of the time."""
    # Both are what Python itself calls at its end; no public name has either.
    threading._shutdown()  # type: ignore[attr-defined]  # typeshed knows public names alone
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = 120  # as Python has it
    os._exit(status)


def note_requests(path: Path) -> None:
    """Let the embedded backend append the id of each request to a file before it begins."""
    from stagewright.adapters.backends.embedded.backend import EmbeddedBackend

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
