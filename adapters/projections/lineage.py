"""From an image back to what it was made from: stages, runs, and the prompt or file at the start.

The records of one run follow each other by the digests of their sources. An input image of a run
is searched by its digest in the logs of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ...events.errors import LogCorruptError, RunNotFoundError, StagewrightError
from ...events.folds import recorded_stages
from ...events.model import Artifact, BackendDescription, InputRecord, ReuseOrigin, RunOpened
from ...events.origins import input_name, input_of, prompt_of, varied_of
from ...statemachine.config.input_files import read_bounded
from ...statemachine.config.script_images import map_strings
from ...statemachine.files.run_folder import find_run
from ..backends.infotext_settings import ModelFile, files_reported
from .foreign_images import ForeignImage
from .provenance import (
    MOST_UNREADABLE,
    FoundImage,
    RecordedImage,
    WantedImage,
    find_record,
    foreign_image,
    likely_runs,
    recorded_images,
    search_run,
    settings_of_stages,
)
from .used_settings import settings_asked, settings_used


class LineageStep(msgspec.Struct, frozen=True, kw_only=True):
    """A stage that made an image of the lineage.

    ``image`` is its file, which is ``there`` or not. ``settings`` were requested and ``used`` was
    reported by the backend, both by dotted key; ``models`` are the files that it reports.
    ``requested`` and ``finished`` are the times of the request and of its answer.
    ``from_input`` is the input image of the run, None where the image is from the prompt or from
    the stage before; ``further_inputs`` are the mask and the images of scripts. ``varied`` has
    the values of the run's variant, where the run is of a group; ``repeats`` is the run that a
    rerun repeats. ``made_by`` names the run and the call that made an image which this run only
    copied; ``not_checked`` are then the files that its request names, of which no hash was known.
    """

    image: str
    there: bool
    run_id: str
    run_folder: str
    run_name: str
    group_id: str | None
    variant_index: int | None
    varied: Mapping[str, Any]
    repeats: str | None
    stage_id: str
    stage_type: str
    artifact: Artifact
    call_id: str
    request_sha256: str
    backend: BackendDescription
    software: str
    prompt: str
    negative_prompt: str
    settings: Mapping[str, Any]
    used: Mapping[str, Any]
    models: tuple[ModelFile, ...]
    requested: datetime
    finished: datetime
    duration_ms: float
    made_by: ReuseOrigin | None
    not_checked: tuple[str, ...]
    from_input: InputRecord | None
    further_inputs: tuple[InputRecord, ...]


class OriginKind(StrEnum):
    """What a lineage begins with.

    ``missing`` is an image of a run that is not here; ``broken`` a log that is corrupt or
    contradicts itself or others.
    """

    PROMPT = "prompt"
    FILE = "file"
    MISSING = "missing"
    BROKEN = "broken"


class LineageOrigin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a lineage begins, or why it cannot be followed further, as ``text`` says.

    ``name`` and ``sha256`` are those of a file. ``metadata`` are the settings in that file, as
    far as it or its copy in the run has any.
    """

    kind: OriginKind
    text: str
    name: str = ""
    sha256: str = ""
    parent_run_id: str | None = None
    metadata: ForeignImage | None = None


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """The stages that led to an image, the last one first, and what the first was made from.

    ``exact`` says that the image's file is unchanged; otherwise only its source is.
    """

    image: str
    exact: bool
    steps: tuple[LineageStep, ...]
    origin: LineageOrigin


def lineage_of(image: Path, runs: Path) -> Lineage:
    """The lineage of an image file, over all runs below ``runs``.

    Raises RunNotFoundError if no log records it and it has no metadata of its own, and
    LogCorruptError, ImageAlteredError, InputImageError, ImageMetadataError.
    """
    try:
        found = find_record(image, runs)
    except RunNotFoundError:
        if (metadata := foreign_image(image)) is None:
            raise
        origin = _origin_of_file(image, metadata)
        return Lineage(image=str(image), exact=False, steps=(), origin=origin)
    walk = _Walk(runs)
    steps = tuple(map(_step, walk.follow(found.record)))
    return Lineage(image=str(image), exact=found.exact, steps=steps, origin=walk.origin)


