"""The input images, masks and other files that a configuration names, found and inspected."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from unicodedata import normalize

import msgspec

from ...events.errors import RunNotFoundError
from ...events.folds import replay
from ...events.result import FinishedImage, PipelineRunResult
from ..errors import InputImageError
from ..files.recorded_files import check_file
from ..files.run_folder import find_run, split_image_number, why_no_image
from ..ports import InputReader
from .input_files import (
    inspect_image,
    inspect_images,
    inspect_or_refuse,
    list_images,
    list_refusals,
    raise_refusals,
    refused_image,
)
from .prompts import find_prompts
from .schema import InputImage, OnImageError, RunConfig
from .script_images import find_script_images

_RUN = "run:"
_KEY = "input_image"
_SHOWN = 5


def find_inputs(
    config: RunConfig,
    *,
    folder: Path,
    inputs: InputReader,
    runs: Path,
    typed: frozenset[str] = frozenset(),
) -> RunConfig:
    """``config`` with its images, prompts and wildcards, and its ``ca_bundle``.

    Those that it has already are kept: they may have been found in another folder. The paths of
    the keys that are ``typed`` are relative to the working folder instead.
    """

    def folder_of(*keys: str) -> Path:
        return folder if typed.isdisjoint(keys) else Path.cwd()

    config = _with_ca_bundle(config, folder_of("server.ca_bundle", "server"))
    config = find_prompts(
        config, prompts_in=folder_of("prompts"), wildcards_in=folder_of("wildcards")
    )
    named, stages = config.input_image, config.stages
    # Where the first stage takes a prompt, input_image is not used and need not exist.
    if named and not config.inputs and not any(one.takes_prompt for one in stages.values()):
        if named.startswith(_RUN):
            config = _with_images_of_run(config, named.removeprefix(_RUN), inputs, runs)
        else:
            where = folder_of(_KEY, "input_image_path")
            config = _with_files(config, named, where, inputs)
    for name, stage in stages.items():
        if stage.mask and config.mask is None and not config.masks:
            where = folder_of(f"{name}.mask", name)
            config = _with_masks(config, f"{name}.mask", stage.mask, where, inputs)
        if stage.alwayson_scripts:
            key = f"{name}.alwayson_scripts"
            where = folder_of(key, name)
            images = find_script_images(stage.alwayson_scripts, where, inputs, key=key)
            config = msgspec.structs.replace(
                config, script_images={**images, **config.script_images}
            )
    return _noting(config, _refused(config.inputs))


def _with_ca_bundle(config: RunConfig, folder: Path) -> RunConfig:
    bundle = config.server.ca_bundle
    if not bundle or config.ca_bundle is not None:
        return config
    path = folder / os.path.expanduser(bundle)  # noqa: PTH111 - Path's own raises for unknown users
    return msgspec.structs.replace(config, ca_bundle=str(path.absolute()))


def _refused(images: Sequence[InputImage]) -> str:
    """A note on the inputs that cannot be used, if any."""
    refused = list_refusals(images)
    more = [f"and {len(refused) - _SHOWN} more"] if len(refused) > _SHOWN else []
    shown = "; ".join([*refused[:_SHOWN], *more])
    note = f"{len(refused)} of {len(images)} inputs cannot be used, so their images will be missing"
    return f"{note}: {shown}" if refused else ""


def _keeps_refused(config: RunConfig) -> bool:
    return config.run.on_image_error is OnImageError.CONTINUE


def _noting(config: RunConfig, *notes: str) -> RunConfig:
    """``config`` with more to be said of its inputs."""
    said = dict.fromkeys([*config.input_notes, *filter(None, notes)])
    return msgspec.structs.replace(config, input_notes=tuple(said))


def _with_files(config: RunConfig, named: str, folder: Path, inputs: InputReader) -> RunConfig:
    listed = list_images(named, folder, key=_KEY)
    keep = _keeps_refused(config)
    found = inspect_images(listed.paths, inputs, key=_KEY, named=named, keep_refused=keep)
    return _noting(msgspec.structs.replace(config, inputs=found), listed.left_out)


def _with_masks(
    config: RunConfig, key: str, named: str, folder: Path, inputs: InputReader
) -> RunConfig:
    """``config`` with one mask for all images, or with one for each input, of the same stem."""
    listed = list_images(named, folder, key=key)
    if listed.is_one:
        mask = inspect_image(listed.paths[0], inputs, key=key)
        return _noting(msgspec.structs.replace(config, mask=mask), _stretched(config, mask, key))
    if not config.inputs:
        raise InputImageError(
            f"{key} = {named}: a folder has a mask for each input image, and there is none: name "
            "one mask for all images",
            key=key,
        )
    by_stem: dict[str, list[Path]] = {}
    for path in listed.paths:
        by_stem.setdefault(_stem(path), []).append(path)
    masks, images = [], []
    for image in config.inputs:
        mask = _mask_of(image, by_stem.get(_stem(Path(image.path)), []), inputs, key)
        refusal = image.refusal or mask.refusal
        masks.append(msgspec.structs.replace(mask, refusal=refusal))
        images.append(msgspec.structs.replace(image, refusal=refusal))
    raise_refusals(images, key=key, named=named, keep_refused=_keeps_refused(config))
    used = {_stem(Path(image.path)) for image in images}
    unused = sorted(path.name for path in listed.paths if _stem(path) not in used)
    have = "mask has" if len(unused) == 1 else "masks have"
    note = f"{key} = {named}: {len(unused)} {have} no input: {', '.join(unused[:_SHOWN])}"
    found = msgspec.structs.replace(config, inputs=tuple(images), masks=tuple(masks))
    return _noting(found, listed.left_out, note if unused else "")


def _stretched(config: RunConfig, mask: InputImage, key: str) -> str:
    """A note if one mask for all images has another size than some of the inputs."""
    sizes = {(one.width, one.height) for one in config.inputs if not one.refusal}
    others = sizes - {(mask.width, mask.height)}
    if not others:
        return ""
    width, height = min(others)
    return (
        f"{key} has {mask.width}x{mask.height} pixels, and an input {width}x{height}: a server "
        "stretches it"
    )


def _stem(path: Path) -> str:
    """macOS may write the same name in another way."""
    return normalize("NFC", path.stem)


def _mask_of(image: InputImage, paths: Sequence[Path], inputs: InputReader, key: str) -> InputImage:
    """The mask of an input; it has a ``refusal`` if it cannot be used."""
    if image.refusal:
        return image
    if len(paths) != 1:
        shown = ", ".join(path.name for path in paths)
        why = f"it has {len(paths)} masks ({shown})" if paths else "it has no mask of its name"
        return refused_image(Path(image.path), why)
    (path,) = paths
    mask = inspect_or_refuse(path, inputs, key=key)
    if mask.refusal:
        return refused_image(path, f"its mask {path.name}: {mask.refusal}")
    if (mask.width, mask.height) == (image.width, image.height):
        return mask
    sizes = f"has {mask.width}x{mask.height} pixels, and it {image.width}x{image.height}"
    return refused_image(path, f"its mask {path.name} {sizes}")


def _with_images_of_run(
    config: RunConfig, named: str, inputs: InputReader, runs: Path
) -> RunConfig:
    """The final images of an earlier run, or one of them: ``RUN#3`` is the third.

    They must still be what that run made.
    """
    shown = f"{_KEY} = {_RUN}{named}"
    name, number = split_image_number(named)
    try:
        folder = find_run(runs, name)
        result = replay(folder)
    except (RunNotFoundError, OSError) as error:
        raise InputImageError(f"{shown}: {error}", key=_KEY) from error
    images = list(_final_images(result, number, shown))
    paths = [folder / image.path for image in images]
    wrong = [
        f"{path}: {why}"
        for path, image in zip(paths, images, strict=True)
        if (why := check_file(folder, image.path, image.sha256)) is not None
    ]
    if wrong:
        raise InputImageError(f"{_KEY} = {'; '.join(wrong)}", key=_KEY)
    found = inspect_images(paths, inputs, key=_KEY, named=shown, keep_refused=False)
    whole = [
        msgspec.structs.replace(one, parent_run_id=result.run_id, seed=image.seed)
        for one, image in zip(found, images, strict=True)
    ]
    return msgspec.structs.replace(config, inputs=tuple(whole))


def _final_images(
    result: PipelineRunResult, number: int | None, shown: str
) -> Iterable[FinishedImage]:
    gaps = {gap.image_index for gap in result.missing}
    final = [image for image in result.images if image.image_index not in gaps]
    if not final:
        raise InputImageError(f"{shown}: run {result.run_id} has finished no image", key=_KEY)
    if number is None:
        return final
    chosen = [image for image in final if image.image_index == number - 1]
    if not chosen:
        raise InputImageError(f"{shown}: {why_no_image(result, number)}", key=_KEY)
    return chosen
