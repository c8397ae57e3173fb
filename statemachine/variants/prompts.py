"""The prompts and the seeds of a run's images, from rows of prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from ...events.log.format import MAX_BODY_BYTES
from ...events.model import ImagePrompt, SourceFile
from .prompt_files import PromptRow
from .templates import MAX_COMBINATIONS, EveryChooser, SeededChooser, TemplateError, Templates
from .wildcards import WildcardFolder


class PromptSource:
    """What a configuration's ``prompts`` and ``wildcards`` name, as it was found.

    ``rows`` is None where there are no prompts, ``templates`` where dynamic prompts are off.
    """

    def __init__(
        self,
        rows: Sequence[PromptRow] | None,
        templates: Templates | None = None,
        files: Sequence[SourceFile] = (),
    ) -> None:
        self.rows = rows
        self.templates = templates
        self.files = tuple(files)

    @property
    def sources(self) -> tuple[SourceFile, ...]:
        """The files that were read so far."""
        return (*self.files, *(self.templates.wildcards.sources if self.templates else ()))


class DrawnPrompts(msgspec.Struct, frozen=True):
    """The prompts and the seeds of all images, by index.

    ``are_examples``: a run draws others, because its seed is drawn when it starts.
    """

    prompts: tuple[ImagePrompt, ...]
    seeds: tuple[int, ...]
    are_examples: bool = False


def new_templates(folder: Path | None, named: str) -> Templates:
    """Templates whose wildcards are files of ``folder``, which is written as ``named``."""
    from .dynamic_prompts import parse_template  # noqa: PLC0415 - 80 ms that few commands need

    return Templates(WildcardFolder(folder, named), parse_template)


def expand_row(row: PromptRow, templates: Templates) -> Iterator[PromptRow]:
    """A row for each combination of its templates, each once. Raises TemplateError."""
    prompt, negative = row.prompt or "", row.negative_prompt
    if templates.count_at_least(prompt, negative or "") > MAX_COMBINATIONS:
        raise TemplateError(f"there are more than {MAX_COMBINATIONS} combinations")
    chooser, seen = EveryChooser(), set()
    for _ in range(MAX_COMBINATIONS):
        text = templates.draw(prompt, chooser)
        drawn = text, None if negative is None else templates.draw(negative, chooser)
        if drawn not in seen:
            seen.add(drawn)
            yield PromptRow(prompt=drawn[0], negative_prompt=drawn[1], seed=row.seed)
        if not chooser.advance():
            return
    raise TemplateError(f"there are more than {MAX_COMBINATIONS} combinations")


def draw_images(
    rows: Sequence[PromptRow], images: int, first_seed: int, templates: Templates | None
) -> DrawnPrompts:
    """``images`` for each row, in order; with ``templates`` each draws a text from its own seed.

    A row without a seed continues ``first_seed`` at its place. Raises TemplateError, also where
    the texts are longer than a record of the log.
    """
    prompts: list[ImagePrompt] = []
    seeds: list[int] = []
    room = TextRoom()
    for number, row in enumerate(rows):
        own = row.seed if row.seed is not None else first_seed + number * images
        prompt = _as_written(row)
        for seed in range(own, own + images):
            if templates is not None:
                prompt = _drawn(row, seed, templates)
            room.take(prompt.prompt, prompt.negative_prompt)
            prompts.append(prompt)
            seeds.append(seed)
    return DrawnPrompts(tuple(prompts), tuple(seeds))


class TextRoom:
    """Counts the text of prompts, which must fit in one record."""

    def __init__(self) -> None:
        self._left = MAX_BODY_BYTES

    def take(self, *texts: str | None) -> None:
        """Raise TemplateError if there is no room left."""
        self._left -= sum(len(text) for text in texts if text)
        if self._left < 0:
            raise TemplateError(f"all prompts are longer than a record of {MAX_BODY_BYTES} bytes")


def _as_written(row: PromptRow) -> ImagePrompt:
    return ImagePrompt(prompt=row.prompt or "", negative_prompt=row.negative_prompt)


def _drawn(row: PromptRow, seed: int, templates: Templates) -> ImagePrompt:
    negative = row.negative_prompt
    if negative is not None:
        negative = templates.draw(negative, SeededChooser(seed, "negative_prompt"))
    prompt = templates.draw(row.prompt or "", SeededChooser(seed, "prompt"))
    return ImagePrompt(prompt=prompt, negative_prompt=negative)
