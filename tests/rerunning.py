"""Reruns, and the run that the same images come from when it is made anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stagewright.events import PipelineRunResult, RunOpened, replay
from stagewright.statemachine.config.document import apply_overrides

from .resuming import asked, painter
from .reusing import reusing

SOURCES = dict[str, dict[int, str]]


class Repeated(NamedTuple):
    """A rerun that has ended: its folder, its result, and the requests that were sent for it."""

    folder: Path
    result: PipelineRunResult
    sent: list[tuple[str, int]]

    @property
    def opened(self) -> RunOpened:
        """Its first event."""
        return opened(self.folder)


def opened(folder: Path) -> RunOpened:
    """The first event of a run."""
    first = next(iter(replay(folder).events))
    assert isinstance(first, RunOpened)
    return first


def sources(result: PipelineRunResult) -> SOURCES:
    """By stage and index, the digest of each image as the backend gave it."""
    return {
        stage.stage_id: {image.image_index: image.source_sha256 for image in stage.images}
        for stage in result.stages
    }


def repeated(
    folder: Path,
    *overrides: str,
    images: Sequence[int] | None = None,
    is_foretold: bool = True,
    **options: Any,
) -> Repeated:
    """A rerun of a run, whose plan has said beforehand what it sends."""
    backend = painter()
    controller = reusing(folder.parent, backend)
    planned = controller.plan_rerun(folder.name, images=images, overrides=overrides)
    handle = controller.start_rerun(folder.name, images=images, overrides=overrides, **options)
    result = handle.wait(30)
    for stage in planned:
        sent = sum(one == stage.stage_id for one, _ in asked(backend))
        assert sent == stage.requests or not is_foretold
        assert sum(stage.reasons.values()) == stage.to_make
    return Repeated(handle.folder, result, asked(backend))


def made_anew(
    folder: Path, config: Mapping[str, Any], overrides: Sequence[str], images: Sequence[int]
) -> SOURCES:
    """What a whole new run with these settings makes of some images, by their place in the list."""
    folder.mkdir()
    new = reusing(folder, painter()).start(apply_overrides(config, overrides)).wait(30)
    return {
        stage: {place: made[index] for place, index in enumerate(images) if index in made}
        for stage, made in sources(new).items()
    }


def check_as_new(
    folder: Path, config: Mapping[str, Any], *overrides: str, images: Sequence[int]
) -> Repeated:
    """A rerun, after it was seen that its images are those of a whole new run."""
    found = repeated(folder, *overrides, images=images)
    anew = folder.parent.with_name("anew")
    assert sources(found.result) == made_anew(anew, config, overrides, images)
    assert found.opened.parent_run_id == folder.name
    assert found.opened.parent_images == tuple(images)
    return found
