"""Groups on the embedded backend: real runs and real logs, which wait where a test wants it.

``python -m tests.group_runs ORDER`` is a process that runs or resumes one; ORDER is a JSON
document with the fields of ``Order``. It prints a line where it waits, and goes on with each line
of its standard input.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from stagewright.adapters import EmbeddedBackend
from stagewright.statemachine import (
    BackendError,
    CancelToken,
    GenerateAnswer,
    GenerateRequest,
    PipelineController,
)
from stagewright.statemachine.groups.result import GroupResult
from stagewright.statemachine.ports import OnStep
from stagewright.statemachine.run.handle import GroupHandle

from .following import HERE, say
from .resuming import small
from .support import controller

IMAGES = 2
"""The images, and so the requests, of each variant."""


class HeldBackend(EmbeddedBackend):
    """Waits at the requests with these numbers, from 0, until each is let go or cancelled.

    Those whose numbers are in ``failing`` fail.
    """

    def __init__(self, *held: int, failing: Sequence[int] = ()) -> None:
        super().__init__()
        self._held = held
        self._failing = failing
        self._numbers = itertools.count()
        self._waiting = threading.Semaphore(0)
        self._let_go = threading.Semaphore(0)

    def generate_images(
        self, request: GenerateRequest, *, cancel: CancelToken, on_step: OnStep
    ) -> GenerateAnswer:
        number = next(self._numbers)
        if number in self._held:
            self._waiting.release()
            while not cancel.cancelled and not self._let_go.acquire(timeout=0.01):
                pass
        if number in self._failing:
            raise BackendError("the GPU fell off")
        return super().generate_images(request, cancel=cancel, on_step=on_step)

    def wait_held(self, timeout_s: float | None = 60) -> None:
        """Wait until the next request waits."""
        assert self._waiting.acquire(timeout=timeout_s)

    def let_go(self) -> None:
        """Let one request go on, which waits or will wait."""
        self._let_go.release()


def start_group(
    owner: PipelineController, steps: Sequence[int], *, fail_fast: bool = False
) -> GroupHandle:
    """Begin a group of one variant for each number of steps."""
    vary = f"txt2img.steps={','.join(map(str, steps))}"
    config = small("txt2img", images=IMAGES)
    return owner.start_group(config, vary=[vary], fail_fast=fail_fast)


def run_group(
    runs: Path, steps: Sequence[int], backend: EmbeddedBackend | None = None
) -> GroupResult:
    """Run a group to its end."""
    return start_group(controller(runs, backend or EmbeddedBackend()), steps).wait(60)


class Order(msgspec.Struct, frozen=True):
    """What a process does: it resumes the last group where there are no ``steps``."""

    runs: str
    steps: tuple[int, ...] = ()
    held: tuple[int, ...] = ()
    failing: tuple[int, ...] = ()


class GroupProcess:
    """A process that runs a group, and waits at the held requests."""

    def __init__(self, order: Order) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.group_runs", msgspec.json.encode(order).decode()],
            cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def wait_held(self) -> None:
        """Wait until the next request waits."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "waiting\n"

    def let_go(self) -> None:
        """Let one request go on."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        """End it as a power loss does."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def group_process(
    runs: Path, steps: Sequence[int] = (), *, held: Sequence[int], failing: Sequence[int] = ()
) -> Iterator[GroupProcess]:
    """A process that begins a group, or resumes the last one, once its first request waits."""
    process = GroupProcess(Order(str(runs), tuple(steps), tuple(held), tuple(failing)))
    try:
        process.wait_held()
        yield process
    finally:
        process.kill()


def _report_waiting(backend: HeldBackend) -> None:
    while True:
        backend.wait_held(None)
        say("waiting")


def _pass_on_lines(backend: HeldBackend) -> None:
    for _ in sys.stdin:
        backend.let_go()


def main() -> None:
    """Run or resume a group as the argument says."""
    order = msgspec.json.decode(sys.argv[1], type=Order)
    backend = HeldBackend(*order.held, failing=order.failing)
    for target in (_report_waiting, _pass_on_lines):
        threading.Thread(target=target, args=(backend,), daemon=True).start()
    owner = controller(Path(order.runs), backend)
    handle = start_group(owner, order.steps) if order.steps else owner.resume_group("last-group")
    handle.wait()


if __name__ == "__main__":
    main()
