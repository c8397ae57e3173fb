"""Packs a run into a zip for a bug report, without the secrets that are known."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from ....events.errors import LogWriteError
from ....events.log.file_log import LOG_NAME
from ....events.log.format import FIRST_CHAIN, MAX_BODY_BYTES, frame, next_chain
from ....events.model import RunOpened, RunResumed, StageEvent
from ....events.version import VERSION
from ....statemachine.files.recorded_files import FileState, OnFile, RecordedFile, recorded_files
from ..output_file import may_replace
from .archive import Archive, new_archive
from .environment import ENVIRONMENT_NAME, environment
from .errors import BundleRefusedError, password_in_text
from .manifest import (
    MANIFEST_NAME,
    THUMBNAILS,
    BundledLog,
    LeftOut,
    Manifest,
    NotBundled,
    manifest_in,
)
from .pictures import Picture, PictureReader
from .private_words import PrivateWords
from .redaction import CREDENTIALS, Redactor
from .source import SourceLog, open_source

SUFFIX = ".bundle.zip"
_UNSAFE = re.compile(r"[^\w.~-]")
_LONGEST_NAME = 128
_WRITE_BYTES = 256 * 1024
_LISTED = 200
_THUMBNAIL_PREFIX = f"{THUMBNAILS}/"
_TAKEN = "another file of the bundle has its name"


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
    words: PrivateWords | None = None,
    on_file: OnFile | None = None,
) -> Bundle:
    """Make a zip of the run in ``folder``, by default ``<run_id>.bundle.zip`` here.

    The zip holds the log rewritten without known secrets, ``thumbnails`` of the images, the
    manifest and the environment; with ``images`` also the input images and images. Known
    secrets are ``words`` (by default those of this machine) and texts with the name or form of
    a credential; a secret in the plain words of a prompt is not known. Of a corrupt log the zip
    holds the sound records. The run is not changed. The zip is written atomically, and replaces
    an earlier bundle but no other file. An unpacked bundle is refused.

    Raises RunNotFoundError, BundleRefusedError, OSError; LogCorruptError if the log changes
    meanwhile.
    """
    if manifest_in(folder) is not None:
        raise BundleRefusedError(
            f"{folder} is an unpacked bundle; share the zip file that it came from"
        )
    words = words or PrivateWords.of_this_machine()
    source = open_source(folder, _NameCollector(words).note)
    redactor = Redactor(words)
    name = _safe(redactor.text(source.fold.run_id or folder.resolve().name))
    output = output or Path(f"{name}{SUFFIX}")
    if not may_replace(output, _is_bundle):
        raise BundleRefusedError(
            f"{output} exists and is not a bundle; name another file with --output"
        )

    def check(data: bytes, place: str) -> None:
        if redactor.holds_password(data):
            raise password_in_text(place)

    opened = source.fold.opened
    at = None if opened is None else opened.ts
    overlap = max(0, redactor.longest_password - 1)
    with new_archive(output, name, at=at, check=check, overlap=overlap) as archive:
        builder = _BundleBuilder(
            archive, folder, source, redactor, with_images=images, with_thumbnails=thumbnails
        )
        builder.write_log()
        builder.write_pictures(on_file)
        archive.add(ENVIRONMENT_NAME, _document(environment(redactor.text)))
        manifest = builder.manifest()
        archive.add(MANIFEST_NAME, _document(manifest))
    return Bundle(
        file=str(output),
        bytes=output.stat().st_size,
        folder=name,
        altered=builder.altered,
        manifest=manifest,
    )


class _NameCollector:
    """Collects the host names and boot ids of a log before any text of it is written."""

    def __init__(self, words: PrivateWords) -> None:
        self._words = words

    def note(self, events: Sequence[StageEvent]) -> None:
        for event in events:
            if isinstance(event, RunOpened | RunResumed):
                self._words.hosts.note(event.host)
                self._words.boots.note(event.boot_id)


class _BundleBuilder:
    """Builds one bundle."""

    def __init__(
        self,
        archive: Archive,
        folder: Path,
        source: SourceLog,
        redactor: Redactor,
        *,
        with_images: bool,
        with_thumbnails: bool,
    ) -> None:
        self._archive = archive
        self._source = source
        self._redactor = redactor
        self._with_images = with_images
        self._reader = PictureReader(folder, redactor, with_thumbnails=with_thumbnails)
        self._result = source.fold.result(source.events)
        self._heads = (FIRST_CHAIN, FIRST_CHAIN)
        self._records = 0
        self._folders: dict[str, str] = {}
        self._taken = {LOG_NAME, MANIFEST_NAME, ENVIRONMENT_NAME}
        self._missing: list[NotBundled] = []
        self._missing_count = 0
        self._thumbnails = self._images = 0
        self.altered = 0

    def write_log(self) -> None:
        """Write the redacted log, in bounded memory; nothing if no record is readable."""
        if not len(self._source.events):
            return
        with self._archive.member(LOG_NAME) as write:
            waiting = bytearray()
            for line in self._lines():
                waiting += line
                if len(waiting) >= _WRITE_BYTES:
                    write(bytes(waiting))
                    waiting.clear()
            write(bytes(waiting))

    def _lines(self) -> Iterator[bytes]:
        old, new = self._heads
        for seq, body in enumerate(self._source.bodies()):
            redacted = self._redactor.event(body, seq=seq, chain=new)
            if len(redacted) > MAX_BODY_BYTES:
                raise LogWriteError(
                    f"record {seq} would have {len(redacted)} bytes in a bundle, which is too long"
                )
            yield frame(redacted, new)
            old, new = next_chain(old, body), next_chain(new, redacted)
            self._heads, self._records = (old, new), seq + 1

    def write_pictures(self, on_file: OnFile | None) -> None:
        """Write the thumbnails and, if requested, the image files."""
        fold = self._source.fold
        total = sum(len(stage.finished) for stage in fold.stages.values())
        if self._with_images:
            total = 2 * total + (len(fold.opened.inputs) if fold.opened is not None else 0)
        for done, _ in enumerate(self._pictures(), start=1):
            if on_file is not None:
                on_file(done, total)

    def _pictures(self) -> Iterator[None]:
        def files() -> Iterator[RecordedFile]:
            return recorded_files(self._source.fold, self._result)

        for small in self._reader.thumbnails(one for one in files() if one.stage_id):
            self._take_thumbnail(small)
            yield
        for file in files() if self._with_images else ():
            self._take_whole(self._reader.whole(file))
            yield

    def _take_thumbnail(self, picture: Picture) -> None:
        self.altered += picture.wrong is FileState.ALTERED
        if picture.why:
            self._note_missing(picture)
        if not picture.data:
            return
        folder = self._stage_folder(picture.file.stage_id)
        name = f"{THUMBNAILS}/{folder}/{picture.file.image_index:05d}.webp"
        self._archive.add(name, picture.data, packed=True)
        self._thumbnails += 1

    def _take_whole(self, picture: Picture) -> None:
        path = picture.file.path
        if not picture.why and (
            path.casefold() in self._taken or path.startswith(_THUMBNAIL_PREFIX)
        ):
            self._note_missing(picture._replace(why=_TAKEN))
        elif not picture.why:
            self._taken.add(path.casefold())
            self._archive.add(path, picture.data, packed=True)
            self._images += 1
        elif not picture.file.stage_id:
            self.altered += picture.wrong is FileState.ALTERED
            self._note_missing(picture)
        elif picture.wrong is None:  # A wrong file was already noted with its thumbnail.
            self._note_missing(picture)

    def _note_missing(self, picture: Picture) -> None:
        self._missing_count += 1
        if len(self._missing) < _LISTED:
            path, why = map(self._redactor.text, (picture.file.path, picture.why))
            self._missing.append(NotBundled(path=path, why=why))

    def _stage_folder(self, stage_id: str) -> str:
        """A unique and safe folder name for a stage of any log."""
        if stage_id not in self._folders:
            name = _safe(self._redactor.text(stage_id))
            taken = name in self._folders.values()
            self._folders[stage_id] = f"{name}-{len(self._folders)}" if taken else name
        return self._folders[stage_id]

    def manifest(self) -> Manifest:
        """The manifest of what the bundle holds and leaves out."""
        source, counts = self._source, self._redactor.left_out
        old, new = (head.decode() for head in self._heads)
        log = BundledLog(
            records=self._records,
            state=source.fold.state,
            head=None if counts[CREDENTIALS] else old,
            bundled_head=new,
            renumbered=source.renumbered,
            running=source.running,
        )
        return Manifest(
            software=f"stagewright {VERSION}",
            run_id=self._redactor.text(source.fold.run_id),
            log=log if self._records else None,
            corrupt=self._redactor.text(source.corruption.reason) if source.corruption else "",
            not_in_log=source.left_out,
            left_out=tuple(LeftOut(what=what, count=n) for what, n in sorted(counts.items()) if n),
            thumbnails=self._thumbnails,
            images=self._images,
            with_images=self._with_images,
            not_bundled=tuple(self._missing),
            not_bundled_count=self._missing_count,
        )


def _is_bundle(stream: BinaryIO) -> bool:
    try:
        with zipfile.ZipFile(stream) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError):
        return False
    return any(name.count("/") == 1 and name.endswith(f"/{MANIFEST_NAME}") for name in names)


def _document(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def _safe(name: str) -> str:
    """A name that is valid for a folder on every system."""
    return _UNSAFE.sub("_", name)[:_LONGEST_NAME].strip(". ") or "run"
