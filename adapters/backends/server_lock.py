"""The turn at a server: one request at a time, over all processes of this machine."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from ...events.errors import LogLockedError, LogWriteError
from ...events.log.lock import FileLock
from ...statemachine.run.cancel_token import CancelToken
from .http.address import ServerAddress

_LOOK_EVERY_S = 0.02
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9.]+")
_logger = logging.getLogger("stagewright.servers")


class ServerLock:
    """The operating system's lock on the origin of a server, in the user's state folder.

    A process that waits for ``NAME.lock`` holds ``NAME.next.lock`` meanwhile. So a process that has
    just released ``NAME.lock`` cannot take it again before the one that waits.
    """

    def __init__(self, url: str) -> None:
        origin = _origin(url)
        digits = sha256(origin.encode()).hexdigest()[:8]
        self._name = f"{_NOT_IN_NAMES.sub('-', origin)[:80]}-{digits}"
        self._url = url
        self._folder: Path | None = None
        self._is_unusable = False

    @contextmanager
    def hold(self, cancel: CancelToken) -> Iterator[bool]:
        """Wait for the lock and hold it; the context is False if ``cancel`` has ended the wait.

        Where the state folder cannot be used, this is reported once, and nothing is waited for.
        """
        lock = None if self._is_unusable else self._acquire(cancel)
        if lock is None:
            yield self._is_unusable and not cancel.stopping
            return
        try:
            yield True
        finally:
            lock.release()

    def _acquire(self, cancel: CancelToken) -> FileLock | None:
        try:
            if self._folder is None:
                self._folder = _state_folder()
            turn = _wait_for(self._folder, f"{self._name}.next.lock", cancel)
            if turn is None:
                return None
            try:
                return _wait_for(self._folder, f"{self._name}.lock", cancel)
            finally:
                turn.release()
        except (OSError, LogWriteError) as error:
            self._is_unusable = True
            _logger.warning(
                "%s: other runs on this machine are not waited for, because its lock cannot be "
                "used: %s",
                self._url,
                error,
            )
            return None


def _wait_for(folder: Path, name: str, cancel: CancelToken) -> FileLock | None:
    """The lock, None once ``cancel`` is stopping. Raises LogWriteError, OSError."""
    while not cancel.stopping:
        try:
            return FileLock(folder, name, noun="server", wait_s=0.0, anonymous=True)
        except LogLockedError:
            cancel.wait_stopping(_LOOK_EVERY_S)
    return None


def _state_folder() -> Path:
    """The folder of the locks, which is made. Raises OSError."""
    import platformdirs  # noqa: PLC0415 - the embedded backend needs no lock

    folder = platformdirs.user_state_path("stagewright", appauthor=False) / "servers"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _origin(url: str) -> str:
    """Scheme, host and port of a WebUI's address; that of another kind of backend as it is."""
    if not url.startswith(("http://", "https://")):
        return url
    scheme, host, port = ServerAddress.parse(url).origin
    return f"{scheme}-{host}-{port}"
