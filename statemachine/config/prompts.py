"""The prompts of a configuration: found in files, checked, and drawn for each image."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

import msgspec

from ...events.model import SourceFile
from ..errors import ConfigurationError, FieldError, InvalidStagePlanError, field_error
from ..ports import RandomBelow
from ..stages.stage import list_tables
from ..variants.prompt_files import PromptRow, read_prompt_file
from ..variants.prompts import (
    PromptSource,
    TextRoom,
    draw_images,
    expand_row,
    new_templates,
)
from ..variants.templates import TemplateError, Templates, looks_like_template
from .resolution import MAX_IMAGES, input_count, prompt_rows, uses_prompts
from .schema import RunConfig

_WILDCARDS = "wildcards"
_MOST_ERRORS = 10
_TEXTS = ("prompt", "negative_prompt")


def find_prompts(config: RunConfig, *, prompts_in: Path, wildcards_in: Path) -> RunConfig:
    """``config`` with the rows of its prompt file and the folder of its wildcards.

    Paths are relative to these folders. Raises ConfigurationError.
    """
    if not uses_prompts(config) or config.prompt_source is not None:
        return config
    rows: Sequence[PromptRow] | None = prompt_rows(config)
    files = []
    if isinstance(config.prompts, str):
        path = prompts_in / _expanded(config.prompts)
        try:
            rows, digest = read_prompt_file(path)
        except ValueError as error:
            raise ConfigurationError(f"prompts = {path}: {error}", key="prompts") from error
        files.append(SourceFile(path=PurePath(config.prompts).as_posix(), sha256=digest))
    templates = None
    if config.dynamic_prompts:
        named = config.wildcards or _WILDCARDS
        templates = new_templates(wildcards_in / _expanded(named), PurePath(named).as_posix())
    source = PromptSource(rows, templates, files)
    return msgspec.structs.replace(config, prompt_source=source)


def draw_prompts(config: RunConfig) -> RunConfig:
    """``config`` with the prompts and seeds of all its images, unless they were drawn before.

    A seed that is left to chance counts as 0; the prompts are examples then. ``config`` is one
    that ``check_config`` has checked. Raises InvalidStagePlanError.
    """
    if not uses_prompts(config) or config.drawn_prompts is not None:
        return config
    rows: Sequence[PromptRow] = _complete_rows(config)
    templates = _templates(config)
    if templates is not None:
        _check_templates(config, templates)
    try:
        if templates is not None and config.dynamic_prompts == "all":
            rows, templates = list(_expanded_rows(config, rows, templates)), None
        rows = _fit_to_inputs(config, rows)
        drawn = draw_images(rows, config.images, max(0, config.seed), templates)
    except TemplateError as error:
        raise _refused([field_error(_key(config), f"cannot be used: {error}")]) from error
    is_open = config.seed == -1 or any(row.seed == -1 for row in prompt_rows(config) or ())
    are_examples = is_open and templates is not None
    drawn = msgspec.structs.replace(drawn, are_examples=are_examples)
    return msgspec.structs.replace(config, drawn_prompts=drawn)


def draw_row_seeds(config: RunConfig, random_below: RandomBelow, end: int) -> RunConfig:
    """``config`` with a number below ``end`` for each row's seed that is left to chance."""
    rows = prompt_rows(config) or ()
    if all(row.seed != -1 for row in rows):
        return config
    drawn = tuple(
        msgspec.structs.replace(row, seed=random_below(end)) if row.seed == -1 else row
        for row in rows
    )
    source = config.prompt_source
    found = PromptSource(drawn, _templates(config), source.files if source else ())
    return msgspec.structs.replace(config, prompt_source=found)


