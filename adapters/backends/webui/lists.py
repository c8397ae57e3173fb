"""Reads the lists of names that a server offers, each once and on demand."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from ....statemachine.errors import BackendAnswerError, BackendError
from ..http.client import ANSWER_TIMEOUT_S, HttpClient
from ..http.errors import (
    AuthenticationError,
    OtherPageError,
    RequestRefusedError,
    RouteMissingError,
    ServerError,
    ServerFailureError,
    ServerOutOfMemoryError,
)
from .names import KINDS, Entry, NameKind, NameList, Reader
from .spellings import file_of, loosely, stem

OPTIONS = "/sdapi/v1/options"
SCRIPTS = "/sdapi/v1/scripts"
SYSINFO = "/internal/sysinfo"
_DETAILER_VERSION = "/adetailer/v1/version"
_SYSINFO_TIMEOUT_S = 5.0
"""The route calls the graphics driver and pip; the version is not worth a longer wait."""
_LONGEST_VERSION = 80
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SIGNS = {
    "/openapi.json": "paths",
    "/sdapi/v1/progress": "progress",
    OPTIONS: "sd_model_checkpoint",
    SCRIPTS: "img2img",
}
"""A key in the answer of each of these routes."""

_MOST_ENTRIES = 50_000
"""Longer lists are ignored; a user could not choose from them."""
_MOST_COMPARED = 5_000
_LONGEST_COMPARED = 200
_MOST_NEAREST = 3
_NOT_OFFERED = (
    RequestRefusedError,
    ServerFailureError,
    ServerOutOfMemoryError,
    BackendAnswerError,
)
"""Errors that concern one route, not the whole server."""


def entry_of(known: NameList, name: str) -> Entry | None:
    """The entry with this name, else the only one whose name differs in case or separators."""
    for entry in known:
        if name in entry.forms:
            return entry
    asked = loosely(name)
    alike = {
        entry.name: entry
        for entry in known
        if asked in map(loosely, (*entry.forms, *entry.short_forms))
    }
    return next(iter(alike.values())) if len(alike) == 1 else None


def nearest_names(name: str, known: NameList) -> tuple[str, ...]:
    """The names in ``known`` that are most similar to ``name``, the best first."""
    by_form: dict[str, str] = {}
    for entry in known[:_MOST_COMPARED]:
        for form in (entry.name, stem(entry.name), *entry.forms):
            by_form.setdefault(form[:_LONGEST_COMPARED].casefold(), entry.name)
    asked = name[:_LONGEST_COMPARED].casefold()
    close = get_close_matches(asked, by_form, n=2 * _MOST_NEAREST)
    return tuple(dict.fromkeys(by_form[form] for form in close))[:_MOST_NEAREST]


class ServerLists:
    """The lists of one server, each read once.

    Every method raises ServerError if the server cannot be reached or rejects the credentials.
    A list that is not offered or not valid is None; ``notes`` say why.
    """

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self._answers: dict[str, Any] = {}
        self._lists: dict[str, NameList | None] = {}
        self._presence: dict[str, bool | None] = {}
        self._notes: list[str] = []
        self.refusal = ""
        """Why the first route that is there, or seems to be, gave no answer; "" if none is."""
        self._refreshed: set[NameKind] = set()
        self.not_refreshed: set[NameKind] = set()
        """The kinds of files that the server would not read again."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Why lists cannot be used."""
        return tuple(self._notes)

    @property
    def any_answered(self) -> bool:
        """Whether any query so far was answered as a WebUI does; others answer with JSON too."""
        known = any(_is_of_webui(path, answer) for path, answer in self._answers.items())
        return known or any(self._lists.values())

    def has(self, path: str, *, timeout_s: float = ANSWER_TIMEOUT_S) -> bool | None:
        """Whether the route ``path`` exists, even if it refuses GET; None if unknown."""
        self.answer(path, noted=False, timeout_s=timeout_s)
        return self._presence[path]

    def answer(
        self,
        path: str,
        *,
        noted: bool = True,
        timeout_s: float = ANSWER_TIMEOUT_S,
        may_be_hidden: bool = False,
    ) -> Any:
        """The decoded JSON at ``path``; None if there is none.

        With ``may_be_hidden``, None also if the server rejects the credentials for this route. So
        it is for the options, because a run can continue without them.
        """
        if path not in self._answers:
            why: BackendError | None = None
            document: Any = None
            try:
                document = self._client.get(path, timeout_s=timeout_s)
            except AuthenticationError as error:
                if not may_be_hidden and path != OPTIONS:
                    raise
                why = error
            except _NOT_OFFERED as error:
                why = error
                if not self.refusal and not isinstance(error, RouteMissingError):
                    self.refusal = str(error)
            self._answers[path] = document
            self._presence[path] = _presence(document, why)
            if noted and document is None:
                self._note(path, why)
        return self._answers[path]

    def names(self, kind: NameKind, route: str | None = None) -> NameList | None:
        """What the server has of a kind, at ``route`` where that is not the usual one."""
        path = route or KINDS[kind].route
        if path not in self._lists:
            self._lists[path] = self._read(path, KINDS[kind].reader)
        return self._lists[path]

    def refresh(self, kind: NameKind, route: str | None = None) -> bool:
        """Have the server read its files of a kind again, once; whether that was possible."""
        refresh_route = KINDS[kind].refresh_route
        if refresh_route is None or kind in self._refreshed:
            return False
        self._refreshed.add(kind)
        try:
            self._client.post(refresh_route, {})
        except _NOT_OFFERED:
            self.not_refreshed.add(kind)
            return False
        path = route or KINDS[kind].route
        self._answers.pop(path, None)
        self._lists.pop(path, None)
        return True

    def version(self) -> str | None:
        """The exact version, as the server's user interface shows it; asked for anew each time.

        The server takes a second or more.
        """
        try:
            answer = self._client.get(SYSINFO, timeout_s=_SYSINFO_TIMEOUT_S)
        except BackendError:
            return None
        return self._shown(answer, "Version")

    def detailer_version(self) -> str | None:
        """The version of the extension ADetailer, where it reports one."""
        answer = self.answer(_DETAILER_VERSION, noted=False, may_be_hidden=True)
        return self._shown(answer, "version")

    def _shown(self, answer: Any, key: str) -> str | None:
        """A version in an answer, as it may be recorded and shown."""
        version = answer.get(key) if isinstance(answer, Mapping) else None
        if not isinstance(version, str):
            return None
        shown = self._client.credentials.scrub(_CONTROL.sub("", version))
        return shown.strip()[:_LONGEST_VERSION] or None

    def prompts_of_styles(self, names: Sequence[str]) -> Iterator[str]:
        """The prompts, with the negative ones, that the server adds for these styles."""
        rows = self.answer(KINDS[NameKind.STYLE].route)
        for row in rows if isinstance(rows, list) else ():
            if isinstance(row, Mapping) and row.get("name") in names:
                yield f"{row.get('prompt') or ''} {row.get('negative_prompt') or ''}"

    def nearest(self, name: str, known: NameList) -> tuple[str, ...]:
        """The most similar names, without credentials."""
        return tuple(map(self._client.credentials.scrub, nearest_names(name, known)))

    def stems(self) -> Mapping[str, str]:
        """By each name that a checkpoint goes by, the stem that the server's answers give it."""
        known = self.names(NameKind.CHECKPOINT) or ()
        return {form: stem(entry.name) for entry in known for form in entry.forms}

    def names_in_use(self) -> frozenset[str]:
        """The checkpoint, VAE and modules that the server has loaded, as its options name them."""
        document = self.answer(OPTIONS, noted=False)
        options = document if isinstance(document, Mapping) else {}
        modules = options.get("forge_additional_modules")
        paths = (
            [one for one in modules if isinstance(one, str)] if isinstance(modules, list) else []
        )
        named = [options.get("sd_model_checkpoint"), options.get("sd_vae"), *map(file_of, paths)]
        return frozenset(one for one in named if isinstance(one, str))

    def img2img_scripts(self) -> frozenset[str] | None:
        """The scripts that img2img can run, in lower case."""
        document = self.answer(SCRIPTS)
        found = document.get("img2img") if isinstance(document, Mapping) else None
        if isinstance(found, list):
            return frozenset(name.casefold() for name in found if isinstance(name, str))
        if document is not None:
            self._note(SCRIPTS)
        return None

    def most_detailer_passes(self) -> int | None:
        """How many passes of ADetailer the server runs; it drops any further ones."""
        document = self.answer(OPTIONS)
        found = document.get("ad_max_models") if isinstance(document, Mapping) else None
        return found if type(found) is int else None

    def _read(self, path: str, reader: Reader) -> NameList | None:
        document = self.answer(path)
        if document is None:
            return None
        is_of_detectors = path == KINDS[NameKind.DETECTOR].route and isinstance(document, Mapping)
        rows = document.get("ad_model") if is_of_detectors else document
        if path == KINDS[NameKind.EMBEDDING].route and isinstance(document, Mapping):
            rows = [*(document.get("loaded") or ()), *(document.get("skipped") or ())]
        entries = _entries(rows, reader)
        if entries is None:
            self._note(path)
        return entries

    def _note(self, path: str, why: BackendError | None = None) -> None:
        words = f"{self._client.address.url}{path}: the answer is not a list of names"
        self._notes.append(f"not checked: {why or words}")


def _is_of_webui(path: str, answer: Any) -> bool:
    key = _SIGNS.get(path.partition("?")[0])
    return isinstance(answer, Mapping) and key in answer


def _presence(document: Any, error: BackendError | None) -> bool | None:
    """Whether a GET met a route: it gave something, or it was refused as an existing one is."""
    if not isinstance(error, ServerError):
        return document is not None
    status = error.status or 0
    if status >= 500:
        return None
    if isinstance(error, OtherPageError):
        return False
    return status >= 400 and not isinstance(error, RouteMissingError)


def _entries(rows: Any, reader: Reader) -> NameList | None:
    """The entries of a list; None if the answer is not such a list."""
    if not isinstance(rows, list) or len(rows) > _MOST_ENTRIES:
        return None
    found: tuple[Entry, ...] = tuple(entry for row in rows if (entry := reader(row)) is not None)
    return found if found or not rows else None
