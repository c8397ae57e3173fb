"""A backend that has every image ready: what is measured is all around it."""

from __future__ import annotations

import struct
from random import Random
from zlib import compress, crc32

from stagewright.events import BackendDescription
from stagewright.statemachine import (
    CancelToken,
    GenerateAnswer,
    GeneratedImage,
    GenerateRequest,
)
from stagewright.statemachine.ports import OnStep

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SIDE = 64


class InstantBackend:
    """Gives whole PNGs of about ``size`` bytes, each a function of its seed."""

    slots = 1
    description = BackendDescription(kind="instant")

    def __init__(self, size: int) -> None:
        pixels = compress(bytes((_SIDE * 3 + 1) * _SIDE))
        header = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0)
        # What makes a photograph's bytes many is not for this: the noise is no pixels.
        self._noise = _chunk(b"noIs", Random(1).randbytes(size))
        self._head = _SIGNATURE + _chunk(b"IHDR", header)
        self._tail = _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")

    def generate_images(
        self,
        request: GenerateRequest,
        *,
        cancel: CancelToken,  # noqa: ARG002 - the signature of every backend
        on_step: OnStep,  # noqa: ARG002 - the same
    ) -> GenerateAnswer:
        seeds = range(request.seed, request.seed + request.count)
        return GenerateAnswer(
            images=tuple(GeneratedImage(data=self._image(seed)) for seed in seeds),
            endpoint="instant",
        )

    def _image(self, seed: int) -> bytes:
        text = _chunk(b"tEXt", b"seed\0%d" % seed)
        return b"".join((self._head, text, self._noise, self._tail))


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc32(kind + body))
