"""Replaces credentials, home folders and mail addresses, recognised by name or form."""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable

import pybase64

from .rules import BEGIN, CREDENTIALS, MAIL_ADDRESS
from .secret_names import names_secret

STAND_IN = "***"
"""Replaces a credential."""
HOME = "~"
"""Replaces the path of a home folder."""

Replaced = tuple[str, int]
"""A text after a replacement, and the number of replacements."""

_QUOTE = r"\\{0,8}[\"']"
_SPACE = r"\s{0,8}"
_BYTES = r"(?:b(?=[\"'\\]))?"
"""The prefix of a bytes literal in Python."""
_NAME_OF_VALUE = r"[A-Za-z_][\w-]{1,127}+"

# --- Names before a value; each match ends where the value starts

_PAIR = re.compile(
    rf"(?<!\w)(?P<name>{_NAME_OF_VALUE})(?P<sign>(?:{_QUOTE})?{_SPACE}[:=]{_SPACE}{_BYTES})"
)
_OPTION = re.compile(
    rf"(?<![\w-])--?(?P<name>{_NAME_OF_VALUE})"
    rf"(?P<sign>(?:{_QUOTE})?(?:{_SPACE}[,=]{_SPACE}|\s{{1,8}}){_BYTES})(?!-)"
)
_IN_BRACKETS = re.compile(
    rf"[\[(]{_SPACE}{_BYTES}{_QUOTE}(?P<name>{_NAME_OF_VALUE})"
    rf"(?P<sign>{_QUOTE}{_SPACE},{_SPACE}{_BYTES})(?=\\{{0,8}}[\"'])"
)
_NAMED = re.compile(
    rf"(?i){_QUOTE}(?:name|key|header){_QUOTE}{_SPACE}:{_SPACE}{_QUOTE}(?P<name>{_NAME_OF_VALUE})"
    rf"{_QUOTE}{_SPACE},{_SPACE}{_QUOTE}value(?P<sign>{_QUOTE}{_SPACE}:{_SPACE})"
)
_CLOSED = re.compile(rf"{_QUOTE}{_SPACE}[\])]")
_OPENING = re.compile(r"(\\{0,8})([\"'])")
_NEXT_QUOTE = {mark: re.compile(rf"(?<!\\)(\\*+){mark}") for mark in "\"'"}
_TO_LINE_END = re.compile(
    r"(?:[^\r\n\"'\\]|(?<==)(?P<quote>\\{0,8}[\"'])[^\r\n\"'\\]*+(?P=quote))++"  # a="b", too
)
_TO_SPACE = re.compile(r"(?:[^\s\"'\\]|\\{1,8}(?![\\nrt\"'\s]))++")
_TO_SIGN = re.compile(r"(?:[^\s,;&\"'<>(){}\[\]\\]|\\{1,8}(?![\\nrt\"'\s]))++")
_HEADER = re.compile(r"(?i)(?:proxy-)?authorization|(?:set-)?cookie2?")
_JUDGED = 256
_WEIGHT = re.compile(r"\d{0,2}(?:\.\d{1,4})?")
_WORD = re.compile(r"[A-Za-z'-]{0,20}")
_VAGUE = frozenset(
    [
        *("secret", "secrets", "auth", "cookie", "cookies", "token", "bearer", "pass", "pw"),
        *("signature", "sig", "credential", "credentials"),
    ]
)
"""Names that also occur in prompts."""
_ASSIGNED = frozenset(["secret", "secrets", "pass", "signature"])
_ASSIGNED_WORD = re.compile(
    r"none|true|false|yes|no|on|off|top|bottom|left|right|center|\d{0,2}(?:\.\d{1,4})?"
)
"""Values that occur in prompts: `pass=2`, `secrets=none`, `signature=bottom`."""

# --- Credentials with a form of their own

