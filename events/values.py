"""What events are made of: states, outcomes, images, inputs, backends, errors."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec


class RunState(StrEnum):
    """The states of a run's lifecycle."""

    IDLE = "IDLE"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    ERROR = "ERROR"
    CANCELLED = "CANCELLED"

    @property
    def is_end(self) -> bool:
        """Whether a run in this state has come to an end."""
        return self in (RunState.COMPLETED, RunState.ERROR, RunState.CANCELLED)


TRIGGERS = ("start", "finish", "fail", "cancel", "recover", "cleanup", "reset")
"""The triggers of the lifecycle; the table is in ``stagewright.statemachine.states``."""


class StageType(StrEnum):
    """The built-in stages in canonical order; a log may hold the names of others."""

    TXT2IMG = "txt2img"
    IMG2IMG = "img2img"
    UPSCALE = "upscale"
    ADETAILER = "adetailer"


class Outcome(StrEnum):
    """How a run, or a stage within one epoch, ended."""

    COMPLETED = "completed"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"


class CancelMode(StrEnum):
    """``now`` interrupts the image being made; ``after_image`` lets it finish."""

    NOW = "now"
    AFTER_IMAGE = "after_image"


class Durability(StrEnum):
    """When the log is synced.

    ``checkpoint``: at the barriers, so that a power loss takes nothing that was announced.
    ``every``: after each record. ``process``: never; this survives the death of the process
    but not of the machine.
    """

    CHECKPOINT = "checkpoint"
    EVERY = "every"
    PROCESS = "process"


# No segment begins with a dot, so none is "." or ".." and none is hidden; no drive, no
# backslash, no control character. What this pattern accepts stays inside the run folder.
_SEGMENT = r"[^/\\:\x00-\x1f\x7f.][^/\\:\x00-\x1f\x7f]*"
InsidePath = Annotated[
    str, msgspec.Meta(pattern=rf"^{_SEGMENT}(?:/{_SEGMENT})*\Z", max_length=1024)
]
# Beyond 2**53 - 1 a JSON reader may round, and beyond 64 bits no table of ours could hold it.
Index = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]


_FOLDER = "folder"
"""Under this name, an artifact knows its run's folder: no field, for the log has none."""


class Artifact(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One image file of a run.

    ``sha256`` is the digest of the file, ``source_sha256`` that of its source: the image
    without the ``stagewright`` chunk, which is what the next stage is sent. ``bytes`` is the
    file's size, ``width`` and ``height`` are pixels.
    """

    path: InsidePath
    image_index: Index
    sha256: str
    source_sha256: str
    bytes: int
    media_type: str
    width: int
    height: int
    seed: int

    @property
    def number(self) -> int:
        """The image's number, as people count: from 1."""
        return self.image_index + 1

    @property
    def file(self) -> Path:
        """The image's file, absolute; relative to the run folder for a log in memory."""
        return Path(self.__dict__.get(_FOLDER, "")) / self.path

    def locate(self, folder: Path) -> None:
        """Say in which run folder, an absolute path, the image's ``file`` is."""
        self.__dict__[_FOLDER] = folder


class OriginalFile(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The file that an input was copied from: its name and its digest."""

    name: str
    sha256: str


class InputRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One input image, or a mask: its copy in the run folder and where it came from.

    ``original`` is the file that it was copied from; the copy of another format than PNG, JPEG
    or WebP is a PNG. (Earlier versions recorded it for those alone.) ``seed`` is the seed that
    made the image, where that is known. An input with a ``refusal`` could not be used, so it has
    no copy, no digest and no images.
    """

    path: InsidePath
    sha256: str
    source_sha256: str
    parent_run_id: str | None = None
    original: OriginalFile | None = None
    seed: int | None = None
    refusal: str | None = None


class ImagePrompt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The prompts of one image, as they were drawn; a None is not sent."""

    prompt: str
    negative_prompt: str | None = None


class SourceFile(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A file that prompts came from: a prompt file or a wildcard; ``path`` as written."""

    path: str
    sha256: str


class ServerDescription(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One of several servers that make the images of a run."""

    url: str
    product: str | None = None
    version: str | None = None


class BackendDescription(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The backend that made the images: ``kind`` is ``embedded`` or a server's family.

    ``options`` are those of the server that change pixels and that every request of the run
    carries; they are left out where the server's options are not known. ``files`` are the hashes
    that it reports, by kind and name (``model sd_xl_base_1.0``), of the files that the plan names;
    a file without a reported hash is left out. ``servers`` are all servers of the run where there
    are several; ``url``, ``product`` and ``version`` are those of the first.
    """

    kind: str
    url: str | None = None
    product: str | None = None
    version: str | None = None
    options: Mapping[str, Any] | msgspec.UnsetType = msgspec.UNSET
    files: Mapping[str, str] | msgspec.UnsetType = msgspec.UNSET
    servers: tuple[ServerDescription, ...] | msgspec.UnsetType = msgspec.UNSET

    @property
    def urls(self) -> tuple[str | None, ...]:
        """The addresses of all servers; None stands for a backend without one."""
        if isinstance(self.servers, tuple):
            return tuple(one.url for one in self.servers)
        return (self.url,)


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An exception as text: its type, its message, and what else is known of it.

    ``stage_id`` and ``image_index`` say where it happened, when it happened in a stage.
    """

    kind: str
    message: str
    detail: str = ""
    stage_id: str | None = None
    image_index: int | None = None


class ReuseOrigin(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The run that made an image, and its call, also across several reuses."""

    run_id: str
    call_id: str


class StepProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far the image being made is: ``step`` of ``steps``; never a fact of the log.

    ``fraction`` is 0 to 1 over the whole request, ``eta_s`` seconds left, where known.
    """

    stage_id: str
    image_index: int
    step: int
    steps: int
    fraction: float
    eta_s: float | None = None
