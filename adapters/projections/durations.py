"""How long a plan will take, from what was recorded of the same servers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from heapq import heapreplace
from pathlib import Path
from typing import NamedTuple

from ...events.errors import LogCorruptError, RunNotFoundError
from ...events.folds import recorded_stages
from ...events.log.reader import read_log
from ...events.model import (
    CallCompleted,
    CallFailed,
    CallRequested,
    CallReused,
    RunOpened,
    RunResumed,
    StageEnd,
    StageEvent,
    StageImageProgress,
    StageStart,
)
from ...events.origins import servers_of
from ...events.queue.model import StageWork
from ...statemachine.plan.plan import StageExecutionPlan
from ..backends.registry import EMBEDDED
from .catalogue import CORRUPT, UNREADABLE, Catalogue, CatalogueEntry, server_of
from .log_walk import OpenRequests, RunClock
from .status.weights import planned_stage

_logger = logging.getLogger("stagewright.durations")

_MOST_RUNS = 20
_MOST_ALIKE = 4
"""Runs with the same stages and models: so many, to leave room for those of other plans."""
_MOST_RECORDS = 6_000
"""Of all logs together: 45 ms of reading, 500 images through four stages."""
_LONGEST_S = 3 * 3600.0
"""A longer time between two events is no work: the machine slept, or its clock was set."""
_MOST_PIXELS = 1e12
"""A foreign log may claim images of any size."""
_SAME_SIZE = 1e-6
"""Sizes whose variance, as a part of the squared mean, is below this are one size."""
_WORK = (StageStart, CallRequested, CallCompleted, CallFailed, StageImageProgress, StageEnd)
"""The time before these events was spent on their stage."""


class Estimate(NamedTuple):
    """The ``seconds`` that a plan will take, and the folders of the ``runs`` that tell it."""

    seconds: float
    runs: frozenset[str]


class _StageTime:
    """What a run has spent on a stage so far: ``seconds`` for some ``images``.

    ``folder`` is that of the run, below the folder of runs; ``model`` is "" for a stage without
    one.
    """

    def __init__(self, folder: str, stage_type: str, model: str, weight_each: int) -> None:
        self.folder = folder
        self.stage_type = stage_type
        self.model = model
        self.seconds = 0.0
        self.images = 0
        self.pixels_of_all = 0
        self._weight_each = weight_each

    @property
    def weight(self) -> int:
        """The weight of all images."""
        return self.images * self._weight_each

    @property
    def pixels(self) -> float:
        """The pixels of an image, in the mean."""
        return self.pixels_of_all / self.images


class _Pace(NamedTuple):
    """A unit of weight takes ``base_s`` seconds and ``pixel_s`` for each pixel of the image.

    ``pixels`` are the mean of the images that tell it, in ``runs``.
    """

    base_s: float
    pixel_s: float
    pixels: float
    runs: frozenset[str]

    def unit_s(self, pixels: float | None) -> float:
        """What a unit of weight takes for images of so many pixels, None where that is unknown."""
        return self.base_s + self.pixel_s * (pixels or self.pixels)


class RecordedDurations:
    """What the newest runs below ``runs`` tell of the speed of the servers that share a plan.

    ``urls`` are their addresses as they are recorded, None for the embedded backend. Of a server
    without records of a stage the speed is taken to be that of the slowest other one. The logs are
    read once, when the first plan is estimated. Logs that are corrupt or cannot be read are left
    out.
    """

    def __init__(self, runs: Path, *urls: str | None) -> None:
        self._servers = [_ServerDurations(runs, url or EMBEDDED) for url in urls]

    def estimate_s(self, plan: StageExecutionPlan) -> float | None:
        """The seconds that ``plan`` will take; None where a stage of it was never recorded."""
        estimate = self.estimate(plan)
        return None if estimate is None else estimate.seconds

    def estimate(self, plan: StageExecutionPlan) -> Estimate | None:
        """The same, with the runs that tell it."""
        seconds = 0.0
        runs: frozenset[str] = frozenset()
        for stage in plan.stages:
            size, weight = stage.output_size, stage.config.weight()
            paces = self._paces(stage.stage_type, _model(stage.config))
            each_s = self._units_s(paces, None if size is None else size[0] * size[1])
            if not each_s:
                return None
            seconds += _shared_s(plan.total_images, [weight * one for one in each_s])
            runs = runs.union(*(pace.runs for pace in paces))
        return Estimate(seconds, runs)

    def estimate_work_s(self, work: Iterable[StageWork]) -> float | None:
        """The seconds that a queue's job takes; None where a stage of it was never recorded."""
        seconds = 0.0
        for part in work:
            each_s = self._units_s(self._paces(part.stage_type, part.model), part.pixels)
            if not each_s:
                return None
            if min(each_s) > 0:
                seconds += part.weight / sum(1 / one for one in each_s)
        return seconds

    def _paces(self, stage_type: str, model: str) -> list[_Pace]:
        """The pace of each server that has records of a stage."""
        found = (one.pace(stage_type, model) for one in self._servers)
        return [pace for pace in found if pace is not None]

    def _units_s(self, paces: Iterable[_Pace], pixels: float | None) -> list[float]:
        """What a unit of weight takes on each of the servers; empty where no pace is known."""
        known = [pace.unit_s(pixels) for pace in paces]
        return known + [max(known)] * (len(self._servers) - len(known)) if known else []