_USERINFO = re.compile(
    r"(?P<sign>:\\{0,8}/\\{0,8}/|%3[Aa]%2[Ff]%2[Ff])"
    r"(?:[^\s/?#\"'<>\\]{1,512}@"  # user, password, and as many @ as there are
    r"|[^\s/?#@:\"'<>]{1,128}:(?!\d{1,5}(?:[/?#\s]|$))[^\s@\"'<>]{1,128}@"  # with a slash in it
    r"|(?:[^\s/?#&\"'<>%]|%(?!2[Ff])[0-9A-Fa-f]{2}){1,512}?%40)"
)
_SCHEME = re.compile(r"(?i)(?<![\w-])(basic|bearer|digest)(\s{1,8})([\w+/.~=-]{6,}+)")
_SHAPES = re.compile(f"{BEGIN}(?:{'|'.join(rule for _, rule in CREDENTIALS)})")
_HINT_OF_CREDENTIAL = re.compile(
    r"[:=@,_]|--|%40|eyJ|AKIA|ASIA|AIza|SG\.|ya29|hooks|[MNO][\w-]{22,27}\.|Auth\W"
    r"|(?i:basic|bearer|digest)|-[A-Za-z]"
)
"""A quick test: every text with a credential of a known form matches this."""


def without_credentials(text: str) -> Replaced:
    """The text with everything replaced that looks like a credential.

    That is: headers with credentials, the user and password of a URL, values of keys, options
    and URL parameters with a telling name, the values of ``Basic`` and ``Bearer``, and tokens
    with a known form.
    """
    if not _HINT_OF_CREDENTIAL.search(text):
        return text, 0
    text, total = _SHAPES.subn(_without_shape, text)
    text, count = _subn(_SCHEME, _scheme, text)
    total += count
    text, count = _subn(_USERINFO, lambda found: found["sign"], text)
    total += count
    for pattern in (_NAMED, _IN_BRACKETS, _OPTION, _PAIR):
        text, count = _without_values(pattern, text)
        total += count
    return text, total


def _without_shape(found: re.Match[str]) -> str:
    return "".join(filter(None, found.groups())) + STAND_IN


def _subn(pattern: re.Pattern[str], replace: Callable[[re.Match[str]], str], text: str) -> Replaced:
    """Like ``re.subn``, but unchanged matches are not counted."""
    changed = 0

    def replaced(found: re.Match[str]) -> str:
        nonlocal changed
        new = replace(found)
        changed += new != found[0]
        return new

    return pattern.sub(replaced, text), changed


def _without_values(pattern: re.Pattern[str], text: str) -> Replaced:
    """The text without the values after telling names that ``pattern`` finds."""
    kept: list[str] = []
    done = count = 0
    for found in pattern.finditer(text):
        if found.start() < done or not _names_credential(found, text):
            continue
        # Judging only the beginning keeps the time linear for hostile texts.
        begin, end = _value_after(found, text, found.end() + _JUDGED)
        if begin == found.end() and _is_harmless(found, text[begin:end]):
            continue
        begin, end = _value_after(found, text, len(text))
        if pattern is _IN_BRACKETS and not _CLOSED.match(text, end):
            continue  # a list of words, not a name and its value
        if text[begin:end] not in ("", STAND_IN):
            kept += (text[done:begin], STAND_IN)
            done, count = end, count + 1
    return "".join([*kept, text[done:]]), count


def _names_credential(found: re.Match[str], text: str) -> bool:
    name = found["name"]
    if names_secret(name):
        return True
    # A plain "key" can mean anything, but as a URL parameter it is a credential.
    return (
        name == "key" and found["sign"] == "=" and text[found.start() - 1 : found.start()] in "?&"
    )


def _value_after(found: re.Match[str], text: str, until: int) -> tuple[int, int]:
    """Start and end of the value, without its quotes; the end is at most ``until``."""
    begin = found.end()
    opening = _OPENING.match(text, begin)
    if opening is not None:
        return opening.end(), _end_of_quoted(text, opening, until)
    if _HEADER.fullmatch(found["name"]) and found.re is _PAIR:
        pattern = _TO_LINE_END
    else:
        pattern = _TO_SPACE if found.re is _OPTION else _TO_SIGN
    bare = pattern.match(text, begin, until)
    return begin, begin if bare is None else bare.end()


def _end_of_quoted(text: str, opening: re.Match[str], until: int) -> int:
    """The end of a quoted text, which may hold escaped quotes; ``until`` if it is not closed.

    In nested texts a quote is preceded by 0, 1, 3, 7 ... backslashes, and an escaped quote by
    the next number of this sequence.
    """
    level = len(opening[1])
    for found in _NEXT_QUOTE[opening[2]].finditer(text, opening.end(), until):
        before = len(found[1])
        if before < level or before % (2 * level + 2) == level:
            return found.end() - 1 - min(before, level)
    return until


