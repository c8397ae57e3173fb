"""Appending, replaying and publishing, each against the least that could do."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

import msgspec
from stagewright.events import (
    EVENT_TYPES,
    Durability,
    FileEventLog,
    RunOpened,
    StageEvent,
    replay,
    signals,
)

from .long_log import events, write_logs
from .measuring import Ratio, alternately

_CHUNK = 1 << 20
_PUBLISHED = 200_000


def append_ratio(folder: Path, images: int = 1500) -> Ratio:
    """Append without sync, beside msgspec's encoder and os.write."""
    made = list(events(images))
    opened = made[0]
    assert isinstance(opened, RunOpened)
    place = iter(range(1000))
    encoder = msgspec.json.Encoder()

    def ours() -> None:
        run = folder / f"append-{next(place)}"
        run.mkdir()
        log = FileEventLog.create(run, opened, durability=Durability.PROCESS)
        for event in made[1:]:
            log.append(event)
        log.close()

    def rival() -> None:
        flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND
        descriptor = os.open(folder / f"bare-{next(place)}", flags)
        for event in made:
            os.write(descriptor, encoder.encode(event))
        os.close(descriptor)

    times = alternately(ours, rival)
    what = f"append {len(made):,} events without sync"
    return Ratio(what, "msgspec encode + os.write", *times, limit="at most 3.5")


def replay_ratio(folder: Path, images: int) -> Ratio:
    """Verified replay with fold, beside typed decode_lines over 1 MiB chunks, unchecked."""
    run = folder / "replay"
    run.mkdir()
    bare = folder / "bare.jsonl"
    count = write_logs(run / "events.jsonl", bare, images)
    union: Any = reduce(or_, EVENT_TYPES)
    decoder: msgspec.json.Decoder[StageEvent] = msgspec.json.Decoder(union)

    def rival() -> int:
        seen, rest = 0, b""
        with open(bare, "rb") as stream:
            while chunk := stream.read(_CHUNK):
                whole, newline, rest = (rest + chunk).rpartition(b"\n")
                seen += len(decoder.decode_lines(whole + newline))
        return seen

    times = alternately(lambda: replay(run), rival, rounds=3)
    what = f"verified replay and fold of {count:,} events"
    return Ratio(what, "typed decode_lines, unchecked", *times, limit="at most 4.55 (0.22)")


def replay_memory(folder: Path) -> str:
    """The most memory that imports and replay take above a bare interpreter (Linux)."""
    script = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "status = Path('/proc/self/status')\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', status.read_text())[1])\n"
        "before = peak()\n"
        "from stagewright.events import replay\n"
        "result = replay(Path(sys.argv[1]))\n"
        "print(len(result.events), (peak() - before) / 1024)\n"
    )
    command = [sys.executable, "-c", script, str(folder / "replay")]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    count, mebibytes = output.split()
    return (
        f"replay of {int(count):,} events: {float(mebibytes):.1f} MiB above the interpreter's own"
    )


def publish_ratios() -> list[Ratio]:
    """Publish with no receiver, beside the guards that blinker itself offers."""
    signal = signals.step_progress
    what = f"publish {_PUBLISHED:,} times with no receiver"

    def ours() -> None:
        for _ in range(_PUBLISHED):
            signals.publish(signal, "run", progress=None)

    def documented_guard() -> None:
        for _ in range(_PUBLISHED):
            _guarded(signal, "run", progress=None)

    def own_send() -> None:
        for _ in range(_PUBLISHED):
            signal.send("run", progress=None)

    return [
        Ratio(what, rival, *alternately(ours, call), limit="at most 2")
        for rival, call in (
            ("`if signal.receivers: send` in a function", documented_guard),
            ("blinker's send, which looks itself", own_send),
        )
    ]


def _guarded(signal: Any, sender: str, **payload: Any) -> None:
    if signal.receivers:
        signal.send(sender, **payload)


def main(images: int = 83_333) -> None:
    """Print the table's rows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(append_ratio(folder).line())
        print(replay_ratio(folder, images).line())
        print(replay_memory(folder))
    for ratio in publish_ratios():
        print(ratio.line())


if __name__ == "__main__":
    main()
