"""The images of a run on disk: named, stamped, digested and put in place by rename."""

from __future__ import annotations

from hashlib import sha256

from ..events.errors import LogWriteError
from ..events.model import Artifact
from .errors import BackendAnswerError, InputImageError
from .png import PngError, check_whole, is_png, source_of, stamp
from .ports import GeneratedImage, GenerateRequest, InputReader, SourceImage
from .run_folder import RunFolder

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

    def save(self, image: GeneratedImage, request: GenerateRequest, place: int) -> Artifact:
        """Keep image ``place`` of a request's answer.

        Raises BackendAnswerError for bytes that are no whole image, LogWriteError where the
        file cannot be made durable.
        """
        index, seed = request.image_index + place, request.seed + place
        source = source_of(image.data)
        facts = self._identify(source, request, index)
        data = source
        if is_png(source):
            data = stamp(
                source,
                {
                    "run_id": request.run_id,
                    "stage_id": request.stage_id,
                    "image_index": index,
                    "call_id": request.call_id,
                },
            )
        path = f"images/{request.stage_id}/{index:05d}-{seed}.{SUFFIXES[facts[0]]}"
        try:
            self._folder.storage.write_file(self._folder.locate(path), data, durable=self._durable)
        except OSError as error:
            raise LogWriteError(
                f"the image cannot be written: {error}", path=self._folder.locate(path)
            ) from error
        return Artifact(
            path=path,
            image_index=index,
            sha256=sha256(data).hexdigest(),
            source_sha256=sha256(source).hexdigest(),
            bytes=len(data),
            media_type=facts[0],
            width=facts[1],
            height=facts[2],
            seed=seed,
        )

    def load(self, artifact: Artifact) -> SourceImage:
        """An image as the next stage is sent it. Raises InputImageError if it has changed."""
        return self.load_recorded(
            artifact.path,
            artifact.sha256,
            media_type=artifact.media_type,
            size=(artifact.width, artifact.height),
        )

    def load_recorded(
        self,
        path: str,
        digest: str,
        *,
        media_type: str | None = None,
        size: tuple[int, int] | None = None,
    ) -> SourceImage:
        """A recorded file whose bytes still have their digest; its kind and size if unknown."""
        file = self._folder.locate(path)
        try:
            with self._folder.storage.open_read(file) as stream:
                data = stream.read()
        except OSError as error:
            raise InputImageError(f"{file}: cannot be read: {error}") from error
        if sha256(data).hexdigest() != digest:
            raise InputImageError(f"{file}: it is not the file that was recorded")
        source = source_of(data)
        if media_type is None or size is None:
            facts = self._reader.inspect(source, name=str(file), decode=False)
            media_type, size = facts.media_type, (facts.width, facts.height)
        return SourceImage(
            data=source,
            source_sha256=sha256(source).hexdigest(),
            media_type=media_type,
            width=size[0],
            height=size[1],
        )

    def _identify(self, data: bytes, request: GenerateRequest, index: int) -> tuple[str, int, int]:
        name = f"image {index} of {request.stage_id}"
        try:
            if is_png(data):
                check_whole(data)
            # A PNG's checksums cover every byte; the others must be decoded to be trusted.
            facts = self._reader.inspect(data, name=name, decode=not is_png(data))
        except (PngError, InputImageError) as error:
            raise BackendAnswerError(f"the backend's answer for {name}: {error}") from error
        return facts.media_type, facts.width, facts.height
