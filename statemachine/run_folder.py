"""Where a run lives on disk, and how one is found again."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from ..events.errors import RunNotFoundError
from ..events.file_log import LOG_NAME
from ..events.frame import MAX_LINE_BYTES, check
from ..events.model import CancelMode
from ..events.storage import OsStorage, Storage, open_regular
from .ports import RandomBelow

CANCEL_NAME = "cancel.request"
_MAX_ORDER_BYTES = 64 * 1024
_SHOWN = 4


class CancelOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What ``cancel.request`` holds."""

    mode: CancelMode = CancelMode.NOW
    reason: str = ""


def new_run_id(name: str, opened: datetime, random_below: RandomBelow) -> str:
    """``20261120T225226.123456Z-portrait-7f3a9c``: UTC, a slug of the name, six hex digits."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "run"
    return f"{opened:%Y%m%dT%H%M%S.%f}Z-{slug}-{random_below(1 << 24):06x}"


class RunFolder:
    """The paths of one run, and the order to cancel it."""

    def __init__(self, path: Path, *, storage: Storage | None = None) -> None:
        self.path = path
        self.storage: Storage = storage or OsStorage()

    def locate(self, recorded: str) -> Path:
        """A recorded path as a path on this machine."""
        return self.path / recorded

    def order_cancel(self, order: CancelOrder) -> None:
        """Ask whoever runs this run to stop."""
        self.storage.write_file(self.path / CANCEL_NAME, msgspec.json.encode(order))

    def cancel_order(self) -> CancelOrder | None:
        """The order that waits to be taken, if any; an unreadable one asks to stop now."""
        path = self.path / CANCEL_NAME
        if not path.exists():
            return None
        try:
            with open_regular(path) as stream:
                return msgspec.json.decode(stream.read(_MAX_ORDER_BYTES), type=CancelOrder)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError):
            return CancelOrder(reason="an unreadable cancel.request")

    def cancel_stamp(self) -> tuple[int, int] | None:
        """What tells one order from the next; None where there is none."""
        try:
            found = (self.path / CANCEL_NAME).lstat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def forget_cancel_order(self) -> None:
        """Remove the order; the log holds it by now."""
        self.storage.remove(self.path / CANCEL_NAME)


def run_folders(runs: Path) -> Iterator[Path]:
    """Every run folder below ``runs``, oldest first; what has no log is no run."""
    if not runs.is_dir():
        return
    for folder in sorted(runs.iterdir()):
        if (folder / LOG_NAME).is_file():
            yield folder


def _opened_at(folder: Path) -> str:
    """When the run was opened, from its first record; "" where that cannot be read."""
    with open(folder / LOG_NAME, "rb") as stream:
        body = check(stream.readline(MAX_LINE_BYTES))
    try:
        return msgspec.json.decode(body or b"", type=_Opened).ts
    except msgspec.DecodeError:
        return ""


class _Opened(msgspec.Struct):
    ts: str


def find_run(runs: Path, name: str) -> Path:
    """The folder of a run: by id, unique prefix of one, ``last``, path of it or its log.

    Raises RunNotFoundError.
    """
    as_path = Path(name)
    with contextlib.suppress(OSError):  # a name too long to be one
        if name and (as_path / LOG_NAME).is_file():
            return as_path
        if as_path.name == LOG_NAME and as_path.is_file():
            return as_path.parent
    # Only a plain name may be looked up below the folder of runs.
    found = [] if not name or as_path.name != name else list(run_folders(runs))
    if name == "last" and found:
        return max(found, key=lambda folder: (_opened_at(folder), folder.name))
    fitting = [folder for folder in found if folder.name.startswith(name)]
    exact = [folder for folder in fitting if folder.name == name]
    if len(fitting) == 1 or exact:
        return (exact or fitting)[0]
    if fitting:
        named = ", ".join(folder.name for folder in fitting[:_SHOWN])
        more = f", and {len(fitting) - _SHOWN} more" if len(fitting) > _SHOWN else ""
        raise RunNotFoundError(f"{name!r} fits {len(fitting)} runs in {runs}: {named}{more}")
    what = "no run yet" if name == "last" else f"no run {name!r}"
    raise RunNotFoundError(f"there is {what} in {runs}")
