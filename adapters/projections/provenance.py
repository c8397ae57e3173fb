"""Finds the run, stage, seed and settings that made an image, from the logs."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ...events.errors import ImageAlteredError, RunNotFoundError
from ...events.folds import recorded_stages
from ...events.log.kind import LOG_NAME
from ...events.log.reader import iterate, log_path
from ...events.model import (
    Artifact,
    BackendDescription,
    CallCompleted,
    CallRequested,
    CallReused,
    ImagePrompt,
    InputRecord,
    ReuseOrigin,
    RunOpened,
    RunResumed,
    StageEvent,
)
from ...events.origins import backend_at, input_of, prompt_of, varied_of
from ...events.ratings.model import NOT_RATED, Rating
from ...statemachine.config.input_files import read_bounded
from ...statemachine.files.png import read_stamp, source_of
from ...statemachine.files.run_folder import find_run, run_folders
from ...statemachine.stages import stage_types
from .foreign_images import ForeignImage, read_foreign_image
from .log_walk import OpenRequests

MOST_UNREADABLE = 4
"""The most unreadable logs that a message names."""


class ImageProvenance(msgspec.Struct, frozen=True, kw_only=True):
    """The origin of an image.

    ``exact`` says that the file is unchanged; otherwise only its source is (the image without
    the ``stagewright`` chunk). ``settings`` were requested of the stage that made it, ``stages``
    holds those of each stage up to it, by its id; ``info`` was reported by the backend;
    ``backend`` is what made it: kind, product, version and address, as far as they are known;
    ``inputs`` are the ``source_sha256`` of its input images, and ``origin`` is the input of the
    run that it comes from, through all stages. The image of a variant has its group, the index of
    the variant and its ``varied`` values by key. ``rating`` is that of the image, where it was
    looked up. ``made_by`` names the run and the call that made an image which its run only copied,
    None for others; ``not_checked`` are then the files that its request names, of which no hash
    was known.
    """

    image: str
    run_id: str
    run_folder: str
    stage_id: str
    image_index: int
    call_id: str
    exact: bool
    artifact: Artifact
    settings: Mapping[str, Any]
    info: Mapping[str, Any]
    inputs: tuple[str, ...]
    origin: InputRecord | None
    request_sha256: str
    backend: tuple[str, ...]
    prompt: str = ""
    negative_prompt: str = ""
    stages: Mapping[str, Mapping[str, Any]] = {}
    group_id: str | None = None
    variant_index: int | None = None
    varied: Mapping[str, Any] = {}
    rating: Rating = NOT_RATED
    made_by: ReuseOrigin | None = None
    not_checked: tuple[str, ...] = ()


class RecordedAnswer(NamedTuple):
    """What the log records of the images of a request; ``origin`` is None where they were made.

    ``seq`` is the number of the event; an image that was reused took no time.
    """

    seq: int
    requested: datetime
    finished: datetime
    duration_ms: float
    artifacts: tuple[Artifact, ...]
    info: Mapping[str, Any]
    stage_id: str
    call_id: str
    inputs: tuple[str, ...]
    request_sha256: str
    origin: ReuseOrigin | None = None
    not_checked: tuple[str, ...] = ()
    server: str | msgspec.UnsetType = msgspec.UNSET


class RecordedImage(NamedTuple):
    """One image as a run's log records it, with the answer that it belongs to.

    ``backend`` is that of the epoch in which it was made; of several servers it is the one that
    made it, where the log says which.
    """

    folder: Path
    opened: RunOpened
    backend: BackendDescription
    answer: RecordedAnswer
    artifact: Artifact


class FoundImage(NamedTuple):
    """The record of an image; ``exact`` says that the file itself is unchanged."""

    record: RecordedImage
    exact: bool


def provenance_of(image: Path, runs: Path) -> ImageProvenance:
    """The origin of ``image``. Raises RunNotFoundError if no log below ``runs`` records it."""
    found = find_record(image, runs)
    return _provenance(image, found)


def find_record(image: Path, runs: Path) -> FoundImage:
    """The record of an image file. Raises RunNotFoundError if no log below ``runs`` has it.

    The chunk in the image only says where to look first; its digest decides.
    """
    wanted = WantedImage.read(image)
    unreadable: list[str] = []
    named = str(wanted.stamp.get("run_id", ""))
    for folder in likely_runs(runs, named, _folders_of(image)):
        try:
            found = search_run(folder, wanted)
        except OSError as error:
            unreadable.append(f"; {error}")
            continue
        if found is not None:
            return found
    _refuse_altered(image)
    claim = f"its metadata names run {wanted.stamp.get('run_id')}, but " if wanted.stamp else ""
    raise RunNotFoundError(
        f"{image}: {claim}no log in {runs} records it{''.join(unreadable[:MOST_UNREADABLE])}"
    )


class WantedImage(NamedTuple):
    """The digests of an image whose record is searched; ``stamp`` is the content of its chunk."""

    digest: str
    source_digest: str
    stamp: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> WantedImage:
        """Those of a file. Raises InputImageError."""
        data = read_bounded(path, key="image")
        digests = sha256(data).hexdigest(), sha256(source_of(data)).hexdigest()
        return cls(*digests, read_stamp(data) or {})

    def is_recorded_as(self, artifact: Artifact, call_id: str) -> bool:
        """Whether an artifact is this image.

        Stages may have equal sources (nothing was detected); the chunk names the call.
        """
        if artifact.sha256 == self.digest:
            return True
        named = self.stamp.get("call_id", call_id)
        return artifact.source_sha256 == self.source_digest and named == call_id


def _refuse_altered(image: Path) -> None:
    """Raise ImageAlteredError if a log records this path with another digest."""
    for folder in _folders_of(image):
        path = image.absolute().relative_to(folder).as_posix()
        for event in iterate(folder):
            made = event.artifacts if isinstance(event, CallCompleted | CallReused) else ()
            if any(artifact.path == path for artifact in made):
                raise ImageAlteredError(f"{image}: the file was altered since it was recorded")


def _folders_of(image: Path) -> list[Path]:
    """The run folder that holds an image, if any."""
    return [folder for folder in image.absolute().parents[1:3] if (folder / LOG_NAME).is_file()]


def likely_runs(runs: Path, run_id: str, first: Sequence[Path] = ()) -> Iterator[Path]:
    """The folders that are to be searched ``first``, the run of this id, then all others."""
    tried: set[Path] = set()
    candidates = list(first)
    if run_id:
        # The image may come from elsewhere, or its folder was renamed; the digests decide.
        with suppress(RunNotFoundError, OSError):
            candidates.append(find_run(runs, run_id))
    for folder in [*candidates, *run_folders(runs)]:
        if (place := folder.resolve()) not in tried:
            tried.add(place)
            yield folder


def search_run(folder: Path, wanted: WantedImage) -> FoundImage | None:
    """The last record of an image in a run's log; one of the same file before one of its source.

    Raises LogCorruptError, OSError.
    """
    if not _mentions(log_path(folder), wanted.source_digest):
        return None
    found: FoundImage | None = None
    for record in recorded_images(folder):
        if wanted.is_recorded_as(record.artifact, record.answer.call_id):
            exact = record.artifact.sha256 == wanted.digest
            if exact or found is None or not found.exact:
                found = FoundImage(record, exact)
    return found


def recorded_images(folder: Path) -> Iterator[RecordedImage]:
    """Every image that a run's log records, in the order of the log.

    Raises LogCorruptError, OSError.
    """
    opened: RunOpened | None = None
    backend = BackendDescription(kind="")
    requests = OpenRequests()
    for event in iterate(folder):
        request = requests.request_of(event)
        match event:
            case RunOpened():
                opened, backend = event, event.backend
            case RunResumed():
                backend = event.backend
        answer = _answer_in(event, request)
        if answer is not None and opened is not None:
            made_at = backend_at(backend, answer.server)
            for artifact in answer.artifacts:
                yield RecordedImage(folder, opened, made_at, answer, artifact)


def _answer_in(event: StageEvent, request: CallRequested | None) -> RecordedAnswer | None:
    """The answer that an event records; ``request`` is the one that it answers."""
    if isinstance(event, CallReused):
        return RecordedAnswer(
            event.seq, event.ts, event.ts, 0.0,
            event.artifacts, event.info, event.stage_id, event.origin.call_id, event.inputs,
            event.request_sha256, event.origin, event.not_checked,
        )  # fmt: skip
    if isinstance(event, CallCompleted) and request is not None:
        return RecordedAnswer(
            event.seq, request.ts, event.ts, event.duration_ms,
            event.artifacts, event.info, request.stage_id, event.call_id, request.inputs,
            request.request_sha256, server=request.server,
        )  # fmt: skip
    return None


def _mentions(log: Path, digest: str) -> bool:
    if log.stat().st_size == 0:
        return False
    with (
        open(log, "rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return content.find(digest.encode()) >= 0


def _provenance(image: Path, found: FoundImage) -> ImageProvenance:
    folder, opened, backend, answer, artifact = found.record
    prompts = prompt_of(opened, artifact.image_index)
    stages = settings_of_stages(opened.plan, answer.stage_id, prompts)
    sampled = [config for config in stages.values() if "prompt" in config]
    last = sampled[-1] if sampled else {}
    of_one = () if backend.servers else (backend.product, backend.version, backend.url)
    return ImageProvenance(
        image=str(image),
        run_id=opened.run_id,
        run_folder=str(folder),
        stage_id=answer.stage_id,
        image_index=artifact.image_index,
        call_id=answer.call_id,
        exact=found.exact,
        artifact=artifact,
        settings=stages.get(answer.stage_id, {}),
        info=answer.info,
        inputs=answer.inputs,
        origin=input_of(opened, artifact.image_index),
        request_sha256=answer.request_sha256,
        backend=tuple(part for part in (backend.kind, *of_one) if part),
        prompt=str(last.get("prompt", "")),
        negative_prompt=str(last.get("negative_prompt") or ""),
        stages=stages,
        group_id=opened.group_id,
        variant_index=opened.variant_index,
        varied=varied_of(opened),
        made_by=answer.origin,
        not_checked=answer.not_checked,
    )


def settings_of_stages(
    plan: Mapping[str, Any], last: str = "", prompts: ImagePrompt | None = None
) -> dict[str, Mapping[str, Any]]:
    """The configuration of each stage of a recorded plan by its id, up to the stage ``last``.

    ``prompts`` are those of an image, which a stage without its own takes.
    """
    found: dict[str, Mapping[str, Any]] = {}
    taken = {} if prompts is None else msgspec.structs.asdict(prompts)
    for stage in recorded_stages(plan):
        kind = stage_types().get(str(stage.get("stage_type")))
        known = {name: taken[name] for name in taken if kind and kind.inherits(name)}
        found[stage["stage_id"]] = {**known, **stage["config"]}
        if stage["stage_id"] == last:
            break
    return found


def foreign_image(image: Path) -> ForeignImage | None:
    """What the metadata of an image says that no log records, None if it says nothing.

    Raises ImageMetadataError, InputImageError.
    """
    data = read_bounded(image, key="image")
    stamp = read_stamp(data) or {}
    return read_foreign_image(
        data,
        str(image),
        run_id=str(stamp.get("run_id", "")),
        is_detailed=str(stamp.get("stage_id", "")).endswith("-adetailer"),
    )
