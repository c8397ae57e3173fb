"""Reads the lists of names that a server offers, each once and on demand."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

import msgspec

from ....statemachine.errors import BackendAnswerError, BackendError
from .answer_check import stem
from .client import WebUIClient
from .errors import (
    AuthenticationError,
    RequestRefusedError,
    RouteMissingError,
    ServerError,
    ServerFailureError,
    ServerOutOfMemoryError,
)
from .features import FORGE, OPTIONS, SCHEDULERS, SD_MODULES, ServerFeatures

SD_MODELS = "/sdapi/v1/sd-models"
SD_VAE = "/sdapi/v1/sd-vae"
SAMPLERS = "/sdapi/v1/samplers"
UPSCALERS = "/sdapi/v1/upscalers"
LATENT_MODES = "/sdapi/v1/latent-upscale-modes"
PROMPT_STYLES = "/sdapi/v1/prompt-styles"
SCRIPTS = "/sdapi/v1/scripts"
DETECTORS = "/adetailer/v1/ad_model"

_MOST_ENTRIES = 50_000
"""Longer lists are ignored; a user could not choose from them."""
_LONGEST_NAME = 1000
_MOST_COMPARED = 5_000
_LONGEST_COMPARED = 200
_MOST_NEAREST = 3
_HASH = re.compile(r"\s\[[0-9a-fA-F]+\]$")
_SLASHES = re.compile(r"[/\\]")
_NOT_OFFERED = (
    RequestRefusedError,
    ServerFailureError,
    ServerOutOfMemoryError,
    BackendAnswerError,
)
"""Errors that concern one route, not the whole server."""


def _presence(document: Any, error: BackendError | None) -> bool | None:
    """Whether a route exists, judging by the answer to GET; None if that is unknown."""
    if not isinstance(error, ServerError):
        return document is not None
    status = error.status or 0
    if status >= 500:
        return None
    return status >= 400 and not isinstance(error, RouteMissingError)


class Entry(msgspec.Struct, frozen=True):
    """One entry of a list: its name, and all names that a request may use for it."""

    name: str
    forms: frozenset[str]


NameList = tuple[Entry, ...]


def vae_list(features: ServerFeatures) -> str:
    """The route of the VAE list; Forge lists VAEs among its modules."""
    return SD_MODULES if features.product == FORGE else SD_VAE


def is_among(known: NameList, *names: str) -> bool:
    """Whether the list has an entry with one of these names."""
    return any(name in entry.forms for entry in known for name in names)


def nearest_names(name: str, known: NameList) -> tuple[str, ...]:
    """The names in ``known`` that are most similar to ``name``, the best first."""
    by_form: dict[str, str] = {}
    for entry in known[:_MOST_COMPARED]:
        for form in (entry.name, stem(entry.name), *entry.forms):
            by_form.setdefault(form[:_LONGEST_COMPARED].casefold(), entry.name)
    asked = name[:_LONGEST_COMPARED].casefold()
    close = get_close_matches(asked, by_form, n=2 * _MOST_NEAREST)
    return tuple(dict.fromkeys(by_form[form] for form in close))[:_MOST_NEAREST]


def stems_of(checkpoints: NameList) -> Mapping[str, str]:
    """The stem that answers report for a checkpoint, by each of its names."""
    return {form: stem(entry.name) for entry in checkpoints for form in entry.forms}


class ServerLists:
    """The lists of one server, each read once.

    Every method raises ServerError if the server cannot be reached or rejects the credentials.
    A list that is not offered or not valid is None; ``notes`` say why.
    """

    def __init__(self, client: WebUIClient) -> None:
        self._client = client
        self._answers: dict[str, Any] = {}
        self._lists: dict[str, NameList | None] = {}
        self._presence: dict[str, bool | None] = {}
        self._notes: list[str] = []

    @property
    def notes(self) -> tuple[str, ...]:
        """Why lists cannot be used."""
        return tuple(self._notes)

    @property
    def any_answered(self) -> bool:
        """Whether any query so far was answered with JSON."""
        return any(document is not None for document in self._answers.values())

    def has(self, path: str) -> bool | None:
        """Whether the route ``path`` exists, even if it refuses GET; None if unknown."""
        self.answer(path, noted=False)
        return self._presence[path]

    def answer(self, path: str, *, noted: bool = True) -> Any:
        """The decoded JSON at ``path``; None if there is none."""
        if path not in self._answers:
            why: BackendError | None = None
            document: Any = None
            try:
                document = self._client.get(path)
            except AuthenticationError:
                raise
            except _NOT_OFFERED as error:
                why = error
            self._answers[path] = document
            self._presence[path] = _presence(document, why)
            if noted and document is None:
                self._note(path, why)
        return self._answers[path]

    def names(self, path: str) -> NameList | None:
        """The list at ``path``, one of those that this module names."""
        if path not in self._lists:
            self._lists[path] = self._read(path)
        return self._lists[path]

    def nearest(self, name: str, known: NameList) -> tuple[str, ...]:
        """The most similar names, without credentials."""
        return tuple(map(self._client.credentials.scrub, nearest_names(name, known)))

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

    def _read(self, path: str) -> NameList | None:
        document = self.answer(path)
        if document is None:
            return None
        rows = (
            document.get("ad_model")
            if path == DETECTORS and isinstance(document, Mapping)
            else document
        )
        entries = _entries(rows, _READERS[path])
        if entries is None:
            self._note(path)
        return entries

    def _note(self, path: str, why: BackendError | None = None) -> None:
        words = f"{self._client.address.url}{path}: the answer is not a list of names"
        self._notes.append(f"not checked: {why or words}")


def _entries(rows: Any, reader: Callable[[Any], Entry | None]) -> NameList | None:
    """The entries of a list; None if the answer is not such a list."""
    if not isinstance(rows, list) or len(rows) > _MOST_ENTRIES:
        return None
    found = tuple(entry for row in rows if (entry := reader(row)) is not None)
    return found if found or not rows else None


def _texts(row: Any, *keys: str) -> list[str]:
    """The values of keys that hold a string."""
    document: Mapping[str, Any] = row if isinstance(row, Mapping) else {}
    values = (document.get(key) for key in keys)
    return [one for one in values if isinstance(one, str) and 0 < len(one) <= _LONGEST_NAME]


def _checkpoint(row: Any) -> Entry | None:
    """A checkpoint with all names by which the server itself looks it up.

    Those are its title, its path in the models' folder (the title without hash), its stem,
    what the list calls model_name, and its hashes; each but the last also with `` [hash]``.
    """
    titles = _texts(row, "title")
    if not titles:
        return _named_model(row)
    path = _HASH.sub("", titles[0])
    plain = {path, stem(path), *_texts(row, "model_name")}
    in_title = _HASH.search(titles[0])
    hashes = [*_texts(row, "hash", "sha256"), *([in_title[0].strip(" []")] if in_title else [])]
    hashed = {f"{name} [{one}]" for name in plain for one in hashes}
    return Entry(path, frozenset([*titles, *plain, *hashes, *hashed]))


def _named_model(row: Any) -> Entry | None:
    names = _texts(row, "model_name")
    files = [_SLASHES.split(path)[-1] for path in _texts(row, "filename")]
    known = [*names, *files]
    return Entry(known[0], frozenset(known)) if known else None


def _module(row: Any) -> Entry | None:
    """A VAE, which is named by its file name only."""
    names = _texts(row, "model_name")
    files = [_SLASHES.split(path)[-1] for path in _texts(row, "filename")]
    known = [*names, *files]
    return Entry(known[0], frozenset(known)) if known else None


def _scheduler(row: Any) -> Entry | None:
    names = _texts(row, "label", "name")
    return Entry(names[0], frozenset(names)) if names else None


def _named(row: Any) -> Entry | None:
    names = _texts(row, "name")
    return Entry(names[0], frozenset(names)) if names else None


def _detector(row: Any) -> Entry | None:
    if not isinstance(row, str) or not 0 < len(row) <= _LONGEST_NAME:
        return None
    return Entry(row, frozenset([row, _SLASHES.split(row)[-1]]))


_READERS: Mapping[str, Callable[[Any], Entry | None]] = {
    SD_MODELS: _checkpoint,
    SD_VAE: _module,
    SD_MODULES: _module,
    SAMPLERS: _named,  # since 1.10 an alias is silently replaced by DPM++ 2M
    SCHEDULERS: _scheduler,
    UPSCALERS: _named,
    LATENT_MODES: _named,
    PROMPT_STYLES: _named,
    DETECTORS: _detector,
}
