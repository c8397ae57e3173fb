"""Credentials and home folders by the shape that they have in texts, whoever's they are."""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise

import pybase64

STAND_IN = "***"
"""Stands where a credential stood."""
HOME = "~"
"""Stands where the path of a home folder stood."""

Replaced = tuple[str, int]
"""A text without what was sought, and how often that was there."""

_MOST = 4096
"""Characters of one value that is sought; it bounds the time that a hostile text can take."""

# --- Names that say that their value is a secret

_ALWAYS = (
    *("password", "passwords", "passwd", "passphrase", "passcode"),
    *("secret", "secrets", "apikey"),
)
_WORDS = frozenset(
    [
        *("pwd", "auth", "oauth", "authorization", "authentication", "bearer"),
        *("cookie", "cookies", "credential", "credentials"),
        *("sessionid", "jsessionid", "phpsessid"),
    ]
)
_PAIRS = frozenset(
    [
        *(("api", "key"), ("access", "key"), ("private", "key"), ("secret", "key")),
        *(("auth", "key"), ("session", "key"), ("account", "key"), ("shared", "key")),
        ("session", "id"),
    ]
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_BETWEEN = re.compile(r"[^a-z0-9]+")


@lru_cache(maxsize=1024)
def names_secret(name: str) -> bool:
    """Whether a key says that its value is a credential: ``api_key``, ``hfToken``, ``Cookie``.

    ``Token merging ratio`` and ``max_tokens`` do not.
    """
    words = [one for one in _BETWEEN.split(_CAMEL.sub("_", name[:256]).lower()) if one]
    return bool(words) and (
        words[-1].endswith("token")
        or any(word in _WORDS or word.endswith(_ALWAYS) for word in words)
        or any(pair in _PAIRS for pair in pairwise(words))
    )


# --- Credentials in texts

_QUOTE = r"\\{0,8}[\"']"
_HEADER = re.compile(
    rf"(?i)(?<![\w(])(?P<name>(?:proxy-)?authorization|(?:set-)?cookie2?)"
    rf"(?P<sign>(?:{_QUOTE})?\s{{0,8}}[:=,]\s{{0,8}}b?)"
    rf"(?:(?P<quote>{_QUOTE})(?P<quoted>.{{0,{_MOST}}}?)(?:(?P=quote)|$)"
    rf"|(?P<bare>[^\s\"'\\][^\r\n\"'\\]{{0,{_MOST}}}))"
)
_PAIR = re.compile(
    rf"(?<![\w-])(?P<name>[A-Za-z][\w-]{{1,63}})"
    rf"(?P<sign>(?:{_QUOTE})?\s{{0,8}}[:=]\s{{0,8}}b?)"
    rf"(?:(?P<quote>{_QUOTE})(?P<quoted>.{{0,{_MOST}}}?)(?:(?P=quote)|$)"
    rf"|(?P<bare>[^\s,;&\"'<>(){{}}\[\]\\]{{1,{_MOST}}}))"
)
_WEIGHT = re.compile(r"[\d.]{1,8}")
_USERINFO = re.compile(
    r"(?P<sign>:\\{0,8}/\\{0,8}/|%3[Aa]%2[Ff]%2[Ff])"
    r"(?:[^\s/?#\"'<>\\]{1,512}@"  # user, password, and as many @ as there are
    r"|[^\s/?#@:\"'<>]{1,128}:(?!\d{1,5}(?:[/?#\s]|$))[^\s@\"'<>]{1,128}@"  # with a slash in it
    r"|(?:[^\s/?#&\"'<>%]|%(?!2[Ff])[0-9A-Fa-f]{2}){1,512}?%40)"
)
_CREDENTIAL_HINT = re.compile(r"[:=@,]|%40|(?i:basic|bearer|digest)")
"""In every text that holds a credential of a shape that is looked for."""
_SCHEME = re.compile(r"(?i)(?<![\w-])(basic|bearer|digest)(\s{1,8})([\w+/.~=-]{6,4096})")


def without_credentials(text: str) -> Replaced:
    """The text without what looks like credentials.

    Those are headers that carry them, user and password of an address, values of keys and of
    parts of an address whose name says so, ``Basic`` and ``Bearer`` with what follows.
    """
    total = 0
    if not _CREDENTIAL_HINT.search(text):
        return text, 0
    for pattern, replace in _REPLACEMENTS:
        text, count = _subn(pattern, replace, text)
        total += count
    return text, total


def _subn(pattern: re.Pattern[str], replace: Callable[[re.Match[str]], str], text: str) -> Replaced:
    """As ``re.subn`` does, but what stays as it was does not count."""
    changed = 0

    def replaced(found: re.Match[str]) -> str:
        nonlocal changed
        new = replace(found)
        changed += new != found[0]
        return new

    return pattern.sub(replaced, text), changed


def _header(found: re.Match[str]) -> str:
    bare, sign = found["bare"], found["sign"]
    if "," in sign and found["quote"] is None:
        return found[0]  # a list of words, not a header and its value
    if bare is not None and "cookie" in found["name"].lower() and "=" not in bare:
        return found[0]
    return _without_value(found)


def _pair(found: re.Match[str]) -> str:
    bare = found["bare"]
    if not names_secret(found["name"]) or found["quoted"] == "":
        return found[0]
    if bare is not None and "=" not in found["sign"]:
        # "(token:1.2)" weighs a word of a prompt, and "a secret: the garden" is one.
        vague = found["name"].lower() in _VAGUE and not re.search(r"[\d_]", bare)
        if vague or _WEIGHT.fullmatch(bare) or bare.startswith("//"):
            return found[0]
    return _without_value(found)


_VAGUE = frozenset(["secret", "secrets", "auth", "cookie", "cookies", "token", "bearer"])


def _without_value(found: re.Match[str]) -> str:
    quote = found["quote"] or ""
    return f"{found['name']}{found['sign']}{quote}{STAND_IN}{quote}"


def _scheme(found: re.Match[str]) -> str:
    name, space, value = found.groups()
    telling = _is_basic(value) if name.lower() == "basic" else _is_token(value)
    return f"{name}{space}{STAND_IN}" if telling else found[0]


def _is_basic(value: str) -> bool:
    """Whether it is a user and a password in base64, and no word of a prompt."""
    padded = value.rstrip("=") + "=" * (-len(value.rstrip("=")) % 4)
    try:
        return b":" in pybase64.b64decode(padded, validate=True)
    except (ValueError, binascii.Error):
        return False


def _is_token(value: str) -> bool:
    return len(value) >= 16 and bool(re.search(r"\d", value))


_REPLACEMENTS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (_HEADER, _header),
    (_USERINFO, lambda found: found["sign"]),
    (_PAIR, _pair),
    (_SCHEME, _scheme),
)

