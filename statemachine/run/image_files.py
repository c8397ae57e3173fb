"""The images of a run on disk: named, stamped, digested and put in place by rename."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from errno import EDQUOT, EINVAL, ENOSPC, EROFS
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import msgspec

from ...events.errors import LogWriteError
from ...events.log.storage import PART_SUFFIX
from ...events.model import Artifact, InputRecord
from ..errors import BackendAnswerError, InputImageError, InputRefusedError
from ..files.png import PngError, check_whole, is_png, source_of, stamp
from ..files.recorded_files import WrongFile, open_recorded, read_file, sha256_of
from ..files.run_folder import SUFFIXES, RunFolder
from ..ports import GeneratedImage, GenerateRequest, ImageFacts, InputReader, SourceImage
from ..stages.sizes import size_refusal

_FULL = (ENOSPC, EDQUOT, EROFS)
"""Errors of a disk that takes no image."""

WrittenImages = Sequence[tuple[Artifact, Path]]
"""Images that are on disk under temporary names: what each will be, and where it is now."""


class ImageOrigin(NamedTuple):
    """What an image is named after: the seed that made it, and the stem of its input's name."""

    seed: int
    stem: str = ""


class ImageFiles:
    """Writes and reads the images of a run; a file is there whole and durable, or not at all."""

    def __init__(self, folder: RunFolder, reader: InputReader) -> None:
        self._folder = folder
        self._reader = reader

    def prepare(self, stage_id: str) -> None:
        """Make the folder of a stage's images, without left-overs of a crash.

        Raises LogWriteError.
        """
        path = self._folder.path / "images" / stage_id
        for folder in (path.parent, path):
            if folder.is_symlink():
                raise LogWriteError("it is a link, not a folder; replace it", path=folder)
        with _raising_log_write_error(path):
            self._folder.storage.make_folder(path)
            for left in filter(Path.is_file, path.glob(f".*{PART_SUFFIX}")):
                self._folder.storage.remove(left, durable=False)

    def write(
        self,
        images: Sequence[GeneratedImage],
        request: GenerateRequest,
        origins: Sequence[ImageOrigin],
    ) -> WrittenImages:
        """Write the images of a request's answer, in order, if each of them is one.

        ``origins`` has one entry for each image. They have temporary names until ``place`` puts
        them where they count. Raises BackendAnswerError for bytes that are no whole image, or more
        or fewer images than were asked for, before any file is made; LogWriteError where a file
        cannot be made durable: none is left then.
        """
        if len(images) != request.count:
            raise BackendAnswerError(f"{len(images)} images instead of {request.count}")
        sources = [source_of(image.data) for image in images]
        facts = [
            _identify(self._reader, source, request, place) for place, source in enumerate(sources)
        ]
        written: list[tuple[Artifact, Path]] = []
        with self._discarded_on_failure(written):
            for place, source in enumerate(sources):
                written.append(self._write(source, facts[place], request, place, origins[place]))
        return written

    def copy(
        self,
        stage_id: str,
        folder: Path,
        artifacts: Sequence[Artifact],
        places: Sequence[tuple[int, ImageOrigin]],
    ) -> WrittenImages:
        """Copy images of the run in ``folder``; ``places`` are their indexes and origins here.

        They have temporary names until ``place`` puts them where they count. Each copy has been
        compared with the recorded digest. Raises OSError for a file that is gone, is a link, is
        not the recorded one, or cannot be copied, LogWriteError where the disk is full; none is
        left then.
        """
        written: list[tuple[Artifact, Path]] = []
        with self._discarded_on_failure(written):
            for artifact, (index, origin) in zip(artifacts, places, strict=True):
                if artifact.media_type not in SUFFIXES:
                    raise OSError(EINVAL, "It is not an image of a known format", artifact.path)
                path = _image_path(stage_id, index, origin, artifact.media_type)
                here = msgspec.structs.replace(
                    artifact, path=path, image_index=index, seed=origin.seed
                )
                file = self._folder.path / path
                # Where the disk is full, an image that was made anew would not fit either.
                full = _raising_log_write_error(file, only=_FULL)
                with open_recorded(folder, artifact.path) as source, full:
                    temporary = self._folder.storage.copy_part(source, file)
                written.append((here, temporary))
                self._compare(temporary, artifact)
        return written

    def _compare(self, copy: Path, artifact: Artifact) -> None:
        """Raises OSError for a copy that is not the recorded image."""
        with self._folder.storage.open_read(copy) as stream:
            if sha256_of(stream) != artifact.sha256:
                raise OSError(EINVAL, "It is not the recorded image", artifact.path)

    def place(
        self, written: WrittenImages, kept: Mapping[int, Artifact] = {}
    ) -> tuple[Artifact, ...]:
        """Put images where they count, durably; what they are now.

        An image that equals the one of ``kept``, by index, does not replace it: the files would
        differ only in the call that they name, and a crash must not take a finished one.
        Raises LogWriteError; no temporary file is left then.
        """
        placed = []
        with self._discarded_on_failure(written):
            for artifact, temporary in written:
                old = kept.get(artifact.image_index)
                if old is not None and old.source_sha256 == artifact.source_sha256:
                    self.discard([(artifact, temporary)])
                    placed.append(old)
                    continue
                file = self._folder.path / artifact.path
                with _raising_log_write_error(file):
                    self._folder.storage.rename(temporary, file)
                placed.append(artifact)
            for folder in {temporary.parent for _, temporary in written}:
                with _raising_log_write_error(folder):
                    self._folder.storage.sync_folder(folder)
        return tuple(placed)

    def discard(self, written: WrittenImages) -> None:
        """Remove images that are not to be kept. Raises LogWriteError."""
        for _, temporary in written:
            with _raising_log_write_error(temporary):
                self._folder.storage.remove(temporary, durable=False)

    @contextmanager
    def _discarded_on_failure(self, written: WrittenImages) -> Iterator[None]:
        try:
            yield
        except BaseException:
            # A failure to remove them must not hide why they cannot be kept.
            with suppress(LogWriteError):
                self.discard(written)
            raise

    def _write(
        self,
        source: bytes,
        facts: ImageFacts,
        request: GenerateRequest,
        place: int,
        origin: ImageOrigin,
    ) -> tuple[Artifact, Path]:
        index = request.image_index + place
        data = source
        if facts.media_type == "image/png":
            origin_facts = {
                "run_id": request.run_id,
                "stage_id": request.stage_id,
                "image_index": index,
                "call_id": request.call_id,
            }
            data = stamp(source, origin_facts)
        path = _image_path(request.stage_id, index, origin, facts.media_type)
        file = self._folder.path / path
        with _raising_log_write_error(file):
            temporary = self._folder.storage.write_part(file, data)
        artifact = Artifact(
            path=path,
            image_index=index,
            sha256=sha256(data).hexdigest(),
            source_sha256=sha256(source).hexdigest(),
            bytes=len(data),
            media_type=facts.media_type,
            width=facts.width,
            height=facts.height,
            seed=origin.seed,
        )
        return artifact, temporary

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
        """A recorded input or mask.

        Raises InputRefusedError if it was refused, InputImageError if it has changed.
        """
        if record.refusal:
            name = record.original.name if record.original else record.path
            raise InputRefusedError(f"input {name}: {record.refusal}")
        data = source_of(self._recorded_bytes(record.path, record.sha256))
        facts = self._reader.inspect(data, name=str(self._folder.path / record.path), decode=False)
        return SourceImage(
            data=data,
            source_sha256=record.source_sha256,
            media_type=facts.media_type,
            width=facts.width,
            height=facts.height,
        )

    def _recorded_bytes(self, path: str, digest: str) -> bytes:
        data = read_file(self._folder.path, path, digest, self._folder.storage.open_read)
        if isinstance(data, WrongFile):
            file = self._folder.path / path
            raise InputImageError(f"{file} is not the file that was recorded: {data}")
        return data


