"""The facts of a group of runs, in ``group.jsonl``: which variants there are, and what began.

Everything else about a group is in the logs of its runs. The rules for fields and tags are those
of ``stagewright.events.model``.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, ClassVar

import msgspec

from ..model import BackendDescription, CancelMode, ErrorDetail, Index, InsidePath, Outcome


class SweepAxis(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One axis of a sweep: a ``key`` with its values, or ``keys`` that move together.

    With ``keys``, each value is a list with a value for each of them.
    """

    key: str | None = None
    keys: tuple[str, ...] | None = None
    values: tuple[Any, ...]


class Variant(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One variant of a sweep: ``values`` are its values by key.

    ``total_images`` (in each stage) and ``total_steps`` are those of its plan. ``found`` is the
    place, in the ``found`` of its group, of what was found outside the configuration.
    """

    variant_index: Index
    values: Mapping[str, Any]
    total_images: int = 0
    total_steps: int = 0
    found: Index = 0


class GroupEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="type"):
    """Base of the union; the envelope is that of a run's events, and all events are barriers."""

    v: int = 1
    group_id: str
    seq: Index
    ts: Annotated[datetime, msgspec.Meta(tz=True)]
    epoch: Index = 0

    barrier: ClassVar[bool] = True


class GroupOpened(GroupEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """The group exists; durable before its first request.

    ``config`` is the configuration without its sweep, and ``seed`` stands in for every seed of
    it that is left to chance. ``variants`` are in the order in which they run. ``options`` are
    those of the server, read once for all runs; they are left out where they are not known.
    ``found`` is what was found outside the configuration, once for each set of variants that
    share it: input images, masks and drawn prompts.
    """

    config: Mapping[str, Any]
    axes: tuple[SweepAxis, ...]
    variants: tuple[Variant, ...]
    seed: int
    options: Mapping[str, Any] | msgspec.UnsetType = msgspec.UNSET
    software: str
    name: str = ""
    random: int | None = None
    random_seed: int | None = None
    fail_fast: bool = False
    backend: BackendDescription
    found: tuple[Mapping[str, Any], ...] = ()
    host: str
    boot_id: str
    pid: int

    def __post_init__(self) -> None:
        """Raise ValueError unless each variant has the number of its place."""
        if any(one.variant_index != place for place, one in enumerate(self.variants)):
            raise ValueError("the variants of a group are numbered in their order, from 0")


class VariantBegun(GroupEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """A variant gets this run; durable before the folder of the run is made."""

    variant_index: Index
    run_id: str


class VariantRemoved(GroupEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """The run of a variant was removed on purpose: it is never made again."""

    variant_index: Index
    run_id: str
    reason: str


class GroupResumed(GroupEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """A later process continues the group."""

    software: str
    host: str
    boot_id: str
    pid: int


class GroupCancelled(GroupEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """The group is asked to stop; durable before the run in progress is."""

    mode: CancelMode
    reason: str


class GroupRepaired(GroupEvent, frozen=True, kw_only=True, gc=False, tag="LogRepaired"):
    """A torn tail of ``bytes`` bytes at ``offset`` was copied to ``copied_to`` and cut."""

    offset: int
    bytes: int
    sha256: str
    copied_to: InsidePath


class VariantFailure(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A variant whose run could not begin, or could not be resumed, in this epoch."""

    variant_index: Index
    error: ErrorDetail


class GroupSealed(GroupEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """An epoch is closed: ``count`` records precede this one, ``head`` is the chain here.

    ``failures`` are of variants whose runs do not show why they are not complete. ``error`` says
    why no further variant could begin, where that is so.
    """

    count: int
    head: str
    outcome: Outcome
    failures: tuple[VariantFailure, ...] = ()
    error: ErrorDetail | None = None


GROUP_EVENT_TYPES: tuple[type[GroupEvent], ...] = (
    GroupOpened,
    VariantBegun,
    VariantRemoved,
    GroupResumed,
    GroupCancelled,
    GroupRepaired,
    GroupSealed,
)
"""Every known event type of a group; ``docs/events.md`` is checked against it."""
