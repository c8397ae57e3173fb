"""Runs whose images several servers made."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heappop, heappush
from itertools import cycle
from pathlib import Path
from typing import Any

import msgspec
from stagewright.events import (
    BackendDescription,
    CallFailed,
    CallRequested,
    RunOpened,
    RunSealed,
    ServerDescription,
    StageEvent,
    iterate,
)
from stagewright.events.codec import CODEC

from .log_format import make_log
from .status_lives import STEPS
from .stories import Story, error, save_log, stage_id

FAST = "http://127.0.0.1:7860"
SLOW = "http://127.0.0.1:7861"


def shared_backend(*urls: str) -> BackendDescription:
    """One backend of several servers, each with a version of its own."""
    servers = tuple(
        ServerDescription(url=url, product="webui", version=f"1.{number}")
        for number, url in enumerate(urls, start=10)
    )
    first = servers[0]
    return BackendDescription(
        kind="a1111",
        url=first.url,
        product=first.product,
        version=first.version,
        servers=servers,
    )


def share(folder: Path, *urls: str) -> Path:
    """Rewrite the log of a run as if its requests had gone to these servers in turn, unsealed."""
    turns = cycle(urls)
    events: list[StageEvent] = []
    for event in iterate(folder):
        match event:
            case RunOpened():
                events.append(msgspec.structs.replace(event, backend=shared_backend(*urls)))
            case CallRequested():
                events.append(msgspec.structs.replace(event, server=next(turns)))
            case RunSealed():
                pass
            case _:
                events.append(event)
    (folder / "events.jsonl").write_bytes(make_log(map(CODEC.encode, events)))
    return folder


class SharedRun(Story):
    """A run on several servers; ``each_s`` is the time that each of them takes for an image."""

    def __init__(
        self,
        each_s: Mapping[str, float],
        *kinds: str,
        images: int,
        plan: dict[str, Any] | None = None,
        run_id: str = "20261120T225226.000000Z-shared-7f3a9c",
    ) -> None:
        super().__init__(*kinds, images=images, run_id=run_id)
        stages = [
            {"stage_id": stage_id(kind), "stage_type": kind, "config": STEPS[kind]}
            for kind in kinds
        ]
        opened = self.events[0]
        assert isinstance(opened, RunOpened)
        self.events[0] = msgspec.structs.replace(
            opened, plan=plan or {"stages": stages}, backend=shared_backend(*each_s)
        )
        self.each_s = each_s
        self.images = images
        self.now_s = 0.0
        self.under_way: list[tuple[float, str, str, int]] = []
        """When each call will end, its server, its id and its image."""

    def pass_to(self, seconds: float) -> SharedRun:
        """The next event happens so many seconds after the first."""
        self.now_s = seconds
        self.late_s = seconds - len(self.events) / 1000
        return self

    def send(self, kind: str, index: int, server: str) -> None:
        """A request for an image goes to a server now."""
        self.pass_to(self.now_s)
        call_id = self.ask(kind, index)
        self.events[-1] = msgspec.structs.replace(self.events[-1], server=server)
        heappush(self.under_way, (self.now_s + self.each_s[server], server, call_id, index))

    def answer_next(self, kind: str) -> str:
        """The answer that comes first, and its announcement; the server is free then."""
        at_s, server, call_id, index = heappop(self.under_way)
        self.pass_to(at_s).answer(call_id, kind, index, self.each_s[server] * 1000)
        self.pass_to(at_s).announce(kind, index, self.image(kind, index))
        return server

    def fail(self, server: str) -> int:
        """The call of a server fails now; its image."""
        call = next(one for one in self.under_way if one[1] == server)
        self.under_way.remove(call)
        self.under_way.sort()
        self.pass_to(self.now_s).add(
            CallFailed, call_id=call[2], endpoint="x", error=error(), will_retry=True
        )
        return call[3]

    def share_stage(self, kind: str) -> SharedRun:
        """A whole stage: each server that is free begins with the next image."""
        self.pass_to(self.now_s).begin(kind)
        waiting = list(range(self.images))
        for server in self.each_s:
            if waiting:
                self.send(kind, waiting.pop(0), server)
        while self.under_way:
            server = self.answer_next(kind)
            if waiting:
                self.send(kind, waiting.pop(0), server)
        self.pass_to(self.now_s).end(kind, "completed")
        return self

    def save(self, runs: Path) -> Path:
        """Write the log; the folder of the run."""
        return save_log(runs / self.run_id, self.events)
