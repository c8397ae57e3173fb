"""A process that adds jobs to a queue, moves some, and works until the queue is empty."""

from __future__ import annotations

import contextlib
import os
import random
import sys
from pathlib import Path

from stagewright.events.queue.jobs import JobState
from stagewright.statemachine import CancelToken, GenerateRequest, JobRefusedError, Place

from .queueing import new_job, sqlite_queue, work
from .support import ScriptedBackend


def main(runs: Path, name: str, count: int) -> None:
    """Each request is noted in a file that all processes share."""
    draw = random.Random(name)
    queue = sqlite_queue(runs)
    for number in range(count):
        queue.add([new_job(f"{name}-{number}", seed=draw.randrange(1000))])
        waiting = queue.jobs(JobState.WAITING, most=50)
        if waiting and number % 3 == 0:
            with contextlib.suppress(JobRefusedError):  # another process has begun it
                queue.move(draw.choice(waiting).job_id, draw.choice(list(Place)))
    descriptor = os.open(runs / "sent.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(request: GenerateRequest, _cancel: CancelToken) -> None:
        os.write(descriptor, f"{request.run_id}\n".encode())

    work(queue, ScriptedBackend(note))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
