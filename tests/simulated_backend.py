"""A backend for simulated runs: fast, a function of the request, and as faulty as it is told."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256, shake_128

from stagewright.events import BackendDescription, CancelMode
from stagewright.statemachine import (
    CancelToken,
    GenerateAnswer,
    GeneratedImage,
    GenerateRequest,
)
from stagewright.statemachine.errors import (
    BackendError,
    GenerationCancelled,
)
from stagewright.statemachine.ports import OnStep

_SIDE = 24


class Happening(StrEnum):
    """What comes of one request, or happens while it is being worked on."""

    DIE_UNSENT = "the process dies before the request is sent"
    DIE = "the process dies while it waits"
    TRANSIENT = "the server is busy"
    FINAL = "the server refuses"
    CUT_OFF = "the picture is cut off"
    TOO_FEW = "pictures are missing"
    CANCEL_NOW = "the run is cancelled now"
    CANCEL_LATE = "the run is cancelled now, and the picture given all the same"
    CANCEL_AFTER = "the run is cancelled after the image"
    ORDER_NOW = "another process orders the run to stop now"
    ORDER_AFTER = "another process orders the run to stop after the image"
    RIVAL = "another process tries to resume the run"


FRUITLESS = (
    Happening.DIE,
    Happening.TRANSIENT,
    Happening.FINAL,
    Happening.CUT_OFF,
    Happening.TOO_FEW,
    Happening.CANCEL_NOW,
)
"""Happenings of which a request comes to nothing."""


CANCELS = {
    Happening.CANCEL_NOW: CancelMode.NOW,
    Happening.CANCEL_LATE: CancelMode.NOW,
    Happening.CANCEL_AFTER: CancelMode.AFTER_IMAGE,
}
ORDERS = {Happening.ORDER_NOW: CancelMode.NOW, Happening.ORDER_AFTER: CancelMode.AFTER_IMAGE}


@lru_cache(maxsize=4096)
def picture(stage_id: str, seed: int, source: str = "") -> bytes:
    """The PNG that any process gets for this request; larger than a disk's sector."""
    pixels = shake_128(f"{stage_id} {seed} {source}".encode()).digest(_SIDE * _SIDE)
    rows = b"".join(b"\0" + pixels[at : at + _SIDE] for at in range(0, len(pixels), _SIDE))
    header = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def source_digest(stage_id: str, seed: int, source: str = "") -> str:
    """The digest of that PNG."""
    return sha256(picture(stage_id, seed, source)).hexdigest()


class Server:
    """What all processes send their requests to: it remembers every one."""

    def __init__(self) -> None:
        self.received: Counter[str] = Counter()
        self.fruitless = 0
        self.lost: dict[str, list[str]] = {}
        """By server, run, stage and image, the calls since its answer that nobody waited for."""


class SimulatedBackend:
    """One process' way to the server.

    To its request number n (from 0) happens what ``happenings`` says; ``bring_about`` is
    called for those that are not the server's own.
    """

    slots = 1

    def __init__(
        self,
        server: Server,
        happenings: Mapping[int, Happening],
        bring_about: Callable[[Happening], None],
        *,
        url: str | None = None,
    ) -> None:
        self.description = BackendDescription(
            kind="simulated", url=url, product="tests", version="1"
        )
        self._server = server
        self._happenings = happenings
        self._bring_about = bring_about
        self._requests = 0
        self.mistakes: list[str] = []
        """What was wrong with the requests."""

    def generate_images(
        self, request: GenerateRequest, *, cancel: CancelToken, on_step: OnStep
    ) -> GenerateAnswer:
        happening = self._happenings.get(self._requests)
        self._requests += 1
        if happening is Happening.DIE_UNSENT:
            self._bring_about(happening)
        self._receive(request)
        if happening in FRUITLESS:
            self._server.fruitless += 1
        if happening is Happening.DIE:
            self._server.lost.setdefault(self._place(request), []).append(request.call_id)
        if happening is not None:
            self._bring_about(happening)
        on_step(1, 1)
        if cancel.cancelled and happening is Happening.CANCEL_NOW:
            raise GenerationCancelled("cancelled", interrupted=True, settled=True)
        if happening in (Happening.TRANSIENT, Happening.FINAL):
            raise BackendError(str(happening), transient=happening is Happening.TRANSIENT)
        images = self._images(request)
        if happening is Happening.TOO_FEW:
            images.pop()
        elif happening is Happening.CUT_OFF:
            images[-1] = images[-1][:-5]
        else:
            self._server.lost.pop(self._place(request), None)
        pictures = tuple(GeneratedImage(data=data) for data in images)
        return GenerateAnswer(images=pictures, endpoint="simulated", info={"seed": request.seed})

    def _receive(self, request: GenerateRequest) -> None:
        self._server.received[request.call_id] += 1
        unsettled = self._server.lost.get(self._place(request), ())
        for call_id in unsettled:
            if call_id not in request.unanswered:
                self.mistakes.append(f"{request.call_id} does not name {call_id} as unanswered")

    def _place(self, request: GenerateRequest) -> str:
        """The image of a request, at this server."""
        return f"{self.description.url or ''} {request.call_id.rpartition('.')[0]}"

    def _images(self, request: GenerateRequest) -> list[bytes]:
        source = request.inputs[0].source_sha256 if request.inputs else ""
        if request.inputs and sha256(request.inputs[0].data).hexdigest() != source:
            self.mistakes.append(f"{request.call_id} sends another source than it says")
        return [
            picture(request.stage_id, request.seed + place, source)
            for place in range(request.count)
        ]
