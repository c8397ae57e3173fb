"""A regular expression for names whose value is a credential: ``api_key``, ``hfToken``, ``Cookie``.

Names such as ``token_count``, ``max_tokens`` and ``password_file`` are not matched.
"""

from __future__ import annotations

import re

_BEFORE = r"(?:[\w-]{0,64}?(?:[-_]|(?-i:(?<=[a-z0-9])(?=[A-Z]))))?"
"""Words of a name before its last ones, separated by signs or by a capital letter."""
_AFTER = r"(?:(?:[-_]|(?-i:(?=[A-Z])))[\w-]{0,64})?(?![\w-])"
_DESCRIPTIONS = "paths?|files?|dir|folder|type|style|enabled|required"
"""Last words of names that describe a secret but do not hold it."""
_KEYS_OF = (
    "api|access|private|secret|auth|session|account|shared|subscription|encryption|signing|master|"
    "license|storage|client|service|hf|huggingface|civitai|openai|replicate|stability"
)
_PASSES_OF = (
    "user|db|database|smtp|ftp|proxy|root|admin|http|server|login|mysql|redis|auth|basic|account|"
    "wifi|ssh|key"
)
_BEFORE_PART = "max|min|trigger|pad|bos|eos|unk"
_AFTER_PART = (
    "merging|merge|counts?|limit|length|ratio|ids?|padding|weights?|normalization|interpretation|"
    "type|usage|size|embeddings?|chunks|shuffling"
)
"""Words beside "token" where it means a part of a prompt: ``Token merging ratio``."""

_HINT = "pass|pw|secret|key|token|auth|cookie|credential|bearer|jwt|session|sig"
"""Part of every such name; looking for it first is five times as fast."""
SECRET_NAME = (
    rf"(?i:(?=[\w-]{{0,128}}?(?:{_HINT}))"
    rf"(?!-{{0,2}}[\w-]{{0,128}}[-_](?:{_DESCRIPTIONS})(?![\w-]))(?:"
    r"[\w-]{0,64}?(?:passwords?|passwd|passphrase|passcode|userpass|dbpass|secrets?|api[-_]?keys?)"
    rf"|{_BEFORE}(?:pwd|pw|o?auth2?|authorization|authentication|bearer|jwt|cookies?2?|credentials?"
    rf"|(?:{_KEYS_OF})[-_]?keys?|(?:{_KEYS_OF}|refresh|bearer|id|csrf)[-_]?tokens"
    rf"|(?:{_PASSES_OF})[-_]pass|[a-z]{{0,8}}session[-_]?id|(?:amz|goog)[-_]signature|sig)"
    rf"|(?!(?:{_BEFORE_PART})[-_]?token)[\w-]{{0,64}}?token(?![-_](?:{_AFTER_PART}))"
    rf"|pass|signature(?![-_])){_AFTER})"
)
_NAME = re.compile(SECRET_NAME)


def names_secret(name: str) -> bool:
    """Whether a key of this name holds a credential."""
    return bool(_NAME.fullmatch("_".join(name.split()).lstrip("-")))
