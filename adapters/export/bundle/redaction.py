"""Replaces private text in strings, JSON values and events, and counts the replacements."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from ....events.codec import CODEC, DECODE_ERRORS, EventDecodeError
from ....events.model import EVENT_TYPES, RunSealed, UnknownEvent
from ...credentials.patterns import (
    STAND_IN,
    USUAL_HOMES,
    Replaced,
    home_pattern,
    without_credentials,
    without_mail_addresses,
    without_other_folders,
    without_usual_homes,
)
from ...credentials.secret_names import names_secret
from .encodings import spans
from .errors import BundleRefusedError, event_became_invalid, password_in_text
from .private_words import OUR_KEYS, PrivateWords

CREDENTIALS, HOMES = "credentials", "home folders"
_HOSTS, _BOOTS, _USERS = "names of machines", "boot ids", "account names"
_MAIL, _FOLDERS = "mail addresses", "other folders"
_OPAQUE = "values that cannot be searched"
_KNOWN = frozenset(kind.__name__ for kind in EVENT_TYPES)
_DEEPEST = 100
_NAMES = ("name", "key", "header")
"""Keys of a table that may name the meaning of its ``value``."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_USER = "user"
_SMALL = 100
"""Numbers below this are not secrets, but for example the weight of a token."""
_SHORT, _REMEMBERED = 256, 4096

Step = tuple[str, Callable[[str], Replaced]]


