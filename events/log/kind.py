"""The kinds of logs: what the log of a run, of a group of runs, or of ratings is made of."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Generic

import msgspec

from ..codec import CODEC, Codec, E
from ..model import RunOpened, RunSealed, StageEvent


class LogKind(msgspec.Struct, Generic[E], frozen=True, kw_only=True):
    """One kind of log.

    ``noun`` is what such a log belongs to, and ``owner_of`` an event says to which one. Its first
    event is a ``first``; a ``seal``, where it has any, has the count and the chain value of what
    precedes it. ``advice`` says what to do where the log is corrupt.
    """

    noun: str
    file_name: str
    lock_name: str
    codec: Codec[E]
    first: type[E]
    seal: type[E] | None
    owner_of: Callable[[E], str]
    advice: str


LOG_NAME = "events.jsonl"
RUN_LOG: LogKind[StageEvent] = LogKind(
    noun="run",
    file_name=LOG_NAME,
    lock_name="run.lock",
    codec=CODEC,
    first=RunOpened,
    seal=RunSealed,
    owner_of=attrgetter("run_id"),
    advice="`stagewright salvage` copies what is sound into a new run",
)
