"""Replaces private text in strings, JSON values and events, and counts the replacements."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from ....events.codec import encode_line
from ....events.model import RunOpened, RunResumed, RunSealed, StageEvent
from ...credentials.names import names_secret
from ...credentials.rules import (
    CREDENTIAL_RULES,
    CREDENTIALS,
    FOLDER_RULES,
    HOME_RULES,
    HOMES,
    MAIL_RULE,
    STAND_IN,
    Rule,
)
from .private_names import PrivateNames

_HOSTS, _BOOTS, _USERS = "machine names", "boot ids", "account names"
_STRUCTURE = frozenset(
    [
        *("type", "run_id", "ts", "trigger", "source", "dest", "stage_id", "stage_type"),
        *("call_id", "request_sha256", "outcome", "mode", "head", "copied_to"),
    ]
)
"""Fields of events that hold an id, a time, a digest or a word of a fixed list."""
_NESTED_STRUCTURE = frozenset(["stage_id", "stage_type", "sha256", "source_sha256"])
"""Such fields in plans, artifacts, inputs and errors."""
_WORD = re.compile(r"[\w.:+-]*")
_SMALL = 100
"""Numbers below this are not secrets, but for example the weight of a token."""
_SHORT, _REMEMBERED = 256, 4096
_SHORTEST_HOST, _LONG_PASSWORD = 3, 8
_NO_HOSTS = ("localhost", "localhost.localdomain")
_SEPARATOR = re.compile(r"\\+|/+|%(?:25)*(?:2F|5C)", re.IGNORECASE)
_HOMES_OF_ALL = ("", "home", "users")


class StandIns:
    """Gives each name of one kind a stand-in, such as ``host-1``, always the same."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._known: dict[str, str] = {}

    def of(self, name: str) -> str:
        """The stand-in of a name; upper and lower case make no difference."""
        return self._known.setdefault(name.casefold(), f"{self._kind}-{len(self._known) + 1}")


