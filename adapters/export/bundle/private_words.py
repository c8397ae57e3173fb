"""The private text of this machine: the password, home folders, user and host names."""

from __future__ import annotations

import base64
import getpass
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, quote_plus

import msgspec

from ....events.log.lock import host_name
from ....events.model import (
    EVENT_TYPES,
    Artifact,
    BackendDescription,
    CancelMode,
    ErrorDetail,
    InputRecord,
    Outcome,
    RunState,
    StageType,
)
from ....statemachine.plan.plan import StageExecution, StageExecutionPlan
from ....statemachine.stages import (
    AdetailerConfig,
    HiresConfig,
    Img2ImgConfig,
    RefinerConfig,
    Txt2ImgConfig,
    UpscaleConfig,
)
from ....statemachine.states import TRANSITIONS
from ...backends.webui.address import AUTH_VARIABLE, secret_forms

_PARTS_OF_EVENTS = (Artifact, InputRecord, BackendDescription, ErrorDetail)
_PARTS_OF_PLANS = (
    *(StageExecutionPlan, StageExecution, RefinerConfig, HiresConfig),
    *(Txt2ImgConfig, Img2ImgConfig, UpscaleConfig, AdetailerConfig),
)
_OUR_WORDS = frozenset(
    [
        *(kind.__name__.casefold() for kind in EVENT_TYPES),
        *(row.trigger for row in TRANSITIONS),
        *(one.casefold() for kinds in (RunState, StageType, Outcome, CancelMode) for one in kinds),
        *("localhost", "embedded", "prompt", "file", "images", "inputs"),
    ]
)
"""Common words of logs; a host with such a name is not replaced within texts."""
_STRUCTS: tuple[type[msgspec.Struct], ...] = (*EVENT_TYPES, *_PARTS_OF_EVENTS, *_PARTS_OF_PLANS)
OUR_KEYS = frozenset(name for kind in _STRUCTS for name in kind.__struct_fields__)
"""Keys of events and plans, which are never replaced."""
_SHORTEST_HOST, _SHORTEST_BOOT = 3, 16
_MOST_NAMES = 64
_NAME_CHARACTER = r"[\w-]"
_EVERYBODYS = re.compile(r"(?i)[a-z]:|(?:[a-z]:)?[/\\](?:home|users)")


class Placeholders:
    """Replaces names of one kind by placeholders such as ``host-1``.

    Within texts, names of fewer than ``shortest`` characters are not replaced.
    """

    def __init__(self, kind: str, *, shortest: int) -> None:
        self._kind = kind
        self._shortest = shortest
        self._known: dict[str, str] = {}
        self._pattern: re.Pattern[str] | None = None

    def note(self, name: str) -> None:
        """Add a name, with and without its domain; beyond a limit all share one placeholder."""
        if not name or name.casefold() in self._known or len(self._known) >= _MOST_NAMES:
            return
        stand_in = f"{self._kind}-{len(set(self._known.values())) + 1}"
        self._known[name.casefold()] = stand_in
        self._known.setdefault(name.casefold().partition(".")[0], stand_in)
        self._pattern = None

    def of(self, name: str) -> str:
        """The placeholder of a name."""
        return self._known.get(name.casefold(), f"{self._kind}-other") if name else name

    def in_words(self, text: str) -> tuple[str, int]:
        """The text with each name replaced that is a word of its own, and how many there were."""
        if self._pattern is None:
            self._pattern = self._compiled()
        return self._pattern.subn(lambda found: self.of(found[0]), text)

    def _compiled(self) -> re.Pattern[str]:
        words = [
            re.escape(name)
            for name in sorted(self._known, key=len, reverse=True)
            if len(name) >= self._shortest and name not in _OUR_WORDS
        ]
        if not words:
            return re.compile(r"(?!)")
        named = "|".join(words)
        return re.compile(rf"(?<!{_NAME_CHARACTER})(?:{named})(?!{_NAME_CHARACTER})", re.IGNORECASE)


class PrivateWords:
    """The private text to replace in a bundle.

    ``credentials`` are the forms in which the password may occur, the longest first; ``homes``
    are paths of the user's home folder; ``user`` is the user name, or "".
    """

    def __init__(
        self, environment: Mapping[str, str], *, homes: tuple[str, ...], user: str, host: str
    ) -> None:
        self.credentials = tuple(credential_forms(environment.get(AUTH_VARIABLE, "")))
        self.homes = tuple(sorted({one for one in homes if _is_telling(one)}, key=len)[::-1])
        self.user = user
        self.hosts = Placeholders("host", shortest=_SHORTEST_HOST)
        self.boots = Placeholders("boot", shortest=_SHORTEST_BOOT)
        self.hosts.note(host)

    @classmethod
    def of_this_machine(cls) -> PrivateWords:
        """The private text of this process's environment and system."""
        return cls(os.environ, homes=tuple(_homes()), user=_user(), host=host_name())


def credential_forms(given: str) -> list[str]:
    """The forms of ``user:password`` and the password within texts, the longest first."""
    if not given:
        return []
    password = given.partition(":")[2]
    secrets = [given, password] if password else [given]
    forms = {form for one in secrets for form in _forms(one)}
    return sorted((form for form in forms if form), key=lambda form: (-len(form), form))


def _forms(secret: str) -> Iterator[str]:
    """The secret plain, in JSON (once and twice), HTML, URLs, Python literals and base64.

    Each also with its bytes read or written as Latin-1.
    """
    raw = secret.encode("utf-8", "surrogateescape")
    plain = raw.decode("utf-8", "replace")
    yield raw.decode("latin-1")
    latin = plain.encode("latin-1", "replace")
    for narrow in {latin} if latin.decode("latin-1") == plain else ():
        yield base64.b64encode(narrow).decode().rstrip("=")
        yield quote(narrow, safe="")
    yield from secret_forms(secret)
    yield from secret_forms(plain)
    for ascii_only in (True, False):
        yield json.dumps(json.dumps(plain, ensure_ascii=ascii_only)[1:-1])[1:-1]
    for address in (quote(raw, safe=""), quote(raw), quote_plus(raw)):
        yield address
        yield re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), address)
    yield repr(plain)[1:-1]
    yield repr(raw)[2:-1]
    yield base64.b64encode(raw).decode().rstrip("=")
    yield base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _homes() -> Iterator[str]:
    names = ("HOME", "USERPROFILE")
    found = [os.environ[name] for name in names if os.environ.get(name)]
    for find in (Path.home, lambda: Path("~" + getpass.getuser()).expanduser()):
        try:
            found.append(str(find()))
        except (RuntimeError, OSError, KeyError):
            continue  # Unknown here; the usual places are replaced anyway.
    for home in found:
        yield home.rstrip("/\\")
        yield os.path.realpath(home)


def _is_telling(home: str) -> bool:
    """Whether a path belongs to one user, unlike ``/`` and ``/home``."""
    return len(home.strip("/\\")) > 1 and not _EVERYBODYS.fullmatch(home)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # no such variable, and no entry in the system's list
        return ""
