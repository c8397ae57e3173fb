"""What each of several servers has made in a run, and how fast."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

import msgspec

from ...events.folds import ABANDONED
from ...events.model import (
    BackendDescription,
    CallCompleted,
    CallFailed,
    CallRequested,
    CallReused,
    RunOpened,
    RunResumed,
    ServerDescription,
    StageEvent,
)
from ...events.origins import servers_of
from ..text import count, duration, ranges_of, ranges_text
from .log_walk import OpenRequests

_MOST_RANGES = 12


class StageShare(msgspec.Struct, frozen=True, kw_only=True):
    """What a server has made in a stage.

    ``image_indexes`` are the images that it made last, ``ms_each`` is the mean time of an image in
    all its answers, None without any.
    """

    stage_id: str
    image_indexes: tuple[int, ...]
    ms_each: float | None


class ServerShare(msgspec.Struct, frozen=True, kw_only=True):
    """One of several servers of a run, with what it made in each stage."""

    url: str
    product: str | None
    version: str | None
    image_count: int
    failed_attempts: int
    stages: tuple[StageShare, ...]


class ServerTally:
    """Adds up the calls of a run by server, from all its events in order."""

    def __init__(self) -> None:
        self._servers: dict[str, ServerDescription] = {}
        """Those of all epochs, also of one with a single server."""
        self._requests = OpenRequests()
        self._images: Counter[tuple[str, str]] = Counter()
        """How many images its answers had, by server and stage."""
        self._ms: defaultdict[tuple[str, str], float] = defaultdict(float)
        """How long they took, in the same way."""
        self._maker: dict[tuple[str, int], str] = {}
        """The server that made an image last, by stage and index."""
        self._failed: Counter[str] = Counter()

    def take(self, event: StageEvent) -> None:
        """Add the next event."""
        request = self._requests.request_of(event)
        match event:
            case RunOpened() | RunResumed():
                servers = servers_of(event.backend) or _only_server(event.backend)
                self._servers.update((one.url, one) for one in servers)
            case CallReused():
                for one in event.artifacts:
                    self._maker.pop((event.stage_id, one.image_index), None)
            case CallCompleted() if request is not None:
                self._complete(event, request)
            case CallFailed() if event.error.kind == ABANDONED:
                pass  # its answer is not waited for
            case CallFailed() if request is not None and request.server:
                self._failed[request.server] += 1

    def work(self) -> tuple[ServerShare, ...]:
        """What each server made, in the order of the servers; empty if there never were several."""
        several = self._requests.has_several_servers
        return tuple(map(self._work_of, self._servers.values())) if several else ()

    def server_of(self, stage_id: str, image_index: int) -> str:
        """The server that made an image; "" if none did, or the run never had several."""
        several = self._requests.has_several_servers
        return self._maker.get((stage_id, image_index), "") if several else ""

    def _complete(self, event: CallCompleted, request: CallRequested) -> None:
        if request.server:
            place = request.server, request.stage_id
            self._images[place] += len(event.artifacts)
            self._ms[place] += event.duration_ms
            for one in event.artifacts:
                self._maker[request.stage_id, one.image_index] = request.server

    def _work_of(self, server: ServerDescription) -> ServerShare:
        stages = tuple(self._stages(server.url))
        return ServerShare(
            url=server.url,
            product=server.product,
            version=server.version,
            image_count=sum(len(stage.image_indexes) for stage in stages),
            failed_attempts=self._failed[server.url],
            stages=stages,
        )

    def _stages(self, url: str) -> Iterator[StageShare]:
        for (server, stage_id), images in self._images.items():
            if server == url:
                made = sorted(
                    index
                    for (stage, index), maker in self._maker.items()
                    if (stage, maker) == (stage_id, url)
                )
                each = self._ms[server, stage_id] / images if images else None
                yield StageShare(stage_id=stage_id, image_indexes=tuple(made), ms_each=each)


def _only_server(backend: BackendDescription) -> tuple[ServerDescription, ...]:
    if backend.url is None:
        return ()
    one = ServerDescription(url=backend.url, product=backend.product, version=backend.version)
    return (one,)


def work_of_servers(events: Iterable[StageEvent]) -> tuple[ServerShare, ...]:
    """What each server made, from all events of a run; empty if it never had several."""
    tally = ServerTally()
    for event in events:
        tally.take(event)
    return tally.work()


def work_text(server: ServerShare) -> str:
    """``00-txt2img 3 images (1, 3-4), 4.1 s each; 1 failed attempt``."""
    parts = [_stage_text(stage) for stage in server.stages] or ["no image"]
    if server.failed_attempts:
        parts.append(count(server.failed_attempts, "failed attempt"))
    return "; ".join(parts)


def _stage_text(stage: StageShare) -> str:
    ranges = ranges_of(stage.image_indexes)
    numbers = ranges_text(ranges[:_MOST_RANGES], 1)
    more = ", ..." if len(ranges) > _MOST_RANGES else ""
    named = f" ({numbers}{more})" if ranges else ""
    each = "" if stage.ms_each is None else f", {duration(stage.ms_each)} each"
    return f"{stage.stage_id} {count(len(stage.image_indexes), 'image')}{named}{each}"
