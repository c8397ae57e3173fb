"""What commands that were killed have left, and what they may have left."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from stagewright.events import (
    CallCompleted,
    CallRequested,
    CallReused,
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
from stagewright.events.log.storage import PART_SUFFIX
from stagewright.statemachine.states import TRANSITIONS

from .command_line import write_config
from .forking import SENT, Ended, Json
from .support import document

KILLED = -getattr(signal, "SIGKILL", 9)
LOG = "events.jsonl"


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

    def note_kill(self, ended: Ended, at: str) -> None:
        """See that a command died at a failpoint, and count it."""
        assert ended.status == KILLED, f"{at} was not passed: {ended}"
        self.kills += 1
        self.places.append(at.split()[0])

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
        if isinstance(one, CallCompleted | CallReused)
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
