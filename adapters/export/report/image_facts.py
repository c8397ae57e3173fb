"""What the pages of runs and groups show of an image beside its picture: its file, its prompts."""

from __future__ import annotations

import os
from pathlib import Path, PurePath
from urllib.parse import quote

from ....events.model import ImagePrompt, RunOpened
from ....events.origins import prompt_of
from ...projections.provenance import settings_of_stages

_LONGEST = 4_000


def link_to(folder: Path, path: str, page: Path) -> str:
    """The address from ``page`` of a file recorded by a run; "" for one outside of its folder."""
    if PurePath(path).is_absolute() or ".." in PurePath(path).parts:
        return ""
    file = (folder / path).absolute()
    try:
        relative = os.path.relpath(file, page.absolute().parent)
    except ValueError:  # on another drive
        return file.as_uri()
    return quote(os.fsencode(Path(relative).as_posix()))


class PromptTable:
    """The different prompts of the images on a page; an image has the place of its own."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    @property
    def texts(self) -> list[str]:
        """The texts in the order of their places, for the page's script."""
        return list(self._places)

    def place_of(self, text: str) -> int:
        """The place of a text."""
        return self._places.setdefault(text, len(self._places))


class StagePrompts:
    """The prompts of a run's images, as text, by stage."""

    def __init__(self, opened: RunOpened | None) -> None:
        self._opened = opened
        self._known: dict[tuple[str, ImagePrompt | None], str] = {}

    def of(self, stage_id: str, image_index: int) -> str:
        """The prompt that an image was made from up to this stage, and the negative one."""
        if self._opened is None:
            return ""
        key = stage_id, prompt_of(self._opened, image_index)
        if key not in self._known:
            self._known[key] = self._read(self._opened, *key)
        return self._known[key]

    @staticmethod
    def _read(opened: RunOpened, stage_id: str, own: ImagePrompt | None) -> str:
        stages = settings_of_stages(opened.plan, stage_id, own).values()
        last = next((one for one in reversed(stages) if "prompt" in one), {})
        negative = last.get("negative_prompt")
        text = str(last.get("prompt", ""))
        text = f"{text}\nNegative prompt: {negative}" if negative else text
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... (the log has the rest)"