class Redactor:
    """Replaces private text, always in the same way, and counts the replacements by kind."""

    def __init__(self, words: PrivateWords) -> None:
        self.left_out: Counter[str] = Counter()
        self.words = words
        self._credentials = _any_of(words.credentials)
        self._homes = home_pattern(words.homes)
        self._user = _segment(words.user)
        self._forms = tuple(map(_encoded, words.credentials))
        self._wide_forms = tuple(
            form.encode(order, "surrogatepass")
            for form in words.credentials
            for order in ("utf-16-le", "utf-16-be")
        )
        names = (re.split(r"[/\\]", home)[-1] for home in words.homes)
        self._home_hints = (
            *USUAL_HOMES,
            *(name.encode("utf-8", "surrogateescape").lower() for name in names),
        )
        self._remembered = lru_cache(_REMEMBERED)(_redacted)
        again = (CREDENTIALS, self._without_password)
        """Repeated last, because a replacement may join two parts of the password."""
        self._secrets: tuple[Step, ...] = (
            (CREDENTIALS, self._without_password),
            (CREDENTIALS, without_credentials),
            (HOMES, self._without_homes),
            again,
        )
        self._names: tuple[Step, ...] = (
            (_MAIL, without_mail_addresses),
            (_FOLDERS, without_other_folders),
            (_BOOTS, words.boots.in_words),
            (_HOSTS, words.hosts.in_words),
            (_USERS, self._without_user),
            again,
        )

    def text(self, text: str) -> str:
        """The text with credentials, home folders and names replaced."""
        return self._counted(text, self._secrets + self._names)

    def holds_secret(self, text: str) -> bool:
        """Whether a text holds credentials or a home folder; does not count."""
        return any(replace(text)[1] for _, replace in self._secrets)

    def changes(self, text: str) -> bool:
        """Whether ``text`` would be changed; does not count."""
        return any(replace(text)[1] for _, replace in self._secrets + self._names)

    def holds_wide_password(self, data: bytes) -> bool:
        """Whether bytes hold the password in UTF-16, which photo metadata uses."""
        return any(form in data for form in self._wide_forms)

    def holds_password(self, data: bytes) -> bool:
        """Whether bytes hold the password of the environment, in any form."""
        return any(form in data for form in self._forms)

    def holds_home(self, data: bytes) -> bool:
        """Whether bytes hold the path of a home folder."""
        # Searching an image for a pattern takes a hundred times as long as for a word.
        lowered = data.lower()
        if not any(hint in lowered for hint in self._home_hints):
            return False
        return bool(self._without_homes(data.decode("utf-8", "replace"))[1])

    @property
    def longest_password(self) -> int:
        """The length in bytes of the longest form of the password."""
        return max(map(len, self._forms), default=0)

    def value(self, value: Any) -> Any:
        """A JSON value with private text replaced, in keys as well."""
        return self._value(value, _DEEPEST)

    def event(self, body: bytes, *, seq: int, chain: bytes) -> bytes:
        """The bytes of an event with private text replaced, as record ``seq`` of a new log.

        ``chain`` is the chain value of the new log at this record, which a seal repeats. An
        unchanged event keeps its bytes, unless these hold hidden content such as duplicate
        keys. Raises BundleRefusedError if the result would not be an event.
        """
        document = self._decoded(body)
        fresh: dict[str, Any] = {"seq": seq}
        if document.get("type") == RunSealed.__name__:
            fresh |= {"count": seq, "head": chain.decode()}
        redacted = {**self._document(document), **fresh}
        new = msgspec.json.encode(redacted)
        if new == body:
            return body
        place = f"record {seq} of its log"
        tags = {redacted.get("type"), document["type"]}
        if len(tags) > 1 and tags & _KNOWN:  # It would become an event of another type.
            raise self._refusal(place)
        try:
            CODEC.decode(new)
        except EventDecodeError as error:
            raise self._refusal(place) from error
        return new

    def _refusal(self, place: str) -> BundleRefusedError:
        """The error for an event that would become invalid, or one of another type."""
        return event_became_invalid(place) if self._credentials is None else password_in_text(place)

    def _decoded(self, body: bytes) -> dict[str, Any]:
        try:
            return msgspec.json.decode(body, type=dict[str, Any])
        except DECODE_ERRORS:
            # A field of a newer version may hold text that is not valid.
            self.left_out[_OPAQUE] += 1
            event = CODEC.decode(body)
        if isinstance(event, UnknownEvent):
            envelope = msgspec.structs.asdict(event)
            return {name: part for name, part in envelope.items() if name != "raw"}
        return msgspec.json.decode(CODEC.encode(event), type=dict[str, Any])

    def _document(self, document: dict[str, Any]) -> dict[str, Any]:
        known = dict(document)
        for name, kind, names in (
            ("host", _HOSTS, self.words.hosts),
            ("boot_id", _BOOTS, self.words.boots),
        ):
            given = known.get(name)
            if isinstance(given, str) and given:
                self.left_out[kind] += 1
                known[name] = names.of(given)
        return dict(self._table(known, _DEEPEST))

    def _value(self, value: Any, deepest: int) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if not isinstance(value, dict | list | tuple):
            return value
        if not deepest:
            self.left_out[_OPAQUE] += 1
            return STAND_IN
        if isinstance(value, dict):
            return dict(self._table(value, deepest))
        return list(self._list(value, deepest))

    def _list(self, parts: Sequence[Any], deepest: int) -> Iterator[Any]:
        """The parts of a list; a value after a telling option or name is replaced."""
        before: Any = None
        for place, part in enumerate(parts):
            is_value = isinstance(before, str) and (
                (before.startswith("-") and "=" not in before and not str(part).startswith("-"))
                or (place == 1 and len(parts) == 2)
            )
            if is_value and names_secret(before) and _is_telling(part):
                self.left_out[CREDENTIALS] += 1
                yield STAND_IN
            else:
                yield self._value(part, deepest - 1)
            before = part

    def _table(self, table: dict[str, Any], deepest: int) -> Iterator[tuple[str, Any]]:
        taken: set[str] = set()
        named = any(isinstance(table.get(one), str) and names_secret(table[one]) for one in _NAMES)
        for name, part in table.items():
            steps = self._secrets if name in OUR_KEYS else self._secrets + self._names
            key = self._unique(self._counted(name, steps), taken)
            is_secret = names_secret(name) or (named and name == "value")
            if is_secret and _is_telling(part):
                self.left_out[CREDENTIALS] += 1
                yield key, STAND_IN
            else:
                yield key, self._value(part, deepest - 1)

    def _unique(self, key: str, taken: set[str]) -> str:
        """The key; with a number if another key was replaced by the same text."""
        free, number = key, 1
        while free in taken:
            number += 1
            free = f"{key}-{number}"
        taken.add(free)
        return free

    def _counted(self, text: str, steps: tuple[Step, ...]) -> str:
        # Keys, ids and stage names repeat often.
        redact = self._remembered if len(text) <= _SHORT else _redacted
        new, counts = redact(text, steps)
        for kind, count in counts:
            self.left_out[kind] += count
        return new

    def _without_password(self, text: str) -> Replaced:
        if self._credentials is None:
            return text, 0
        kept: list[str] = []
        done, found = 0, spans(self._credentials, text)
        for begin, end in found:
            kept += (text[done:begin], STAND_IN)
            done = end
        return "".join([*kept, text[done:]]), len(found)

    def _without_homes(self, text: str) -> Replaced:
        total = 0
        if self._homes is not None:
            text, total = self._homes.subn("~", text)
        text, usual = without_usual_homes(text)
        return text, total + usual

    def _without_user(self, text: str) -> Replaced:
        return (text, 0) if self._user is None else self._user.subn(_USER, text)


def _redacted(text: str, steps: tuple[Step, ...]) -> tuple[str, tuple[tuple[str, int], ...]]:
    """The text after these steps, and the number of replacements by each step."""
    if _DIGEST.fullmatch(text):
        # A part of a digest is never replaced; a whole digest may be the password.
        new, count = steps[0][1](text)
        return (new, ((steps[0][0], count),)) if new == STAND_IN else (text, ())
    counts = []
    for kind, replace in steps:
        text, count = replace(text)
        if count:
            counts.append((kind, count))
    return text, tuple(counts)


def _is_telling(value: Any) -> bool:
    """Whether a value with a telling name may be a secret."""
    if isinstance(value, int | float):
        return not isinstance(value, bool) and abs(value) >= _SMALL
    return value is not None and value != ""


def _any_of(forms: tuple[str, ...]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(re.escape, forms))) if forms else None


def _encoded(form: str) -> bytes:
    """The bytes in the environment, which may not be valid UTF-8."""
    return form.encode("utf-8", "surrogateescape")


def _segment(user: str) -> re.Pattern[str] | None:
    """A pattern for a user name as a part of a path, or before ``@``."""
    if len(user) < 2 or user == _USER:
        return None
    name = re.escape(user)
    return re.compile(rf"(?<=[/\\]){name}(?=[/\\\s\"']|$)|(?<![\w.-]){name}(?=@)")