def _shared_s(images: int, each_s: Sequence[float]) -> float:
    """The time until all images are made, where each server takes so long for one.

    A server that is free begins with the next image.
    """
    if len(each_s) == 1:
        return images * each_s[0]
    free_at = [(0.0, one) for one in each_s]
    for _ in range(images):
        now_s, one = free_at[0]
        heapreplace(free_at, (now_s + one, one))
    return max(at_s for at_s, _ in free_at)


class _ServerDurations:
    """What the newest runs below ``runs`` tell of the speed of one server."""

    def __init__(self, runs: Path, server: str) -> None:
        self._runs = runs
        self._server = server
        self._paces: dict[tuple[str, str], _Pace | None] = {}

    def pace(self, stage_type: str, model: str) -> _Pace | None:
        """The pace of a stage with this model, or else with any."""
        key = stage_type, model
        if key not in self._paces:
            times = [time for time in self._times if time.stage_type == stage_type]
            self._paces[key] = _fit([time for time in times if time.model == model] or times)
        return self._paces[key]

    @cached_property
    def _times(self) -> Sequence[_StageTime]:
        found: list[_StageTime] = []
        left = _MOST_RECORDS
        # A long log comes last, so that it is not read in place of many short ones.
        for entry in sorted(self._entries(), key=lambda entry: entry.stage_images):
            reading = _RunReading(entry.folder, self._server)
            left -= reading.read(self._runs / entry.folder, left)
            found += reading.times()
            if left <= 0:
                break
        return found

    def _entries(self) -> Iterator[CatalogueEntry]:
        """The newest runs of the server, not too many of them alike.

        The first run of a group is not like its others, which may have reused all its images.
        """
        try:
            entries = Catalogue(self._runs, stores=False).entries()
        except OSError as error:
            _logger.info("%s cannot be read: %s", self._runs, error)
            return
        first_of = {entry.group_id: entry.folder for entry in entries if entry.group_id}
        alike: Counter[tuple[str, tuple[str, ...], bool]] = Counter()
        for entry in entries:
            is_first = first_of.get(entry.group_id or "") == entry.folder
            kind = entry.summary, entry.models, is_first
            is_sound = entry.state not in (CORRUPT, UNREADABLE) and entry.stage_images > 0
            if is_sound and self._server in entry.all_servers and alike[kind] < _MOST_ALIKE:
                alike[kind] += 1
                yield entry
            if alike.total() == _MOST_RUNS:
                return


