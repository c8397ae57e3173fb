"""A process that follows a run: ``python -m tests.following FOLDER FROM_SEQ`` prints what it sees.

The first line says that it has begun; then follows one line of sequence number, type and time of
arrival (seconds of the system's monotonic clock, which all processes share) for each event.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from stagewright.events import follow

HERE = Path(__file__).resolve().parent.parent


class Seen(NamedTuple):
    """One event as a follower saw it."""

    seq: int
    type: str
    at_s: float


def start_follower(folder: Path, from_seq: int = 0) -> subprocess.Popen[str]:
    """Start one, and return once it is ready to begin."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.following", str(folder), str(from_seq)],
        cwd=HERE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def seen_by(process: subprocess.Popen[str], timeout_s: float = 60) -> list[Seen]:
    """What a follower saw, once the run has ended and it with it."""
    assert process.stdout is not None
    # `communicate` would read past what the first line's reading has buffered.
    told = process.stdout.read()
    assert process.wait(timeout_s) == 0
    rows = (line.split() for line in told.splitlines())
    return [Seen(int(seq), kind, float(at)) for seq, kind, at in rows]


def main() -> None:
    """Follow the run that the arguments name."""
    folder, from_seq = sys.argv[1:]
    say("ready")
    for event in follow(folder, from_seq=int(from_seq)):
        say(f"{event.seq} {type(event).__name__} {time.monotonic()}")


def say(line: str) -> None:
    """Tell whoever started this process, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
