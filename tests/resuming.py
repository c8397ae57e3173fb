"""What the tests of resume share: pictures that tell requests apart, cut logs, comparisons."""

from __future__ import annotations

import io
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from PIL import Image
from stagewright.adapters import open_controller
from stagewright.events import (
    CallRequested,
    LifecycleChanged,
    PipelineRunResult,
    StageEnd,
    StageEvent,
    StageImageProgress,
    StageStart,
    iterate,
)
from stagewright.statemachine import BackendError, CancelToken, GenerateRequest, PipelineController

from . import support
from .log_format import split_lines
from .posix import make_pipe
from .support import ScriptedBackend, document

LOG = "events.jsonl"
FOUR = ("txt2img", "img2img", "upscale", "adetailer")
STAGE_IDS = ("00-txt2img", "01-img2img", "02-upscale", "03-adetailer")
ALTERED = b"somebody's work"
E = TypeVar("E", bound=StageEvent)
Script = Callable[[GenerateRequest, CancelToken], None]


def painted(request: GenerateRequest, salt: str = "") -> list[bytes]:
    """Pictures that are the same for the same request, and others for any other."""
    return [_picture(f"{request.request_sha256} {place} {salt}") for place in range(request.count)]


def _picture(words: str) -> bytes:
    digest = sha256(words.encode()).digest()
    stream = io.BytesIO()
    Image.frombytes("RGB", (8, 4), digest * 3).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def painter(script: Script | None = None, *, salt: str = "", slots: int = 1) -> ScriptedBackend:
    """A backend of these pictures; with another ``salt`` it gives others."""
    return ScriptedBackend(script, slots=slots, images=lambda request: painted(request, salt))


def controller(
    runs: Path, backend: ScriptedBackend | None = None, **parts: Any
) -> PipelineController:
    """A controller of a painter, or of another backend."""
    return support.controller(runs, painter() if backend is None else backend, **parts)


def ran(runs: Path, config: dict[str, Any], backend: ScriptedBackend | None = None) -> Path:
    """The folder of a run that has come to its end, whatever that is."""
    handle = controller(runs, backend).start(config)
    handle.wait(30)
    return handle.folder


def made(runs: Path, config: dict[str, Any] | None = None, *, dead: bool = False) -> Path:
    """A sealed run of the embedded backend, or one that died while making its second image."""
    handle = open_controller(runs).start(config or small())
    handle.wait(30)
    if dead:
        cut_before(handle.folder, CallRequested, 1)
    return handle.folder


def resumed(
    folder: Path, backend: ScriptedBackend | None = None, **options: Any
) -> PipelineRunResult:
    """The result of a run that was taken up again by another process."""
    return controller(folder.parent, backend).resume(folder.name, **options).wait(30)


def small(*stages: str, images: int = 2, batch: int | None = None, **top: Any) -> dict[str, Any]:
    """A small configuration that does not wait between its retries."""
    config = document(*stages, images=images, **{"server": {"retries": 0}, **top})
    if batch is not None:
        config["txt2img"] = {**config["txt2img"], "batch_size": batch}
    return config


def copied(folder: Path, runs: Path) -> Path:
    """A copy of a run in another folder of runs."""
    return shutil.copytree(folder, runs / folder.name)


def cut(folder: Path, records: int, *, torn: bytes = b"") -> None:
    """Leave so many records of a log, and these bytes behind them."""
    path = folder / LOG
    lines = split_lines(path.read_bytes())
    assert 0 < records <= len(lines)
    path.write_bytes(b"".join(lines[:records]) + torn)


def cut_before(folder: Path, kind: type[StageEvent], nth: int = 0) -> None:
    """Cut a log before the nth record of a kind, as if the process had died there."""
    found = [event.seq for event in iterate(folder) if isinstance(event, kind)]
    cut(folder, found[nth])


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a run by its path, but for the lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.lock"
    }


def image_file(folder: Path, stage_id: str, index: int) -> Path:
    """The file of one image."""
    return next((folder / "images" / stage_id).glob(f"{index:05d}-*.png"))


def only(events: Sequence[StageEvent], kind: type[E]) -> list[E]:
    """The events of one kind, in order."""
    return [event for event in events if isinstance(event, kind)]


