"""Configurations that make a run or an image again, as TOML."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from ...events.folds import recorded_stages
from ...events.groups.model import GroupOpened
from ...events.model import BackendDescription, RunOpened
from ...events.origins import input_name, input_of, prompt_of
from ...statemachine.config.document import parse_document
from ...statemachine.config.script_images import map_strings
from ...statemachine.errors import ConfigurationError, show_value
from ...statemachine.stages import stage_types
from ..event_text import backend_text
from ..text import one_line
from .foreign_images import ForeignImage, tool_name

Document = dict[str, Any]
_OTHERWISE_KNOWN = ("prompt", "passes")
"""Required keys of a stage that the top of the document has, or its own tables."""
_MOST_PROBLEMS = 100
_COPIES = "inputs/[0-9]*"
"""The copies of a run's inputs, beside which one mask for all may be."""


class ChosenImage(msgspec.Struct, frozen=True):
    """One image of a run: its index, and the stage that made it."""

    image_index: int
    stage_id: str


def config_of_run(opened: RunOpened, folder: str = "", image: ChosenImage | None = None) -> str:
    """The TOML of a configuration that makes a run, or one of its images, again.

    The seeds that were drawn are in it. Inputs, masks and images of scripts are named as files of
    the run's ``folder``; paths are relative to that folder if it is "". What cannot be said in a
    configuration is a comment.
    """
    document = deepcopy(dict(opened.config))
    stages = recorded_stages(opened.plan)
    index = image.image_index if image is not None else 0
    if opened.seeds:
        document["seed"] = opened.seeds[min(index, len(opened.seeds) - 1)]
    for stage in stages:
        table = document.get(str(stage.get("stage_type")))
        if isinstance(table, dict) and "seed" in table:
            table["seed"] = stage["config"].get("seed", table["seed"]) + index
        if isinstance(table, dict) and "subseed" in table:
            table["subseed"] = stage["config"].get("subseed", table["subseed"])
    if opened.ca_bundle:
        document["server"] = {**document.get("server", {}), "ca_bundle": opened.ca_bundle}
    notes = [f"Makes {_what(opened, image)} again."]
    notes += _set_prompts(document, opened, image)
    if image is not None:
        notes += _single(document, stages, image)
    notes += _set_inputs(document, opened, folder, image)
    return _toml(document, [*notes, *_notes_of_backend(opened.backend)])


def config_of_group(opened: GroupOpened) -> str:
    """The TOML of the configuration of a group, with its sweep and the seeds that were drawn."""
    document = dict(opened.config)
    if document.get("seed", -1) == -1:
        document["seed"] = opened.seed
    axes = [msgspec.to_builtins(axis) for axis in opened.axes]
    drawn = {} if opened.random is None else {"random": opened.random, "seed": opened.random_seed}
    document["sweep"] = {**drawn, "axes": axes}
    notes = [
        f"Makes group {opened.group_id} again. The paths in it are as they were written.",
        *_notes_of_backend(opened.backend),
    ]
    return _toml(document, notes)


def config_of_foreign_image(found: ForeignImage) -> str:
    """The TOML of a configuration for an image of another program, as far as it is known.

    What is not known, or cannot be said in a configuration, is a comment.
    """
    notes = [f"From the metadata of {found.image}: {tool_name(found)}"]
    document: Document = {"name": Path(found.image).stem}
    kinds = [stage_types()[stage] for stage in found.stages]
    if found.prompt or any(kind.generates for kind in kinds):
        document["prompt"] = found.prompt
    if found.negative_prompt:
        document["negative_prompt"] = found.negative_prompt
    if found.seed is not None:
        document["seed"] = found.seed
    else:
        notes.append("seed: not known")
    for stage, settings in found.stages.items():
        for key, value in settings.items():
            _put(document, f"{stage}.{key}", value)
        notes += [
            f"{stage}.{key}: not known"
            for key in stage_types()[stage].required
            if key not in settings and "." not in key and key not in _OTHERWISE_KNOWN
        ]
    if not any(kind.takes_prompt for kind in kinds):
        notes.append("input_image: not known; the image was made from another one")
    notes += _drop_refused(document)
    notes += [f"{key}: {value} (there is no key for it)" for key, value in found.unknown.items()]
    return _toml(document, notes)


