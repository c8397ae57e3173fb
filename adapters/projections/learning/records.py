"""What a learning record holds: the same keys, of the same types, in every record.

Readers of JSON Lines take a column's type from the first lines, so no type here depends on the
run: a missing value is null, a list without members is empty, a number that may have a fraction
is always written with one, and a table whose keys others choose is JSON text.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from ....events.model import BackendDescription, InputRecord, Outcome, RunState
from ....events.ratings.model import Verdict
from .asked import AskedSettings

SCHEMA_VERSION = 5
"""Rises when the same logs would give other bytes; records of other versions are remade."""

LEARNING_NAME = "learning.jsonl"


def _is(description: str, **schema: Any) -> msgspec.Meta:
    """The description of a field in the reference page and the JSON Schema."""
    return msgspec.Meta(description=description, extra_json_schema=schema or None)


class RecordedError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a run failed; all null if it did not fail."""

    kind: Annotated[str | None, _is("the exception's type")]
    message: Annotated[str | None, _is("its message, without credentials and home folders")]
    stage_id: Annotated[str | None, _is("the stage in which it happened")]
    image_index: Annotated[int | None, _is("the image at which it happened, from 0")]


class StageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One stage of the plan, over all processes that executed the run."""

    stage_id: Annotated[str, _is("unique in the run: `00-txt2img`")]
    stage_type: Annotated[str, _is("`txt2img`, `img2img`, `upscale` or `adetailer`")]
    order_index: Annotated[int, _is("its place in the plan, from 0")]
    outcome: Annotated[Outcome | None, _is("null if it never began or never ended")]
    image_count: Annotated[int, _is("images that it finished")]
    unchanged_images: Annotated[int, _is("of these, those in which nothing was detected")]
    reused_images: Annotated[
        int, _is("of these, those that an earlier run made; `attempts` counts no request of them")
    ]
    duration_ms: Annotated[float, _is("working time, by monotonic clocks")]
    attempts: Annotated[int, _is("requests sent, including retries")]
    failed_attempts: Annotated[int, _is("requests that gave an error instead of an image")]
    asked: Annotated[AskedSettings, _is("the settings requested by the plan")]
    used: Annotated[str, _is("JSON text of an object: reported settings equal for all images")]
    used_varies: Annotated[
        tuple[str, ...],
        _is(
            "names of reported settings that `used` leaves out, 256 at most: they differ between "
            "images, belong to one image (seeds, infotexts), or exceed 4096 bytes"
        ),
    ]


class ImageRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The image of one index, as the last stage that finished it made it."""

    image_index: Annotated[int, _is("from 0")]
    stage_id: Annotated[str, _is("the stage that made it")]
    path: Annotated[str, _is("its file, relative to the run folder")]
    sha256: Annotated[str, _is("digest of the file")]
    source_sha256: Annotated[str, _is("digest of the file without the `stagewright` chunk")]
    input_sha256: Annotated[str | None, _is("`source_sha256` of its input image; null if none")]
    input_name: Annotated[
        str | None, _is("name of the input file that it comes from; null if there was none")
    ]
    server: Annotated[
        str | None,
        _is("address of the server that made it; null if none did, or an earlier run made it"),
    ]
    seed: Annotated[int, _is("the seed that it was made with")]
    prompt: Annotated[
        str | None, _is("its own, where the run's images have different prompts; otherwise null")
    ]
    negative_prompt: Annotated[str | None, _is("likewise")]
    width: Annotated[int, _is("pixels")]
    height: Annotated[int, _is("pixels")]
    bytes: Annotated[int, _is("size of the file")]
    media_type: Annotated[str, _is("`image/png`, `image/jpeg` or `image/webp`")]
    score: Annotated[int | None, _is("its rating from 1 to 5; null if it has none")]
    verdict: Annotated[Verdict | None, _is("`picked` or `rejected`; null if neither")]
    tags: Annotated[tuple[str, ...], _is("the tags of its rating")]
    note: Annotated[str | None, _is("the note of its rating; null if it has none")]


class MissingRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An image that was planned and is not finished."""

    image_index: Annotated[int, _is("from 0")]
    stage_id: Annotated[str, _is("the first stage that has not finished it")]
    error_kind: Annotated[str | None, _is("why; null if it was never tried")]


class LearningRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A run at its last end."""

    schema_version: Annotated[int, _is("the version of this format")]
    run_id: Annotated[str, _is("the run's id")]
    folder: Annotated[str, _is("name of the run's folder; unique in the file")]
    log_records: Annotated[int, _is("number of log records that this record was made of")]
    log_head: Annotated[str, _is("header of the last of them (36 digits), which fixes all before")]
    software: Annotated[str, _is("what opened the run: `stagewright 0.1.0 (Python 3.11, Linux)`")]
    name: Annotated[str | None, _is("the configuration's name")]
    group_id: Annotated[str | None, _is("the sweep that it belongs to")]
    variant_index: Annotated[int | None, _is("its place in the sweep, from 0")]
    varied: Annotated[str, _is("JSON text of an object: what the sweep varied; `{}` if nothing")]
    learning_mode: Annotated[bool, _is("whether a stage of its plan is in learning mode")]
    prompt: Annotated[
        str | None, _is("the configuration's as written; those of the stages are in `asked`")
    ]
    negative_prompt: Annotated[str | None, _is("likewise")]
    opened_at: Annotated[str, _is("RFC 3339 in UTC with six digits", format="date-time")]
    ended_at: Annotated[str, _is("its last end, in the same form", format="date-time")]
    state: Annotated[RunState, _is("`COMPLETED`, `ERROR` or `CANCELLED`")]
    outcome: Annotated[Outcome, _is("`completed`, `partial`, `failed` or `cancelled`")]
    resumes: Annotated[int, _is("how often it was resumed")]
    duration_ms: Annotated[float, _is("the sum over its stages")]
    error: Annotated[RecordedError, _is("why it failed")]
    seeds: Annotated[tuple[int, ...], _is("the seed of each image index")]
    backend: Annotated[
        BackendDescription, _is("the backend of the last epoch; of several servers the first")
    ]
    inputs: Annotated[tuple[InputRecord, ...], _is("the input images, then the masks")]
    stages: Annotated[tuple[StageRecord, ...], _is("every stage of the plan, in order")]
    images: Annotated[tuple[ImageRecord, ...], _is("the finished images, by index")]
    missing: Annotated[tuple[MissingRecord, ...], _is("the images that are not finished")]


def record_schema() -> dict[str, Any]:
    """The JSON Schema of a record."""
    schema: dict[str, Any] = msgspec.json.schema(LearningRecord)
    for part in schema["$defs"].values():
        if "properties" in part:
            part["required"] = list(part["properties"])  # defaults are written, too
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"stagewright learning record, version {SCHEMA_VERSION}",
        **schema,
    }