class _RunReading:
    """Adds up the time of a run by its stages, in the epochs that one server served.

    Attempts that failed count, and so does the time between the calls of a stage and before
    its first: only so do the times of the stages make that of the run. Images that were reused
    and their times do not, unless a request is under way meanwhile. Where several servers
    served an epoch, only the calls of this one count, each from its request to its answer.
    """

    def __init__(self, folder: str, server: str) -> None:
        self._folder = folder
        self._server = server
        self._stages: Mapping[str, _StageTime] = {}
        self._clock = RunClock()
        self._requests = OpenRequests()
        self._under_way: dict[str, float] = {}
        """When each request was sent that has no answer yet, by call id."""
        self._reused: set[tuple[str, int]] = set()
        self._is_served = self._is_shared = False
        self._current: _StageTime | None = None

    def read(self, folder: Path, most: int) -> int:
        """Read ``most`` events of the log at most; how many there were."""
        try:
            return len(read_log(folder, self._observe, until=most - 1))
        except (LogCorruptError, RunNotFoundError, OSError) as error:
            _logger.info("%s is left out: %s", folder, error)
            self._stages = {}
            return 0

    def times(self) -> list[_StageTime]:
        """One for each stage that made images."""
        return [time for time in self._stages.values() if time.weight and time.seconds > 0]

    def _observe(self, events: Sequence[StageEvent]) -> None:
        for event in events:
            before_s = self._clock.now_s
            self._take(event, self._clock.read(event.ts) - before_s)

    def _take(self, event: StageEvent, passed_s: float) -> None:
        if isinstance(event, RunOpened | RunResumed):
            self._current = None
            self._under_way.clear()
            servers = [one.url for one in servers_of(event.backend)]
            self._is_shared = len(servers) > 1
            self._is_served = self._server in (servers or [server_of(event.backend)])
        if isinstance(event, RunOpened):
            self._stages = {
                stage.stage_id: _StageTime(
                    self._folder, stage.stage_type, _model(recorded["config"]), stage.weight
                )
                for recorded in recorded_stages(event.plan)
                for stage in [planned_stage(recorded)]
            }
        request = self._requests.request_of(event)
        if not self._is_served:
            return
        if self._is_shared:
            if request is not None and request.server == self._server:
                self._add_call(request, event)
            return
        if isinstance(event, StageStart):
            self._current = self._stages.get(event.stage_id)
        is_work = self._is_work(event)
        if self._current is not None and is_work and passed_s < _LONGEST_S:
            self._current.seconds += passed_s
        if isinstance(event, StageEnd):
            self._current = None
        if isinstance(event, CallCompleted) and request is not None:
            self._add_images(request.stage_id, event)

    def _add_call(self, request: CallRequested, event: StageEvent) -> None:
        """Add the time of a call that ends, or note when it begins."""
        if isinstance(event, CallRequested):
            self._under_way[event.call_id] = self._clock.now_s
            return
        sent_s = self._under_way.pop(request.call_id, self._clock.now_s)
        spent = self._stages.get(request.stage_id)
        if spent is not None and self._clock.now_s - sent_s < _LONGEST_S:
            spent.seconds += self._clock.now_s - sent_s
        if isinstance(event, CallCompleted):
            self._add_images(request.stage_id, event)

    def _is_work(self, event: StageEvent) -> bool:
        """Whether the time before an event was spent on the requests of a stage."""
        is_work = isinstance(event, _WORK) or bool(self._under_way)
        match event:
            case CallRequested():
                self._under_way[event.call_id] = self._clock.now_s
            case CallCompleted() | CallFailed():
                self._under_way.pop(event.call_id, None)
            case CallReused():
                self._reused.update((event.stage_id, one.image_index) for one in event.artifacts)
            case StageImageProgress():
                place = (event.stage_id, event.image_index)
                is_work = bool(self._under_way) or place not in self._reused
                self._reused.discard(place)
        return is_work

    def _add_images(self, stage_id: str, event: CallCompleted) -> None:
        spent = self._stages.get(stage_id)
        sizes = [made.width * made.height for made in event.artifacts]
        if spent is not None and all(0 < size < _MOST_PIXELS for size in sizes):
            spent.images += len(sizes)
            spent.pixels_of_all += sum(sizes)


def _model(config: object) -> str:
    """The model of a stage, as it is planned or recorded; "" where it has none."""
    model = config.get("model") if isinstance(config, Mapping) else getattr(config, "model", None)
    return model if isinstance(model, str) else ""


def _fit(times: Iterable[_StageTime]) -> _Pace | None:
    """The line through the times of a unit of weight over the pixels, by least squares.

    It goes through the mean, so that the times add up to what they were. Neither part of a pace
    is negative; where all images have one size, time is taken to be proportional to pixels.
    """
    known = list(times)
    if not known:
        return None
    whole = sum(time.weight for time in known)
    pixels = sum(time.pixels * time.weight for time in known) / whole
    unit_s = sum(time.seconds for time in known) / whole
    spread = sum(time.weight * (time.pixels - pixels) ** 2 for time in known)
    steepest = unit_s / pixels
    slope = steepest
    if spread > _SAME_SIZE * whole * pixels**2:
        slope = sum((time.pixels - pixels) * time.seconds for time in known) / spread
    pixel_s = min(max(0.0, slope), steepest)
    return _Pace(
        unit_s - pixel_s * pixels, pixel_s, pixels, frozenset(time.folder for time in known)
    )
