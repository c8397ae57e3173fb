"""From an image of a run to the input file that it was made from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from msgspec import UNSET, UnsetType, structs

from .folds import recorded_stages
from .model import BackendDescription, ImagePrompt, InputRecord, RunOpened, ServerDescription

_OF_A_RUN = re.compile(r"\d{5,}-\d+(?:-|$)")


def input_of(opened: RunOpened, image_index: int) -> InputRecord | None:
    """The input that an image was made from, through all stages; None if from a prompt alone."""
    stages, each = recorded_stages(opened.plan), opened.plan.get("images_per_input")
    from_files = bool(stages) and stages[0].get("input_source") == "file"
    if not from_files or type(each) is not int or each < 1:
        return None
    place = image_index // each
    return opened.inputs[place] if place < len(opened.inputs) else None


def prompt_of(opened: RunOpened, image_index: int) -> ImagePrompt | None:
    """The prompts that an image was given; None where it has those of the plan."""
    prompts = opened.prompts if isinstance(opened.prompts, tuple) else ()
    return prompts[image_index] if image_index < len(prompts) else None


def servers_of(backend: BackendDescription) -> tuple[ServerDescription, ...]:
    """The servers of a run that has several; empty for any other run."""
    return () if isinstance(backend.servers, UnsetType) else backend.servers


def backend_at(backend: BackendDescription, server: str | UnsetType) -> BackendDescription:
    """A backend of several servers as that one which a request was sent to, where it is known."""
    servers = servers_of(backend)
    if not servers or isinstance(server, UnsetType):
        return backend
    named = (one for one in servers if one.url == server)
    one = next(named, ServerDescription(url=server))
    return structs.replace(
        backend, url=one.url, product=one.product, version=one.version, servers=UNSET
    )


def varied_of(opened: RunOpened) -> Mapping[str, Any]:
    """The varied values of a variant's run, by key; empty for any other run."""
    return {} if isinstance(opened.varied, UnsetType) else opened.varied


def prompt_texts(prompts: Iterable[ImagePrompt] | UnsetType) -> tuple[str, ...]:
    """The different texts of prompts and negative prompts, in the order of their first images."""
    if isinstance(prompts, UnsetType):
        return ()
    texts = (text for one in prompts for text in (one.prompt, one.negative_prompt))
    return tuple(dict.fromkeys(text for text in texts if text))


def input_name(record: InputRecord) -> str:
    """The name of an input's file as the user knows it; "" where the log has only its copy."""
    return record.original.name if record.original else ""


def input_stem(record: InputRecord) -> str:
    """What images of an input are named after; "" if it has no name but index and seed."""
    stem = PurePath(input_name(record)).stem
    return _OF_A_RUN.sub("", stem, count=1) if record.parent_run_id else stem
