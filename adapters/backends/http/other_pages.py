"""Recognises who answered in the place of a server: a login page, a tunnel, a proxy."""

from __future__ import annotations

import re
from urllib.parse import urljoin, urlsplit

_HEADERS = 'headers in [servers."{url}".headers] of your settings'
_HTML = re.compile(
    r"\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL
)
_TO_LOGIN = re.compile(
    r"log-?_?in|sign-?_?in|/auth\b|oauth|/sso\b|//(?:auth|sso|login)\.", re.IGNORECASE
)
_LOGIN = re.compile(r"type=[\"']?password|\bpassword\b|\b(?:log|sign) ?in\b", re.IGNORECASE)
_CODE = re.compile(r"<(script|style)\b.*?(?:</\1>|\Z)", re.IGNORECASE | re.DOTALL)
_MOST_LOOKED_AT = 8000
_WEB_PAGE = "a web page answered; is it the address of a WebUI that was started with --api?"
_WARNING = f'the warning page of {{name}} answered; set {{header}} = "1" as one of the {_HEADERS}'
_TUNNELS = {
    r"ngrok": ("ngrok", "ngrok-skip-browser-warning"),
    r"loca\.lt|localtunnel": ("localtunnel", "bypass-tunnel-reminder"),
    r"zrok": ("zrok", "skip_zrok_interstitial"),
    r"pinggy": ("Pinggy", "X-Pinggy-No-Screen"),
    r"dev ?tunnels|devtunnels\.ms": ("dev tunnels", "X-Tunnel-Skip-AntiPhishing-Page"),
}
"""Signs of tunnels' warning pages, and the header without which they answer."""
_CLOUDFLARE = "the warning page of Cloudflare answered, which only a browser passes"
_NO_TUNNEL = "reports that its tunnel does not work; start the tunnel again"
_NEEDS_LOGIN = f"; use the address of the server itself, or set {_HEADERS}"
_PAGES = {
    r"ERR_NGROK_(?!6024)[0-9]+": f"ngrok {_NO_TUNNEL}",
    **{
        sign: _WARNING.replace("{name}", name).replace("{header}", header)
        for sign, (name, header) in _TUNNELS.items()
    },
    r"error code: ?1033|argo tunnel error|cloudflare tunnel error": f"Cloudflare {_NO_TUNNEL}",
    r"just a moment|attention required|cf-chl|challenge-platform": _CLOUDFLARE + _NEEDS_LOGIN,
    r"plain HTTP request was sent to HTTPS|HTTP request to an HTTPS server": (
        "the server uses https there; use {secure}"
    ),
}


def page_cause(url: str, status: int, body: str) -> str:
    """Who answered a request to the server at ``url`` by a page, and what to do; "" if unknown."""
    start = body[:_MOST_LOOKED_AT]
    for sign, words in _PAGES.items():
        if re.search(sign, start, re.IGNORECASE):
            return words.format(url=url, secure=_secure(url))
    if _HTML.match(start) is None or status not in (200, 401, 403):
        return ""
    if _LOGIN.search(_CODE.sub(" ", start)):
        return f"a login page answered{_NEEDS_LOGIN.format(url=url)}"
    return _WEB_PAGE if status == 200 else ""


def redirect_cause(url: str, location: str) -> str:
    """Where an answer redirects to, and what to do."""
    try:
        target = urljoin(f"{url}/", location)
        here, there = urlsplit(url), urlsplit(target)
    except ValueError:  # The location is not an address.
        return f"redirected to {location}"
    plain = target.partition("?")[0]
    if _TO_LOGIN.search(plain):
        return f"redirected to a login page, {plain}{_NEEDS_LOGIN.format(url=url)}"
    if here.scheme == "http" and there.scheme == "https" and here.hostname == there.hostname:
        return f"redirected to https; use https://{there.netloc}{here.path}"
    return f"redirected to {target}; use that address instead"


def _secure(url: str) -> str:
    return f"https:{url.partition(':')[2]}"
