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
from ..errors import InputImageError
from ..files.recorded_files import check_file
from ..files.run_folder import find_run
from ..ports import InputReader
from .document import apply_overrides, parse_document
from .layers import Layer, extend_document, find_source, merge_layers, read_layers
from .schema import InputImage, RunConfig

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp"),
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".tif", ".tiff"),
)
MAX_INPUT_BYTES = 256 * 1024 * 1024
_RUN = "run:"


def load_config(
    path: Path,
    *,
    inputs: InputReader,
    runs: Path,
    overrides: Iterable[str] = (),
    profile: Mapping[str, Any] = {},
    profile_source: str = "profile",
) -> RunConfig:
    """Read a configuration, apply ``overrides`` and find its input images.

    The values of the file that it extends, and below them those of ``profile``, are used where it
    has none; ``profile_source`` names the latter in errors. Paths are relative to its folder.
    Raises ConfigurationError with all errors.
    """
    overrides = tuple(overrides)
    layers = [*read_layers(path), Layer(profile_source, profile)]
    config = parse_document(
        apply_overrides(merge_layers(layers), overrides),
        source=lambda error: find_source(error, layers, overrides),
        name=path.stem,
    )
    return find_inputs(config, folder=path.parent, inputs=inputs, runs=runs)


def resolve_config(
    config: RunConfig | Mapping[str, Any] | Path, *, inputs: InputReader, runs: Path
) -> RunConfig:
    """``config``, in any form, with its input images found.

    Paths in a document or a RunConfig are relative to the working folder.
    """
    if isinstance(config, Path):
        return load_config(config, inputs=inputs, runs=runs)
    parsed = (
        config
        if isinstance(config, RunConfig)
        else parse_document(merge_layers(extend_document(config, Path.cwd())))
    )
    return find_inputs(parsed, folder=Path.cwd(), inputs=inputs, runs=runs)


def find_inputs(config: RunConfig, *, folder: Path, inputs: InputReader, runs: Path) -> RunConfig:
    """``config`` with the images that ``inputs`` and ``mask`` need; they decode.

    Those that it has already are kept: they may have been found in another folder.
    """
    found, mask = config.inputs, config.mask
    named, stages = config.input_image, config.stages
    # Where the first stage takes a prompt, input_image is not used and need not exist.
    if named and not found and not any(stage.takes_prompt for stage in stages.values()):
        if named.startswith(_RUN):
            found = _images_of_run(named.removeprefix(_RUN), inputs, runs)
        else:
            found = tuple(_inspect(path, inputs) for path in _image_paths(folder / named))
    for name, stage in stages.items():
        if mask is None and stage.mask:
            mask = _inspect(folder / stage.mask, inputs, key=f"{name}.mask")
    return msgspec.structs.replace(config, inputs=found, mask=mask)


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


def _images_of_run(name: str, inputs: InputReader, runs: Path) -> tuple[InputImage, ...]:
    """The final images of an earlier run, which must still be what that run made."""
    try:
        folder = find_run(runs, name)
        result = replay(folder)
    except (RunNotFoundError, OSError) as error:
        raise InputImageError(f"input_image = {_RUN}{name}: {error}", key="input_image") from error
    gaps = {gap.image_index for gap in result.missing}
    found = []
    for image in result.images:
        if image.image_index in gaps:
            continue
        path = folder / image.path
        if (wrong := check_file(folder, image.path, image.sha256)) is not None:
            raise InputImageError(f"input_image = {path}: {wrong}", key="input_image")
        found.append(msgspec.structs.replace(_inspect(path, inputs), parent_run_id=result.run_id))
    if not found:
        raise InputImageError(
            f"input_image = {_RUN}{name}: run {result.run_id} has finished no image",
            key="input_image",
        )
    return tuple(found)


def _inspect(path: Path, inputs: InputReader, *, key: str = "input_image") -> InputImage:
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
