"""What a person configures: one run, as a document with a table for each stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import cache
from pathlib import PurePath
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from ...events.model import Durability
from ..errors import show_value
from ..ports import ImageFacts
from ..stages.adetailer import AdetailerConfig
from ..stages.constraints import Count, NonNegative, Positive, Seed
from ..stages.img2img import Img2ImgConfig
from ..stages.registry import load_stages, stage_types
from ..stages.stage import StageConfig
from ..stages.txt2img import Txt2ImgConfig
from ..stages.upscale import UpscaleConfig
from ..variants.prompt_files import PromptRow
from ..variants.prompts import DrawnPrompts, PromptSource
from .validation import SECRET

SWEEP = "sweep"
"""The table of a configuration that makes a group of runs."""


class OnImageError(StrEnum):
    """What a run does after an image that failed for good."""

    STOP = "stop"
    CONTINUE = "continue"


class RetryKind(StrEnum):
    """Failures of a server after which another try may succeed."""

    UNREACHABLE = "unreachable"
    LOST = "lost"
    STALLED = "stalled"
    UNAVAILABLE = "unavailable"
    OUT_OF_MEMORY = "out_of_memory"
    FAILURE = "failure"
    INTERRUPTED = "interrupted"


class Reuse(StrEnum):
    """Whose images a run may use again instead of making equal ones."""

    GROUP = "group"
    ALL = "all"
    NONE = "none"


class RunTable(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """``[run]``; with ``learning`` false the run leaves no learning record.

    ``reuse`` says whose images are used again: those of the run's own group and of the run that it
    repeats (``group``), of any run (``all``), or of none.
    """

    on_image_error: OnImageError = OnImageError.STOP
    durability: Durability = Durability.CHECKPOINT
    preflight: bool = True
    learning: bool = True
    reuse: Reuse = Reuse.GROUP


_Addresses = Annotated[tuple[Annotated[str, SECRET], ...], msgspec.Meta(min_length=1), SECRET]


class ServerTable(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """``[server]``; times are seconds.

    ``retries`` further tries for each image and stage, the first after ``backoff_s``, each
    further one after twice as long as the one before, if the failure is of a ``transient`` kind.
    A run waits ``wait_s`` for a server that cannot be reached, which uses up no try (300; before
    the run begins only where it is set). Several servers share the work. ``kind`` is that of the
    backend, detected when absent.
    """

    kind: str | None = None
    url: Annotated[str | _Addresses | None, SECRET] = None
    connect_timeout_s: Positive = 5.0
    stall_timeout_s: Positive = 60.0
    total_timeout_s: Positive | None = None
    retries: Annotated[int, msgspec.Meta(ge=0, le=100)] = 3
    backoff_s: Positive = 1.0
    wait_s: NonNegative | None = None
    transient: tuple[RetryKind, ...] = tuple(RetryKind)
    shared: bool = False
    tls_verify: bool = True
    ca_bundle: str | None = None

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses of the servers; none where the configuration names none."""
        given = (self.url,) if isinstance(self.url, str) else self.url or ()
        return tuple(filter(None, given))


