"""Images that the arguments of scripts name by their paths, such as those of ControlNet units."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..ports import InputReader
from .input_files import IMAGE_SUFFIXES, inspect_image
from .schema import InputImage

_IMAGE_KEYS = frozenset(["image", "input_image", "mask", "mask_image"])
"""Names under which ControlNet and others take images."""
_LONGEST_PATH = 4096


def map_strings(value: Any, change: Callable[[str, str], Any], key: str = "") -> Any:
    """``value`` with ``change(key, text)`` in the place of each string in it."""
    if isinstance(value, str):
        return change(key, value)
    if isinstance(value, Mapping):
        return {name: map_strings(part, change, name) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [map_strings(part, change, key) for part in value]
    return value


def find_script_images(
    scripts: Mapping[str, Any], folder: Path, inputs: InputReader, *, key: str
) -> dict[str, InputImage]:
    """The images that arguments name, by the path as it is written.

    A path is a name of an image file under a key that stands for an image, or elsewhere if there
    is such a file. It is relative to ``folder``. Raises InputImageError, naming ``key``.
    """
    found: dict[str, InputImage] = {}

    def look(name: str, text: str) -> str:
        if _may_be_path(text) and text not in found:
            path = folder / Path(text).expanduser()
            if name in _IMAGE_KEYS or path.is_file():
                found[text] = inspect_image(path, inputs, key=key)
        return text

    map_strings(scripts, look)
    return found


def _may_be_path(text: str) -> bool:
    return len(text) < _LONGEST_PATH and text.lower().endswith(IMAGE_SUFFIXES)
