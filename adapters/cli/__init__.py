"""The command line."""

from __future__ import annotations

import sys


def main() -> None:
    """Run ``stagewright`` with the process's arguments and exit with its status."""
    try:
        from .commands import run_command_line  # noqa: PLC0415 - a Ctrl-C while it loads

        sys.exit(run_command_line(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("stagewright: interrupted")
