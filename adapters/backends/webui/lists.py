"""What a server offers by name: its lists, each asked for once and only when it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from ....statemachine.errors import BackendAnswerError, BackendError
from ..http.client import HttpClient
from ..http.errors import (
    AuthenticationError,
    RequestRefusedError,
    RouteMissingError,
    ServerError,
    ServerFailureError,
    ServerOutOfMemoryError,
)
from .names import KINDS, Entry, NameKind, NameList, Reader
from .spellings import stem

OPTIONS = "/sdapi/v1/options"
SCRIPTS = "/sdapi/v1/scripts"

_MOST_ENTRIES = 50_000
"""A longer list is no list that a user chooses from."""
_MOST_COMPARED = 5_000
_LONGEST_COMPARED = 200
_MOST_NEAREST = 3
_NOT_OFFERED = (
    RequestRefusedError,
    ServerFailureError,
    ServerOutOfMemoryError,
    BackendAnswerError,
)
"""What says that one route is of no use, and nothing about the server."""


def is_among(known: NameList, *names: str) -> bool:
    """Whether the list has something that goes by one of these names."""
    return any(name in entry.forms for entry in known for name in names)


def nearest_names(name: str, known: NameList) -> tuple[str, ...]:
    """The names in ``known`` that ``name`` may be a slip for, the likeliest first."""
    by_form: dict[str, str] = {}
    for entry in known[:_MOST_COMPARED]:
        for form in (entry.name, stem(entry.name), *entry.forms):
            by_form.setdefault(form[:_LONGEST_COMPARED].casefold(), entry.name)
    asked = name[:_LONGEST_COMPARED].casefold()
    close = get_close_matches(asked, by_form, n=2 * _MOST_NEAREST)
    return tuple(dict.fromkeys(by_form[form] for form in close))[:_MOST_NEAREST]


class ServerLists:
    """The lists of one server. Each is asked for once.

    Every method raises ServerError where the server as a whole is out of reach or wants
    other credentials. A list that is not offered, or is none, is None; ``notes`` say why.
    """

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self._answers: dict[str, Any] = {}
        self._lists: dict[str, NameList | None] = {}
        self._presence: dict[str, bool | None] = {}
        self._notes: list[str] = []

    @property
    def notes(self) -> tuple[str, ...]:
        """Why lists that were asked for cannot be used."""
        return tuple(self._notes)

    @property
    def any_answered(self) -> bool:
        """Whether anything that was asked for so far was answered with JSON."""
        return any(told is not None for told in self._answers.values())

    def has(self, path: str) -> bool | None:
        """Whether there is anything at ``path``, which need not take a GET; None: not known."""
        self.answer(path, noted=False)
        return self._presence[path]

    def answer(self, path: str, *, noted: bool = True) -> Any:
        """The decoded JSON at ``path``, None where there is none."""
        if path not in self._answers:
            why: BackendError | None = None
            told: Any = None
            try:
                told = self._client.get(path)
            except AuthenticationError:
                raise
            except _NOT_OFFERED as error:
                why = error
            self._answers[path] = told
            self._presence[path] = _presence(told, why)
            if noted and told is None:
                self._note(path, why)
        return self._answers[path]

    def names(self, kind: NameKind, route: str | None = None) -> NameList | None:
        """What the server has of a kind, at ``route`` where that is not the usual one."""
        path = route or KINDS[kind].route
        if path not in self._lists:
            self._lists[path] = self._read(path, KINDS[kind].reader)
        return self._lists[path]

    def nearest(self, name: str, known: NameList) -> tuple[str, ...]:
        """The nearest names as they may be shown: without credentials."""
        return tuple(map(self._client.credentials.scrub, nearest_names(name, known)))

    def stems(self) -> Mapping[str, str]:
        """By each name that a checkpoint goes by, the stem that the server's answers give it."""
        known = self.names(NameKind.CHECKPOINT) or ()
        return {form: stem(entry.name) for entry in known for form in entry.forms}

    def img2img_scripts(self) -> frozenset[str] | None:
        """The scripts that img2img can run, in lower case."""
        told = self.answer(SCRIPTS)
        found = told.get("img2img") if isinstance(told, Mapping) else None
        if isinstance(found, list):
            return frozenset(name.casefold() for name in found if isinstance(name, str))
        if told is not None:
            self._note(SCRIPTS)
        return None

    def most_detailer_passes(self) -> int | None:
        """How many passes of ADetailer the server runs; it drops any further ones."""
        told = self.answer(OPTIONS)
        found = told.get("ad_max_models") if isinstance(told, Mapping) else None
        return found if type(found) is int else None

    def _read(self, path: str, reader: Reader) -> NameList | None:
        told = self.answer(path)
        if told is None:
            return None
        is_of_detectors = path == KINDS[NameKind.DETECTOR].route and isinstance(told, Mapping)
        entries = _entries(told.get("ad_model") if is_of_detectors else told, reader)
        if entries is None:
            self._note(path)
        return entries

    def _note(self, path: str, why: BackendError | None = None) -> None:
        words = f"{self._client.address.url}{path}: the answer is no list of names"
        self._notes.append(f"not checked: {why or words}")


def _presence(told: Any, error: BackendError | None) -> bool | None:
    """Whether a GET met a route: it gave something, or it was refused as an existing one is."""
    if not isinstance(error, ServerError):
        return told is not None
    status = error.status or 0
    if status >= 500:
        return None
    return status >= 400 and not isinstance(error, RouteMissingError)


def _entries(rows: Any, reader: Reader) -> NameList | None:
    """The entries of a list; None where it is none, or one of something else."""
    if not isinstance(rows, list) or len(rows) > _MOST_ENTRIES:
        return None
    found: tuple[Entry, ...] = tuple(entry for row in rows if (entry := reader(row)) is not None)
    return found if found or not rows else None
