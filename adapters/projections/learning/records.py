"""What a learning record holds: the same keys, of the same types, in every one.

Readers of JSON Lines take a column's type from the lines that they see first, so nothing here
depends on the run: what is not there is null, a list is a list also when it is empty, a number
with a fraction always has one, and a table whose keys others choose is JSON text.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from ....events.model import BackendDescription, InputRecord, Outcome, RunState
from .asked import AskedSettings

SCHEMA_VERSION = 1
"""Rises when the same log would give other bytes; records of other versions are remade."""

LEARNING_NAME = "learning.jsonl"


def _said(description: str, **schema: Any) -> msgspec.Meta:
    """What the reference page and the JSON Schema say of a field."""
    return msgspec.Meta(description=description, extra_json_schema=schema or None)


class RecordedError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a run failed; all null where it did not."""

    kind: Annotated[str | None, _said("the exception's type")]
    message: Annotated[str | None, _said("its words, without credentials and home folders")]
    stage_id: Annotated[str | None, _said("the stage in which it happened")]
    image_index: Annotated[int | None, _said("the image at which it happened")]


class StageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One stage of the plan, over all processes that worked on the run."""

    stage_id: Annotated[str, _said("unique in the run: `00-txt2img`")]
    stage_type: Annotated[str, _said("`txt2img`, `img2img`, `upscale` or `adetailer`")]
    order_index: Annotated[int, _said("its place in the plan, from 0")]
    outcome: Annotated[Outcome | None, _said("null where it never began, or never ended")]
    image_count: Annotated[int, _said("images that it finished")]
    unchanged_images: Annotated[int, _said("of these, those in which nothing was detected")]
    duration_ms: Annotated[float, _said("time worked on it, by clocks that do not jump")]
    attempts: Annotated[int, _said("requests sent, further tries included")]
    failed_attempts: Annotated[int, _said("of these, those that gave no image and an error")]
    asked: Annotated[AskedSettings, _said("the settings that it was asked for")]
    used: Annotated[
        str,
        _said(
            "a JSON object, as text: what the server says that it really used, as far as it "
            "says the same of every image that counts"
        ),
    ]
    used_varies: Annotated[
        tuple[str, ...],
        _said(
            "names of what it says and `used` leaves out: it differs from image to image, or "
            "belongs to one (seeds, infotexts), or is longer than 4096 bytes; 256 at most"
        ),
    ]


class ImageRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The image of one index, as the last stage that finished it made it."""

    image_index: Annotated[int, _said("from 0")]
    stage_id: Annotated[str, _said("the stage that made it")]
    path: Annotated[str, _said("of its file, relative to the run folder")]
    sha256: Annotated[str, _said("digest of the file")]
    source_sha256: Annotated[str, _said("digest of the file without the `stagewright` chunk")]
    input_sha256: Annotated[
        str | None,
        _said("`source_sha256` of the image that it was made from; null for a prompt alone"),
    ]
    seed: Annotated[int, _said("the seed that it was made with")]
    width: Annotated[int, _said("pixels")]
    height: Annotated[int, _said("pixels")]
    bytes: Annotated[int, _said("size of the file")]
    media_type: Annotated[str, _said("`image/png`, `image/jpeg` or `image/webp`")]


class MissingRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An image that was planned and is not finished."""

    image_index: Annotated[int, _said("from 0")]
    stage_id: Annotated[str, _said("the first stage that has not finished it")]
    error_kind: Annotated[str | None, _said("why; null where it was never tried")]


class LearningRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A run as it ended last."""

    schema_version: Annotated[int, _said("the version of all that is said here")]
    run_id: Annotated[str, _said("the run's id")]
    folder: Annotated[
        str, _said("name of its folder: the id, unless somebody renamed or copied it; unique")
    ]
    log_records: Annotated[int, _said("so many records of the log it was made of")]
    log_head: Annotated[
        str, _said("the header of the last of them, which pins all before it (36 digits)")
    ]
    software: Annotated[
        str, _said("what opened the run: `stagewright 0.1.0 (Python 3.11.7, Linux)`")
    ]
    name: Annotated[str | None, _said("the configuration's name")]
    group_id: Annotated[str | None, _said("of the sweep that it belongs to")]
    variant_index: Annotated[int | None, _said("its place in that, from 0")]
    varied: Annotated[
        str, _said("a JSON object, as text: what was varied (`metadata.varied`), `{}` if nothing")
    ]
    learning_mode: Annotated[bool, _said("whether a stage of its plan is in learning mode")]
    prompt: Annotated[
        str | None, _said("the configuration's; what each stage was given is in `asked`")
    ]
    negative_prompt: Annotated[str | None, _said("likewise")]
    opened_at: Annotated[
        str, _said("RFC 3339 in UTC with six digits: when the run was opened", format="date-time")
    ]
    ended_at: Annotated[str, _said("when it ended last", format="date-time")]
    state: Annotated[RunState, _said("`COMPLETED`, `ERROR` or `CANCELLED`")]
    outcome: Annotated[Outcome, _said("`completed`, `partial`, `failed` or `cancelled`")]
    resumes: Annotated[int, _said("how often it was taken up again")]
    duration_ms: Annotated[float, _said("the sum over its stages")]
    error: Annotated[RecordedError, _said("why it failed; its parts are null where it did not")]
    seeds: Annotated[tuple[int, ...], _said("the seed of each image index")]
    backend: Annotated[BackendDescription, _said("what made the images, in the end")]
    inputs: Annotated[tuple[InputRecord, ...], _said("the input images, and the mask behind them")]
    stages: Annotated[tuple[StageRecord, ...], _said("every stage of the plan, in order")]
    images: Annotated[tuple[ImageRecord, ...], _said("the finished images, by index")]
    missing: Annotated[tuple[MissingRecord, ...], _said("what was planned and is not finished")]


def record_schema() -> dict[str, Any]:
    """The JSON Schema of a record."""
    schema: dict[str, Any] = msgspec.json.schema(LearningRecord)
    for part in schema["$defs"].values():
        if "properties" in part:
            part["required"] = list(part["properties"])  # a default is written as any value is
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"stagewright learning record, version {SCHEMA_VERSION}",
        **schema,
    }
