"""What several tests share: groups of small runs, and group logs that no stagewright wrote."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stagewright.events.groups.log import GROUP_LOG_NAME
from stagewright.events.log.format import FIRST_CHAIN, frame, next_chain
from stagewright.statemachine import GenerateRequest
from stagewright.statemachine.groups.result import GroupResult

from .support import ScriptedBackend, controller, document

VARY = ("txt2img.cfg_scale=5.0,7.0", "txt2img.sampler=Euler a,DDIM")
OPENED = "20261120T225226.123456Z-hostile-7f3a9c"
"""The id of a group whose log a test writes."""


def swept(
    runs: Path,
    *stages: str,
    vary: Sequence[str] = VARY,
    backend: ScriptedBackend | None = None,
    **top: Any,
) -> GroupResult:
    """A group of small runs that has ended."""
    started = controller(runs, backend).start_group(document(*stages, **top), vary=vary)
    return started.wait(30)


def refusing() -> ScriptedBackend:
    """A backend that fails every request with a cfg_scale of 7.0."""

    def refuse(request: GenerateRequest, _cancel: object) -> None:
        if getattr(request.config, "cfg_scale", None) == 7.0:
            raise RuntimeError("no <b>memory</b>")

    return ScriptedBackend(refuse)


def write_group_log(runs: Path, *events: Any, group_id: str = OPENED) -> Path:
    """A group's folder with a log of these events, framed and chained; other texts as they are."""
    folder = runs / "groups" / group_id
    folder.mkdir(parents=True)
    chain, lines = FIRST_CHAIN, b""
    for seq, event in enumerate(events):
        seal = {"count": seq, "head": chain.decode()} if event["type"] == "GroupSealed" else {}
        body = json.dumps({"group_id": group_id, "seq": seq, **at(), **seal, **event}).encode()
        lines += frame(body, chain)
        chain = next_chain(chain, body)
    (folder / GROUP_LOG_NAME).write_bytes(lines)
    return folder


def at() -> dict[str, Any]:
    """The time of an event."""
    return {"ts": "2026-11-20T22:52:26.123456Z"}


def group_opened(**fields: Any) -> dict[str, Any]:
    """A GroupOpened with one variant, and these fields instead of its own."""
    return {
        "type": "GroupOpened",
        "config": document(),
        "axes": [{"key": "txt2img.steps", "values": [1]}],
        "variants": [variant(0, **{"txt2img.steps": 1})],
        "seed": 1,
        "software": "stagewright",
        "name": "hostile",
        "backend": {"kind": "embedded"},
        "host": "h",
        "boot_id": "b",
        "pid": 1,
        **fields,
    }


def variant(index: int, **values: Any) -> dict[str, Any]:
    """A variant with these values by key."""
    return {"variant_index": index, "values": values}
