"""Shared by the tests of bundles: runs that hold private text, and readers of a zip."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stagewright.adapters.export.bundle import Bundle, bundle_run
from stagewright.adapters.export.bundle.private_names import PrivateNames
from stagewright.events.codec import CODEC

from .log_format import chain_value, make_log, split_bodies
from .samples import one_of_each

LOG = "events.jsonl"
RUN_ID = "20261120T225226.123456Z-test-7f3a9c"
NO_NAMES = PrivateNames()
"""Tests must not depend on the names of the machine that runs them."""


def sealed(documents: Sequence[Mapping[str, Any]]) -> bytes:
    """The bytes of a log of these events, with seals that fit."""
    bodies: list[bytes] = []
    for document in documents:
        event = dict(document)
        if event["type"] == "RunSealed":
            event |= {"count": len(bodies), "head": chain_value(bodies)}
        bodies.append(json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode())
    return make_log(bodies)


def documents() -> list[dict[str, Any]]:
    """One event of every type as JSON, as one run's log."""
    found: list[dict[str, Any]] = [json.loads(CODEC.encode(one)) for one in one_of_each(RUN_ID)]
    return found


def written(folder: Path, events: Sequence[Mapping[str, Any]]) -> Path:
    """A run folder with a log of these events."""
    folder.mkdir(parents=True)
    (folder / LOG).write_bytes(sealed(events))
    return folder


def bundled(folder: Path, names: PrivateNames = NO_NAMES, **how: Any) -> Bundle:
    """The bundle of a run, beside its folder of runs."""
    output = folder.parent.parent / "run.bundle.zip"
    return bundle_run(folder, output, names=names, **how)


def members(file: str | Path) -> dict[str, bytes]:
    """Every member of a zip by its name within the one folder that is in it."""
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        folders = {name.partition("/")[0] for name in archive.namelist()}
        assert len(folders) == 1
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def unpacked(file: str | Path, folder: Path) -> Path:
    """The run folder of a bundle, unpacked to another place."""
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder)
        return folder / archive.namelist()[0].partition("/")[0]


def events_in(made: Bundle) -> list[dict[str, Any]]:
    """The events in a bundle, as JSON."""
    return [json.loads(body) for body in split_bodies(members(made.file)[LOG])]


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to every text of a JSON value."""
    if isinstance(value, str):
        yield at
    elif isinstance(value, dict | list):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(part, (*at, name))


def append_at(value: Any, at: tuple[Any, ...], text: str) -> None:
    """Append to the text at a path, in place."""
    for name in at[:-1]:
        value = value[name]
    value[at[-1]] += text
