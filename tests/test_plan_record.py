"""The plan builder on the size of a run's first record, which lists every seed and input."""

from __future__ import annotations

import msgspec
import pytest
from stagewright.events import (
    BackendDescription,
    InputRecord,
    MemoryEventLog,
    OriginalFile,
    RunOpened,
)
from stagewright.statemachine import InvalidStagePlanError, build_stage_execution_plan
from stagewright.statemachine.config.schema import InputImage, RunConfig

from .support import START, document
from .test_plan import with_inputs

RUN = "20261120T225226.123456Z-frames-7f3a9c"
PARENT = "20261120T225226.123456Z-an-earlier-run-with-a-long-name-7f3a9c"


def frames(count: int, parent: str | None = None, **top: object) -> RunConfig:
    """A configuration with so many input images of a video, or of the run ``parent``."""
    image = InputImage(
        path="/frame_00001.webp",
        media_type="image/webp",
        width=64,
        height=64,
        parent_run_id=parent,
        seed=2**31 if parent else None,
    )
    return with_inputs(document("img2img", **top), *[image] * count)


def opened(config: RunConfig) -> RunOpened:
    """The first record of a run of ``config``, with the longest values that it can have."""
    plan = build_stage_execution_plan(config)
    digest = "f" * 64
    return RunOpened(
        run_id=RUN,
        seq=0,
        ts=START,
        config=msgspec.to_builtins(config.document()),
        plan=msgspec.to_builtins(plan),
        seeds=tuple(2**31 - 1 - index for index in range(plan.total_images)),
        inputs=tuple(
            InputRecord(
                path=f"inputs/{place:05d}.webp",
                sha256=digest,
                source_sha256=digest,
                parent_run_id=image.parent_run_id,
                original=OriginalFile(name=image.file_name, sha256=digest),
                seed=image.seed,
            )
            for place, image in enumerate(config.inputs)
        ),
        backend=BackendDescription(kind="webui", url="http://127.0.0.1:7860", version="1" * 99),
        software="stagewright",
        host="host" * 16,
        boot_id="b" * 36,
        pid=4194304,
    )


@pytest.mark.parametrize(("count", "parent"), [(43_000, None), (36_000, PARENT)])
def test_a_plan_with_very_many_inputs_is_accepted_as_long_as_its_record_can_be_written(
    count: int, parent: str | None
) -> None:
    """28 minutes of video frames, or the images of an earlier run: the log takes the record."""
    MemoryEventLog(RUN).append(opened(frames(count, parent)))


@pytest.mark.parametrize(
    ("count", "parent", "images", "key"),
    [
        (53_000, None, 1, "input_image"),
        (45_000, PARENT, 1, "input_image"),
        (40_000, None, 10, "input_image"),
    ],
)
def test_a_plan_whose_first_record_would_be_too_long_is_refused(
    count: int, parent: str | None, images: int, key: str
) -> None:
    """Before a single input is copied, naming the key, the size and what to do."""
    with pytest.raises(InvalidStagePlanError, match=r"16777216.*fewer") as refused:
        build_stage_execution_plan(frames(count, parent, images=images))
    assert refused.value.key == key


def test_a_configuration_that_no_record_can_hold_is_refused() -> None:
    """Free metadata of 17 MiB: the plan says so, and nothing is made."""
    with pytest.raises(InvalidStagePlanError, match="16777216"):
        build_stage_execution_plan(document(metadata={"notes": "x" * 17 * 2**20}))