class AxisTable(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """``[[sweep.axes]]``: a ``key`` with its values, or ``keys`` that move together.

    ``values`` may be one text, which is read like that of ``--vary``: "4..9:0.5".
    """

    key: str | None = None
    keys: tuple[str, ...] | None = None
    values: str | tuple[Any, ...] = ()


class SweepTable(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """``[sweep]``: the product of its axes; with ``random``, so many drawn from it.

    ``seed`` is that of the draw.
    """

    random: Count | None = None
    seed: Seed | None = None
    axes: tuple[AxisTable, ...] = ()


class RunTables(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """The keys of a configuration. ``seed`` -1 means one drawn when the run starts.

    ``prompts`` are rows, or the path of a file with rows, used instead of ``prompt``. With
    ``dynamic_prompts``, the top-level prompts and the rows are templates, of which each image
    draws a text, or every combination is used once ("all"); ``wildcards`` is the folder of theirs.
    For a stage that is registered later, ``type_with_stages`` makes a type with its table.
    """

    name: str | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    prompts: str | Annotated[tuple[str | PromptRow, ...], msgspec.Meta(min_length=1)] | None = None
    dynamic_prompts: bool | Literal["all"] | None = None
    wildcards: str | None = None
    seed: Seed = -1
    images: Count = 1
    input_image: str | None = None
    txt2img: Txt2ImgConfig | None = None
    img2img: Img2ImgConfig | None = None
    upscale: UpscaleConfig | None = None
    adetailer: AdetailerConfig | None = None
    metadata: Mapping[str, Any] = {}
    run: RunTable = RunTable()
    server: ServerTable = ServerTable()
    sweep: SweepTable | None = None


class InputImage(ImageFacts, frozen=True, kw_only=True):
    """An input image that was found and decodes; ``path`` is absolute.

    A run keeps an image that is not PNG, JPEG or WebP as a PNG.
    ``parent_run_id`` is the run that made it, when the configuration named a run, and ``seed`` the
    seed that made it, where that is known. The bytes that are copied into a run must have this
    ``sha256``, where it is known. ``original_name`` is the name of the file that a copy was made
    of. ``refusal`` says why the file cannot be used; its size is 0x0
    then, and its images will be missing.
    """

    path: str
    sha256: str = ""
    parent_run_id: str | None = None
    seed: int | None = None
    refusal: str = ""
    original_name: str = ""

    @property
    def file_name(self) -> str:
        """The name of the file, with ? for each byte that is not UTF-8."""
        if self.original_name:
            return self.original_name
        return PurePath(self.path).name.encode("utf-8", "replace").decode()


class Conflict(msgspec.Struct, frozen=True, kw_only=True):
    """A flat and a nested key with different values; the plan has the nested one.

    A sampler that names a schedule, and another scheduler beside it, are a conflict as well.
    """

    stage: str
    flat_key: str
    flat_value: Any
    nested_key: str
    nested_value: Any

    def __str__(self) -> str:
        return (
            f"{self.stage}: {self.flat_key} = {show_value(self.flat_value)} "
            f"but {self.nested_key} = {show_value(self.nested_value)}"
        )


class RunConfig(RunTables, frozen=True, kw_only=True):
    """A configuration that is ready for the plan builder.

    ``inputs`` are the input images that ``input_image`` names, in order, and ``mask`` the one
    that ``img2img.mask`` names, or ``masks`` one for each input; ``script_images`` are those
    that ``alwayson_scripts`` name, by path as written; ``input_notes`` is what to tell
    of them, and ``ca_bundle`` the absolute path of ``server.ca_bundle``. ``prompt_source`` is what
    ``prompts`` and ``wildcards`` name. ``load_config`` and the controller find them.
    ``drawn_prompts`` are what ``draw_prompts`` made of them.
    ``conflicts`` are between flat and nested keys of the document that was parsed.
    ``as_given`` is that document, recorded in the log; empty for a configuration built in
    Python.
    """

    inputs: tuple[InputImage, ...] = ()
    mask: InputImage | None = None
    masks: tuple[InputImage, ...] = ()
    script_images: Mapping[str, InputImage] = {}
    input_notes: tuple[str, ...] = ()
    ca_bundle: str | None = None
    prompt_source: PromptSource | None = None
    drawn_prompts: DrawnPrompts | None = None
    conflicts: tuple[Conflict, ...] = ()
    as_given: Mapping[str, Any] = {}

    @property
    def stages(self) -> dict[str, StageConfig]:
        """The tables of the enabled stages by name, in canonical order."""
        tables = {name: getattr(self, name, None) for name in stage_types()}
        return {name: table for name, table in tables.items() if table and table.enabled}

    @property
    def server_settings(self) -> ServerTable:
        """``server`` with paths that hold in any working folder."""
        return msgspec.structs.replace(
            self.server, ca_bundle=self.ca_bundle or self.server.ca_bundle
        )

    @property
    def found(self) -> dict[str, Any]:
        """The fields that are no keys of a configuration."""
        names = RunConfig.__struct_fields__[len(RunTables.__struct_fields__) :]
        return {name: getattr(self, name) for name in names}

    def document(self) -> dict[str, Any]:
        """The keys that differ from their defaults, as a document."""
        keys_alone = msgspec.structs.replace(self, **dict.fromkeys(self.found, msgspec.UNSET))
        document: dict[str, Any] = msgspec.to_builtins(keys_alone)
        return document


T = TypeVar("T", bound=RunTables)


def type_with_stages(kind: type[T], keys: Iterable[str] = ()) -> type[T]:
    """``kind`` with a table for each registered stage; the stages of all packages for its ``keys``.

    Packages are looked for only if one of the keys is unknown. Raises ConfigurationError.
    """
    if not stage_types().keys() | set(kind.__struct_fields__) >= set(keys):
        load_stages()
    further = [one for name, one in stage_types().items() if name not in kind.__struct_fields__]
    return _extended(kind, tuple(further)) if further else kind


@cache
def _extended(kind: type[T], further: tuple[type[StageConfig], ...]) -> type[T]:
    return msgspec.defstruct(  # type: ignore[return-value]  # its base is not in the annotation
        kind.__name__,
        [(one.stage_type, one | None, None) for one in further],
        bases=(kind,),
        kw_only=True,
    )
