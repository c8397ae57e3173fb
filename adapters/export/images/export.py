"""Copies the final images of runs into a folder, each under a name of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from ....events.folds import replay
from ....events.log.storage import Storage, open_regular
from ....events.model import RunOpened
from ....events.origins import varied_of
from ....events.ratings.model import Rating
from ....events.result import FinishedImage, PipelineRunResult
from ....events.version import VERSION
from ....statemachine.files.png import read_stamp
from ....statemachine.files.recorded_files import WrongFile, read_file
from ....statemachine.files.run_folder import SUFFIXES, name_in_run_id
from ...imaging import ImageError, converted
from ...projections.image_texts import ImageMetadataError, texts_of
from .names import ExportRefusedError, NameTemplate, Value, name_key

FORMATS: Mapping[str, tuple[str, str]] = {
    "png": ("PNG", "image/png"),
    "jpeg": ("JPEG", "image/jpeg"),
    "webp": ("WEBP", "image/webp"),
}
"""By their names, the formats of exported images: Pillow's name, and the media type."""
_FIELDS = ("name", "number", "seed", "run", "stage", "group", "variant", "date", "rating")
_SHOWN = 4

OnFile = Callable[[int, int], None]


class ExportedImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image that was exported to ``file``; ``copied`` is false if it was there already."""

    file: str
    run_id: str
    stage_id: str
    image_index: int
    seed: int
    copied: bool


class ImageExport(msgspec.Struct, frozen=True, kw_only=True):
    """What an export did.

    ``left_out`` says why, of recorded files that are missing or altered, and of the folders of
    runs that cannot be read.
    """

    to: str
    images: tuple[ExportedImage, ...]
    left_out: Mapping[str, str]


class RunImages(NamedTuple):
    """The final images of a run that may be exported."""

    folder: Path
    opened: RunOpened
    result: PipelineRunResult

    @classmethod
    def read(cls, folder: Path) -> RunImages:
        """Raises RunNotFoundError, LogCorruptError, OSError."""
        result = replay(folder)
        opened = result.events[0]
        assert isinstance(opened, RunOpened)
        return cls(folder, opened, result)


class _Planned(NamedTuple):
    run: RunImages
    image: FinishedImage
    name: str


class ImageExporter:
    """Copies images into the folder ``to``, named by ``template``.

    ``image_format`` is a key of FORMATS; without it each file keeps its own. Images of that format
    are copied byte for byte. A file with other content is replaced only with ``replace``.
    """

    def __init__(
        self,
        to: Path,
        template: NameTemplate,
        *,
        image_format: str | None = None,
        replace: bool = False,
        storage: Storage | None = None,
    ) -> None:
        self._to = to
        self._template = template
        self._format = image_format
        self._replace = replace
        self._storage = storage or Storage()

    def export(
        self,
        images: Sequence[tuple[RunImages, FinishedImage]],
        rating_of: Callable[[str], Rating],
        on_file: OnFile = lambda _done, _total: None,
    ) -> ImageExport:
        """Copy the images; one whose file is missing or altered is left out.

        Raises ExportRefusedError before anything is copied, and OSError.
        """
        planned = list(self._plan(images, rating_of))
        _refuse_equal_names(planned)
        if not self._replace:
            self._refuse_replacing(planned)
        self._storage.make_folder(self._to)
        made: list[ExportedImage] = []
        left_out: dict[str, str] = {}
        for done, one in enumerate(planned, 1):
            content = self._content(one)
            if isinstance(content, WrongFile):
                left_out[str(one.run.folder / one.image.path)] = str(content)
            else:
                made.append(_exported(one, self._to / one.name, self._put(one.name, content)))
            on_file(done, len(planned))
        return ImageExport(to=str(self._to), images=tuple(made), left_out=left_out)

    def _plan(
        self, images: Sequence[tuple[RunImages, FinishedImage]], rating_of: Callable[[str], Rating]
    ) -> Iterator[_Planned]:
        varied = dict.fromkeys(key for run, _ in images for key in varied_of(run.opened))
        self._template.check_fields([*_FIELDS, *varied])
        for run, image in images:
            stem = self._template.name(_values(run, image, rating_of))
            media_type = FORMATS[self._format][1] if self._format else image.media_type
            yield _Planned(run, image, f"{stem}.{SUFFIXES.get(media_type, 'png')}")

    def _refuse_replacing(self, planned: Sequence[_Planned]) -> None:
        others = []
        for one in planned:
            target = self._to / one.name
            if target.exists() or target.is_symlink():
                content = self._content(one)
                if not isinstance(content, WrongFile) and _read(target) != content:
                    others.append(one.name)
        if others:
            more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
            raise ExportRefusedError(
                f"{self._to} has other files named {', '.join(others[:_SHOWN])}{more}: "
                "choose another folder or --name, or replace them with --replace"
            )

    def _content(self, one: _Planned) -> bytes | WrongFile:
        """The bytes of the copy, or why the recorded file cannot be used."""
        data = read_file(one.run.folder, one.image.path, one.image.sha256, open_regular)
        if isinstance(data, WrongFile) or self._format is None:
            return data
        pillow_name, media_type = FORMATS[self._format]
        if media_type == one.image.media_type:
            return data
        try:
            return converted(data, pillow_name, comment=_parameters(data), software=_origin(data))
        except ImageError as error:
            raise ExportRefusedError(f"{one.run.folder / one.image.path}: {error}") from error

    def _put(self, name: str, content: bytes) -> bool:
        """Write a copy; False if a file with the same content is there already."""
        target = self._to / name
        try:
            self._storage.write_new(target, content)
        except FileExistsError:
            if _read(target) == content:
                return False
            if not self._replace or target.is_dir():
                raise
            self._storage.write_file(target, content)
        return True


def _refuse_equal_names(planned: Sequence[_Planned]) -> None:
    first: dict[str, _Planned] = {}
    for one in planned:
        other = first.setdefault(name_key(one.name), one)
        if other is not one:
            raise ExportRefusedError(
                f"two images would be named {one.name}: {_label(other)} and {_label(one)}; "
                "add {number}, {variant}, {run} or {stage} to --name"
            )


def _label(one: _Planned) -> str:
    return f"{one.run.result.run_id[-6:]}#{one.image.number}"


def _exported(one: _Planned, file: Path, copied: bool) -> ExportedImage:  # noqa: FBT001 - private
    return ExportedImage(
        file=str(file),
        run_id=one.run.result.run_id,
        stage_id=one.image.stage_id,
        image_index=one.image.image_index,
        seed=one.image.seed,
        copied=copied,
    )


def _read(path: Path) -> bytes | None:
    """The bytes of a regular file, None for anything else."""
    try:
        with open_regular(path) as stream:
            return stream.read()
    except OSError:
        return None


def _values(
    run: RunImages, image: FinishedImage, rating_of: Callable[[str], Rating]
) -> dict[str, Value]:
    opened = run.opened
    varied = {
        key: value if isinstance(value, str) else msgspec.json.encode(value).decode()
        for key, value in varied_of(opened).items()
    }
    return {
        **varied,
        "name": str(opened.config.get("name") or name_in_run_id(opened.run_id)),
        "number": image.number,
        "seed": image.seed,
        "run": opened.run_id,
        "stage": image.stage_id,
        "group": opened.group_id,
        "variant": None if opened.variant_index is None else opened.variant_index + 1,
        "date": f"{opened.ts:%Y-%m-%d}",
        "rating": rating_of(image.source_sha256).score or 0,
    }


def _parameters(data: bytes) -> str:
    """The text with the settings in an image, as WebUI servers write it; "" if it has none."""
    try:
        texts = texts_of(data, "")
    except ImageMetadataError:
        return ""  # only the text of the server is malformed: the image can be exported
    return texts.get("parameters") or texts.get("UserComment") or ""


def _origin(data: bytes) -> str:
    """The program and, as the ``stagewright`` chunk of a PNG has them, run, stage and image."""
    stamp = read_stamp(data)
    told = f" {msgspec.json.encode(stamp).decode()}" if stamp else ""
    return f"stagewright {VERSION}{told}"
