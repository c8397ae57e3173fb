"""A table of regular expressions for credentials with a known form.

The forms are those that the services publish, and that gitleaks and detect-secrets look for.
"""

from __future__ import annotations

BEGIN = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt]))"
"""Before each credential: the beginning of a word, or an escaped line end."""
_SLASH = r"(?:\\{0,8}/|%2[Ff])"
_QUOTE = r"\\{0,8}[\"']"
_USER_OPTION = rf"(?<![\w-])(?:-u|-U|--user|--proxy-user){_QUOTE}?[\s,=]{{1,8}}"
_NO_IDS = r"(?!\d{1,10}:\d{1,10}(?![^\s\"']))"
"""`docker run -u 1000:1000` has a user and a group id, not a password."""

CREDENTIALS: tuple[tuple[str, str], ...] = (
    (
        "private keys",
        (
            r"-----BEGIN (?:[A-Z0-9]{1,16} ){0,3}PRIVATE KEY(?: BLOCK)?-----(?:(?!-----)[\s\S])*+"
            r"(?:-----END [A-Z0-9 ]{1,64}-----)?"
        ),
    ),
    ("age", r"AGE-SECRET-KEY-1[A-Z0-9]{50,}+"),
    ("AWS", r"(?:AKIA|ASIA)[A-Z0-9]{16}"),
    ("DigitalOcean", r"do[opr]_v1_[0-9a-f]{40,}+"),
    (
        "Discord webhooks",
        (
            rf"discord(?:app)?\.com{_SLASH}api{_SLASH}(?:v\d{{1,2}}{_SLASH})?"
            rf"webhooks{_SLASH}\d{{5,20}}{_SLASH}[\w-]{{8,}}+"
        ),
    ),
    ("Discord bots", r"[MNO][\w-]{22,27}\.[\w-]{6,7}\.[\w-]{27,}+"),
    ("GitHub", r"(?:gh[pousr]_[A-Za-z0-9]{16,}+|github_pat_\w{20,}+)"),
    ("GitLab", r"glpat-[\w-]{16,}+"),
    ("Google keys", r"AIza[\w-]{30,}+"),
    ("Google tokens", r"(?:ya29\.|GOCSPX-)[\w-]{20,}+"),
    ("Hugging Face, Replicate", r"(?:hf|r8)_[A-Za-z0-9]{16,}+"),
    ("JSON web tokens", r"eyJ[\w-]{8,2048}+\.[\w-]{4,}+\.[\w-]*+"),
    ("npm", r"npm_[A-Za-z0-9]{20,}+"),
    ("OpenAI", r"sk-(?=[\w-]{0,256}\d)[\w-]{20,}+"),
    ("PyPI", r"pypi-(?=[\w-]{0,256}\d)[\w-]{20,}+"),
    ("SendGrid", r"SG\.[\w-]{16,64}+\.[\w-]{16,}+"),
    ("Slack tokens", r"(?:xox[abeprs]|xapp)-[\w-]{10,}+"),
    (
        "Slack webhooks",
        (
            rf"hooks\.slack(?:-gov)?\.com{_SLASH}(?:services|workflows|triggers)"
            rf"(?:{_SLASH}[\w-]{{1,256}}+){{1,8}}"
        ),
    ),
    ("Stripe", r"(?:[rs]k_(?:live|test|prod)|whsec)_[A-Za-z0-9]{10,}+"),
    ("Telegram bots", r"\d{8,10}:AA[\w-]{32,}+"),
    (
        "user and password of curl",
        rf"({_USER_OPTION}){_NO_IDS}[^\s:\"']{{1,128}}+:[^\s\"']{{1,256}}",
    ),
    (
        "user and password of curl, quoted",
        rf"({_USER_OPTION}{_QUOTE}){_NO_IDS}[^:\"'\r\n]{{1,128}}+:[^\"'\r\n]{{1,256}}(?={_QUOTE})",
    ),
    (
        "user and password of requests",
        (
            rf"((?:auth{_QUOTE}?\s{{0,8}}[:=]\s{{0,8}}[\w.]{{0,40}}+|HTTP\w{{1,20}}Auth)"
            rf"[\[(])\s{{0,8}}b?{_QUOTE}[^\r\n]{{0,512}}?{_QUOTE}\s{{0,8}},?\s{{0,8}}(?=[\])])"
        ),
    ),
)
"""The name and pattern of each credential; text matched by a group is kept."""

_FILE_SUFFIXES = (
    "png|jpe?g|webp|gif|avif|heic|safetensors|ckpt|pth?|gguf|bin|onnx|json|toml|ya?ml|txt|py|zip"
)
MAIL_ADDRESS = (
    r"(?<![\w.+/@-])[\w.+-]{1,64}+(?:@|%40)(?:[\w-]{1,63}\.(?=[A-Za-z0-9])){1,8}+"
    rf"(?!(?i:{_FILE_SUFFIXES})(?!\w))[A-Za-z]{{2,24}}(?![\w-])"
)
