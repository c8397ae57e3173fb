"""Writes docs/events.md from the event types; a test compares the two."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
from stagewright.events import EVENT_TYPES, StageEvent
from stagewright.events.groups.model import (
    GROUP_EVENT_TYPES,
    GroupEvent,
    SweepAxis,
    Variant,
)
from stagewright.events.log.shared_events import SharedEvent, SharedLogRepaired
from stagewright.events.model import (
    Artifact,
    BackendDescription,
    ErrorDetail,
    ImagePrompt,
    InputRecord,
    OriginalFile,
    ReuseOrigin,
    SourceFile,
)
from stagewright.events.queue.model import QUEUE_EVENT_TYPES, RerunSource, StageWork
from stagewright.events.ratings.model import ImageRated, RatingsOpened

_PARTS = (
    Artifact,
    InputRecord,
    OriginalFile,
    ImagePrompt,
    SourceFile,
    ReuseOrigin,
    BackendDescription,
    ErrorDetail,
    SweepAxis,
    Variant,
    RerunSource,
    StageWork,
)

_HEAD = """# Events

Made by `python docs/make_event_reference.py`; a test compares it with the code. A *barrier* is
durable before anything is written after it. Durations are milliseconds, times RFC 3339 in UTC with
six digits, states upper case, stage types lower case (`txt2img`, `img2img`, `upscale`, `adetailer`,
and those of other packages), paths relative to the run folder with `/`.

Every event carries:
"""


_GROUP_HEAD = """# Events of a group

The log of a group, `runs/groups/<group_id>/group.jsonl`, has the line format of a run's log. It
says which variants there are and which began; everything else is in the logs of the runs.
Subscribers get these events through `on_group`. Every event is a barrier and carries:
"""


_RATINGS_HEAD = """# Events of ratings

`runs/ratings.jsonl` has the line format of a run's log; several processes append to it, one at a
time. Every event is a barrier and carries:
"""
_RATINGS = (RatingsOpened, ImageRated, SharedLogRepaired)
_QUEUE_HEAD = """# Events of a queue

`runs/queue.jsonl` has the same line format and envelope as the log of ratings, and a `LogRepaired`
like it. Subscribers get these events through `on_queue`. Every event is a barrier.
"""
_Event = StageEvent | GroupEvent | SharedEvent


def reference() -> str:
    """The whole page."""
    run = [_HEAD, *_table(StageEvent), "", *_events(EVENT_TYPES, StageEvent)]
    group = [_GROUP_HEAD, *_table(GroupEvent), "", *_events(GROUP_EVENT_TYPES, GroupEvent)]
    ratings = [_RATINGS_HEAD, *_table(SharedEvent), "", *_events(_RATINGS, SharedEvent)]
    queue = [_QUEUE_HEAD, *_events(QUEUE_EVENT_TYPES, SharedEvent)]
    return "\n".join([*run, *group, *ratings, *queue, *_parts()])


def _events(kinds: Sequence[type[_Event]], base: type[_Event]) -> Iterator[str]:
    envelope = base.__struct_fields__
    for kind in kinds:
        barrier = " (barrier)" if kind.barrier and base is StageEvent else ""
        yield f"## `{kind.__struct_config__.tag}`{barrier}\n\n{_words(kind)}\n"
        yield from _table(kind, leave_out=envelope)
        yield ""


def _parts() -> Iterator[str]:
    yield "# Parts\n"
    for kind in _PARTS:
        yield f"## {kind.__name__}\n\n{_words(kind)}\n"
        yield from _table(kind)
        yield ""


def _words(kind: type) -> str:
    return " ".join((kind.__doc__ or "").split()).replace("``", "`")


def _table(kind: type[msgspec.Struct], leave_out: tuple[str, ...] = ()) -> Iterator[str]:
    yield "| field | type | default |"
    yield "| --- | --- | --- |"
    if kind in (StageEvent, GroupEvent, SharedEvent):
        yield "| `type` | string, the event's name | |"
    hints = get_type_hints(kind)
    for field in msgspec.structs.fields(kind):
        if field.name not in leave_out:
            default = _default(field.default)
            yield f"| `{field.encode_name}` | {_type(hints[field.name])} |{default or ' '}|"


def _default(value: Any) -> str:
    if value is msgspec.NODEFAULT:
        return ""
    return " not there " if value is msgspec.UNSET else f" `{msgspec.json.encode(value).decode()}` "


def _type(hint: Any) -> str:
    names = {str: "string", int: "whole number", float: "number", bool: "true or false"}
    if hint in names:
        return names[hint]
    if hint is datetime:
        return "time"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " \\| ".join(f"`{member.value}`" for member in hint)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    parts = [part for part in get_args(hint) if part not in (type(None), Ellipsis)]
    if get_origin(hint) is tuple:
        return f"list of {_type(parts[0])}"
    if msgspec.UnsetType in parts:
        return _type(parts[0])
    if type(None) in get_args(hint):
        return f"{_type(parts[0])} or null"
    return "object"


if __name__ == "__main__":
    Path(__file__).with_name("events.md").write_text(reference(), encoding="utf-8")
    sys.stdout.write("docs/events.md written\n")
