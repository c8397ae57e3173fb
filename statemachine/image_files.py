"""The images of a run on disk: named, stamped, digested and put in place by rename."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

from ..events.errors import LogWriteError
from ..events.model import Artifact, InputRecord
from ..events.storage import Part
from .errors import BackendAnswerError, InputImageError
from .png import PngError, check_whole, is_png, source_of, stamped_parts
from .ports import GeneratedImage, GenerateRequest, ImageFacts, InputReader, SourceImage
from .run_folder import RunFolder
from .sizes import MAX_PIXELS

SUFFIXES = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}


class ImageFiles:
    """Keeps the images that stages make; a file is there whole and durable, or not at all."""

    def __init__(self, folder: RunFolder, reader: InputReader, *, durable: bool = True) -> None:
        self._folder = folder
        self._reader = reader
        self._durable = durable

    def prepare(self, stage_id: str) -> None:
        """Make the folder of a stage's images. Raises LogWriteError."""
        path = self._folder.path / "images" / stage_id
        try:
            self._folder.storage.make_folder(path)
        except OSError as error:
            raise LogWriteError(f"the folder cannot be made: {error}", path=path) from error

    def save(
        self, images: Sequence[GeneratedImage], request: GenerateRequest
    ) -> tuple[Artifact, ...]:
        """Keep the images of a request's answer, in order, if each of them is one.

        Raises BackendAnswerError for bytes that are no whole image, before any file is made;
        LogWriteError where a file cannot be made durable.
        """
        known = []
        for place, image in enumerate(images):
            source = source_of(image.data)
            known.append((source, _identify(self._reader, source, request, place)))
        return tuple(
            self._save(source, facts, request, place) for place, (source, facts) in enumerate(known)
        )

    def remove(self, artifacts: Iterable[Artifact]) -> None:
        """Remove the files of images that turned out not to count. Raises LogWriteError."""
        for artifact in artifacts:
            file = self._folder.locate(artifact.path)
            try:
                self._folder.storage.remove(file)
            except OSError as error:
                raise LogWriteError(f"it cannot be removed: {error}", path=file) from error

    def _save(
        self, source: bytes, facts: ImageFacts, request: GenerateRequest, place: int
    ) -> Artifact:
        index, seed = request.image_index + place, request.seed + place
        parts: tuple[Part, ...] = (source,)
        if facts.media_type == "image/png":
            stamp = {
                "run_id": request.run_id,
                "stage_id": request.stage_id,
                "image_index": index,
                "call_id": request.call_id,
            }
            parts = stamped_parts(source, stamp)
        suffix = SUFFIXES[facts.media_type]
        path = f"images/{request.stage_id}/{index:05d}-{seed}.{suffix}"
        self._write(path, parts)
        return Artifact(
            path=path,
            image_index=index,
            sha256=_digest(parts),
            source_sha256=sha256(source).hexdigest(),
            bytes=sum(map(len, parts)),
            media_type=facts.media_type,
            width=facts.width,
            height=facts.height,
            seed=seed,
        )

    def _write(self, path: str, parts: tuple[Part, ...]) -> None:
        file = self._folder.locate(path)
        try:
            self._folder.storage.write_file(file, *parts, durable=self._durable)
        except OSError as error:
            raise LogWriteError(f"the image cannot be written: {error}", path=file) from error

    def load(self, artifact: Artifact) -> SourceImage:
        """An image as the next stage is sent it. Raises InputImageError if it has changed."""
        data = self._recorded_bytes(artifact.path, artifact.sha256)
        # Its source is what was recorded, because the whole file is.
        return SourceImage(
            data=source_of(data),
            source_sha256=artifact.source_sha256,
            media_type=artifact.media_type,
            width=artifact.width,
            height=artifact.height,
        )

    def load_input(self, record: InputRecord) -> SourceImage:
        """A recorded input or mask. Raises InputImageError if it has changed."""
        data = source_of(self._recorded_bytes(record.path, record.sha256))
        facts = self._reader.inspect(data, name=str(self._folder.locate(record.path)), decode=False)
        return SourceImage(
            data=data,
            source_sha256=record.source_sha256,
            media_type=facts.media_type,
            width=facts.width,
            height=facts.height,
        )

    def _recorded_bytes(self, path: str, digest: str) -> bytes:
        """A recorded file whose bytes still have their digest."""
        file = self._folder.locate(path)
        try:
            with self._folder.storage.open_read(file) as stream:
                data = stream.read()
        except OSError as error:
            raise InputImageError(f"{file}: cannot be read: {error}") from error
        if sha256(data).hexdigest() != digest:
            raise InputImageError(f"{file}: it is not the file that was recorded")
        return data


def _identify(reader: InputReader, data: bytes, request: GenerateRequest, place: int) -> ImageFacts:
    name = f"image {request.image_index + place} of {request.stage_id}"
    try:
        return _png_facts(data) if is_png(data) else reader.inspect(data, name=name)
    except (PngError, InputImageError) as error:
        raise BackendAnswerError(f"{name}: {error}") from error


def _png_facts(data: bytes) -> ImageFacts:
    width, height = check_whole(data)
    if width * height > MAX_PIXELS:
        raise PngError(f"it has more than {MAX_PIXELS} pixels")
    return ImageFacts(media_type="image/png", width=width, height=height)


def _digest(parts: tuple[Part, ...]) -> str:
    digest = sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