# --- Home folders

_SEPARATOR = r"(?:\\{1,8}|/{1,8}|%2[Ff]|%5[Cc])"
_NAME = r"(?:(?!%2[Ff]|%5[Cc])[^\s/\\\"'<>|:;,*?()\[\]{}&`])"
_SPACED_NAME = r"[^/\\:*?\"<>|\r\n']"
_HOMES = re.compile(
    rf"(?:{_SEPARATOR}(?:var|usr|export|(?:mnt|cygdrive|host_mnt){_SEPARATOR}[a-z]|[a-z])"
    rf"(?={_SEPARATOR}))?{_SEPARATOR}(?:home|Users){_SEPARATOR}{_NAME}{{1,256}}"
)
_WINDOWS_HOMES = re.compile(
    rf"(?i)(?:(?<![a-z0-9])[a-z](?::|%3A)(?:\\{{1,8}}|/{{1,8}}|%2F|%5C)|\\{{1,8}})"
    rf"(?:users|home|documents and settings)(?:\\{{1,8}}|/{{1,8}}|%2F|%5C)"
    rf"(?:{_SPACED_NAME}{{1,64}}(?=[/\\])|{_NAME}{{1,256}})"
)
_ROOTS = re.compile(r"(?<![\w.~-])/root(?![\w-])")
USUAL_HOMES = (b"home", b"users", b"root", b"documents")
"""One of these words stands in the path of every home folder of a usual place."""
_HINT = re.compile(b"|".join(USUAL_HOMES).decode(), re.IGNORECASE)


def without_usual_homes(text: str) -> Replaced:
    """The text with ``~`` for every path of a home folder, as systems usually name them.

    That is ``/home/NAME``, ``/Users/NAME``, ``/root``, ``C:\\Users\\NAME`` and the forms in
    which they stand in JSON, in addresses, and in one system's view of another.
    """
    total = 0
    if _HINT.search(text):
        for pattern in (_WINDOWS_HOMES, _HOMES, _ROOTS):
            text, count = pattern.subn(HOME, text)
            total += count
    return text, total


def home_pattern(homes: tuple[str, ...]) -> re.Pattern[str] | None:
    """What finds these very folders, in texts, JSON and addresses; None for none."""
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
    # Such a short one may be the beginning of anything.
    return [form] if len(home) >= _SHORT_HOME else [rf"(?<![\w.~-]){form}(?![\w.-])"]