def _is_harmless(found: re.Match[str], value: str) -> bool:
    """Whether an unquoted value after a telling name is a word of a prompt."""
    if found.re is not _PAIR:
        return False
    name, sign = found["name"].lower(), found["sign"]
    if "cookie" in name and _HEADER.fullmatch(name):
        return "=" not in value and ":" in sign
    if "=" in sign:
        # After ? or & it is a URL parameter.
        is_parameter = found.string[max(0, found.start() - 1) : found.start()] in ("?", "&")
        is_vague = found["name"] in _ASSIGNED and not is_parameter
        return is_vague and bool(_ASSIGNED_WORD.fullmatch(value))
    # Prompts may hold "(token:1.2)" and "a secret: the garden".
    is_word = name in _VAGUE and (_WORD.fullmatch(value) or value.startswith("//"))
    return bool(is_word or _WEIGHT.fullmatch(value))


def _scheme(found: re.Match[str]) -> str:
    name, space, value = found.groups()
    telling = _is_basic(value) if name.lower() == "basic" else _is_token(value)
    return f"{name}{space}{STAND_IN}" if telling else found[0]


def _is_basic(value: str) -> bool:
    """Whether it is ``user:password`` in base64."""
    padded = value.rstrip("=") + "=" * (-len(value.rstrip("=")) % 4)
    try:
        return b":" in pybase64.b64decode(padded, validate=True)
    except (ValueError, binascii.Error):
        return False


def _is_token(value: str) -> bool:
    return len(value) >= 16 and bool(re.search(r"\d", value))


# --- Home folders

_SLASH, _BACKSLASH = r"%(?:25){0,4}2[Ff]", r"%(?:25){0,4}5[Cc]"
_SEPARATOR = rf"(?:\\{{1,8}}(?:u002[Ff])?|/{{1,8}}|{_SLASH}|{_BACKSLASH})"
_NAME = rf"(?:(?!{_SLASH}|{_BACKSLASH})[^\s/\\\"'<>|:;,*?()\[\]{{}}&`])"
_SPACED_NAME = r"[^/\\:*?\"<>|\r\n']"
_MORE_WORDS = rf"(?: {_NAME}{{1,32}}){{1,3}}"
_HOMES = re.compile(
    rf"(?:{_SEPARATOR}(?:var|usr|export|(?:mnt|cygdrive|host_mnt){_SEPARATOR}[a-z]|[a-z])"
    rf"(?={_SEPARATOR}))?{_SEPARATOR}(?:home|Users){_SEPARATOR}{_NAME}{{1,256}}"
    rf"(?:{_MORE_WORDS}(?=[/\\]))?"
)
_QUOTED_HOMES = re.compile(
    rf"(?<=[\"'])/(?:home|Users)/{_NAME}{{1,256}}{_MORE_WORDS}(?=[\"'])"  # nothing but the folder
)
_WINDOWS_HOMES = re.compile(
    rf"(?i)(?:(?<![a-z0-9])[a-z](?::|%3A)(?:\\{{1,8}}|/{{1,8}}|%2F|%5C)|\\{{1,8}})"
    rf"(?:users|home|documents and settings)(?:\\{{1,8}}|/{{1,8}}|%2F|%5C)"
    rf"(?:{_SPACED_NAME}{{1,64}}(?=[/\\])|{_NAME}{{1,64}}{_MORE_WORDS}(?=[\"':\r\n]|$)"
    rf"|{_NAME}{{1,256}}(?-i: [A-Z]{_NAME}{{0,32}}){{0,3}})"
)
_ROOTS = re.compile(
    rf"(?<![\w.~-])(?:{_SEPARATOR}(?:private{_SEPARATOR})?var)?{_SEPARATOR}root(?![\w-])"
)
USUAL_HOMES = (b"home", b"users", b"root", b"documents")
"""Every usual path of a home folder holds one of these words."""
_HINT = re.compile(b"|".join(USUAL_HOMES).decode(), re.IGNORECASE)


