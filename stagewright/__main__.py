"""``python -m stagewright``, and what the script ``stagewright`` calls."""

from __future__ import annotations

import atexit
import io
import logging
import os
import signal
import sys
from contextlib import suppress

_EXIT_INTERRUPTED = 130


def main() -> None:
    """Run ``stagewright`` with the process's arguments and exit with its status.

    After Ctrl-C the process dies by SIGINT, once threads have ended and its output is written.
    """
    atexit.register(_die_if_interrupted)  # first, so that it runs last
    try:
        _main()
    except SystemExit as exits:
        global _interrupted  # noqa: PLW0603 - what `exit` is given, `atexit` cannot see
        _interrupted = exits.code == _EXIT_INTERRUPTED
        raise


_interrupted = False


def _die_if_interrupted() -> None:
    if not _interrupted or sys.platform == "win32":
        return
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)


def _main() -> None:
    _open_standard_streams()
    # Commands say what a user should know in words of their own.
    logging.getLogger("stagewright").addHandler(logging.NullHandler())
    try:
        from stagewright.adapters.cli.main import run_command_line  # noqa: PLC0415 - a Ctrl-C while it loads

        sys.exit(run_command_line(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.stderr.write("stagewright: interrupted\n")
        sys.exit(_EXIT_INTERRUPTED)


def _open_standard_streams() -> None:
    """Put the null device where a standard stream is closed.

    The next file that is opened, a log for one, would take its number, and what is meant for
    the terminal would be written there.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # It takes the lowest number that is free.
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for good
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - the same
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - the same
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that knows no such letters is shown their numbers.
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main()
