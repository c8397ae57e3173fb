"""Results from logs on disk: one, many, up to a sequence number, in bounded memory."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..errors import RunNotFoundError
from ..model import StageEvent
from .kind import LOG_NAME, RUN_LOG
from .storage import is_regular, open_regular
from .timeline import FileTimeline, with_files
from .verified_scan import RecordScan


def log_path(run: Path | str) -> Path:
    """The log of a run folder, or the log itself. Raises RunNotFoundError, OSError."""
    run = Path(run)
    path = run / LOG_NAME if run.is_dir() else run
    if not is_regular(path):
        raise RunNotFoundError(f"{run}: no run is here (there is no {LOG_NAME})")
    return path


def read_log(
    run: Path | str,
    observe: Callable[[Sequence[StageEvent]], None],
    *,
    until: int | None = None,
) -> FileTimeline:
    """Give the events up to sequence number ``until`` to ``observe``; the timeline of them.

    ``observe`` gets them in order, some hundred at a time.

    A torn tail is left alone and told in the timeline's ``torn``. Raises LogCorruptError once
    the sound events before the place have been observed.
    """
    path = log_path(run)
    with open_regular(path) as stream:
        scan = RecordScan(RUN_LOG, stream, path=path)
        wanted = None if until is None else until + 1
        observed = 0
        for batch in scan.batches():
            part = batch if wanted is None else batch[: wanted - observed]
            observe(part)
            observed += len(part)
            if observed == wanted:
                break
    offsets, end = scan.offsets, scan.end
    if wanted is not None and observed < len(offsets):
        end = offsets[observed]
        offsets = array("Q", offsets[:observed])
    return FileTimeline(path, offsets, end, torn=scan.torn)


def iterate(run: Path | str, *, until: int | None = None) -> Iterator[StageEvent]:
    """The events of a run one by one, checked, in bounded memory."""
    path = log_path(run)
    folder = path.parent.absolute()
    with open_regular(path) as stream:
        for batch in RecordScan(RUN_LOG, stream, path=path).batches():
            for event in batch:
                if until is not None and event.seq > until:
                    return
                yield with_files(event, folder)