class Redactor:
    """Replaces private text, always in the same way, and counts the replacements by kind."""

    def __init__(self, names: PrivateNames) -> None:
        self.left_out: Counter[str] = Counter()
        self._hosts, self._boots = StandIns("host"), StandIns("boot")
        self._folders = StandIns("folder")
        homes = [home for home in names.homes if home.strip("/\\").lower() not in _HOMES_OF_ALL]
        self._secret_rules = (
            *_password_rules(names.password),
            *CREDENTIAL_RULES,
            *map(_home_rule, sorted(homes, key=len, reverse=True)),
            *HOME_RULES,
        )
        folders = (rule._replace(stand_in=self._folder) for rule in FOLDER_RULES)
        self._name_rules = (*_user_rules(names.user), MAIL_RULE, *folders)
        self._remembered = lru_cache(_REMEMBERED)(self._redacted)
        self._word_holds_secret = lru_cache(_REMEMBERED)(self.holds_secret)
        self._note_host(names.host)

    def note(self, events: Sequence[StageEvent]) -> None:
        """Learn the names of machines from the events of a run, before any text is replaced."""
        for event in events:
            if isinstance(event, RunOpened | RunResumed):
                self._note_host(event.host)

    def text(self, text: str) -> str:
        """The text with private text replaced."""
        # Keys and names repeat often.
        redact = self._remembered if len(text) <= _SHORT else self._redacted
        new, counts = redact(text)
        self.left_out.update(counts)
        return new

    def changes(self, text: str) -> bool:
        """Whether a text holds private text; does not count."""
        return self._redacted(text)[0] != text

    def holds_secret(self, text: str) -> bool:
        """Whether a text holds credentials or a home folder; does not count."""
        return any(rule.pattern.search(text) for rule in self._secret_rules)

    def event(self, body: bytes, *, chain: bytes) -> bytes:
        """The bytes of an event with private text replaced, as a record of a new log.

        ``chain`` is the chain value of the new log at this record, which a seal repeats. Raises
        one of DECODE_ERRORS for an event that is not UTF-8 or is nested too deep.
        """
        document = msgspec.json.decode(body, type=dict[str, Any])
        if document["type"] == RunSealed.__name__:
            document["head"] = chain.decode()
        for name, kind, names in (("host", _HOSTS, self._hosts), ("boot_id", _BOOTS, self._boots)):
            value = document.get(name)
            if isinstance(value, str) and value:
                self.left_out[kind] += 1
                document[name] = names.of(_without_domain(value))
        return encode_line(dict(self._table(document, _STRUCTURE)))

    def value(self, value: Any) -> Any:
        """A JSON value with private text replaced, in keys as well; prompts are kept."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return dict(self._table(value, _NESTED_STRUCTURE))
        if isinstance(value, list):
            return list(self._list(value))
        return value

    def _table(self, table: dict[str, Any], structure: frozenset[str]) -> Iterator[tuple[str, Any]]:
        for key, value in table.items():
            new_key = self._word(key) if key.isidentifier() else self.text(key)
            if key in structure and isinstance(value, str) and _WORD.fullmatch(value):
                yield new_key, self._word(value)
            elif key == "from" and structure is _STRUCTURE and isinstance(value, dict):
                yield new_key, dict(self._table(value, structure))  # ids of an earlier run
            elif names_secret(key) and _may_be_secret(value):
                self.left_out[CREDENTIALS] += 1
                yield new_key, STAND_IN
            elif key.lower().endswith("prompt") and isinstance(value, str):
                yield new_key, value
            elif key.lower().endswith("prompts") and isinstance(value, list):
                yield new_key, [one if isinstance(one, str) else self.value(one) for one in value]
            else:
                yield new_key, self.value(value)

    def _list(self, parts: Sequence[Any]) -> Iterator[Any]:
        """The parts of a list; the value of an option or of a pair may be a secret."""
        before: Any = None
        for part in parts:
            is_value = isinstance(before, str) and (len(parts) == 2 or before.startswith("-"))
            is_option = isinstance(part, str) and part.startswith("-")
            if is_value and names_secret(before) and _may_be_secret(part) and not is_option:
                self.left_out[CREDENTIALS] += 1
                yield STAND_IN
            else:
                yield self.value(part)
            before = part

    def _word(self, word: str) -> str:
        """An id or a word of a fixed list, which may happen to be the name of a machine."""
        return self.text(word) if self._word_holds_secret(word) else word

    def _redacted(self, text: str) -> tuple[str, dict[str, int]]:
        counts: dict[str, int] = {}
        for rule in (*self._secret_rules, *self._name_rules):
            text, count = rule.replace(text)
            if count:
                counts[rule.kind] = counts.get(rule.kind, 0) + count
        return text, counts

    def _folder(self, found: re.Match[str]) -> str:
        path = _SEPARATOR.sub("/", found[0]).rstrip("/")
        return self._folders.of(path) + (found["end"] or "")

    def _note_host(self, host: str) -> None:
        short = _without_domain(host)
        if len(short) < _SHORTEST_HOST or host in _NO_HOSTS:
            return
        names = "|".join(map(re.escape, (host, short)))
        pattern = re.compile(rf"(?i)(?<![\w-])(?:{names})(?![\w-])")
        rule = Rule(_HOSTS, pattern, self._hosts.of(short))
        if rule not in self._name_rules:
            self._name_rules = (*self._name_rules, rule)


def _without_domain(host: str) -> str:
    short = host.partition(".")[0]
    return host if short.isdigit() else short  # an address


def _may_be_secret(value: Any) -> bool:
    if isinstance(value, int | float):
        return not isinstance(value, bool) and abs(value) >= _SMALL
    return value is not None and value != ""


def _password_rules(password: str) -> tuple[Rule, ...]:
    """The password as it is; a short one where it is not a part of a longer word."""
    if not password:
        return ()
    word = re.escape(password)
    pattern = word if len(password) >= _LONG_PASSWORD else rf"(?<!\w){word}(?!\w)"
    return (Rule(CREDENTIALS, re.compile(pattern)),)


def _home_rule(home: str) -> Rule:
    separator = r"(?:\\{1,8}|/|%2[Ff]|%5[Cc])"
    path = separator.join(map(re.escape, re.split(r"[/\\]", home)))
    flags = re.IGNORECASE if re.match("[A-Za-z]:", home) else 0
    return Rule(HOMES, re.compile(rf"(?<![\w.~-]){path}(?![\w-])", flags), "~")


def _user_rules(user: str) -> tuple[Rule, ...]:
    """A user name as a part of a path, or before ``@``."""
    if len(user) < 2 or user == "user":
        return ()
    name = re.escape(user)
    pattern = rf"(?<=[/\\]){name}(?=[/\\\s\"']|$)|(?<![\w.-]){name}(?=@)"
    return (Rule(_USERS, re.compile(pattern), "user"),)
