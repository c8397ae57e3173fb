"""What the tests of reuse share: a run, and what a later run would find of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from stagewright.adapters import open_controller
from stagewright.adapters.bootstrap import ConfiguredBackend
from stagewright.adapters.projections.reuse_index import CatalogueReuseIndex
from stagewright.events import CallRequested, PipelineRunResult, RunOpened, RunState
from stagewright.statemachine.config.schema import Reuse, ServerTable
from stagewright.statemachine.run.reuse import EarlierImages, RunIdentity
from stagewright.statemachine.stages import StageConfig


class Later(NamedTuple):
    """What a run of the same configuration finds, by stage: the files not checked, or None."""

    found: Mapping[str, tuple[str, ...] | None]
    reported: Mapping[str, Mapping[str, str | None]]


def made(runs: Path, url: str, config: Mapping[str, Any]) -> PipelineRunResult:
    """A run that completes."""
    result = open_controller(runs, url).start(dict(config)).wait(30)
    assert result.state is RunState.COMPLETED, result.error
    return result


def hashes_now(backend: ConfiguredBackend, stage: StageConfig) -> Mapping[str, str | None]:
    """The hashes of files that a backend reports, without the versions of its programs."""
    reported = backend.file_hashes.reported(stage)
    return {name: it for name, it in reported.items() if not name.startswith("version of ")}


def later_run(
    runs: Path, url: str, earlier: PipelineRunResult, *, mode: Reuse = Reuse.ALL,
    preflight: bool = True, changed: Mapping[str, str] = {},
) -> Later:  # fmt: skip
    """What a run would find of an ``earlier`` one, with other words of its backend ``changed``.

    With ``mode`` GROUP the earlier run is its parent.
    """
    opened = next(iter(earlier.events))
    assert isinstance(opened, RunOpened)
    plan = open_controller(runs, url).validate(dict(opened.config))
    backend = ConfiguredBackend(url, runs=runs)
    backend.prepare(plan, ServerTable(), preflight=preflight)
    parent = earlier.run_id if mode is Reuse.GROUP else None
    described = msgspec.structs.replace(backend.description, **changed)
    index = CatalogueReuseIndex(runs)
    index.refresh()
    identity = RunIdentity("later", None, parent, described)
    images = EarlierImages(identity, mode, index.find, backend.file_hashes)
    requests = {event.stage_id: event.request_sha256 for event in earlier.events
                if isinstance(event, CallRequested)}  # fmt: skip
    found = {}
    for stage in plan.stages:
        answers = images.find(requests[stage.stage_id], stage.config)
        used = [one.not_checked for one in answers if not one.refusal]
        found[stage.stage_type] = used[0] if used else None
    reported = {one.stage_type: hashes_now(backend, one.config) for one in plan.stages}
    backend.release()
    return Later(found, reported)
