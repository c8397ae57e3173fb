"""Reading the log of a group, ``group.jsonl``."""

from __future__ import annotations

from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

import msgspec

from ...events.codec import DECODE_ERRORS
from ...events.errors import LogCorruptError, RunNotFoundError
from ...events.groups.model import GROUP_EVENT_TYPES, GroupEvent
from ...events.log.format import FIRST_CHAIN, MAX_LINE_BYTES, TRAILER, check, next_chain
from ...events.log.storage import is_regular, open_regular

GROUPS_NAME = "groups"
"""The folder of groups in a folder of runs."""
GROUP_LOG_NAME = "group.jsonl"
GROUP_LOCK_NAME = "group.lock"
LAST_GROUP = "last-group"
"""The name of the newest group for commands."""
_UNION: Any = reduce(or_, GROUP_EVENT_TYPES)
_DECODER: msgspec.json.Decoder[GroupEvent] = msgspec.json.Decoder(_UNION)
_TAGS = frozenset(str(kind.__struct_config__.tag) for kind in GROUP_EVENT_TYPES)
_PREV = slice(22, 38)
"""Where a line has the first digits of its chain value."""


class _Tag(msgspec.Struct):
    type: str


def group_log(runs: Path, group_id: str) -> Path:
    """The log of a group in a folder of runs."""
    return runs / GROUPS_NAME / group_id / GROUP_LOG_NAME


def find_group(runs: Path, name: str) -> Path | None:
    """The folder of the group with this id, unique prefix of one or ``last-group``, if any.

    Raises RunNotFoundError where several groups have the prefix.
    """
    parent = runs / GROUPS_NAME
    found = sorted(path.parent for path in parent.glob(f"*/{GROUP_LOG_NAME}"))
    if name == LAST_GROUP:
        return found[-1] if found else None
    named = [path for path in found if name and path.name.startswith(name)]
    matches = [path for path in named if path.name == name] or named
    if len(matches) > 1:
        some = ", ".join(path.name for path in matches[:4])
        raise RunNotFoundError(f"{name}: {len(matches)} groups begin like this: {some}")
    return matches[0] if matches else None


def read_group(path: Path) -> list[GroupEvent]:
    """The events in the log of a group, in order; a torn tail and newer events are left out.

    Raises RunNotFoundError, LogCorruptError, OSError.
    """
    if not is_regular(path):
        raise RunNotFoundError(f"{path.parent}: no group is here (there is no {GROUP_LOG_NAME})")
    events: list[GroupEvent] = []
    chain, offset, seq = FIRST_CHAIN, 0, 0
    with open_regular(path) as stream:
        while (line := stream.readline(MAX_LINE_BYTES + 1)).endswith(TRAILER[-1:]):
            body = check(line)
            if body is None or line[_PREV] != chain[:16]:
                raise LogCorruptError("it fails its checks", offset=offset, seq=seq, path=path)
            try:
                event = _decode(body)
            except DECODE_ERRORS as error:
                why = f"it is no event of a group: {error}"
                raise LogCorruptError(why, offset=offset, seq=seq, path=path) from error
            if event is not None:
                events.append(event)
            chain, offset, seq = next_chain(chain, body), offset + len(line), seq + 1
    return events


def _decode(body: bytes) -> GroupEvent | None:
    """An event; None for one of a newer version. Raises DECODE_ERRORS."""
    try:
        return _DECODER.decode(body)
    except msgspec.ValidationError:
        if msgspec.json.decode(body, type=_Tag).type in _TAGS:
            raise
        return None
