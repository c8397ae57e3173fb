"""Writes docs/stagewright.1, the man page, from the commands; a test compares the two."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from inspect import cleandoc
from pathlib import Path

import click
from stagewright.adapters.cli.common_options import GROUP_NAMES, RUN_NAMES
from stagewright.adapters.cli.main import COMMAND_GROUPS, stagewright
from stagewright.events.version import VERSION

_ESCAPES = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga"}
_FILES = """\
.SH FILES
.TP
.I runs/RUN/events.jsonl
The log of a run, from which everything else follows.
.TP
.I stagewright.toml
Settings for the folder and those below it; those of the user are in
.IR stagewright/config.toml
of the user's folder for configurations.
.SH ENVIRONMENT
.TP
.B STAGEWRIGHT_SERVER, STAGEWRIGHT_RUNS, STAGEWRIGHT_CONFIG_FILE
As the options of these names.
.TP
.B NO_COLOR
No colours, if it is set and not empty.
"""


def man_page() -> str:
    """The whole page, in the language of man(7)."""
    settings = stagewright.context_settings
    with click.Context(stagewright, info_name="stagewright", **settings) as context:
        return "\n".join(_page(context)) + "\n"


def _page(context: click.Context) -> Iterator[str]:
    summary, _, rest = cleandoc(stagewright.help or "").partition("\n\n")
    yield '.\\" Made by `python docs/make_man_page.py`; a test compares it with the commands.'
    yield f'.TH STAGEWRIGHT 1 "" "stagewright {VERSION}" "User Commands"'
    yield f".SH NAME\nstagewright \\- {_escaped(summary[0].lower() + summary[1:].rstrip('.'))}"
    yield '.SH SYNOPSIS\n.B stagewright\n.RI [ options ] " command " [ arguments ]'
    yield f".SH DESCRIPTION\n{_paragraphs(rest)}"
    yield from (f".PP\n{_escaped(names)}" for names in (RUN_NAMES, GROUP_NAMES))
    yield ".SH OPTIONS\nThese are accepted before and after the name of a command."
    shared = stagewright.get_params(context)
    yield from _options(context, shared)
    known = {name for option in shared for name in option.opts} - {"--server"}
    for title, names in COMMAND_GROUPS.items():
        yield f'.SH "{title.upper()}"'
        for name in names:
            yield from _command(context, name, known)
    yield _FILES.rstrip()


def _command(context: click.Context, name: str, known: set[str]) -> Iterator[str]:
    group = context.command
    assert isinstance(group, click.Group)
    command = group.get_command(context, name)
    assert command is not None
    with click.Context(command, info_name=name, parent=context) as own:
        usage = " ".join(command.collect_usage_pieces(own))
        yield f".SS {_escaped(own.command_path)} {_escaped(usage)}"
        text = cleandoc(command.help or "")
        for names in (GROUP_NAMES, RUN_NAMES):
            text = text.removesuffix(names).rstrip()
        yield _paragraphs(text)
        options = (one for one in command.get_params(own) if not known & set(one.opts))
        yield from _options(own, options)
        if command.epilog:
            yield f".PP\n{_paragraphs(command.epilog)}"
        for below in command.list_commands(own) if isinstance(command, click.Group) else ():
            yield from _command(own, below, known)


def _options(context: click.Context, parameters: Iterable[click.Parameter]) -> Iterator[str]:
    for parameter in parameters:
        record = parameter.get_help_record(context)
        if record is not None and not isinstance(parameter, click.Argument):
            yield f".TP\n.B {_escaped(record[0])}\n{_escaped(record[1])}"


def _paragraphs(text: str) -> str:
    """Paragraphs of a help; one that begins with ``\\b`` keeps its lines."""
    parts = []
    for paragraph in text.strip().split("\n\n"):
        kept = paragraph.removeprefix("\b\n")
        lines = _escaped(kept.rstrip())
        parts.append(lines if kept is paragraph else f".nf\n{lines}\n.fi")
    return "\n.PP\n".join(parts)


def _escaped(text: str) -> str:
    """Text that man(7) shows as it is: no line of it is a request."""
    plain = text.translate(str.maketrans(_ESCAPES))
    return re.sub(r"^\.", r"\\&.", plain, flags=re.MULTILINE)


if __name__ == "__main__":
    (Path(__file__).parent / "stagewright.1").write_text(man_page(), encoding="utf-8")
