"""Packs a run into a zip for a bug report, without the secrets that are known."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from ....events.codec import DECODE_ERRORS, encode_line
from ....events.errors import LogCorruptError, StagewrightError
from ....events.folds import Fold
from ....events.log.format import FIRST_CHAIN, frame, next_chain
from ....events.log.kind import LOG_NAME
from ....events.log.lock import is_locked
from ....events.log.reader import log_path, read_log
from ....events.log.timeline import FileTimeline
from ....events.model import StageEvent
from ....events.version import VERSION
from ....statemachine.files.recorded_files import OnFile, RecordedFile, recorded_files
from ..output_file import atomic_output, may_replace
from .environment import ENVIRONMENT_NAME, environment
from .manifest import MANIFEST_NAME, THUMBNAILS, ByteRange, Manifest, manifest_in
from .pictures import Picture, read_pictures
from .private_names import PrivateNames
from .redaction import Redactor

SUFFIX = ".bundle.zip"
_SAFE = re.compile(r"[\w~-][\w.~-]{0,127}")
_MEMBER = re.compile(rf"(?:images|inputs)/.*|{THUMBNAILS}/{_SAFE.pattern}/\d+\.webp", re.DOTALL)
"""The names of image files in the zip."""
_TIME = (1980, 1, 1, 0, 0, 0)
"""A fixed time: the same run makes the same bytes."""
_PLAIN_FILE = 0o100644


class BundleRefusedError(StagewrightError, ValueError):
    """No bundle was made: it would replace another file, be of a bundle, or be unreadable."""


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle that was made: the zip file, its size in bytes, the folder in it, the manifest.

    ``altered`` counts recorded images whose file was altered.
    """

    file: str
    bytes: int
    folder: str
    altered: int
    manifest: Manifest


def bundle_run(
    folder: Path,
    output: Path | None = None,
    *,
    images: bool = False,
    thumbnails: bool = True,
    names: PrivateNames | None = None,
    on_file: OnFile | None = None,
) -> Bundle:
    """Make a zip of the run in ``folder``, by default ``<run_id>.bundle.zip`` here.

    The zip holds the log rewritten without known secrets, ``thumbnails`` of the images, the
    manifest and the environment; with ``images`` also the input images and images, as they are.
    Known secrets are ``names`` (by default those of this machine) and texts with the name or
    form of a credential. Prompts are not changed. Of a corrupt log the zip holds the records
    before the damage. The zip is written atomically, and replaces an earlier bundle but no other
    file. An unpacked bundle is refused.

    Raises RunNotFoundError, BundleRefusedError, OSError; LogCorruptError if the log changes
    meanwhile.
    """
    if manifest_in(folder) is not None:
        raise BundleRefusedError(
            f"{folder} is an unpacked bundle; share the zip file that it came from"
        )
    source = _Source(folder, Redactor(names or PrivateNames.of_this_machine()))
    name = source.fold.run_id or folder.resolve().name
    if not _SAFE.fullmatch(name):
        name = "run"
    output = output or Path(f"{name}{SUFFIX}")
    if not may_replace(output, _is_bundle):
        raise BundleRefusedError(
            f"{output} exists and is not a bundle; name another file with --output"
        )
    with atomic_output(output) as stream, zipfile.ZipFile(stream, "w") as archive:
        contents = _Contents(archive, name, source, with_images=images)
        contents.write(on_file, with_thumbnails=thumbnails)
    return Bundle(
        file=str(output),
        bytes=output.stat().st_size,
        folder=name,
        altered=contents.altered,
        manifest=contents.manifest(),
    )


