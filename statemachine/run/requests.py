"""The requests of a stage as pure functions: which images each makes, and what it asks for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec

from ...events.folds import Fold
from ...events.model import InputRecord, RunOpened
from ..config.script_images import map_strings
from ..errors import BackendAnswerError, BackendError
from ..plan.plan import PER_IMAGE, StageExecution, StageExecutionPlan
from ..ports import GenerateAnswer, GenerateRequest, SourceImage, UnsettledCall
from ..stages.stage import StageConfig

LONGEST_RETRY_WAIT_S = 300.0
"""The longest wait before a further try, even if the backoff or the backend asks for more."""
MAX_INFO_BYTES = 1024 * 1024
"""Most bytes of an answer's ``info``; a whole record holds 16 MiB."""
_NOT_DIGESTED = ("seed", "batch_size", "mask", "enabled")

SCRIPT_IMAGES = "inputs/scripts"
"""The folder with the copies of the images that scripts are given."""


class Sources(NamedTuple):
    """The images that a request is made from: none or one, the mask, and those of scripts.

    The latter are by the paths in ``alwayson_scripts``.
    """

    inputs: tuple[SourceImage, ...] = ()
    mask: SourceImage | None = None
    script_images: Mapping[str, SourceImage] = {}


def request_spans(
    stage: StageExecution, plan: StageExecutionPlan, breaks: Sequence[int] = ()
) -> Iterator[range]:
    """The image indexes that each request of a stage makes, in order.

    They are one, or ``batch_size`` consecutive ones that are made from one prompt or from one
    input file; the last request for it may make fewer.
    """
    first = 0
    while first < plan.total_images:
        span = span_of(stage, first, plan, breaks)
        yield span
        first = span.stop


def span_of(
    stage: StageExecution, image_index: int, plan: StageExecutionPlan, breaks: Sequence[int] = ()
) -> range:
    """The image indexes of the request that makes this one; ``breaks`` are of the whole run."""
    alike = {"prompt": plan.total_images, "file": plan.images_per_input}
    group = alike.get(stage.input_source, 1)
    first = image_index - image_index % group
    end = first + group
    place = bisect_right(breaks, image_index)
    first = max(first, breaks[place - 1] if place else 0)
    end = min(end, breaks[place] if place < len(breaks) else end)
    batch = stage.config.batch_size or 1
    first = image_index - (image_index - first) % batch
    return range(first, min(first + batch, end))


def request_breaks(opened: RunOpened | None) -> Sequence[int]:
    """The indexes before which a request ends: of images with another prompt or a gap in seeds."""
    if opened is None or opened.plan.get("prompts") != PER_IMAGE:
        return ()
    seeds = opened.seeds
    prompts = opened.prompts if isinstance(opened.prompts, tuple) else ()
    own = opened.seed_indexes if isinstance(opened.seed_indexes, tuple) else range(len(seeds))
    return [
        index
        for index in range(1, len(seeds))
        if seeds[index] != seeds[index - 1] + 1
        or own[index] != own[index - 1] + 1
        or prompts[index - 1 : index] != prompts[index : index + 1]
    ]


def for_image(stage: StageExecution, image_index: int, opened: RunOpened) -> StageExecution:
    """A planned stage with the prompts of an image, where it has none of its own."""
    if not isinstance(opened.prompts, tuple):
        return stage
    config, prompts = stage.config, msgspec.structs.asdict(opened.prompts[image_index])
    open_keys = [key for key in prompts if config.inherits(key) and getattr(config, key) is None]
    taken = {key: prompts[key] for key in open_keys}
    return msgspec.structs.replace(stage, config=msgspec.structs.replace(config, **taken))


def input_records(
    stage: StageExecution, image_index: int, plan: StageExecutionPlan, opened: RunOpened
) -> tuple[InputRecord | None, InputRecord | None]:
    """The recorded input file that an image is made from, if it is from one, and the mask."""
    if stage.input_source == "prompt":
        return None, None
    number = image_index // plan.images_per_input
    # After the records of the inputs comes that of the mask, or those of a mask for each.
    named, its_own = stage.config.mask, f"{stage.config.mask}/{number:05d}."
    places = (plan.input_count + number, plan.input_count, 0) if named else ()
    masks = [opened.inputs[place] for place in places if place < len(opened.inputs)]
    mask = next((one for one in masks if one.path == named or one.path.startswith(its_own)), None)
    return (opened.inputs[number] if stage.input_source == "file" else None), mask


def script_image_records(stage: StageExecution, opened: RunOpened) -> list[InputRecord]:
    """The recorded images that the arguments of a stage's scripts name."""
    if not stage.config.alwayson_scripts:
        return []
    named: set[str] = set()
    map_strings(stage.config.alwayson_scripts, lambda _key, text: named.add(text))
    images = (one for one in opened.inputs if one.path.startswith(f"{SCRIPT_IMAGES}/"))
    return [one for one in images if one.path in named]


class WantedRequest(NamedTuple):
    """What a request asks for, without the bytes of its images.

    ``config`` has the prompts of its images, ``inputs`` are ``source_sha256`` values.
    """

    request_sha256: str
    seed: int
    config: StageConfig
    inputs: tuple[str, ...]


