"""Commands on a group of 1,000 finished runs, beside the interpreter doing nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
from stagewright.adapters import open_controller
from stagewright.events import RunSealed, StageEvent, iterate
from stagewright.events.codec import CODEC
from stagewright.events.groups.log import GROUP_LOG, GROUP_LOG_NAME, read_group_log
from stagewright.events.groups.model import (
    GroupEvent,
    GroupOpened,
    GroupSealed,
    Variant,
    VariantBegun,
)
from stagewright.events.log.format import FIRST_CHAIN, frame, next_chain
from stagewright.events.log.kind import LOG_NAME

from .configuration import configuration
from .startup_speed import startup_ratio

RUNS = 1_000
CONFIG = configuration(
    2,
    64,
    steps=2,
    img2img={"denoise": 0.3, "steps": 2},
    upscale={"upscaler": "Lanczos", "factor": 1.5},
    adetailer={"passes": [{"model": "face_yolov8n.pt"}]},
)


def main() -> None:
    """Print the table's rows; each command has to end within 2 s."""
    with tempfile.TemporaryDirectory() as place:
        runs = Path(place) / "runs"
        write_group(runs, RUNS)
        for arguments in (["list"], ["show", "last-group"], ["resume", "last-group"]):
            what = f"stagewright {' '.join(arguments)}, {RUNS:,} runs"
            ratio = startup_ratio(what, [*arguments, "--runs", str(runs)], "2 s", rounds=3)
            print(ratio.line())


def write_group(runs: Path, count: int) -> None:
    """A group of so many finished runs: copies of one, with its image files as hard links."""
    with tempfile.TemporaryDirectory(dir=runs.parent) as place:
        made = open_controller(place).start_group(CONFIG, vary=["txt2img.cfg_scale=7"]).wait()
        (variant,) = made.variants
        assert variant.run_id is not None, made
        group = Path(place) / "groups" / made.group_id
        events: list[GroupEvent] = []
        read_group_log(group, events.extend)
        opened = events[0]
        assert isinstance(opened, GroupOpened)
        run = Path(place) / variant.run_id
        ids = [_later_id(variant.run_id, opened, number) for number in range(count)]
        for number, run_id in enumerate(ids):
            _copy_run(run, runs / run_id, number)
        shutil.copytree(group, runs / "groups" / group.name)
        lines = b"".join(_framed(_group_events(opened, ids), GROUP_LOG.codec.encode))
        (runs / "groups" / group.name / GROUP_LOG_NAME).write_bytes(lines)


def _later_id(run_id: str, opened: GroupOpened, number: int) -> str:
    """The id of the run of a variant: some seconds after that of the variant before."""
    at = opened.ts + timedelta(seconds=10 * number)
    return f"{at:%Y%m%dT%H%M%S.%f}Z-{run_id.split('-', 1)[1][:-6]}{number:06x}"


def _copy_run(run: Path, copy: Path, number: int) -> None:
    shutil.copytree(run, copy, copy_function=os.link)
    (copy / LOG_NAME).unlink()
    lines = b"".join(_framed(iterate(run), lambda event: _as_of(event, run, copy, number)))
    (copy / LOG_NAME).write_bytes(lines)


def _as_of(event: StageEvent, run: Path, copy: Path, number: int) -> bytes:
    body = CODEC.encode(event).replace(run.name.encode(), copy.name.encode())
    if event.seq:
        return body
    body = body.replace(b'"variant_index":0', f'"variant_index":{number}'.encode())
    return body.replace(b'"txt2img.cfg_scale":7', f'"txt2img.cfg_scale":{number}'.encode())


def _group_events(opened: GroupOpened, ids: list[str]) -> Iterator[GroupEvent]:
    (first,) = opened.variants
    variants: tuple[Variant, ...] = tuple(
        msgspec.structs.replace(first, variant_index=number, values={"txt2img.cfg_scale": number})
        for number in range(len(ids))
    )
    yield msgspec.structs.replace(opened, variants=variants)
    for number, run_id in enumerate(ids):
        yield VariantBegun(
            group_id=opened.group_id,
            seq=number + 1,
            ts=opened.ts,
            variant_index=number,
            run_id=run_id,
        )
    yield GroupSealed(
        group_id=opened.group_id,
        seq=len(ids) + 1,
        ts=opened.ts,
        count=len(ids) + 1,
        head="",
        outcome="completed",
    )


def _framed(events, encode) -> Iterator[bytes]:
    """The lines of a log; a seal gets the chain that it closes."""
    chain = FIRST_CHAIN
    for event in events:
        if isinstance(event, RunSealed | GroupSealed):
            event = msgspec.structs.replace(event, head=chain.decode())  # noqa: PLW2901 - the same event
        body = encode(event)
        yield frame(body, chain)
        chain = next_chain(chain, body)


if __name__ == "__main__":
    main()
