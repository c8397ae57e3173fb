"""Restarts a server that is gone, or keeps running out of memory, by a command of the user."""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
import platformdirs

from ...events.errors import LogLockedError, LogWriteError
from ...events.log.lock import FileLock
from ...events.log.open_log_registry import path_of_run
from ...statemachine.config.validation import SECRET
from ...statemachine.errors import ConfigurationError
from ..errors import UserCommandError
from ..user_commands import Process, end_command, has_ended, start_command
from .http.address import ServerAddress

MOST_RESTARTS = 3
"""Of one server within an hour, over all processes of the machine."""
_HOUR_S = 3600.0
_LOOK_S = 0.2
_CONNECT_S = 1.0
_STOPS_WITHIN_S = 3.0
"""How long a server that is restarted while it runs may keep listening after the command."""
_MOST_OUTPUT_BYTES = 1024 * 1024
_PREFIX = "STAGEWRIGHT_RESTART_"
_logger = logging.getLogger("stagewright.restart")


class RestartCommand(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[restart."http://host:7860"]``: brings the server at that address back.

    The server has to listen ``ready_s`` seconds after the start of ``command``, which is ended then
    if it still runs.
    """

    command: Annotated[tuple[Annotated[str, SECRET], ...], SECRET] = ()
    ready_s: Annotated[float, msgspec.Meta(gt=0)] = 300.0


def address_key(address: str) -> tuple[object, ...]:
    """Equal for two spellings of one server's address. Raises ConfigurationError."""
    parsed = ServerAddress.parse(address)
    return (*parsed.origin, urlsplit(parsed.url).path)


class ServerRestarter:
    """Runs the restart command of one server, at most one at a time on this machine.

    ``serving_run`` is the last run of this process that the server has made an image for. Safe for
    threads.
    """

    def __init__(self, address: str, command: RestartCommand, *, state: Path | None = None) -> None:
        self._address = address
        self._command = command
        self._history = _History(address, state or _state_folder())
        self._turn = threading.Lock()
        self._watching: threading.Thread | None = None
        self._ending = threading.Event()
        self._is_refused = False
        self.is_under_way = False
        """Whether this process is restarting the server."""
        self.serving_run: str | None = None

    def begin(self, reason: str, run_id: str, *, while_it_listens: bool = False) -> bool:
        """Start the command, and return whether the server is being restarted now.

        It is not if it listens again (unless it is restarted ``while_it_listens``), if it was
        restarted too often, or if the command cannot be started.
        """
        with self._turn:
            if self.is_under_way:
                return True
            try:
                lock = self._history.lock()
            except LogLockedError:
                return True  # another process restarts it
            if not while_it_listens and self._listens():
                begun = False
            else:
                begun = self._begin(reason, run_id, lock)
            if not begun and lock is not None:
                lock.release()
            return begun

    def close(self) -> None:
        """End a command that has not brought the server back yet."""
        self._ending.set()
        if self._watching is not None:
            self._watching.join(_CONNECT_S + 2 * _LOOK_S)

    def _begin(self, reason: str, run_id: str, lock: FileLock | None) -> bool:
        number = self._history.count()
        if number >= MOST_RESTARTS:
            # Once: a server that is set aside is looked for every few seconds.
            if not self._is_refused:
                _logger.warning(
                    "%s was restarted %d times within an hour, and is not restarted again",
                    self._address, number,
                )  # fmt: skip
            self._is_refused = True
            return False
        self._is_refused = False
        self._history.add()
        facts = {"address": self._address, "reason": reason, "run_id": run_id}
        try:
            output = _open_output(run_id)
            try:
                process = start_command(self._command.command, facts, prefix=_PREFIX, output=output)
            except BaseException:
                os.close(output)
                raise
        except (UserCommandError, OSError) as error:
            _logger.warning("the command that restarts %s: %s", self._address, error)
            return False
        _logger.warning("%s: %s; your command restarts it", self._address, reason)
        self._watching = threading.Thread(
            target=self._watch,
            args=(process, output, lock),
            name="stagewright-restart",
            daemon=True,  # the program may end while the server starts
        )
        self.is_under_way = True
        atexit.register(self.close)
        self._watching.start()
        return True

    def _watch(self, process: Process, output: int, lock: FileLock | None) -> None:
        """Wait until the server listens; without it in time, end the command."""
        try:
            if not self._comes_back(process, output):
                end_command(process)
                if not self._ending.is_set():
                    _logger.warning(
                        "%s does not listen %g s after its restart",
                        self._address, self._command.ready_s,
                    )  # fmt: skip
        finally:
            os.close(output)
            if lock is not None:
                lock.release()
            atexit.unregister(self.close)
            self.is_under_way = False
        process.wait()  # a command that is the server itself ends when it does

    def _comes_back(self, process: Process, output: int) -> bool:
        deadline = time.monotonic() + self._command.ready_s
        ended_s: float | None = None
        has_stopped = False
        while time.monotonic() < deadline and not self._ending.wait(_LOOK_S):
            if ended_s is None and has_ended(process):
                ended_s = time.monotonic()
            is_listening = self._listens()
            has_stopped = has_stopped or not is_listening
            stayed = ended_s is not None and time.monotonic() - ended_s > _STOPS_WITHIN_S
            if is_listening and (has_stopped or stayed):
                return True
            with suppress(OSError):
                if os.fstat(output).st_size > _MOST_OUTPUT_BYTES:
                    os.truncate(output, 0)
        return False

    def _listens(self) -> bool:
        _, host, port = ServerAddress.parse(self._address).origin
        try:
            socket.create_connection((host, port), _CONNECT_S).close()
        except OSError:
            return False
        return True


class _History:
    """When a server was restarted, in the user's state folder; in memory where that fails."""

    def __init__(self, address: str, folder: Path) -> None:
        name = hashlib.sha256(repr(address_key(address)).encode()).hexdigest()[:16]
        self._folder = folder
        self._file = folder / f"{name}.json"
        self._times: list[float] = []

    def lock(self) -> FileLock | None:
        """The lock of the server over all processes; None where there can be none.

        Raises LogLockedError.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            return FileLock(self._folder, f"{self._file.stem}.lock", noun="restart", wait_s=0.0)
        except (LogWriteError, OSError) as error:
            _logger.info("restarts are counted for this process alone: %s", error)
            return None

    def count(self) -> int:
        """How many restarts there were within an hour."""
        with suppress(OSError, msgspec.DecodeError, msgspec.ValidationError):
            recorded = msgspec.json.decode(self._file.read_bytes(), type=list[float])
            self._times = sorted({*recorded, *self._times})
        now = time.time()
        # The clock may have been set back meanwhile.
        self._times = [one for one in self._times if abs(now - one) < _HOUR_S]
        return len(self._times)

    def add(self) -> None:
        """Count a restart that begins now."""
        self._times.append(time.time())
        with suppress(OSError):
            self._file.write_bytes(msgspec.json.encode(self._times))


def _state_folder() -> Path:
    return platformdirs.user_state_path("stagewright", appauthor=False) / "restarts"


def _open_output(run_id: str) -> int:
    """A new file ``restart-<n>.log`` in the folder of the run. Raises OSError."""
    log = path_of_run(run_id)
    if log is None:
        return os.open(os.devnull, os.O_WRONLY)
    number = 1
    while True:
        path = log.parent / f"restart-{number}.log"
        try:
            # Appending, so that a file that is cut short has no hole.
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        except FileExistsError:
            number += 1


class ServerRestarters:
    """The restarters of all servers that the user's settings have a command for.

    Raises ConfigurationError for an address that is none.
    """

    def __init__(self, commands: Mapping[str, RestartCommand]) -> None:
        self._by_address = {
            address_key(address): ServerRestarter(address, command)
            for address, command in commands.items()
        }

    def find(self, address: str) -> ServerRestarter | None:
        """The one for the server at an address."""
        try:
            return self._by_address.get(address_key(address))
        except ConfigurationError:
            return None  # an address of another kind of backend