def epoch_of(result: PipelineRunResult, epoch: int) -> list[StageEvent]:
    """What one epoch wrote."""
    return [event for event in result.events if event.epoch == epoch]


def words(events: Sequence[StageEvent]) -> list[str]:
    """Events in a word each: a transition's trigger, else the type."""
    return [
        event.trigger if isinstance(event, LifecycleChanged) else type(event).__name__
        for event in events
    ]


def asked(backend: ScriptedBackend) -> list[tuple[str, int]]:
    """Stage and first image of every request that a backend got."""
    return [(request.stage_id, request.image_index) for request in backend.requests]


def comparable(result: PipelineRunResult) -> dict[str, Any]:
    """A result but for ids, resumes, times, and the digests of files that hold ids."""
    mine = ("run_id", "call_id", "sha256", "bytes", "duration_ms")
    plain: dict[str, Any] = {
        "state": result.state,
        "outcome": result.outcome,
        "plan": result.plan,
        "stages": [
            {**msgspec.structs.asdict(stage), "images": _plain(stage.images)}
            for stage in result.stages
        ],
        "images": _plain(result.images),
        "missing": _plain(result.missing),
        "seeds": result.seeds,
        "error": result.error and (result.error.kind, result.error.stage_id),
    }
    for stage in plain["stages"]:
        stage.pop("duration_ms")
    for image in [*plain["images"], *(one for stage in plain["stages"] for one in stage["images"])]:
        for name in mine:
            image.pop(name, None)
    return plain


def _plain(values: Sequence[Any]) -> list[dict[str, Any]]:
    return [msgspec.to_builtins(one) for one in values]


def sources(result: PipelineRunResult, stage_id: str) -> list[str]:
    """The digests of a stage's pictures, in order."""
    return [
        image.source_sha256
        for stage in result.stages
        if stage.stage_id == stage_id
        for image in stage.images
    ]


def check_story(events: Sequence[StageEvent]) -> None:
    """What holds for every log, however often its run was taken up again."""
    starts = [(event.epoch, event.stage_id) for event in only(events, StageStart)]
    ends = [(event.epoch, event.stage_id) for event in only(events, StageEnd)]
    assert len(set(starts)) == len(starts)
    assert len(set(ends)) == len(ends)
    assert set(ends) <= set(starts)
    requests = only(events, CallRequested)
    calls = Counter(request.call_id for request in requests)
    assert set(calls.values()) <= {1}
    by_place: dict[tuple[str, int], list[CallRequested]] = {}
    for request in requests:
        by_place.setdefault((request.stage_id, request.image_index), []).append(request)
    for (stage_id, index), attempts in by_place.items():
        assert [one.attempt for one in attempts] == list(range(len(attempts)))
        for one in attempts:
            assert one.call_id == f"{one.run_id}.{stage_id}.{index:05d}.{one.attempt}"


def check_told_once(events: Sequence[StageEvent]) -> None:
    """Each image has one StageImageProgress, over all epochs."""
    told = Counter(
        (event.stage_id, event.image_index) for event in only(events, StageImageProgress)
    )
    assert set(told.values()) <= {1}


def removed(file: Path) -> None:
    """It is gone."""
    file.unlink()


def rewritten(file: Path) -> None:
    """Other bytes stand in its place."""
    file.write_bytes(ALTERED)


def linked(file: Path) -> None:
    """It lies elsewhere, and a link leads there."""
    target = file.parent.parent.parent.parent / "elsewhere.png"
    file.rename(target)
    file.symlink_to(target)


def made_a_folder(file: Path) -> None:
    """A folder stands in its place."""
    file.unlink()
    file.mkdir()
    (file / "inside.txt").write_bytes(ALTERED)


def piped(file: Path) -> None:
    """A named pipe stands in its place."""
    file.unlink()
    make_pipe(file)


def dies_at(place: tuple[str, int]) -> Script:
    """A script that fails for good at one image."""

    def script(request: GenerateRequest, _cancel: CancelToken) -> None:
        if (request.stage_id, request.image_index) == place:
            raise BackendError("the GPU fell off")

    return script
