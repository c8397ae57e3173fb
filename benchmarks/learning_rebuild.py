"""Learning records of very many runs: time beside a verified replay of each, and memory."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from stagewright.adapters import LearningRecordWriter
from stagewright.adapters.projections.learning.record_file import RecordFile
from stagewright.events import replay_many
from stagewright.events.codec import CODEC
from stagewright.events.log.format import FIRST_CHAIN, frame, next_chain
from stagewright.events.log.kind import LOG_NAME
from stagewright.events.log.storage import Storage

from .long_log import RUN_ID, events
from .measuring import Ratio, alternately

RUNS = 10_000
FEW = 1_000
IMAGES = 4
"""In each of four stages: 59 events, 31 KiB."""


def main() -> None:
    """Print the rows of the table, and the lines that are no ratios."""
    with tempfile.TemporaryDirectory() as place:
        few, many = Path(place) / "few", Path(place) / "many"
        write_runs(few, FEW)
        print(rebuild_beside_replay(few).line())
        write_runs(many, RUNS)
        peaks = [peak_of_rebuild(runs) for runs in (few, many)]
        slope = (peaks[1] - peaks[0]) / (RUNS - FEW)
        print(
            f"rebuilding {FEW:,} runs: peak of {peaks[0] / 2**20:.1f} MiB resident; {RUNS:,} runs: "
            f"{peaks[1] / 2**20:.1f} MiB: {slope:.0f} bytes for each further run, "
            f"of {size_of(many) // RUNS:,} bytes of records"
        )
        print_additions(many)


def rebuild_beside_replay(runs: Path) -> Ratio:
    """Rebuilding the records of runs, beside folding each of their logs."""
    folders = sorted(log.parent for log in runs.glob(f"*/{LOG_NAME}"))
    writer = LearningRecordWriter(runs)
    ours, rival = alternately(
        writer.rebuild, lambda: sum(len(one.images) for one in replay_many(folders)), rounds=3
    )
    count = len(folders)
    return Ratio(
        "rebuild a learning record", "its run's verified replay", ours / count, rival / count, "3"
    )


def print_additions(runs: Path) -> None:
    """Print how long it takes to append the record of one more run, and to replace one."""
    file = RecordFile(runs, Storage())
    newest = runs / f"9{RUN_ID[1:]}"
    newest.mkdir()
    write_log(newest, newest.name)
    appended_s = timed(lambda: file.add(newest, wait_s=1))
    change_last_head(file.path)
    replaced_s = timed(lambda: file.add(newest, wait_s=1))
    print(
        f"beside {RUNS:,} records: appending one takes {appended_s * 1e3:.0f} ms, "
        f"replacing one {replaced_s * 1e3:.0f} ms"
    )


def change_last_head(path: Path) -> None:
    """Make the last record one of another log, as before a resume."""
    data = path.read_bytes()
    start = data.rindex(b'"log_head":"') + len(b'"log_head":"')
    path.write_bytes(data[:start] + bytes(reversed(data[start : start + 36])) + data[start + 36 :])


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def size_of(runs: Path) -> int:
    """The size of the file of records in bytes."""
    return (runs / "learning.jsonl").stat().st_size


def peak_of_rebuild(runs: Path) -> int:
    """The most memory in bytes that a process takes which rebuilds the records of these runs."""
    program = (
        "import resource, sys\n"
        "from stagewright.adapters import LearningRecordWriter\n"
        "LearningRecordWriter(sys.argv[1]).rebuild()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(runs)], capture_output=True, text=True, check=True
    )
    return int(done.stdout) * 1024


def write_runs(runs: Path, count: int) -> None:
    """So many runs that have ended."""
    for number in range(count):
        folder = runs / f"{RUN_ID[:-6]}{number:06x}"
        folder.mkdir(parents=True)
        write_log(folder, folder.name)


_BODIES = [CODEC.encode(event) for event in events(IMAGES)]


def write_log(folder: Path, run_id: str) -> None:
    """The log of a run with this id, of the same size for each."""
    chain, lines = FIRST_CHAIN, []
    for plain in _BODIES:
        body = plain.replace(RUN_ID.encode(), run_id.encode())
        lines.append(frame(body, chain))
        chain = next_chain(chain, body)
    (folder / LOG_NAME).write_bytes(b"".join(lines))


if __name__ == "__main__":
    main()