def _set_prompts(document: Document, opened: RunOpened, image: ChosenImage | None) -> Iterator[str]:
    """Put what was drawn in the place of the files and templates that it came from."""
    for key in ("dynamic_prompts", "wildcards", "prompts"):
        document.pop(key, None)
    if opened.plan.get("prompts") is None:
        return
    own = [prompt_of(opened, index) for index in range(len(opened.seeds))]
    rows = [
        {**(msgspec.structs.asdict(one) if one else {}), "seed": seed}
        for one, seed in zip(own, opened.seeds, strict=True)
    ]
    if image is not None:
        document |= rows[image.image_index]
        return
    each = document.get("images", 1) if input_of(opened, 0) else 1
    document |= {"prompts": rows[::each], "images": each}
    if any(own):
        document.pop("prompt", None)
    if any(prompt != own[index // each * each] for index, prompt in enumerate(own)):
        yield "prompts: those of the first image of each input; its other images had others"


def _what(opened: RunOpened, image: ChosenImage | None) -> str:
    if image is None:
        return f"run {opened.run_id}"
    return f"image {image.image_index + 1} of {image.stage_id} of run {opened.run_id}"


def _single(
    document: Document, stages: Sequence[Mapping[str, Any]], image: ChosenImage
) -> Iterator[str]:
    """Leave one image, and the stages up to the one that made it."""
    document["images"] = 1
    is_later = False
    for stage in stages:
        name = str(stage.get("stage_type"))
        if is_later:
            document.pop(name, None)
            if f"{name}_enabled" in document:
                document[f"{name}_enabled"] = False
        elif (size := stage["config"].get("batch_size", 1)) != 1:
            yield f"{name}: it was made in a batch of {size}; alone it may differ a little"
        is_later = is_later or stage["stage_id"] == image.stage_id


def _set_inputs(
    document: Document, opened: RunOpened, folder: str, image: ChosenImage | None
) -> Iterator[str]:
    """Name the copies that the run has of its inputs, masks, and images of scripts."""
    stages = recorded_stages(opened.plan)
    masks = {stage["config"].get("mask") for stage in stages}
    inputs = [one for one in opened.inputs if one.path.count("/") == 1 and one.path not in masks]
    place = None
    if image is not None and inputs:
        place = image.image_index // max(1, len(opened.seeds) // len(inputs))
    copies = {one.path: f"{folder}{one.path}" for one in opened.inputs}
    for stage in stages:
        table, config = document.get(str(stage.get("stage_type"))), stage["config"]
        if isinstance(table, dict) and table.get("mask"):
            table["mask"] = f"{folder}{_mask_of(config.get('mask'), place, copies)}"
        if isinstance(table, dict) and table.get("alwayson_scripts"):
            table["alwayson_scripts"] = map_strings(
                config.get("alwayson_scripts"), lambda _key, text: copies.get(text, text)
            )
    named = [one.path for one in inputs if not one.refusal]
    if place is not None:
        named = [one.path for one in inputs[place : place + 1]]
    elif len(named) < len(inputs):
        refused = ", ".join(input_name(one) for one in inputs if one.refusal)
        yield (
            "input_image: without the inputs that could not be used, so that images after them "
            f"have other seeds than in the run: {refused}"
        )
    if named:
        document.pop("input_image_path", None)
        pattern = f"{glob.escape(folder)}{_COPIES}"
        document["input_image"] = pattern if len(named) > 1 else f"{folder}{named[0]}"


def _mask_of(recorded: str, place: int | None, copies: Iterable[str]) -> str:
    """The recorded path of a mask, or of that for the input at a place if each has its own."""
    if place is None:
        return recorded
    its_own = f"{recorded}/{place:05d}."
    return next((path for path in copies if path.startswith(its_own)), recorded)


def _notes_of_backend(backend: BackendDescription) -> Iterator[str]:
    yield f"It was made by {backend_text(backend)}."
    options = backend.options if isinstance(backend.options, Mapping) else {}
    for name, value in options.items():
        yield f"option of the server: {name} = {show_value(value)}"


def _put(document: Document, key: str, value: Any) -> None:
    """Set a dotted key; ``passes.0.model`` is a key of the first table in a list."""
    *path, last = key.split(".")
    place: Any = document
    for name, following in zip(path, [*path[1:], last], strict=True):
        if name.isdigit():
            place.extend({} for _ in range(int(name) + 1 - len(place)))
            place = place[int(name)]
        else:
            place = place.setdefault(name, [] if following.isdigit() else {})
    place[last] = value


def _drop_refused(document: Document) -> Iterator[str]:
    """Take out each value that a configuration cannot have; what is said of it."""
    for _ in range(_MOST_PROBLEMS):
        try:
            parse_document(document)
        except ConfigurationError as error:
            value = _take(document, error.key or "")
            if value is None:
                yield f"not valid as it is: {error}"
                return
            yield f"{error.key} = {show_value(value)}: not a value that a configuration can have"
        else:
            return


def _take(document: Document, key: str) -> Any:
    *path, last = key.split(".")
    place: Any = document
    for name in path:
        place = place[int(name)] if isinstance(place, list) and name.isdigit() else place.get(name)
        if not isinstance(place, dict | list):
            return None
    return place.pop(last, None) if isinstance(place, dict) else None


def _toml(document: Mapping[str, Any], notes: Sequence[str]) -> str:
    lines = "".join(f"# {one_line(note)}\n" for note in notes)
    return f"{lines}\n{tomli_w.dumps(_without_nothing(document))}"


def _without_nothing(value: Any) -> Any:
    """``value`` without the null of JSON, which TOML does not have."""
    if isinstance(value, Mapping):
        return {key: _without_nothing(part) for key, part in value.items() if part is not None}
    if isinstance(value, list | tuple):
        return [_without_nothing(part) for part in value if part is not None]
    return value