def _image_path(stage_id: str, index: int, origin: ImageOrigin, media_type: str) -> str:
    """Where an image of a stage is, relative to the run folder."""
    name = "-".join(filter(None, [f"{index:05d}", str(origin.seed), origin.stem]))
    return f"images/{stage_id}/{name}.{SUFFIXES[media_type]}"


@contextmanager
def _raising_log_write_error(
    path: Path, only: Container[int | None] | None = None
) -> Iterator[None]:
    """In place of every OSError, or of those with ``only`` these numbers."""
    try:
        yield
    except OSError as error:
        if only is not None and error.errno not in only:
            raise
        raise LogWriteError(f"the image cannot be written: {error}", path=path) from error


def _identify(reader: InputReader, data: bytes, request: GenerateRequest, place: int) -> ImageFacts:
    name = f"image {request.image_index + place + 1} of {request.stage_id}"
    try:
        return _png_facts(data) if is_png(data) else reader.inspect(data, name=name)
    except (PngError, InputImageError) as error:
        words = str(error).removeprefix(f"{name}: ")
        raise BackendAnswerError(f"{name}: {words}") from error


def _png_facts(data: bytes) -> ImageFacts:
    width, height = check_whole(data)
    if refusal := size_refusal((width, height)):
        raise PngError(refusal)
    return ImageFacts(media_type="image/png", width=width, height=height)