class _Source:
    """The sound records of a log, folded, and where they end."""

    def __init__(self, folder: Path, redactor: Redactor) -> None:
        self.folder = folder
        self.redactor = redactor
        self.fold = Fold()
        self.running = is_locked(folder)
        self.corruption: LogCorruptError | None = None
        self.left_out: ByteRange | None = None
        self.events: FileTimeline | None = self._read()

    def _read(self) -> FileTimeline | None:
        try:
            events = read_log(self.folder, self._take)
        except LogCorruptError as error:
            self.corruption = error
            size = log_path(self.folder).stat().st_size
            self.left_out = ByteRange(offset=error.offset, bytes=size - error.offset)
            if not error.seq:
                return None
            return read_log(self.folder, lambda _: None, until=error.seq - 1)
        # The record that another process is writing does not count as torn.
        if events.torn is not None and not self.running:
            self.left_out = ByteRange(offset=events.torn.offset, bytes=events.torn.bytes)
        return events

    def _take(self, events: Sequence[StageEvent]) -> None:
        self.fold.apply_all(events)
        self.redactor.note(events)

    def files(self, *, inputs: bool) -> list[RecordedFile]:
        """The recorded images, and on request the ``inputs``."""
        result = self.fold.result(self.events or ())
        return [one for one in recorded_files(self.fold, result) if inputs or one.stage_id]

    def lines(self) -> Iterator[bytes]:
        """The records without private text, framed and chained anew. Raises BundleRefusedError."""
        chain = FIRST_CHAIN
        bodies = self.events.raw(range(len(self.events))) if self.events is not None else iter(())
        for seq, body in enumerate(bodies):
            try:
                redacted = self.redactor.event(body, chain=chain)
            except DECODE_ERRORS as error:
                raise BundleRefusedError(
                    f"record {seq} of the log cannot be searched for private text ({error}); "
                    "stagewright did not write it"
                ) from error
            yield frame(redacted, chain)
            chain = next_chain(chain, redacted)


class _Contents:
    """The members of one bundle, in the folder ``name`` of the zip."""

    def __init__(
        self, archive: zipfile.ZipFile, name: str, source: _Source, *, with_images: bool
    ) -> None:
        self._archive = archive
        self._name = name
        self._source = source
        self._with_images = with_images
        self._paths: set[str] = set()
        self._missing: dict[str, str] = {}
        self._thumbnails = self._images = self.altered = 0

    def write(self, on_file: OnFile | None, *, with_thumbnails: bool) -> None:
        """Write all members; ``on_file`` receives the progress."""
        source, images = self._source, self._with_images
        if source.events is not None:
            self._add(LOG_NAME, source.lines())
        files = source.files(inputs=images)
        pictures = read_pictures(
            source.folder, files, source.redactor, images=images, thumbnails=with_thumbnails
        )
        for done, picture in enumerate(pictures, start=1):
            self._add_picture(picture)
            if on_file is not None:
                on_file(done, len(files))
        self._add(ENVIRONMENT_NAME, [_document(source.redactor.value(environment()))])
        self._add(MANIFEST_NAME, [_document(self.manifest())])

    def _add(self, name: str, parts: Iterable[bytes], *, packed: bool = False) -> None:
        entry = zipfile.ZipInfo(f"{self._name}/{name}", _TIME)
        entry.compress_type = zipfile.ZIP_STORED if packed else zipfile.ZIP_DEFLATED
        entry.external_attr = _PLAIN_FILE << 16
        with self._archive.open(entry, "w", force_zip64=True) as stream:
            for part in parts:
                stream.write(part)

    def _add_picture(self, picture: Picture) -> None:
        file, missing = picture.file, list(picture.missing)
        thumbnail = f"{THUMBNAILS}/{file.stage_id}/{file.image_index:05d}.webp"
        for path, data in ((thumbnail, picture.thumbnail), (file.path, picture.data)):
            if data and self._may_add(path):
                self._add(path, [data], packed=True)
                self._thumbnails += path is thumbnail
                self._images += path is not thumbnail
            elif data:
                missing.append("another file has its name, or the name is not valid in a bundle")
        self.altered += picture.altered
        if missing:
            self._missing[self._source.redactor.text(file.path)] = "; ".join(missing)

    def _may_add(self, path: str) -> bool:
        """Whether a name is valid and not yet taken, also where case makes no difference."""
        taken = path.casefold() in self._paths
        self._paths.add(path.casefold())
        return not taken and bool(_MEMBER.fullmatch(path))

    def manifest(self) -> Manifest:
        """The manifest of what the bundle holds and leaves out."""
        source, redactor = self._source, self._source.redactor
        return Manifest(
            software=f"stagewright {VERSION}",
            run_id=source.fold.run_id,
            records=0 if source.events is None else len(source.events),
            state=source.fold.state,
            running=source.running,
            corrupt="" if source.corruption is None else redactor.text(source.corruption.reason),
            not_in_log=source.left_out,
            replaced=dict(sorted(redactor.left_out.items())),
            thumbnails=self._thumbnails,
            images=self._images,
            with_images=self._with_images,
            not_bundled=self._missing,
        )


def _is_bundle(stream: BinaryIO) -> bool:
    try:
        with zipfile.ZipFile(stream) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError):
        return False
    return any(name.count("/") == 1 and name.endswith(f"/{MANIFEST_NAME}") for name in names)


def _document(value: object) -> bytes:
    return msgspec.json.format(encode_line(value), indent=2) + b"\n"
