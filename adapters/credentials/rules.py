"""The rules by which private text is found: a kind, a regular expression, and what replaces it.

Tokens have the forms that the services publish, and that gitleaks and detect-secrets look for.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from .names import SECRET_NAME

STAND_IN = "***"
"""Replaces a credential."""
CREDENTIALS, HOMES = "credentials", "home folders"
MAIL, FOLDERS = "mail addresses", "other folders"


class Rule(NamedTuple):
    """Private text of one kind: ``stand_in`` replaces a match, except for its group ``keep``."""

    kind: str
    pattern: re.Pattern[str]
    stand_in: str | Callable[[re.Match[str]], str] = STAND_IN

    def replace(self, text: str) -> tuple[str, int]:
        """The text without matches, and how many there were."""
        stand_in = self.stand_in
        if isinstance(stand_in, str) and "keep" in self.pattern.groupindex:
            return self.pattern.subn(lambda found: found["keep"] + stand_in, text)
        return self.pattern.subn(stand_in, text)


_BEGIN = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt]))"
"""The beginning of a word, or an escaped line end."""
_SLASH = r"(?:\\{0,8}/|%(?:25){0,4}2[Ff])"
_BACKSLASH = r"(?:\\{1,8}|/{1,8}|%(?:25){0,4}(?:2[Ff]|5[Cc]))"
_QUOTE = r"\\{0,8}[\"']"
_SPACE = r"\s{0,8}"

# --- Tokens with a form of their own

_PREFIXES = (
    *("gh[pousr]_", "github_pat_", "gl[a-z]{2,5}-", "hf_", "r8_", "npm_", "pypi-", "rubygems_"),
    *("sk-", "[rs]k_(?:live|test|prod)_", "whsec_", "gsk_", "xai-", "nvapi-", "pplx-", "figd_"),
    *("xox[abeprs]-", "xapp-", r"ya29\.", "GOCSPX-", "do[opr]_v1_", "dckr_pat_", "shp[acs][ast]_"),
    *("sq0(?:atp|csp)-", "lin_api_", "ntn_", "tskey-", "gl(?:sa|c)_", r"dp\.[a-z]{2,5}\.", "dapi"),
    *(r"hv[sbr]\.", "pul-", "PMAK-", "ATATT3", "AGE-SECRET-KEY-1"),
)
_TOKENS = (
    rf"(?:{'|'.join(_PREFIXES)})(?=[\w-]{{0,256}}[A-Z\d])[\w-]{{16,}}+",
    r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}",
    r"AIza[\w-]{30,}+",
    r"SG\.[\w-]{16,64}+\.[\w-]{16,}+",
    r"eyJ[\w-]{8,2048}+\.[\w-]{4,}+\.[\w-]*+",  # JSON web tokens
    r"[MNO][\w-]{22,27}\.[\w-]{6,7}\.[\w-]{27,}+",  # Discord
    r"\d{8,10}:AA[\w-]{32,}+",  # Telegram
    r"key-[0-9a-f]{32}|[0-9a-f]{32}-us\d{1,2}|SK[0-9a-f]{32}",  # Mailgun, Mailchimp, Twilio
)
_WEBHOOKS = (
    rf"(?:hooks\.slack(?:-gov)?\.com|(?:ptb\.|canary\.)?discord(?:app)?\.com{_SLASH}api"
    rf"|[\w-]{{1,64}}\.webhook\.office\.com){_SLASH}(?:v\d{{1,2}}{_SLASH})?"
    rf"(?:services|workflows|triggers|webhooks|webhookb2)(?:{_SLASH}[\w@-]{{1,256}}+){{1,8}}"
)
_PRIVATE_KEY = (
    r"-----BEGIN (?:[A-Z0-9]{1,16} ){0,3}PRIVATE KEY(?: BLOCK)?-----(?:(?!-----)[\s\S])*+"
    r"(?:-----END [A-Z0-9 ]{1,64}-----)?"
)

# --- Credentials in addresses, headers and command lines

_USERINFO = (
    r"(?P<keep>:\\{0,8}/\\{0,8}/|%3[Aa]%2[Ff]%2[Ff])"
    r"(?:[^\s/?#\"'<>\\]{1,512}(?=@)"
    r"|[^\s/?#@:\"'<>]{1,128}:(?!\d{1,5}(?:[/?#\s]|$))[^\s@\"'<>]{1,128}(?=@)"  # with a slash
    r"|(?:[^\s/?#&\"'<>%]|%(?!2[Ff])[0-9A-Fa-f]{2}){1,512}?(?=%40))"
)
_SCHEME = (
    r"(?P<keep>(?<![\w-])(?i:basic|bearer|digest)\s{1,8})"
    r"(?=[\w+/.~-]{0,512}?(?:[0-9=]|[a-z][A-Z]))[\w+/.~-]{6,}+=*+(?![\"'])"  # no "basic photo"
)
_COOKIE = r"(?:set-)?cookie2?(?=\s{0,8}:\s{0,8}[\w.$-]{1,64}=)"
_HEADER = (
    rf"(?P<keep>(?<![\w-])(?i:(?:proxy-)?authorization|{_COOKIE})\s{{0,8}}:\s{{0,8}})"
    r"(?:[^\r\n\"'\\]|(?<==)(?P<quote>\\{0,8}[\"'])[^\r\n\"'\\]*+(?P=quote))++"
)
_IDS_OR_WEIGHT = r"(?!\d{1,10}:\d{1,10}(?![^\s\"'])|[^\s:\"']{0,128}:\d?\.?\d{1,2}(?!\w))"
"""`docker run -u 1000:1000` has a user and a group id, `-ugly:1.2` is a part of a prompt."""
_CURL = (
    rf"(?P<keep>(?<![\w-])(?:(?:-[uU]|--(?:proxy-)?user){_QUOTE}?[\s,=]{{1,8}}|-[uU])){_IDS_OR_WEIGHT}"
    rf"(?:{_QUOTE}[^:\"'\r\n]{{1,128}}+:[^\"'\r\n]{{1,256}}{_QUOTE}"
    r"|[^\s:\"'=,]{1,128}+:[^\s\"']{1,256})"
)
_REQUESTS = (
    rf"(?P<keep>(?:\bauth{_QUOTE}?\s{{0,8}}[:=]\s{{0,8}}[\w.]{{0,40}}+|HTTP\w{{1,20}}Auth)[\[(])"
    rf"{_SPACE}b?{_QUOTE}[^\r\n]{{0,512}}?{_QUOTE}{_SPACE},?{_SPACE}(?=[\])])"
)
_AUTHTOKEN = r"(?P<keep>(?i:auth-?token)\s{1,8})(?=[\w.-]{0,128}\d)[\w.-]{8,}+"

# --- Values whose name says that they are secret

_OPENED = r"b?(?P<level>\\{0,8})(?P<mark>[\"'])"
_QUOTED = r"(?:(?!(?<!\\)(?P=level)(?P=mark))[\s\S])++"
"""Up to the quote of the same level: in nested texts, an escaped one has more backslashes."""
_CLOSED = rf"(?=(?P=level)(?P=mark){_SPACE}[\])])"
_SIGN = rf"(?:{_QUOTE})?{_SPACE}[:=]{_SPACE}"
# Looking for the sign first makes it ten times as fast.
_NAME = rf"(?<![\w-])(?=[\w-]{{1,256}}+{_SIGN})-{{0,2}}{SECRET_NAME}{_SIGN}"
_QUOTED_NAME = rf"(?<![\w-])(?=[\w-]{{1,256}}+{_SIGN}b?{_QUOTE})-{{0,2}}{SECRET_NAME}{_SIGN}"
_OPTION = rf"(?<![\w-])--?(?=\w){SECRET_NAME}(?:(?:{_QUOTE})?{_SPACE}[,=]{_SPACE}|\s{{1,8}})"
_HARMLESS = (
    r"(?:none|null|true|false|yes|no|on|off|top|bottom|left|right|center|\d{0,2}(?:\.\d{1,4})?"
    r"|\*\*\*)(?![^\s,;&)\]}\"'\\<>])"
)
"""Values that occur in prompts: `pass=2`, `secrets=none`, `(token:1.2)`, `signature=bottom`."""
_NOUN = (
    r"(?i:secrets?|auth|cookies?|token|bearer|pass|pw|signature|sig|credentials?)"
    r"\s{0,8}:\s{0,8}+[A-Za-z'-]{0,20}+(?![^\s,;.)\]])"
)
"""Names that are words of prompts too: `a secret: the garden`."""
_BARE = rf"(?!{_HARMLESS})(?:[^\s,;&\"'<>(){{}}\[\]\\]|\\{{1,8}}(?![\\nrt\"'\s]))++"
_TO_SPACE = rf"(?!{_HARMLESS}|-)(?:[^\s\"'\\]|\\{{1,8}}(?![\\nrt\"'\s]))++"

CREDENTIAL_RULES = tuple(
    Rule(CREDENTIALS, re.compile(pattern))
    for pattern in (
        f"{_BEGIN}(?:{'|'.join((_PRIVATE_KEY, _WEBHOOKS, *_TOKENS))})",
        _USERINFO,
        _SCHEME,
        _CURL,
        _REQUESTS,
        _AUTHTOKEN,
        _HEADER,
        rf"(?P<keep>(?:{_OPTION}|{_QUOTED_NAME}){_OPENED}){_QUOTED}",
        rf"(?P<keep>{_OPTION}){_TO_SPACE}",
        rf"(?!{_NOUN})(?P<keep>{_NAME}){_BARE}",
        r"(?P<keep>[?&]key=)[^\s&\"'#]+",
        rf"(?P<keep>[\[(]{_SPACE}b?{_QUOTE}{SECRET_NAME}{_QUOTE}{_SPACE},{_SPACE}{_OPENED}){_QUOTED}{_CLOSED}",
    )
)

# --- Home folders

_PART = rf"(?:(?!{_SLASH}|{_BACKSLASH})[^\s/\\\"'<>|:;,*?()\[\]{{}}&`])"
_WORDS = rf"(?: {_PART}{{1,32}}){{1,3}}"
_NAME_OF_USER = rf"{_PART}{{1,256}}(?:{_WORDS}(?=[/\\\"']))?"
_WINDOWS_USER = (
    rf"(?:[^/\\:*?\"<>|\r\n']{{1,64}}(?=[/\\])|{_PART}{{1,256}}(?: [A-Z]{_PART}{{0,32}}){{0,3}})"
)
_DRIVE = r"(?<![A-Za-z0-9])[A-Za-z](?::|%3A)"
_MOUNTED = rf"(?:var|usr|export|(?:mnt|cygdrive|host_mnt){_SLASH}[a-z]|[a-z])(?={_SLASH})"
_PATH_BEGIN = r"(?:(?<![\w.~%<)\]}*/\\-])|(?<=file://))"
HOME_RULES = tuple(
    Rule(HOMES, re.compile(pattern), "~")
    for pattern in (
        rf"{_DRIVE}{_BACKSLASH}(?i:users|documents and settings){_BACKSLASH}{_WINDOWS_USER}",
        rf"(?:{_SLASH}{_MOUNTED})?{_BACKSLASH}(?:home|Users){_BACKSLASH}{_NAME_OF_USER}",
        rf"{_PATH_BEGIN}(?:{_SLASH}run)?{_SLASH}media{_SLASH}{_NAME_OF_USER}",
        rf"{_PATH_BEGIN}(?:{_SLASH}(?:private{_SLASH})?var)?{_SLASH}root(?![\w-])",
        r"(?<![\w~.*])~[A-Za-z_][\w-]{0,31}(?![\w~])",
    )
)


def without_secrets(text: str) -> str:
    """The text without credentials and home folders."""
    for rule in (*CREDENTIAL_RULES, *HOME_RULES):
        text, _ = rule.replace(text)
    return text


# --- Mail addresses, and folders outside home folders

_FILE_SUFFIXES = (
    "png|jpe?g|webp|gif|avif|heic|safetensors|ckpt|pth?|gguf|bin|onnx|json|toml|ya?ml|txt|py|zip"
)
MAIL_RULE = Rule(
    MAIL,
    re.compile(
        r"(?<![\w.+/@-])[\w.+-]{1,64}+(?:@|%40)(?:[\w-]{1,63}\.(?=[A-Za-z0-9])){1,8}+"
        rf"(?!(?i:{_FILE_SUFFIXES})(?!\w))[A-Za-z]{{2,24}}(?![\w-])"
    ),
)
_SYSTEM_FOLDERS = (
    r"usr|lib\w*|bin|sbin|etc|proc|sys|dev|opt|snap|nix|app|tmp|var|private|System|Library|"
    "Applications|sdapi|api|controlnet|internal"
)
"""Folders that say nothing about the user, and paths of servers."""
_WINDOWS_SYSTEM_FOLDERS = r"(?i:windows|program(?:data| files(?: \(x86\))?)|python\w*)"
_FOLDER_PART = rf"(?:(?!{_SLASH}|{_BACKSLASH})[^\s/\\\"'<>|:;*?])"
_FOLDER = rf"{_FOLDER_PART}{{1,128}}+(?: {_FOLDER_PART}{{1,32}}+){{0,3}}"
_SUFFIX = rf"\.[A-Za-z]\w{{0,11}}\.?(?!{_PART}|{_BACKSLASH})"
_FILE = rf"{_PART}{{1,128}}(?: {_PART}{{1,32}}){{0,3}}{_SUFFIX}"
_LAST = rf"(?:{_PART}{{1,128}}+(?:{_WORDS}(?=[\"':\r\n]|$))?)?"


def _folders(begin: str, separator: str, fewest: int) -> Rule:
    """The folders of a file, or a path of at least ``fewest`` folders."""
    of_a_file = rf"(?:{_FOLDER}(?P<end>{separator})){{1,32}}+(?={_FILE})"
    without_file = rf"(?:{_FOLDER}{separator}){{{fewest},32}}+{_LAST}"
    return Rule(FOLDERS, re.compile(rf"{begin}(?:{of_a_file}|{without_file})"))


_SHARE = r"(?<![^\s=\"'])\\{2,16}[\w.-]{2,64}+\\{1,8}"
_ON_DRIVE = rf"{_DRIVE}{_BACKSLASH}(?!{_WINDOWS_SYSTEM_FOLDERS}{_BACKSLASH})"
FOLDER_RULES = (
    _folders(rf"{_PATH_BEGIN}{_SLASH}(?!/|(?:{_SYSTEM_FOLDERS}){_SLASH})", _SLASH, 3),
    _folders(rf"(?:{_ON_DRIVE}|{_SHARE})", _BACKSLASH, 2),
)
