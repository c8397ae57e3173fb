"""Images that are used again, beside copying them; and how long it takes to find them."""

from __future__ import annotations

import os
import re
import sqlite3
import tempfile
import time
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from random import Random

from stagewright.adapters import PillowInputReader
from stagewright.adapters.projections.catalogue_file import CATALOGUE_NAME
from stagewright.adapters.projections.reuse_index import CatalogueReuseIndex
from stagewright.events import CallReused
from stagewright.events.log.kind import LOG_NAME
from stagewright.statemachine import PipelineController

from .instant_backend import InstantBackend
from .long_log import write_logs
from .measuring import Ratio, alternately
from .run_speed import CONFIG

_IMAGES = 200
_IMAGE_BYTES = 1_300_000
"""An 832 x 1216 PNG of a WebUI takes about so much."""
_RUNS, _IMAGES_OF_A_RUN = 100, 250
"""Of four stages: 100,000 requests for an image."""
_LOOK_UPS = 1_000


def reuse_ratio(folder: Path) -> Ratio:
    """A run of which every image is reused, beside durable copies of the same files."""
    runs = folder / "runs"
    controller = PipelineController(
        backend=InstantBackend(_IMAGE_BYTES),
        runs=runs,
        inputs=PillowInputReader(),
        reuse_index=CatalogueReuseIndex(runs),
    )
    first = controller.start({**CONFIG, "images": _IMAGES}).wait()
    files = [runs / first.run_id / one.path for one in first.images]

    def ours() -> None:
        again = controller.start_rerun(first.run_id).wait()
        assert sum(isinstance(event, CallReused) for event in again.events) == _IMAGES

    def rival() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as copies:
            for file in files:
                data = file.read_bytes()
                assert sha256(data).digest()
                with open(Path(copies, file.name), "wb") as copy:
                    copy.write(data)
                    copy.flush()
                    os.fsync(copy.fileno())
                _sync_folder(Path(copies))

    times = alternately(ours, rival, rounds=3)
    what = f"a run that reuses {_IMAGES} images of 1.3 MB"
    return Ratio(
        what,
        "copying and hashing them, each file and its folder synced",
        *times,
        limit="at most 1.5",
    )


def _sync_folder(folder: Path) -> None:
    """Without this, a power loss may take the copy."""
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def longest_look_up(folder: Path) -> Ratio:
    """The slowest of 1,000 look-ups among 100,000 images, beside opening and closing SQLite."""
    digests = _write_logs(folder)
    index = CatalogueReuseIndex(folder)
    index.refresh()
    times = []
    for digest in Random(1).sample(digests, _LOOK_UPS):
        began = time.perf_counter()
        found = index.find(digest)
        times.append(time.perf_counter() - began)
        assert len(found) == 1
    began = time.perf_counter()
    with closing(sqlite3.connect(folder / CATALOGUE_NAME)) as database:
        database.execute("SELECT 1 FROM sqlite_master").fetchone()
    rival = time.perf_counter() - began
    what = f"slowest of {_LOOK_UPS:,} look-ups among {len(digests):,} images"
    return Ratio(what, "opening the catalogue", max(times), rival, limit="5 ms")


def _write_logs(folder: Path) -> list[str]:
    """Logs of 1,000 images each, with requests of their own; the digests of all requests."""
    digests: list[str] = []

    def other(_: re.Match[bytes]) -> bytes:
        digests.append(sha256(b"%d" % len(digests)).hexdigest())
        return b'"request_sha256":"%s"' % digests[-1].encode()

    write_logs(folder / "framed", folder / "bare", _IMAGES_OF_A_RUN)
    log = (folder / "framed").read_bytes()
    for number in range(_RUNS):
        run = folder / f"20261120T225226.{number:06d}Z-benchmark-7f3a9c"
        run.mkdir()
        # The index searches the logs and does not verify them.
        (run / LOG_NAME).write_bytes(re.sub(rb'"request_sha256":"[0-9a-f]+"', other, log))
    return digests


def main() -> None:
    """Print the table's rows."""
    with tempfile.TemporaryDirectory() as place:
        print(reuse_ratio(Path(place)).line())
    with tempfile.TemporaryDirectory() as place:
        print(longest_look_up(Path(place)).line())


if __name__ == "__main__":
    main()