def _origin_of_file(image: Path, metadata: ForeignImage) -> LineageOrigin:
    run = metadata.run_id
    return LineageOrigin(
        kind=OriginKind.MISSING if run else OriginKind.FILE,
        text=f"made by run {run}, which is not here" if run else "a file that no run here made",
        name=image.name,
        sha256=sha256(read_bounded(image, key="image")).hexdigest(),
        parent_run_id=run or None,
        metadata=metadata,
    )


class _Walk:
    """Follows records from image to source; afterwards ``origin`` says where that ended.

    Each run is entered once, so that it ends also where logs contradict each other.
    """

    def __init__(self, runs: Path) -> None:
        self.origin = LineageOrigin(kind=OriginKind.BROKEN, text="not followed yet")
        self._runs = runs
        self._entered: set[str] = set()
        self._unreadable: list[str] = []

    def follow(self, record: RecordedImage) -> Iterator[RecordedImage]:
        """This record and those of its sources, the last one first."""
        current: RecordedImage | None = record
        while current is not None:
            self._entered.add(current.opened.run_id)
            *_, first = chain = list(self._within_run(current))
            yield from chain
            current = self._parent(first)

    def _within_run(self, record: RecordedImage) -> Iterator[RecordedImage]:
        """The records of one image through the stages of its run, the last one first."""
        yield record
        index, earlier = record.artifact.image_index, list[RecordedImage]()
        with suppress(LogCorruptError):  # damaged behind the record, which was found
            for one in recorded_images(record.folder):
                if one.answer.seq >= record.answer.seq:
                    break
                if one.artifact.image_index == index:
                    earlier.append(one)
        for one in reversed(earlier):
            is_source = one.answer.stage_id == _source_of(record)
            if is_source and one.artifact.source_sha256 in record.answer.inputs:
                record = one
                yield record

    def _parent(self, first: RecordedImage) -> RecordedImage | None:
        """The record, in another run, of the input of this one's first stage.

        If there is none, ``origin`` says why.
        """
        stage, source = first.answer.stage_id, _source_of(first)
        where = f"the log of run {first.opened.run_id}"
        if source == "prompt" or (source is None and not first.answer.inputs):
            self.origin = LineageOrigin(kind=OriginKind.PROMPT, text="the prompt alone")
            return None
        if source != "file":
            self._break(f"{where} does not record the image that {stage} was given")
            return None
        record = input_of(first.opened, first.artifact.image_index)
        if record is None or record.source_sha256 not in first.answer.inputs:
            self._break(f"{where} names an input image that {stage} was not given")
            return None
        return self._maker(first, record)

    def _break(self, text: str) -> None:
        self.origin = LineageOrigin(kind=OriginKind.BROKEN, text=text)

    def _maker(self, first: RecordedImage, record: InputRecord) -> RecordedImage | None:
        """The record of the image that an input is a copy of."""
        copy = _InputCopy.read(first.folder, record)
        named = record.parent_run_id or str(copy.wanted.stamp.get("run_id") or "")
        looks = (self._look(folder, copy.wanted) for folder in likely_runs(self._runs, named))
        if (found := next(filter(None, looks), None)) is not None:
            return found.record
        kind, text = self._why_no_maker(named)
        notes = [note for note in (copy.note, *self._unreadable[:MOST_UNREADABLE]) if note]
        self.origin = LineageOrigin(
            kind=kind,
            text="; ".join([text, *notes]),
            name=input_name(record) or record.path,
            sha256=record.original.sha256 if record.original else record.sha256,
            parent_run_id=named or None,
            metadata=copy.metadata,
        )
        return None

    def _look(self, folder: Path, wanted: WantedImage) -> FoundImage | None:
        """The image in a run that was not entered yet."""
        try:
            found = search_run(folder, wanted)
        except (LogCorruptError, OSError) as error:
            if (note := str(error)) not in self._unreadable:
                self._unreadable.append(note)
            return None
        return None if found is None or found.record.opened.run_id in self._entered else found

    def _is_here(self, run_id: str) -> bool:
        try:
            return find_run(self._runs, run_id).is_dir()
        except (RunNotFoundError, OSError):
            return False

    def _why_no_maker(self, run_id: str) -> tuple[OriginKind, str]:
        """Why no log here records an input; ``run_id`` is the run that it is said to be of."""
        if not run_id:
            if self._unreadable:
                return OriginKind.BROKEN, "a log that names this image cannot be read"
            return OriginKind.FILE, "a file that no run here made"
        if run_id in self._entered:
            return OriginKind.BROKEN, f"a cycle: made by run {run_id}, which was made from it"
        if not self._is_here(run_id):
            return OriginKind.MISSING, f"made by run {run_id}, which is not here"
        if self._unreadable:
            return OriginKind.BROKEN, f"made by run {run_id}, whose log cannot be read"
        changed = "it was changed since then, or its metadata is wrong"
        return OriginKind.FILE, f"named as of run {run_id}, whose log does not record it: {changed}"


