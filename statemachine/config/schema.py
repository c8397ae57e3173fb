"""What a person configures: one run, as a document with a table for each stage."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import msgspec

from ...events.model import Durability
from .stage_configs import (
    AdetailerTable,
    Count,
    Factor,
    Fraction,
    Img2ImgTable,
    InnerFraction,
    Positive,
    Seed,
    Size,
    Steps,
    Txt2ImgTable,
    UpscaleTable,
    bounded,
)


class OnImageError(StrEnum):
    """What an image that failed for good does to its run."""

    STOP = "stop"
    CONTINUE = "continue"


class RetryKind(StrEnum):
    """Failures of a server that another try may mend."""

    UNREACHABLE = "unreachable"
    LOST = "lost"
    STALLED = "stalled"
    UNAVAILABLE = "unavailable"
    OUT_OF_MEMORY = "out_of_memory"
    FAILURE = "failure"
    INTERRUPTED = "interrupted"


class RunTable(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """``[run]``; with ``learning`` false the run leaves no learning record."""

    on_image_error: OnImageError = OnImageError.STOP
    durability: Durability = Durability.CHECKPOINT
    preflight: bool = True
    learning: bool = True


class ServerTable(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """``[server]``; times are seconds.

    ``retries`` further tries for each image and stage, the first after ``backoff_s``, each
    further one after twice as long as the one before, if the failure is of a ``transient`` kind.
    """

    url: str | None = None
    connect_timeout_s: Positive = 5.0
    stall_timeout_s: Positive = 60.0
    total_timeout_s: Positive | None = None
    retries: Annotated[int, bounded(minimum=0, maximum=100)] = 3
    backoff_s: Positive = 1.0
    transient: tuple[RetryKind, ...] = tuple(RetryKind)
    shared: bool = False
    tls_verify: bool = True
    ca_bundle: str | None = None


class RunDocument(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """A configuration as it is written: nested tables, and the flat keys of older tools.

    ``seed`` -1 means one drawn when the run starts. The flat keys stand for nested ones (see
    ``legacy``); None means not given.
    """

    name: str | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    seed: Seed = -1
    images: Count = 1
    input_image: str | None = None
    txt2img: Txt2ImgTable | None = None
    img2img: Img2ImgTable | None = None
    upscale: UpscaleTable | None = None
    adetailer: AdetailerTable | None = None
    metadata: Mapping[str, Any] = {}
    run: RunTable = RunTable()
    server: ServerTable = ServerTable()

    txt2img_enabled: bool | None = None
    img2img_enabled: bool | None = None
    upscale_enabled: bool | None = None
    adetailer_enabled: bool | None = None
    model_name: str | None = None
    sampler: str | None = None
    scheduler_name: str | None = None
    steps: Steps | None = None
    cfg_scale: float | None = None
    width: Size | None = None
    height: Size | None = None
    img2img_denoise: Fraction | None = None
    input_image_path: str | None = None
    refiner_enabled: bool | None = None
    refiner_model_name: str | None = None
    refiner_switch_at: InnerFraction | None = None
    hires_enabled: bool | None = None
    hires_upscale_factor: Factor | None = None
    hires_upscaler_name: str | None = None
    hires_steps: Steps | None = None
    hires_denoise: Fraction | None = None
    upscale_model: str | None = None
    upscale_factor: Factor | None = None
    adetailer_model: str | None = None
    adetailer_strength: Fraction | None = None


class InputImage(msgspec.Struct, frozen=True, kw_only=True):
    """An input image that was found and decodes; ``path`` is absolute, sizes are pixels.

    ``parent_run_id`` is the run that made it, when the configuration named a run. The bytes
    that are copied into a run must have this ``sha256``, where it is known.
    """

    path: str
    media_type: str
    width: int
    height: int
    sha256: str = ""
    parent_run_id: str | None = None


class RunConfig(RunDocument, frozen=True, kw_only=True):
    """A configuration that is ready for the plan builder.

    ``inputs`` are the input images that ``input_image`` came to, in order, and ``mask`` the
    one that ``img2img.mask`` names; ``load_config`` and the controller find them.
    ``as_given`` is the parsed document, recorded in the log; empty for a configuration
    built in Python.
    """

    inputs: tuple[InputImage, ...] = ()
    mask: InputImage | None = None
    as_given: Mapping[str, Any] = {}

    def document(self) -> Mapping[str, Any]:
        """The configuration as a document: as given, or else what differs from defaults."""
        if self.as_given and self._is_as_given():
            return self.as_given
        hidden = ("inputs", "mask", "as_given")
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return {key: value for key, value in plain.items() if key not in hidden}

    def _is_as_given(self) -> bool:
        """Whether nothing but a missing name has been changed since it was parsed."""
        given = msgspec.convert(self.as_given, RunConfig)
        name = self.name if given.name is None else given.name
        found = {"inputs": self.inputs, "mask": self.mask, "as_given": self.as_given}
        return msgspec.structs.replace(given, name=name, **found) == self
