"""The image files that a configuration names: one, those of a folder, or those of a pattern."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from ..errors import InputImageError
from ..files.seeds import recorded_seed
from ..ports import InputReader
from .schema import InputImage

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp"),
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".tif", ".tiff"),
)
MAX_INPUT_BYTES = 256 * 1024 * 1024
_NO_IMAGE, _HIDDEN, _FOLDER = "not an image", "hidden", "a folder"
_SEVERAL: Mapping[str | None, str] = {_NO_IMAGE: "not images", _FOLDER: "folders"}


class ImageList(NamedTuple):
    """The files that a path stands for, in natural order: ``img2`` before ``img10``.

    ``is_one`` says that the path is that of one file, which need not exist. ``left_out`` says how
    many files of a folder are not taken, and why; "" where there are none.
    """

    paths: tuple[Path, ...]
    is_one: bool
    left_out: str = ""


def list_images(named: str, folder: Path, *, key: str) -> ImageList:
    """The images that ``named`` stands for: a file, a folder, or a pattern such as ``*.png``.

    It is relative to ``folder``; ``~`` is the user's home. Raises InputImageError, naming ``key``,
    for a folder or a pattern without images.
    """
    expanded = os.path.expanduser(named)  # noqa: PTH111 - Path's own raises for unknown users
    path = folder / expanded
    try:
        if path.is_dir():
            listed = _listed(path.iterdir(), f"{named.rstrip('/')}/")
            lacks = "the folder holds no"
        elif glob.has_magic(expanded) and not path.exists():
            # Path's own glob finds hidden files.
            matched = glob.glob(expanded, root_dir=folder, recursive=True)  # noqa: PTH207 - skips hidden files
            listed = _listed((folder / one for one in dict.fromkeys(matched)), named)
            lacks = "it matches no"
        else:
            return ImageList((path,), is_one=True)
    except OSError as error:
        raise InputImageError(
            f"{key} = {path}: cannot be read: {error.strerror}", key=key
        ) from error
    if not listed.paths:
        why = f" ({listed.left_out})" if listed.left_out else ""
        raise InputImageError(f"{key} = {path}: {lacks} {', '.join(IMAGE_SUFFIXES)}{why}", key=key)
    return listed


def _listed(entries: Iterable[Path], shown: str) -> ImageList:
    """The images among the entries of a folder or pattern, which is ``shown`` so."""
    reasons: dict[str | None, list[Path]] = {None: [], _NO_IMAGE: [], _HIDDEN: [], _FOLDER: []}
    for entry in entries:
        reasons[_why_left_out(entry)].append(entry)
    paths = tuple(sorted(reasons.pop(None), key=_natural_order))
    return ImageList(paths, is_one=False, left_out=_left_out(reasons, shown))


def _why_left_out(path: Path) -> str | None:
    if path.is_dir():
        return _FOLDER
    if path.name.startswith("."):
        return _HIDDEN
    return None if path.suffix.lower() in IMAGE_SUFFIXES else _NO_IMAGE


def _left_out(reasons: Mapping[str | None, Sequence[Path]], shown: str) -> str:
    """``3 files of photos/ are left out: 2 are not images (notes.txt, ...), 1 is hidden``."""
    parts = []
    for why, entries in reasons.items():
        several = len(entries) > 1
        words = f"are {_SEVERAL.get(why) or why}" if several else f"is {why}"
        if entries and why != _HIDDEN:
            words += f" ({min(entries).name}{', ...' if several else ''})"
        parts += [f"{len(entries)} {words}"] if entries else []
    total = sum(map(len, reasons.values()))
    are = f"files of {shown} are" if total > 1 else f"file of {shown} is"
    return f"{total} {are} left out: {', '.join(parts)}" if total else ""


def _natural_order(path: Path) -> tuple[object, ...]:
    return [_natural(part) for part in path.parent.parts], _natural(path.stem), path.name


def _natural(text: str) -> list[int | str]:
    """The text with its numbers as numbers: at odd places, so that only equals are compared."""
    parts = re.split(r"(\d+)", text.casefold())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def inspect_images(
    paths: Sequence[Path], inputs: InputReader, *, key: str, named: str, keep_refused: bool
) -> tuple[InputImage, ...]:
    """What each file is.

    A file that cannot be used has a ``refusal`` where ``keep_refused`` allows it and others can.
    Raises InputImageError otherwise, which names all these files.
    """
    if len(paths) == 1:
        return (inspect_image(paths[0], inputs, key=key),)
    found = [inspect_or_refuse(path, inputs, key=key) for path in paths]
    raise_refusals(found, key=key, named=named, keep_refused=keep_refused)
    return tuple(found)


def inspect_or_refuse(path: Path, inputs: InputReader, *, key: str) -> InputImage:
    """What a file is; it has a ``refusal`` if it cannot be used."""
    try:
        return inspect_image(path, inputs, key=key)
    except InputImageError as error:
        return refused_image(path, str(error).removeprefix(f"{key} = {path}: "))


def raise_refusals(
    images: Sequence[InputImage], *, key: str, named: str, keep_refused: bool
) -> None:
    """Raise InputImageError for images that cannot be used, naming all of them.

    With ``keep_refused``, only if none can be used.
    """
    refused = list_refusals(images)
    if refused and not (keep_refused and len(refused) < len(images)):
        raise InputImageError(
            f"{key} = {named}: {len(refused)} of {len(images)} images cannot be used: "
            + "; ".join(refused),
            key=key,
        )


def list_refusals(images: Iterable[InputImage]) -> list[str]:
    """The name of each image that cannot be used, and why."""
    return [f"{one.file_name}: {one.refusal}" for one in images if one.refusal]


def refused_image(path: Path, refusal: str) -> InputImage:
    """An image that cannot be used, in the place of one that can."""
    return InputImage(path=str(path.absolute()), media_type="", width=0, height=0, refusal=refusal)


def inspect_image(path: Path, inputs: InputReader, *, key: str = "input_image") -> InputImage:
    """What a file is. Raises InputImageError, naming ``key`` and the path."""
    data = read_bounded(path, key=key)
    try:
        facts = inputs.inspect(data, name=f"{key} = {path}", convertible=True)
    except InputImageError as error:
        error.key = key
        raise
    return InputImage(
        path=str(path.absolute()),
        media_type=facts.media_type,
        width=facts.width,
        height=facts.height,
        sha256=sha256(data).hexdigest(),
        seed=recorded_seed(data, path.name),
    )


def read_bounded(path: Path, *, key: str = "input_image") -> bytes:
    """The bytes of an input image. Raises InputImageError, naming ``key`` and the path."""
    try:
        if not path.is_file():
            raise InputImageError(f"{key} = {path}: there is no such file", key=key)
        with open(path, "rb") as stream:
            # A file that is too large is not read; one that grows is read up to the limit.
            too_large = os.fstat(stream.fileno()).st_size > MAX_INPUT_BYTES
            data = b"" if too_large else stream.read(MAX_INPUT_BYTES + 1)
    except OSError as error:
        raise InputImageError(
            f"{key} = {path}: cannot be read: {error.strerror}", key=key
        ) from error
    if too_large or len(data) > MAX_INPUT_BYTES:
        raise InputImageError(f"{key} = {path}: larger than {MAX_INPUT_BYTES} bytes", key=key)
    return data
