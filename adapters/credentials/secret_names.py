"""Recognises names of keys, headers, parameters and options whose value is a credential."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise

_ALWAYS = (
    *("password", "passwords", "passwd", "passphrase", "passcode"),
    *("secret", "secrets", "apikey", "apikeys"),
)
_WORDS = frozenset(
    [
        *("pwd", "pw", "auth", "oauth", "authorization", "authentication", "bearer", "jwt"),
        *("cookie", "cookies", "cookie2", "credential", "credentials"),
        *("sessionid", "jsessionid", "phpsessid", "userpass", "dbpass"),
    ]
)
_KEYS_OF = frozenset(
    [
        *("api", "access", "private", "secret", "auth", "session", "account", "shared"),
        *("subscription", "encryption", "signing", "master", "license", "storage", "client"),
        *("service", "hf", "huggingface", "civitai", "openai", "replicate", "stability"),
    ]
)
_TOKENS_OF = _KEYS_OF | {"refresh", "bearer", "id", "csrf", "oauth"}
_PASSES_OF = frozenset(
    [
        *("user", "db", "database", "smtp", "ftp", "proxy", "root", "admin", "http", "server"),
        *("login", "mysql", "redis", "auth", "basic", "account", "wifi", "ssh", "key"),
    ]
)
_NO_SECRET_BEHIND_TOKEN = frozenset(
    [
        *("merging", "merge", "count", "counts", "limit", "length", "ratio", "ids", "padding"),
        *("weight", "weights", "normalization", "interpretation", "type", "usage", "size"),
        *("embedding", "embeddings", "id", "chunks", "shuffling"),
    ]
)
"""Words after "token" where it means a part of a prompt: ``Token merging ratio``."""
_NO_SECRET_BEFORE_TOKEN = frozenset(["max", "min", "trigger", "pad", "bos", "eos", "unk"])
_NO_SECRETS = frozenset(
    [
        *("path", "paths", "file", "files", "dir", "folder"),
        *("type", "style", "enabled", "required"),
    ]
)
"""Last words of names that describe a secret but do not hold it."""
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_BETWEEN = re.compile(r"[^a-z0-9]+")
_LONGEST = 256


@lru_cache(maxsize=1024)
def names_secret(name: str) -> bool:
    """Whether a key of this name holds a credential: ``api_key``, ``hfToken``, ``Cookie``.

    ``Token merging ratio`` and ``max_tokens`` do not.
    """
    words = [one for one in _BETWEEN.split(_CAMEL.sub("_", name[:_LONGEST]).lower()) if one]
    if not words or words[-1] in _NO_SECRETS:
        return False
    return (
        any(word in _WORDS or word.endswith(_ALWAYS) for word in words)
        or words in (["pass"], ["signature"])
        or words[-1] == "sig"
        or (words[-1].endswith("token") and not _NO_SECRET_BEFORE_TOKEN.intersection(words[-2:-1]))
        or any(map(_is_telling_pair, pairwise(words)))
    )


def _is_telling_pair(pair: tuple[str, str]) -> bool:
    """Whether two adjacent words of a name mean a credential together."""
    before, word = pair
    return (
        (word in ("key", "keys") and before in _KEYS_OF)
        or (word == "tokens" and before in _TOKENS_OF)
        or (word == "pass" and before in _PASSES_OF)
        or pair in (("session", "id"), ("amz", "signature"), ("goog", "signature"))
        or (before.endswith("token") and word not in _NO_SECRET_BEHIND_TOKEN)
    )