def without_usual_homes(text: str) -> Replaced:
    """The text with ``~`` instead of the usual paths of home folders.

    That is ``/home/NAME``, ``/Users/NAME``, ``/root`` and ``C:\\Users\\NAME``, also as written
    in JSON, in URLs and in one system's view of another.
    """
    total = 0
    if _HINT.search(text):
        for pattern in (_QUOTED_HOMES, _WINDOWS_HOMES, _HOMES, _ROOTS):
            text, count = pattern.subn(HOME, text)
            total += count
    return text, total


# --- Mail addresses, and folders outside home folders

_MAIL_ADDRESS = re.compile(MAIL_ADDRESS)
_SLASHES = rf"(?:\\{{0,8}}/|{_SLASH})"
_BACKSLASHES = r"(?:\\{1,8}|/)"
_IN_PART = rf"(?:(?!{_SLASH}|{_BACKSLASH})[^\s/\\\"'<>|:;*?])"
_SYSTEM_FOLDERS = "|".join(
    [
        *("usr", r"lib\w*", "bin", "sbin", "etc", "proc", "sys", "dev", "opt", "snap", "nix"),
        *("app", "tmp", "var", "private", "System", "Library", "Applications"),
        *("sdapi", "api", "controlnet", "internal"),  # paths of URLs, which are kept
    ]
)
"""Folders that say nothing about the user."""
_WINDOWS_SYSTEM_FOLDERS = r"(?i:windows|program(?:data| files(?: \(x86\))?)|python\w*)"


def _folders(begin: str, separator: str, fewest: int) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Patterns for the folders of a file, and for a path of at least ``fewest`` folders."""
    folder = rf"{_IN_PART}{{1,128}}+(?: {_IN_PART}{{1,32}}+){{0,3}}"
    file = rf"{_NAME}{{1,128}}(?: {_NAME}{{1,32}}){{0,3}}\.[A-Za-z]\w{{0,11}}\.?"
    last = rf"{_NAME}{{1,128}}+(?:{_MORE_WORDS}(?=[\"':\r\n]|$))?"
    return (
        re.compile(rf"{begin}(?:{folder}({separator})){{1,32}}+(?={file}(?!{_NAME}|{separator}))"),
        re.compile(rf"{begin}(?:{folder}{separator}){{{fewest},32}}+(?:{last})?()"),
    )


_FOLDERS = (
    *_folders(
        rf"(?:(?<![\w.~%<)\]}}*/\\-])|(?<=file://)){_SLASHES}"
        rf"(?!/|(?:{_SYSTEM_FOLDERS}){_SLASHES})",
        _SLASHES,
        3,
    ),
    *_folders(
        rf"(?<![A-Za-z0-9])[A-Za-z]:{_BACKSLASHES}(?!{_WINDOWS_SYSTEM_FOLDERS}{_BACKSLASHES})",
        _BACKSLASHES,
        2,
    ),
    *_folders(r"(?<![^\s=\"'])\\{2,16}[\w.-]{2,64}+\\{1,8}", _BACKSLASHES, 2),
)


def without_mail_addresses(text: str) -> Replaced:
    """The text with mail addresses replaced."""
    return _MAIL_ADDRESS.subn(STAND_IN, text) if "@" in text or "%40" in text else (text, 0)


def without_other_folders(text: str) -> Replaced:
    """The text with ``***`` instead of other folders; file names are kept.

    System folders are kept as well, and so are short paths without a file.
    """
    total = 0
    if "/" in text or "\\" in text or "%2" in text:
        for pattern in _FOLDERS:
            text, count = pattern.subn(rf"{STAND_IN}\1", text)
            total += count
    return text, total


def home_pattern(homes: tuple[str, ...]) -> re.Pattern[str] | None:
    """A pattern for these home folders in texts, JSON and URLs; None if there are none."""
    forms = {form for home in homes for form in _home_forms(home)}
    if not forms:
        return None
    return re.compile("|".join(sorted(forms, key=len, reverse=True)))


_SHORT_HOME = 5


def _home_forms(home: str) -> list[str]:
    separator = r"(?:\\{1,8}|/|%2[Ff]|%5[Cc])"
    parts = [re.escape(part) for part in re.split(r"[/\\]", home)]
    form = separator.join(parts)
    if re.match("[A-Za-z]:", home):
        return [f"(?i:{form})"]
    # A short path is matched only as a whole, as it may begin any other path.
    return [form] if len(home) >= _SHORT_HOME else [rf"(?<![\w.~-]){form}(?![\w.-])"]
