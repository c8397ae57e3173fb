"""Renders the page from templates, styles and scripts; texts of a log are always escaped.

The page asks no network for anything: its content security policy allows only its own style and
scripts, by their digests, and images as data or as files beside it.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec
from markupsafe import Markup

from ....events.errors import StagewrightError
from ....events.model import RunState
from ....events.version import VERSION
from ...text import day_and_time, escaped
from ..output_file import atomic_output, may_replace
from .gantt import call_title, mark_title

if TYPE_CHECKING:
    from jinja2 import Environment

FIRST_BYTES = b"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="stagewright report"""
"""The first bytes of every report, by which a report is recognised."""
MOOD_OF = {
    str(RunState.COMPLETED): "good",
    str(RunState.CANCELLED): "warning",
    str(RunState.RUNNING): "busy",
    str(RunState.ERROR): "error",
}
"""By state, the name of its colour."""
_BUFFERED = 64


class ReportRefusedError(StagewrightError, ValueError):
    """The output file exists and is not a report."""


def write_page(output: Path, template: str, context: Callable[[], Mapping[str, Any]]) -> int:
    """Write a page to ``output``, in place of an earlier report; the number of its bytes.

    ``context`` is called once it is known that the file can be written, and parts of what it
    returns may be made while the page is written. Raises ReportRefusedError if ``output`` is
    another file, OSError, and what these raise; nothing is written then.
    """
    if not may_replace(output, _is_report):
        raise ReportRefusedError(
            f"{output} exists and is not a report; name another file with --output"
        )
    with atomic_output(output) as stream:
        page = io.TextIOWrapper(stream, encoding="utf-8", newline="\n")
        pieces = _environment().get_template(template).stream(context())
        pieces.enable_buffering(_BUFFERED)
        page.writelines(pieces)
        page.flush()
        size = stream.tell()
        page.detach()
    return size


def _is_report(stream: BinaryIO) -> bool:
    return stream.read(len(FIRST_BYTES)) == FIRST_BYTES


def head(styles: Sequence[str], script_names: Sequence[str]) -> dict[str, Any]:
    """What the templates need of every page: its first bytes, style, scripts and policy.

    The policy allows only these.
    """
    style = "\n".join(map(_text, styles))
    scripts = [_text(name) for name in script_names]
    allowed = " ".join(map(_source, scripts)) or "'none'"
    policy = (
        f"default-src 'none'; img-src data: 'self' file:; style-src {_source(style)}; "
        f"script-src {allowed}; base-uri 'none'; form-action 'none'"
    )
    return {
        "first": Markup(FIRST_BYTES.decode()),  # noqa: S704 - our own text
        "version": VERSION,
        "style": Markup(style),  # noqa: S704 - our own file
        "scripts": [Markup(script) for script in scripts],  # noqa: S704 - the same
        "policy": policy,
    }


def json_block(value: Any) -> Markup:
    """``value`` as JSON within a script element, which no text in it can end.

    Its texts are shown as they are: make them ``visible`` before.
    """
    text = msgspec.json.encode(value).decode()
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704 - nothing in it is markup


def _source(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


@cache
def _environment() -> Environment:
    # Loading takes 50 ms, which `stagewright --help` should not have to wait for.
    from jinja2 import Environment, FunctionLoader, StrictUndefined  # noqa: PLC0415 - see above

    made = Environment(
        loader=FunctionLoader(_text),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"place": _place, "call_title": call_title, "mark_title": mark_title}
    return made


def visible(value: Any) -> Any:
    """Text with control characters escaped, except line ends; a time as its element.

    Other values are unchanged. The page's script shows times in the reader's zone.
    """
    if isinstance(value, datetime):
        return Markup('<time datetime="{}">{}</time>').format(
            value.isoformat(), day_and_time(value)
        )
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "\n".join(map(escaped, value.split("\n")))


def _place(percent: float) -> str:
    return f"{percent:.3f}".rstrip("0").rstrip(".")


def _text(name: str) -> str:
    return (files(__package__) / "templates" / name).read_text(encoding="utf-8")