def wanted_request(
    stage: StageExecution,
    span: range,
    plan: StageExecutionPlan,
    opened: RunOpened,
    source_sha256: str | None,
) -> WantedRequest:
    """The request of a span; ``source_sha256`` is of the image that an earlier stage has made."""
    first = span.start
    seed = request_seed(stage.config, first, opened)
    record, mask = input_records(stage, first, plan, opened)
    source = record.source_sha256 if record else source_sha256
    scripts = {one.path: one.source_sha256 for one in script_image_records(stage, opened)}
    stage = for_image(stage, first, opened)
    inputs = () if source is None else (source,)
    digest = request_digest(
        stage,
        seed,
        len(span),
        inputs=inputs,
        mask=mask.source_sha256 if mask else None,
        script_images=scripts,
    )
    return WantedRequest(digest, seed, stage.config, inputs)


def build_request(
    stage: StageExecution,
    span: range,
    attempt: int,
    fold: Fold,
    wanted: WantedRequest,
    sources: Sources,
    *,
    server: str | None = None,
) -> GenerateRequest:
    """One attempt at a span of images of a stage that has started, to be sent to ``server``.

    ``fold`` knows the run and the earlier attempts.
    """
    assert fold.opened is not None
    opened, folded, first = fold.opened, fold.stages[stage.stage_id], span.start
    inputs, mask, script_images = sources
    answers = folded.first_answers
    # A copy: the thread of another server may add its first answer meanwhile.
    of_others = [info for at, (_, info) in [*answers.items()] if at != server]
    calls = folded.unsettled.get(first, {})
    return GenerateRequest(
        call_id=call_id(opened.run_id, stage.stage_id, first, attempt),
        run_id=opened.run_id,
        stage_id=stage.stage_id,
        stage_type=stage.stage_type,
        image_index=first,
        count=len(span),
        total_images=len(opened.seeds),
        attempt=attempt,
        seed=wanted.seed,
        config=wanted.config,
        inputs=inputs,
        mask=mask,
        script_images=script_images,
        unanswered=tuple(it for it, at in calls.items() if at == server),
        interrupted=first in folded.interrupted or first in folded.maybe_interrupted,
        first_answer=answers.get(server),
        other_answer=of_others[0] if of_others else None,
        request_sha256=wanted.request_sha256,
    )


def request_seed(config: StageConfig, image_index: int, opened: RunOpened) -> int:
    """The seed of a stage's image: counted from the stage's own, or else the image's."""
    if config.seed is None:
        return opened.seeds[image_index]
    indexes = opened.seed_indexes
    return config.seed + (indexes[image_index] if isinstance(indexes, tuple) else image_index)


def unsettled_calls(fold: Fold) -> Iterator[UnsettledCall]:
    """The calls of a run, of all stages, that a backend may still work on."""
    for stage in fold.stages.values():
        for calls in stage.unsettled.values():
            for call, server in calls.items():
                yield UnsettledCall(call, stage.stage_type, server)


def call_id(run_id: str, stage_id: str, image_index: int, attempt: int) -> str:
    """The same for the same attempt in every process; different for any other attempt."""
    return f"{run_id}.{stage_id}.{image_index:05d}.{attempt}"


def request_digest(
    stage: StageExecution,
    seed: int,
    count: int,
    *,
    inputs: Sequence[str],
    mask: str | None,
    script_images: Mapping[str, str] = {},
) -> str:
    """SHA-256 of the request's canonical JSON; equal in all attempts, runs and backends.

    ``inputs``, ``mask`` and ``script_images``, by path, are the images' ``source_sha256``.
    """
    settings: dict[str, Any] = msgspec.to_builtins(stage.config)
    if script_images:
        settings["alwayson_scripts"] = map_strings(
            settings["alwayson_scripts"], lambda _key, text: script_images.get(text, text)
        )
    content = {
        "stage_type": str(stage.stage_type),
        "settings": {key: settings[key] for key in settings if key not in _NOT_DIGESTED},
        "seed": seed,
        "count": count,
        "inputs": inputs,
        "mask": mask,
    }
    return sha256(msgspec.json.encode(content, order="sorted")).hexdigest()


def recordable_info(answer: GenerateAnswer) -> Mapping[str, Any]:
    """The answer's ``info`` as JSON values.

    An ``info`` that is too large is cut. Raises BackendAnswerError if a log cannot record ``info``
    or ``endpoint``.
    """
    try:
        data = msgspec.json.encode(answer.info)
        info = msgspec.json.decode(data, type=dict[str, Any])
        msgspec.convert(answer.endpoint, str)
    except (ValueError, TypeError, RecursionError) as error:
        raise BackendAnswerError(f"the backend's answer cannot be recorded: {error}") from error
    return info if len(data) <= MAX_INFO_BYTES else _cut(info)


def _cut(info: dict[str, Any]) -> Mapping[str, Any]:
    """As many of the values as fit, the smallest first; ``info_cut`` says that some are gone."""
    sizes = {key: len(msgspec.json.encode({key: value})) for key, value in info.items()}
    room = MAX_INFO_BYTES - len(b'{"info_cut":true}')
    kept = set()
    for key in sorted(sizes, key=lambda key: sizes[key]):
        room -= sizes[key]
        if room >= 0:
            kept.add(key)
    return {key: info[key] for key in info if key in kept} | {"info_cut": True}


def retry_wait_s(backoff_s: float, error: Exception) -> float:
    """How long to wait before a further try: the backoff, or longer if the backend asks for it."""
    asked_s = error.retry_after_s if isinstance(error, BackendError) else None
    return min(max(backoff_s, asked_s or 0.0), LONGEST_RETRY_WAIT_S)
