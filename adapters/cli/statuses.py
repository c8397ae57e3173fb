"""Exit statuses, and the line on standard error that explains them."""

from __future__ import annotations

import os
import signal
import sys
from typing import IO, cast

from ...events.errors import (
    ImageAlteredError,
    LogCorruptError,
    LogLockedError,
    RunNotFoundError,
    StagewrightError,
)
from ..text import one_line
from .streams import BrokenPipeTolerantStream
from .styles import DOUBTFUL, WRONG, Mark, styled

EXIT_COMPLETED = 0
EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_CANCELLED = 3
EXIT_CORRUPT = 4
EXIT_INTERRUPTED = 130 if sys.platform != "win32" else EXIT_CANCELLED
"""After Ctrl-C; the process then dies by SIGINT, which shells show as this number."""
TRACEBACK_VARIABLE = "STAGEWRIGHT_TRACEBACK"


def die_by_interrupt() -> None:
    """End the process by SIGINT, so that a shell's loop around it ends too; not on Windows."""
    if sys.platform != "win32":
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)


def status_of(error: Exception) -> int:
    """The exit status of a command that ended with ``error``."""
    if isinstance(error, LogCorruptError | ImageAlteredError):
        return EXIT_CORRUPT
    # Every configuration error is a ValueError as well.
    if isinstance(error, RunNotFoundError | LogLockedError) or (
        isinstance(error, StagewrightError) and isinstance(error, ValueError)
    ):
        return EXIT_USAGE
    return EXIT_ERROR


def error_messages(error: Exception) -> list[str]:
    """The messages that the user sees for ``error``: one, or one for each in a configuration."""
    from ...statemachine.errors import ConfigurationError  # noqa: PLC0415 - `--version` is quick

    if isinstance(error, ConfigurationError):
        return [one.message for one in error.errors]
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return [f"{error.filename}: {error.strerror}"]
    if isinstance(error, StagewrightError | OSError):
        return [str(error)]
    if isinstance(error, EOFError) and "marshal" in str(error):
        return [f"a compiled module of Python is cut off ({error}): delete the __pycache__ folders"]
    what = f"internal error, please report it: {type(error).__name__}: {error}"
    return [f"{what} (set {TRACEBACK_VARIABLE}=1 for the traceback)"]


def print_error(message: str, status: int) -> int:
    """Print one line on standard error, and return ``status``; a status of 0 is no error."""
    stream = cast(IO[str], BrokenPipeTolerantStream(sys.stderr))
    lead = Mark("stagewright:", WRONG if status else DOUBTFUL)
    print(styled((lead, f" {one_line(message)}"), stream), file=stream)
    return status
