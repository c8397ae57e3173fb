"""The page: templates, style and scripts put together, so that nothing of a log is markup.

It may load nothing at all: its policy names the digests of its own style and scripts, allows
images as data, and nothing else.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from ...text import escaped

if TYPE_CHECKING:
    from jinja2 import Environment

FIRST_BYTES = b"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="stagewright report"""
"""By these a report is known from every other file."""
_STYLES = ("page.css", "timeline.css", "images.css", "events.css", "print.css")
_SCRIPTS = ("log.js", "details.js", "events.js", "timeline.js")
_BUFFERED = 64


def render(template: str, context: Mapping[str, Any]) -> Iterator[str]:
    """A template's text, in pieces, as its values are drawn."""
    stream = _environment().get_template(template).stream(context)
    stream.enable_buffering(_BUFFERED)
    return iter(stream)


def assets() -> dict[str, Any]:
    """Style, scripts and the policy that allows them and nothing else, for the page's template."""
    style = "\n".join(map(_text, _STYLES))
    scripts = [_text(name) for name in _SCRIPTS]
    allowed = " ".join(map(_source, scripts))
    policy = (
        f"default-src 'none'; img-src data:; style-src {_source(style)}; script-src {allowed}; "
        "base-uri 'none'; form-action 'none'"
    )
    return {
        "style": Markup(style),  # noqa: S704 - our own file
        "scripts": [Markup(script) for script in scripts],  # noqa: S704 - the same
        "policy": policy,
    }


def _source(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


@cache
def _environment() -> Environment:
    # It takes 50 ms to load, which `stagewright --help` need not wait for.
    from jinja2 import Environment, FunctionLoader, StrictUndefined  # noqa: PLC0415 - see above

    made = Environment(
        loader=FunctionLoader(_text),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["place"] = _place
    return made


def visible(value: Any) -> Any:
    """Text with control characters shown as escapes, but for line ends; else the value itself."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "\n".join(map(escaped, value.split("\n")))


def _place(percent: float) -> str:
    return f"{percent:.3f}".rstrip("0").rstrip(".")


def _text(name: str) -> str:
    return (files(__package__) / "templates" / name).read_text(encoding="utf-8")
