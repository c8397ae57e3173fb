"""The command line."""

from __future__ import annotations

import sys


def main() -> None:
    """Run ``stagewright`` with the process's arguments and exit with its status."""
    from .commands import run_command_line  # noqa: PLC0415 - the entry point loads nothing itself

    sys.exit(run_command_line(sys.argv[1:]))