def template_warnings(config: RunConfig) -> Iterator[str]:
    """A warning for each text that looks like a template and is used as written."""
    if not config.dynamic_prompts:
        rows = [row for row in prompt_rows(config) or () if _looks_dynamic(row)]
        if rows:
            shown = f"{len(rows)} rows of prompts look like templates"
            looks = "a row of prompts looks like a template" if len(rows) == 1 else shown
            yield f"{looks}; set dynamic_prompts = true to draw from it"
        for name in _TEXTS:
            if looks_like_template(getattr(config, name) or ""):
                yield f"{name} looks like a template; set dynamic_prompts = true to draw from it"
    for stage, config_of_stage in config.stages.items():
        for key, table in list_tables(config_of_stage, stage):
            for name in _TEXTS:
                if looks_like_template(getattr(table, name, None) or ""):
                    yield f"{key}.{name} looks like a template, but a stage's own is plain text"


class _Cell(NamedTuple):
    """A prompt, and where it is written."""

    key: str
    where: str
    text: str


def _cells(config: RunConfig, number: int, row: PromptRow) -> Iterator[_Cell]:
    for name in _TEXTS:
        if (text := getattr(row, name)) is not None:
            yield _Cell("prompts", f"row {number + 1}, {name}: ", text)
        elif (text := getattr(config, name)) is not None:
            yield _Cell(name, "", text)


def _check_templates(config: RunConfig, templates: Templates) -> None:
    """Raise InvalidStagePlanError for the first templates that cannot be used."""
    errors: dict[str, FieldError] = {}
    for number, row in enumerate(prompt_rows(config) or (PromptRow(),)):
        for key, where, text in _cells(config, number, row):
            try:
                templates.check(text)
            except TemplateError as error:
                found = field_error(key, f"cannot be used: {where}{error}")
                errors.setdefault(str(error), found)
        if len(errors) >= _MOST_ERRORS:
            break
    if errors:
        raise _refused(errors.values())


def _refused(errors: Iterable[FieldError]) -> InvalidStagePlanError:
    return InvalidStagePlanError(errors=errors)


def _key(config: RunConfig) -> str:
    return "prompt" if config.prompts is None else "prompts"


def _looks_dynamic(row: PromptRow) -> bool:
    return any(looks_like_template(text) for text in (row.prompt, row.negative_prompt) if text)


def _templates(config: RunConfig) -> Templates | None:
    """Those that were found; without files where only a program's own text is known."""
    if not config.dynamic_prompts:
        return None
    found = config.prompt_source.templates if config.prompt_source else None
    return found or new_templates(None, config.wildcards or _WILDCARDS)


def _complete_rows(config: RunConfig) -> list[PromptRow]:
    """The rows with what they take from the top level; one where there are no ``prompts``."""
    rows = prompt_rows(config)
    if rows is None and config.prompts is not None:
        reason = "is a file that was not read: load the configuration with load_config"
        raise _refused([field_error("prompts", reason, config.prompts)])
    return [
        PromptRow(
            prompt=config.prompt if row.prompt is None else row.prompt,
            negative_prompt=(
                config.negative_prompt if row.negative_prompt is None else row.negative_prompt
            ),
            seed=None if row.seed is None else max(0, row.seed),
        )
        for row in rows or (PromptRow(),)
    ]


def _expanded_rows(
    config: RunConfig, rows: Sequence[PromptRow], templates: Templates
) -> Iterator[PromptRow]:
    room, count = TextRoom(), 0
    for row in rows:
        for combination in expand_row(row, templates):
            room.take(combination.prompt, combination.negative_prompt)
            count += 1
            if count * config.images > MAX_IMAGES:
                raise TemplateError(f"all combinations make more than {MAX_IMAGES} images")
            yield combination


def _fit_to_inputs(config: RunConfig, rows: Sequence[PromptRow]) -> Sequence[PromptRow]:
    """A row for each input. Raises InvalidStagePlanError if there are more or fewer."""
    inputs = input_count(config)
    if not inputs or len(rows) == inputs:
        return rows
    if config.prompts is None and len(rows) == 1:
        return [*rows] * inputs
    reason = f"must give one row for each input: it gives {len(rows)}, and there are {inputs}"
    raise _refused([field_error(_key(config), reason)])


def _expanded(named: str) -> str:
    return os.path.expanduser(named)  # noqa: PTH111 - Path's own raises for unknown users
