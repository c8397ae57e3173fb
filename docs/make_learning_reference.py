"""Writes the fields into docs/learning-records.md from the records; a test compares the two."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
from stagewright.adapters.projections.learning.asked import (
    AskedHires,
    AskedPass,
    AskedRefiner,
    AskedSettings,
)
from stagewright.adapters.projections.learning.records import (
    ImageRecord,
    LearningRecord,
    MissingRecord,
    RecordedError,
    StageRecord,
)
from stagewright.events.model import BackendDescription, InputRecord

PAGE = Path(__file__).with_name("learning-records.md")
_HEADING = "# Fields\n"
_PARTS = (RecordedError, BackendDescription, InputRecord, StageRecord, ImageRecord, MissingRecord)
_SETTINGS = (AskedSettings, AskedRefiner, AskedHires, AskedPass)
_WORDS = {str: "string", int: "whole number", float: "number", bool: "true or false"}


def page() -> str:
    """The whole page: the part written by hand, then the fields."""
    by_hand, _, _ = PAGE.read_text(encoding="utf-8").partition(_HEADING)
    return by_hand + "\n".join([_HEADING, *_fields()])


def _fields() -> Iterator[str]:
    yield "Made by `python docs/make_learning_reference.py`; a test compares it with the code.\n"
    for kind in (LearningRecord, *_PARTS):
        yield from _section(kind)
        yield from _described(kind)
        yield ""
    for kind in _SETTINGS:
        yield from _section(kind)
        yield from _named(kind)
        yield ""


def _section(kind: type[msgspec.Struct]) -> Iterator[str]:
    words = " ".join((kind.__doc__ or "").split()).replace("``", "`")
    yield f"## {kind.__name__}\n\n{words}\n"


def _described(kind: type[msgspec.Struct]) -> Iterator[str]:
    yield "| field | type | meaning |"
    yield "| --- | --- | --- |"
    for name, hint in _hints(kind):
        notes = [one for one in get_args(hint) if isinstance(one, msgspec.Meta)]
        meaning = (notes[0].description or "") if notes else ""
        yield f"| `{name}` | {_type(hint)} | {meaning} |".replace("|  |", "| |")


def _named(kind: type[msgspec.Struct]) -> Iterator[str]:
    """Names and types: the meanings are those of a configuration."""
    yield "| field | type |"
    yield "| --- | --- |"
    for name, hint in _hints(kind):
        yield f"| `{name}` | {_type(hint)} |"


def _hints(kind: type[msgspec.Struct]) -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(kind, include_extras=True)
    return ((name, hints[name]) for name in kind.__struct_fields__)


def _type(hint: Any) -> str:
    if get_origin(hint) is Annotated:
        return _type(get_args(hint)[0])
    if hint in _WORDS:
        return _WORDS[hint]
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "string"
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    parts = [part for part in get_args(hint) if part not in (type(None), Ellipsis)]
    if get_origin(hint) is tuple:
        return f"list of {_type(parts[0])}"
    if type(None) in get_args(hint):
        return f"{_type(parts[0])} or null"
    return "string"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"docs/{PAGE.name} written\n")
