"""Checks the log of a queue, and the files of its jobs; writes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from ...events.errors import LogCorruptError
from ...events.log.shared_events import SharedEvent
from ...events.log.storage import Storage
from ...events.log.verified_scan import RecordScan
from ...events.model import Outcome
from ...events.queue.model import QUEUE_LOG, JobAdded, JobEnded, JobRemoved
from ..config.schema import InputImage
from ..errors import ResumeRefusedError
from ..files.recorded_files import check_file
from ..groups.found_files import FoundFiles
from .job_files import JobFiles


class QueueVerification(msgspec.Struct, frozen=True, kw_only=True):
    """What was found: ``events`` sound events, and what is wrong.

    ``corrupt`` says why the log is corrupt; "" if it is not. ``torn_bytes`` at its end are left
    over from a crash. ``wrong_files`` are copies of unfinished jobs that are missing or altered.
    """

    events: int
    torn_bytes: int = 0
    corrupt: str = ""
    wrong_files: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged."""
        return not self.corrupt and not self.wrong_files


def verify_queue(runs: Path) -> QueueVerification:
    """Check the queue below ``runs``; where there is none, nothing is wrong. Raises OSError."""
    path = runs / QUEUE_LOG.file_name
    copies = _Copies(JobFiles(runs, Storage()))
    corrupt = ""
    try:
        with Storage().open_read(path) as stream:
            scan = RecordScan(QUEUE_LOG, stream, path=path)
            try:
                for batch in scan.batches():
                    copies.note(batch)
            except LogCorruptError as error:
                corrupt = str(error)
    except FileNotFoundError:
        return QueueVerification(events=0)
    return QueueVerification(
        events=scan.count,
        torn_bytes=scan.torn.bytes if scan.torn else 0,
        corrupt=corrupt,
        wrong_files=tuple(copies.wrong()),
    )


class _Copies:
    """The copies that unfinished jobs need: their digests by path, or why these are not known."""

    def __init__(self, files: JobFiles) -> None:
        self._files = files
        self._needed: dict[str, dict[str, str] | str] = {}

    def note(self, events: Sequence[SharedEvent]) -> None:
        """Take the next events."""
        for event in events:
            if isinstance(event, JobAdded) and event.found:
                self._needed[event.job_id] = self._copies_of(event)
            elif isinstance(event, JobRemoved) or (
                isinstance(event, JobEnded) and event.outcome is Outcome.COMPLETED
            ):
                self._needed.pop(event.job_id, None)

    def wrong(self) -> Iterable[str]:
        """One line for each copy that is missing or altered."""
        for job_id, copies in self._needed.items():
            if isinstance(copies, str):
                yield f"job {job_id}: {copies}"
                continue
            for path, digest in copies.items():
                found = check_file(self._files.folder(job_id), path, digest)
                if found is not None:
                    yield f"job {job_id}: {path}: {found}"

    def _copies_of(self, event: JobAdded) -> dict[str, str] | str:
        """The digests of a job's copies by path; or why its record cannot be used."""
        folder = self._files.folder(event.job_id).absolute()
        copies: dict[str, str] = {}

        def note(image: InputImage) -> InputImage:
            if not image.refusal:
                copies[Path(image.path).relative_to(folder).as_posix()] = image.sha256
            return image

        try:
            for record in event.found:
                FoundFiles.from_record(record, folder).map_images(note)
        except ResumeRefusedError as error:
            return str(error)
        return copies
