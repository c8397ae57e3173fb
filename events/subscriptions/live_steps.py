"""The current sampling step of a run, in a file for other processes.

It is not a fact, nor part of the log: one small file that is overwritten in place, never synced,
and removed at the end. A reader may find no step, or an old one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from pathlib import Path

import msgspec

from ..codec import DECODE_ERRORS, encode_line
from ..log.storage import open_regular
from ..model import StepProgress

STEPS_NAME = "steps.live"
_EVERY_S = 0.1
_SIZE = 512
_logger = logging.getLogger("stagewright.live_steps")


class StepsFile:
    """Writes how far the image in progress is, for processes that read the run's folder.

    It never fails: where the file cannot be written, others see whole images only.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / STEPS_NAME
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._due_s = 0.0
        # A process that died may have left one.
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def tell(self, progress: StepProgress) -> None:
        """Write a step, ten times a second at most; from any thread."""
        with self._lock:
            now = time.monotonic()
            if now < self._due_s:
                return
            self._due_s = now + _EVERY_S
            # Padded to one size, so that one write replaces it as a whole.
            data = encode_line(progress).ljust(_SIZE)
            if len(data) == _SIZE:
                self._write(data)

    def close(self) -> None:
        """Remove the file; later steps are ignored."""
        with self._lock:
            self._due_s = float("inf")
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)
                with contextlib.suppress(OSError):
                    self._path.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        try:
            if self._descriptor is None:
                flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
                self._descriptor = os.open(self._path, flags, 0o666)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            os.write(self._descriptor, data)
        except OSError as error:
            _logger.info("%s cannot be written: %s", self._path, error)
            self._due_s = float("inf")


def read_step(folder: Path) -> StepProgress | None:
    """The last step that the process which works on a run has written; None without one."""
    try:
        with open_regular(folder / STEPS_NAME) as stream:
            return msgspec.json.decode(stream.read(_SIZE), type=StepProgress)
    except (OSError, *DECODE_ERRORS):
        return None
