"""The private names of this machine and its user."""

from __future__ import annotations

import getpass
import os
from pathlib import Path

import msgspec

from ....events.log.lock import host_name
from ...backends.http.credentials import AUTH_VARIABLE


class PrivateNames(msgspec.Struct, frozen=True, kw_only=True):
    """Names to replace in a bundle; an empty one is not replaced.

    ``homes`` are paths of the user's home folder, ``user`` is the account, ``host`` the machine
    and ``password`` that of the server.
    """

    homes: tuple[str, ...] = ()
    user: str = ""
    host: str = ""
    password: str = ""

    @classmethod
    def of_this_machine(cls) -> PrivateNames:
        """The names of this process's environment and system."""
        password = os.environ.get(AUTH_VARIABLE, "").partition(":")[2]
        return cls(homes=_homes(), user=_user(), host=host_name(), password=password)


def _homes() -> tuple[str, ...]:
    try:
        home = str(Path.home())
    except RuntimeError:
        return ()  # Unknown here; the usual places are replaced anyway.
    return home, os.path.realpath(home)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # no such variable, and no entry in the system's list
        return ""
