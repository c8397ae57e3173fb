"""Finds the run, stage, seed and settings that made an image, from the logs."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ...events.errors import ImageAlteredError, RunNotFoundError
from ...events.folds import recorded_stages
from ...events.log.file_log import LOG_NAME
from ...events.log.reader import iterate, log_path
from ...events.model import (
    Artifact,
    BackendDescription,
    CallCompleted,
    CallRequested,
    RunOpened,
    RunResumed,
    StageEvent,
)
from ...statemachine.config.inputs import read_bounded
from ...statemachine.files.png import read_stamp, source_of
from ...statemachine.files.run_folder import find_run, run_folders
from .log_walk import OpenRequests

_SHOWN = 4
"""The most unreadable logs that an error names."""


class ImageProvenance(msgspec.Struct, frozen=True, kw_only=True):
    """The origin of an image.

    ``exact`` says that the file is unchanged; otherwise only its source is (the image without
    the ``stagewright`` chunk). ``settings`` were requested, ``info`` was reported by the
    backend; ``inputs`` are the ``source_sha256`` of its input images.
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
    request_sha256: str
    backend: tuple[str, ...]


def provenance_of(image: Path, runs: Path) -> ImageProvenance:
    """The origin of ``image``. Raises RunNotFoundError if no log below ``runs`` records it.

    The chunk in the image only says where to look first; its digest decides.
    """
    data = read_bounded(image, key="image")
    digest, source_digest = sha256(data).hexdigest(), sha256(source_of(data)).hexdigest()
    stamp = read_stamp(data)
    unreadable: list[str] = []
    for folder in _likely_runs(image, stamp, runs):
        try:
            found = _search(folder, image, digest, source_digest, stamp)
        except OSError as error:
            unreadable.append(f"; {error}")
            continue
        if found is not None:
            return found
    _refuse_altered(image)
    claim = f"its metadata names run {stamp.get('run_id')}, but " if stamp else ""
    raise RunNotFoundError(
        f"{image}: {claim}no log in {runs} records it{''.join(unreadable[:_SHOWN])}"
    )


def _refuse_altered(image: Path) -> None:
    """Raise ImageAlteredError if a log records this path with another digest."""
    for folder in image.absolute().parents[1:3]:
        if not (folder / LOG_NAME).is_file():
            continue
        path = image.absolute().relative_to(folder).as_posix()
        for event in iterate(folder):
            made = event.artifacts if isinstance(event, CallCompleted) else ()
            if any(artifact.path == path for artifact in made):
                raise ImageAlteredError(f"{image}: the file was altered since it was recorded")


def _likely_runs(image: Path, stamp: Mapping[str, Any] | None, runs: Path) -> Iterator[Path]:
    """The run folder that holds the image, the one that it names, then all others."""
    tried: set[Path] = set()
    parents = image.absolute().parents
    candidates = [parent for parent in parents[1:3] if (parent / LOG_NAME).is_file()]
    if stamp is not None:
        # The image may come from elsewhere, or its folder was renamed; the digests decide.
        with suppress(RunNotFoundError, OSError):
            candidates.append(find_run(runs, str(stamp.get("run_id"))))
    for folder in [*candidates, *run_folders(runs)]:
        if (place := folder.resolve()) not in tried:
            tried.add(place)
            yield folder


def _search(
    folder: Path, image: Path, digest: str, source_digest: str, stamp: Mapping[str, Any] | None
) -> ImageProvenance | None:
    if not _mentions(log_path(folder), source_digest):
        return None
    search = _ImageSearch(digest, source_digest, stamp)
    for event in iterate(folder):
        search.take(event)
    if search.found is None or search.opened is None:
        return None
    return _provenance(folder, image, search.opened, search.found, digest)


class _Found(NamedTuple):
    """The answer with an image, its request and its backend."""

    completed: CallCompleted
    artifact: Artifact
    request: CallRequested
    backend: BackendDescription | None


class _ImageSearch:
    """Searches the events of a run for the last answer that recorded an image."""

    def __init__(self, digest: str, source_digest: str, stamp: Mapping[str, Any] | None) -> None:
        self._digest = digest
        self._source_digest = source_digest
        self._stamp = stamp
        self._requests = OpenRequests()
        self._backend: BackendDescription | None = None
        self.opened: RunOpened | None = None
        self.found: _Found | None = None

    def take(self, event: StageEvent) -> None:
        """Add one more event."""
        request = self._requests.request_of(event)
        match event:
            case RunOpened():
                self.opened = event
                self._backend = event.backend
            case RunResumed():
                self._backend = event.backend
            case CallCompleted():
                for artifact in event.artifacts:
                    if request is not None and self._fits(artifact, event.call_id):
                        self.found = _Found(event, artifact, request, self._backend)

    def _fits(self, artifact: Artifact, call_id: str) -> bool:
        """Stages may have equal sources (nothing was detected); the chunk names the call."""
        if artifact.sha256 == self._digest:
            return True
        named = self._stamp.get("call_id") if self._stamp else None
        return artifact.source_sha256 == self._source_digest and named in (None, call_id)


def _mentions(log: Path, digest: str) -> bool:
    if log.stat().st_size == 0:
        return False
    with (
        open(log, "rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return content.find(digest.encode()) >= 0


def _provenance(
    folder: Path, image: Path, opened: RunOpened, found: _Found, digest: str
) -> ImageProvenance:
    stages = {stage["stage_id"]: stage for stage in recorded_stages(opened.plan)}
    return ImageProvenance(
        image=str(image),
        run_id=opened.run_id,
        run_folder=str(folder),
        stage_id=found.request.stage_id,
        image_index=found.artifact.image_index,
        call_id=found.completed.call_id,
        exact=found.artifact.sha256 == digest,
        artifact=found.artifact,
        settings=stages.get(found.request.stage_id, {}).get("config", {}),
        info=found.completed.info,
        inputs=found.request.inputs,
        request_sha256=found.request.request_sha256,
        backend=_words(found.backend or opened.backend),
    )


def _words(backend: BackendDescription) -> tuple[str, ...]:
    return tuple(
        part for part in (backend.kind, backend.product, backend.version, backend.url) if part
    )
