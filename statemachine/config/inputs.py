"""From a configuration file to a configuration whose input images have been found."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from ...events.errors import RunNotFoundError
from ...events.folds import replay
from ...events.model import Artifact
from ..errors import InputImageError
from ..files.recorded_files import check_file
from ..files.run_folder import find_run
from ..ports import InputReader
from .document import apply_overrides, parse_document, read_document
from .schema import InputImage, RunConfig

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MAX_INPUT_BYTES = 256 * 1024 * 1024
_RUN = "run:"


def load_config(
    path: Path, *, inputs: InputReader, runs: Path, overrides: Iterable[str] = ()
) -> RunConfig:
    """Read a configuration, put ``overrides`` in and find its input images.

    Paths in it are relative to its folder. Raises ConfigurationError.
    """
    document = apply_overrides(read_document(path), overrides)
    config = parse_document(document, source=str(path), name=path.stem)
    return find_inputs(config, folder=path.parent, inputs=inputs, runs=runs)


def ready_config(
    config: RunConfig | Mapping[str, Any] | Path, *, inputs: InputReader, runs: Path
) -> RunConfig:
    """``config``, in whichever form, with its input images found.

    Paths in a document or a RunConfig are relative to the working folder.
    """
    if isinstance(config, Path):
        return load_config(config, inputs=inputs, runs=runs)
    if not isinstance(config, RunConfig):
        config = parse_document(config)
    return find_inputs(config, folder=Path.cwd(), inputs=inputs, runs=runs)


def find_inputs(config: RunConfig, *, folder: Path, inputs: InputReader, runs: Path) -> RunConfig:
    """``config`` with ``inputs`` and ``mask`` resolved to images that decode.

    Those that it has already are kept: they were found in another folder, perhaps.
    """
    named = config.input_image if config.input_image is not None else config.input_image_path
    txt2img = config.txt2img.enabled if config.txt2img else bool(config.txt2img_enabled)
    img2img = config.img2img
    found, mask = list(config.inputs), config.mask
    # With txt2img on, input_image is not used: it need not even be there.
    if named and not found and not txt2img:
        if named.startswith(_RUN):
            found = _images_of_run(named.removeprefix(_RUN), inputs, runs)
        else:
            found = [_inspect(path, inputs) for path in _image_paths(folder / named)]
    if mask is None and img2img is not None and img2img.enabled and img2img.mask:
        mask = _inspect(folder / img2img.mask, inputs, key="img2img.mask")
    return msgspec.structs.replace(config, inputs=tuple(found), mask=mask)


def _image_paths(path: Path) -> list[Path]:
    try:
        if not path.is_dir():
            return [path]
        found = sorted(entry for entry in path.iterdir() if _is_image_file(entry))
    except OSError as error:
        raise InputImageError(
            f"input_image = {path}: cannot be read: {error.strerror}", key="input_image"
        ) from error
    if not found:
        raise InputImageError(
            f"input_image = {path}: the folder holds no {', '.join(IMAGE_SUFFIXES)}",
            key="input_image",
        )
    return found


def _is_image_file(path: Path) -> bool:
    named = path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    return named and not path.is_dir()


def _images_of_run(name: str, inputs: InputReader, runs: Path) -> list[InputImage]:
    try:
        folder = find_run(runs, name)
        result = replay(folder)
    except (RunNotFoundError, OSError) as error:
        raise InputImageError(f"input_image = {_RUN}{name}: {error}", key="input_image") from error
    gaps = {gap.image_index for gap in result.missing}
    finished = [image for image in result.images if image.image_index not in gaps]
    if not finished:
        raise InputImageError(
            f"input_image = {_RUN}{name}: run {result.run_id} has finished no image",
            key="input_image",
        )
    return [_image_of_run(folder, image, inputs, result.run_id) for image in finished]


def _image_of_run(folder: Path, image: Artifact, inputs: InputReader, run_id: str) -> InputImage:
    """An image of an earlier run, which must still be what that run made."""
    path = folder / image.path
    if (what := check_file(folder, image.path, image.sha256)) is not None:
        raise InputImageError(f"input_image = {path}: {what}", key="input_image")
    return msgspec.structs.replace(_inspect(path, inputs), parent_run_id=run_id)


def _inspect(path: Path, inputs: InputReader, *, key: str = "input_image") -> InputImage:
    data = read_bounded(path, key=key)
    try:
        facts = inputs.inspect(data, name=f"{key} = {path}")
    except InputImageError as error:
        error.key = key
        raise
    return InputImage(
        path=str(path.absolute()),
        media_type=facts.media_type,
        width=facts.width,
        height=facts.height,
        sha256=sha256(data).hexdigest(),
    )


def read_bounded(path: Path, *, key: str = "input_image") -> bytes:
    """The bytes of an input image. Raises InputImageError, naming ``key`` and the path."""
    try:
        if not path.is_file():
            raise InputImageError(f"{key} = {path}: there is no such file", key=key)
        with open(path, "rb") as stream:
            # A size that is known to be too large need not be read; one may grow meanwhile.
            too_large = os.fstat(stream.fileno()).st_size > MAX_INPUT_BYTES
            data = b"" if too_large else stream.read(MAX_INPUT_BYTES + 1)
    except OSError as error:
        raise InputImageError(
            f"{key} = {path}: cannot be read: {error.strerror}", key=key
        ) from error
    if too_large or len(data) > MAX_INPUT_BYTES:
        raise InputImageError(f"{key} = {path}: larger than {MAX_INPUT_BYTES} bytes", key=key)
    return data
