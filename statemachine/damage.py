"""What is amiss with a run's files before it is taken up again; nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from ..events.errors import ImageAlteredError
from ..events.folding import Fold
from ..events.model import CallCompleted, CallRequested, InputRecord, StageEvent
from ..events.timeline import FileTimeline
from .errors import ResumeRefusedError
from .file_checking import FileChecker, FileState, OnFile
from .plan import StageExecution, StageExecutionPlan
from .run.requests import request_spans
from .stage_configs import Img2ImgConfig
from .standing import Damage, Standing


def find_damage(
    folder: Path,
    plan: StageExecutionPlan,
    fold: Fold,
    timeline: FileTimeline,
    on_file: OnFile | None = None,
) -> Damage:
    """Check every recorded image of a run.

    Raises ImageAlteredError for a file that is there and cannot be read: nobody knows whether
    it is lost; ResumeRefusedError for a record that names another place than its stage's.
    """
    lost: dict[str, set[int]] = {}
    altered: list[str] = []
    stages = fold.result(timeline).stages
    total = sum(stage.image_count for stage in stages)
    checker = FileChecker(folder)
    images = (image for stage in stages for image in stage.images)
    for place, image in enumerate(images, start=1):
        if image.path.rpartition("/")[0] != f"images/{image.stage_id}":
            raise ResumeRefusedError(
                f"{folder.name}: its log says that {image.path} is an image of {image.stage_id}; "
                "no stagewright wrote that"
            )
        found = checker.check(image.path, image.sha256)
        if on_file is not None:
            on_file(place, total)
        if found is None:
            continue
        if found.state is FileState.UNREADABLE:
            raise ImageAlteredError(f"{folder / image.path}: {found}")
        lost.setdefault(image.stage_id, set()).add(image.image_index)
        if found.state is FileState.ALTERED:
            altered.append(image.path)
    return Damage(
        since=len(timeline),
        lost={stage_id: frozenset(indexes) for stage_id, indexes in lost.items()},
        altered=tuple(altered),
        made_from=_made_from(plan, fold, timeline, lost),
    )


def _made_from(
    plan: StageExecutionPlan, fold: Fold, timeline: FileTimeline, lost: dict[str, set[int]]
) -> dict[str, dict[int, str]]:
    """By stage and index, the sources of images whose sources may be others by now."""
    suspects = set().union(*(one.replaced for one in fold.stages.values()))
    suspects.update(_without_source(plan, fold))
    for stage in plan.stages if lost else ():
        # The whole request is repeated, and its other images may come out different too.
        for span in request_spans(stage, plan.total_images):
            if not lost.get(stage.stage_id, set()).isdisjoint(span):
                suspects.update(span)
    if not suspects:
        return {}
    stages = {stage.stage_id: stage for stage in plan.stages}
    derived = {one for one in stages if stages[one].input_source in stages}
    return _sources(timeline, derived, suspects)


def _without_source(plan: StageExecutionPlan, fold: Fold) -> Iterator[int]:
    """The indexes of finished images whose source is not finished; a salvaged log has such."""
    for stage in plan.stages:
        here, source = fold.stages.get(stage.stage_id), fold.stages.get(stage.input_source)
        if here is None or stage.input_source in ("prompt", "file"):
            continue
        yield from (
            index
            for index, _ in here.finished.items()
            if source is None or source.finished.get(index) is None
        )


def _sources(
    events: Iterable[StageEvent], stage_ids: set[str], indexes: set[int]
) -> dict[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = {stage_id: {} for stage_id in stage_ids}
    pending: dict[str, CallRequested] = {}
    for event in events:
        if isinstance(event, CallRequested) and event.stage_id in found:
            if event.image_index in indexes and event.inputs:
                pending[event.call_id] = event
        elif isinstance(event, CallCompleted):
            request = pending.pop(event.call_id, None)
            if request is not None:
                found[request.stage_id][request.image_index] = request.inputs[0]
    return found


def check_inputs(folder: Path, plan: StageExecutionPlan, fold: Fold, standing: Standing) -> None:
    """See that the copies of those inputs are there that images still to be made need.

    Raises ImageAlteredError.
    """
    assert fold.opened is not None
    checker = FileChecker(folder)
    for record in needed_inputs(plan, fold.opened.inputs, standing.stands):
        found = checker.check(record.path, record.sha256)
        if found is not None:
            raise ImageAlteredError(
                f"{folder / record.path}: {found}; images that are still to be made need it: put "
                "back the file that was recorded, then resume the run"
            )


def needed_inputs(
    plan: StageExecutionPlan,
    inputs: Sequence[InputRecord],
    stands: Callable[[StageExecution, int], bool],
) -> Iterator[InputRecord]:
    """The copies of inputs and masks that images which do not stand are made from."""
    for stage in plan.stages:
        mask = stage.config.mask if isinstance(stage.config, Img2ImgConfig) else None
        if mask is None and stage.input_source != "file":
            continue
        to_make = [index for index in range(plan.total_images) if not stands(stage, index)]
        if to_make and mask is not None:
            yield from (record for record in inputs if record.path == mask)
        if stage.input_source == "file":
            places = dict.fromkeys(index // plan.images_per_input for index in to_make)
            yield from (inputs[place] for place in places)
