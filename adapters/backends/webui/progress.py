"""Decodes a server's progress, and detects when it makes none."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

MODEL_LOADING_FACTOR = 5
"""The stall limit is so many times longer where a model may be loading, and for extras."""
SLOWEST_LINE_BYTES_PER_S = 1024
"""Slower than any connection in use: an image of 2 MB would take half an hour. Single bytes that
a server or proxy sends to keep a connection open are slower."""


class ServerProgress(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of the progress route; values that it lacks are 0, empty or False.

    ``fraction`` is 0 to 1 over the running job, ``eta_s`` the seconds left if known.
    ``interrupted`` includes skipped; ``stopping`` means after the current image.
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
        """Whether no job is running; a server that does not count jobs names them."""
        return self.job_count == 0 and (self.fraction == 0.0 or not self.job)


def progress_of(answer: Any) -> ServerProgress:
    """Decode an answer of the progress route, whatever its form."""
    document: Mapping[str, Any] = answer if isinstance(answer, Mapping) else {}
    found = document.get("state")
    state: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    eta = _number(document.get("eta_relative"))
    return ServerProgress(
        job=str(state.get("job") or ""),
        job_count=int(_number(state.get("job_count"))),
        job_number=int(_number(state.get("job_no"))),
        job_timestamp=str(state.get("job_timestamp") or ""),
        step=max(0, int(_number(state.get("sampling_step")))),
        steps=max(0, int(_number(state.get("sampling_steps")))),
        fraction=min(1.0, max(0.0, _number(document.get("progress")))),
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

    The limit is ``stall_s`` seconds, and five times as long before the first sampling step of a
    job (a model may be loading), and throughout if ``is_patient``. Transferred bytes count
    as progress if they reach ``SLOWEST_LINE_BYTES_PER_S`` over the limit.
    """

    def __init__(self, stall_s: float, *, is_patient: bool = False) -> None:
        self._stall_s = stall_s
        self._is_patient = is_patient
        self._moved = time.monotonic()
        self._bytes = 0
        self._last: ServerProgress | None = None
        self._sampling = False
        self._worked = False

    def note(self, now: ServerProgress) -> None:
        """Note an answer of the progress route."""
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
        """Note transferred bytes of a request or an answer."""
        self._bytes += count
        if self._bytes >= self.limit_s * SLOWEST_LINE_BYTES_PER_S:
            self.restart()

    def restart(self) -> None:
        """Start the measurement again."""
        self._moved = time.monotonic()
        self._bytes = 0

    @property
    def limit_s(self) -> float:
        """The present limit without progress, in seconds."""
        done = self._worked and self._last is not None and self._last.idle
        sampling = self._sampling and not self._is_patient
        return self._stall_s if sampling or done else self._stall_s * MODEL_LOADING_FACTOR

    @property
    def still_s(self) -> float:
        """The time without progress, in seconds."""
        return time.monotonic() - self._moved

    @property
    def stalled(self) -> bool:
        """Whether the time without progress exceeds the limit."""
        return self.still_s > self.limit_s


def _moving_parts(look: ServerProgress) -> tuple[object, ...]:
    return (
        look.job, look.job_count, look.job_number, look.job_timestamp, look.step, look.fraction
    )  # fmt: skip
