"""What a configuration names outside of itself: kept with a group, so that no change reaches it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from ...events.log.storage import Storage
from ...events.model import InsidePath, SourceFile
from ..config.input_files import read_bounded
from ..config.schema import InputImage, RunConfig
from ..errors import InputImageError, ResumeRefusedError
from ..files.run_folder import SUFFIXES
from ..variants.prompts import DrawnPrompts, PromptSource

INPUTS_NAME = "inputs"
"""The folder of the copies in that of a group."""


_OF_CONFIG = ("inputs", "mask", "masks", "script_images", "input_notes", "ca_bundle")
"""Fields that a RunConfig has too."""


class FoundFiles(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The input images, masks, images of scripts and drawn prompts of a configuration.

    ``sources`` are the files that the prompts came from. In a group's log, the ``path`` of each
    image is that of its copy in the group's folder.
    """

    inputs: tuple[InputImage, ...] = ()
    mask: InputImage | None = None
    masks: tuple[InputImage, ...] = ()
    script_images: Mapping[str, InputImage] = {}
    input_notes: tuple[str, ...] = ()
    ca_bundle: str | None = None
    prompts: DrawnPrompts | None = None
    sources: tuple[SourceFile, ...] = ()

    @classmethod
    def of(cls, config: RunConfig) -> FoundFiles:
        """What was found for ``config``, whose prompts are drawn."""
        source = config.prompt_source
        return cls(
            **{name: getattr(config, name) for name in _OF_CONFIG},
            prompts=config.drawn_prompts,
            sources=source.sources if source else (),
        )

    @classmethod
    def from_record(cls, record: Mapping[str, Any], folder: Path) -> FoundFiles:
        """What a group recorded, with absolute paths. Raises ResumeRefusedError."""

        def locate(image: InputImage) -> InputImage:
            if image.refusal:
                return image
            if not image.sha256:
                # A link in its place could lead to any file, which would be sent to a server.
                raise msgspec.ValidationError(f"{image.path} has no digest")
            inside = msgspec.convert(image.path, InsidePath)
            return msgspec.structs.replace(image, path=str((folder / inside).absolute()))

        try:
            return msgspec.convert(record, cls).map_images(locate)
        except (msgspec.ValidationError, RecursionError) as error:
            raise ResumeRefusedError(
                f"{folder}: what the group recorded of its inputs cannot be used: {error}"
            ) from error

    def apply_to(self, config: RunConfig) -> RunConfig:
        """``config`` with what was found for it."""
        return msgspec.structs.replace(
            config,
            **{name: getattr(self, name) for name in _OF_CONFIG},
            drawn_prompts=self.prompts,
            prompt_source=PromptSource((), None, self.sources) if self.prompts else None,
        )

    def map_images(self, change: Callable[[InputImage], InputImage]) -> FoundFiles:
        """The same with each image changed."""
        return msgspec.structs.replace(
            self,
            inputs=tuple(map(change, self.inputs)),
            mask=None if self.mask is None else change(self.mask),
            masks=tuple(map(change, self.masks)),
            script_images={name: change(one) for name, one in self.script_images.items()},
        )


class FileCopies:
    """Copies the files that configurations name into one folder, each once."""

    def __init__(self, folder: Path, storage: Storage) -> None:
        self._folder = folder
        self._storage = storage
        self._copies: dict[tuple[str, str], str] = {}

    def copy(self, found: FoundFiles) -> FoundFiles:
        """``found`` with the paths of the copies, relative to the folder.

        Raises InputImageError for a file that has changed since it was checked, OSError.
        """
        return found.map_images(self._copy)

    def _copy(self, image: InputImage) -> InputImage:
        if image.refusal:
            return image
        key = (image.path, image.sha256)
        if key not in self._copies:
            self._copies[key] = self._write(image)
        return msgspec.structs.replace(image, path=self._copies[key], original_name=image.file_name)

    def _write(self, image: InputImage) -> str:
        data = read_bounded(Path(image.path))
        if sha256(data).hexdigest() != image.sha256:
            raise InputImageError(
                f"input_image = {image.path}: it was changed after it had been checked",
                key="input_image",
            )
        if not self._copies:
            self._storage.make_folder(self._folder / INPUTS_NAME)
        suffix = SUFFIXES.get(image.media_type, "image")
        path = f"{INPUTS_NAME}/{len(self._copies):05d}.{suffix}"
        self._storage.write_file(self._folder / path, data)
        return path