class _InputCopy(NamedTuple):
    """The copy of an input in its run; ``note`` says why its metadata cannot be read."""

    wanted: WantedImage
    metadata: ForeignImage | None = None
    note: str = ""

    @classmethod
    def read(cls, folder: Path, record: InputRecord) -> _InputCopy:
        path = folder / record.path
        wanted = WantedImage(record.sha256, record.source_sha256, {})
        try:
            found = WantedImage.read(path)
            if found.digest != record.sha256:
                return cls(wanted, None, f"its copy {path} was altered")
            return cls(found, foreign_image(path))
        except StagewrightError as error:
            return cls(wanted, None, str(error))


def _source_of(record: RecordedImage) -> str | None:
    """What a stage was given, as its plan says: ``prompt``, ``file`` or the stage before."""
    stage = _stage_of(record)
    source = stage.get("input_source")
    return source if isinstance(source, str) else None


def _stage_of(record: RecordedImage) -> Mapping[str, Any]:
    """The stage in the recorded plan; empty where a foreign plan has none of this id."""
    stages = recorded_stages(record.opened.plan)
    return next((one for one in stages if one["stage_id"] == record.answer.stage_id), {})


def _step(record: RecordedImage) -> LineageStep:
    folder, opened, backend, answer, artifact = record
    stage = _stage_of(record)
    prompts = prompt_of(opened, artifact.image_index)
    config = settings_of_stages(opened.plan, answer.stage_id, prompts).get(answer.stage_id, {})
    stage_type, name = str(stage.get("stage_type", "")), opened.config.get("name")
    from_file = _source_of(record) == "file"
    return LineageStep(
        image=str(folder / artifact.path),
        there=(folder / artifact.path).is_file(),
        run_id=opened.run_id,
        run_folder=str(folder),
        run_name=name if isinstance(name, str) else "",
        group_id=opened.group_id,
        variant_index=opened.variant_index,
        varied=varied_of(opened),
        repeats=opened.parent_run_id or None,
        stage_id=answer.stage_id,
        stage_type=stage_type,
        artifact=artifact,
        call_id=answer.call_id,
        request_sha256=answer.request_sha256,
        backend=backend,
        software=opened.software,
        prompt=str(config.get("prompt") or ""),
        negative_prompt=str(config.get("negative_prompt") or ""),
        settings=settings_asked(config),
        used=settings_used(stage_type, answer.info, backend.kind),
        models=files_reported(answer.info),
        requested=answer.requested,
        finished=answer.finished,
        duration_ms=answer.duration_ms,
        made_by=answer.origin,
        not_checked=answer.not_checked,
        from_input=input_of(opened, artifact.image_index) if from_file else None,
        further_inputs=tuple(_further_inputs(opened, config, artifact.image_index)),
    )


def _further_inputs(
    opened: RunOpened, config: Mapping[str, Any], image_index: int
) -> Iterator[InputRecord]:
    """The mask of an image, and the images that the scripts of its stage name."""
    each = opened.plan.get("images_per_input")
    number = image_index // each if isinstance(each, int) and each > 0 else 0
    mask, named = config.get("mask"), set[str]()
    map_strings(config.get("alwayson_scripts"), lambda _key, text: named.add(text))
    for record in opened.inputs:
        of_each = isinstance(mask, str) and record.path.startswith(f"{mask}/{number:05d}.")
        if record.path == mask or of_each or record.path in named:
            yield record
