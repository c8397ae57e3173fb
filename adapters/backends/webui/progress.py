"""How far a server is, and since when nothing has moved."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

MODEL_LOADING_FACTOR = 5
"""How much longer than usual nothing may move before the first sampling step, and for extras."""
SLOWEST_LINE_BYTES_PER_S = 1024
"""Slower than any line in use: an image of 2 MB would take half an hour. A server or a proxy that
keeps a connection open with a byte now and then sends less."""


class ServerProgress(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a server's progress; what it does not say is 0, empty or False.

    ``fraction`` is 0 to 1 over the running job, ``eta_s`` seconds left where known;
    ``interrupted`` covers skipped, and ``stopping`` means after the image being made.
    """

    job: str = ""
    job_count: int = 0
    job_number: int = 0
    job_timestamp: str = ""
    step: int = 0
    steps: int = 0
    fraction: float = 0.0
    eta_s: float | None = None
    interrupted: bool = False
    stopping: bool = False

    @property
    def idle(self) -> bool:
        """Whether no job is running; a server that counts no jobs names them."""
        return self.job_count == 0 and (self.fraction == 0.0 or not self.job)


def progress_of(answer: Any) -> ServerProgress:
    """What an answer of the progress route says, whatever shape it has."""
    told: Mapping[str, Any] = answer if isinstance(answer, Mapping) else {}
    found = told.get("state")
    state: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    eta = _number(told.get("eta_relative"))
    return ServerProgress(
        job=str(state.get("job") or ""),
        job_count=int(_number(state.get("job_count"))),
        job_number=int(_number(state.get("job_no"))),
        job_timestamp=str(state.get("job_timestamp") or ""),
        step=max(0, int(_number(state.get("sampling_step")))),
        steps=max(0, int(_number(state.get("sampling_steps")))),
        fraction=min(1.0, max(0.0, _number(told.get("progress")))),
        eta_s=eta if eta > 0 else None,
        interrupted=bool(state.get("interrupted") or state.get("skipped")),
        stopping=bool(state.get("stopping_generation")),
    )


def _number(value: Any) -> float:
    """A finite number, or 0.0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    return float(value) if abs(value) < 1e15 else 0.0


class StallWatch:
    """Notices that nothing has moved for too long.

    ``stall_s`` seconds without a change are too long, five times as many until the running
    job has taken its first sampling step (a model may be loading), and for ``extras``, which
    take none. Bytes are a change once they make ``SLOWEST_LINE_BYTES_PER_S`` over such a time.
    """

    def __init__(self, stall_s: float, *, extras: bool = False) -> None:
        self._stall_s = stall_s
        self._extras = extras
        self._moved = time.monotonic()
        self._bytes = 0
        self._last: ServerProgress | None = None
        self._sampling = False
        self._worked = False

    def note(self, now: ServerProgress) -> None:
        """Take one look into account."""
        last = self._last
        if last is None or now.job_timestamp != last.job_timestamp or now.job != last.job:
            self._sampling = False
        if now.step > 0 and not now.idle:
            self._sampling = True
        self._worked = self._worked or not now.idle
        if last is None or _moving_parts(now) != _moving_parts(last):
            self.restart()
        self._last = now

    def note_bytes(self, count: int) -> None:
        """Part of a request or an answer has gone over the line."""
        self._bytes += count
        if self._bytes >= self.limit_s * SLOWEST_LINE_BYTES_PER_S:
            self.restart()

    def restart(self) -> None:
        """Measure from now on."""
        self._moved = time.monotonic()
        self._bytes = 0

    @property
    def limit_s(self) -> float:
        """For how long nothing may move now."""
        done = self._worked and self._last is not None and self._last.idle
        sampling = self._sampling and not self._extras
        return self._stall_s if sampling or done else self._stall_s * MODEL_LOADING_FACTOR

    @property
    def still_s(self) -> float:
        """For how long nothing has moved."""
        return time.monotonic() - self._moved

    @property
    def stalled(self) -> bool:
        """Whether that is too long."""
        return self.still_s > self.limit_s


def _moving_parts(look: ServerProgress) -> tuple[object, ...]:
    return (
        look.job, look.job_count, look.job_number, look.job_timestamp, look.step, look.fraction
    )  # fmt: skip
