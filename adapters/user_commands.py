"""Commands that the user's settings name: started without a shell, ended with their children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from .errors import CommandNotStartedError, UserCommandError
from .text import one_line

Process = subprocess.Popen[bytes]


def start_command(
    command: Sequence[str], facts: Mapping[str, Any], *, prefix: str, output: int | None
) -> Process:
    """Start a command in a session of its own.

    It is given ``facts`` as JSON on standard input, and each that is not None as a variable whose
    name begins with ``prefix``. ``output`` takes what it prints; None leaves that to standard
    output and error. Raises CommandNotStartedError, which names the program alone: an argument may
    be a secret.
    """
    try:
        process = subprocess.Popen(  # noqa: S603 - the user's own command
            list(command),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            env={**os.environ, **_variables(facts, prefix)},
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise CommandNotStartedError(f"{command[0]}: cannot be started: {why or error}") from error
    assert process.stdin is not None
    with suppress(OSError):  # it need not read them; they fit the pipe
        process.stdin.write(msgspec.json.encode(facts))
        process.stdin.close()
    return process


def run_command(
    command: Sequence[str],
    facts: Mapping[str, Any],
    *,
    prefix: str,
    limit_s: float,
    output: int | None = subprocess.DEVNULL,
) -> None:
    """Run a command to its end. Raises UserCommandError if it fails or takes too long."""
    process = start_command(command, facts, prefix=prefix, output=output)
    try:
        status = process.wait(limit_s)
    except subprocess.TimeoutExpired as error:
        raise UserCommandError(
            f"{command[0]}: ended, because it took more than {limit_s:g} s"
        ) from error
    finally:
        if process.returncode is None:
            end_command(process)
    if status:
        raise UserCommandError(f"{command[0]}: failed with exit status {status}")


def has_ended(process: Process) -> bool:
    """Whether a command has ended. Its id is not given to another process before ``end_command``.

    Elsewhere than on Linux it may be, once the command and its children have ended.
    """
    if sys.platform != "linux":
        return process.poll() is not None
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return process.returncode is not None or os.waitid(os.P_PID, process.pid, options) is not None


def end_command(process: Process) -> None:
    """Kill a command and what it has started, except for what has a session of its own."""
    if sys.platform == "win32":
        subprocess.run(  # noqa: S603 - the arguments are a number and constants
            ["taskkill", "/F", "/T", "/PID", str(process.pid)],  # noqa: S607 - found by Windows
            capture_output=True,
            check=False,
        )
    else:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _variables(facts: Mapping[str, Any], prefix: str) -> dict[str, str]:
    """The facts as variables, each in one line."""
    return {
        f"{prefix}{name.upper()}": one_line(value if isinstance(value, str) else str(value))
        for name, value in facts.items()
        if value is not None
    }
