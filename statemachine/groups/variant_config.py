"""From what a group recorded to the configuration of each of its runs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from ...events.groups.model import Variant
from ...events.model import Durability
from ..config.document import parse_document, set_values
from ..config.legacy import nested_key
from ..config.schema import RunConfig
from ..errors import ResumeRefusedError
from ..plan.plan import StageExecutionPlan
from ..stages.registry import stage_types
from .found_files import FoundFiles

_OF_NO_STAGE = {"name", "metadata", "run", "server"}
"""Keys, and tables of keys, that change no image."""


class GroupChoices:
    """The random choices of a group: the same for each of its runs, so that these are comparable.

    The first choice is the group's ``seed``; the others follow from it.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._count = 0

    def __call__(self, end: int) -> int:
        """A whole number from 0 up to, and not including, ``end``."""
        text = f"{self._seed} {self._count}"
        drawn = int(sha256(text.encode()).hexdigest(), 16) if self._count else self._seed
        self._count += 1
        return drawn % end


class VariantOrigin(NamedTuple):
    """What a run records of its group: it is this variant, with these ``varied`` values by key."""

    group_id: str
    variant_index: int
    varied: Mapping[str, object]


class RecordedVariants(Protocol):
    """What GroupOpened, or a job of a queue, records of its runs."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration without its sweep."""
        ...

    @property
    def name(self) -> str:
        """The name of the runs."""
        ...

    @property
    def found(self) -> tuple[Mapping[str, Any], ...]:
        """What was found outside the configuration."""
        ...


class VariantConfigs:
    """Makes the configurations of a group's runs from its first record alone.

    ``folder`` is the one that its files are in.
    """

    def __init__(self, opened: RecordedVariants, folder: Path) -> None:
        self._opened = opened
        self._folder = folder

    @cached_property
    def found(self) -> list[FoundFiles]:
        """What was found, with absolute paths. Raises ResumeRefusedError."""
        return [FoundFiles.from_record(one, self._folder) for one in self._opened.found]

    @property
    def durability(self) -> Durability:
        """When the group's log is synced: as the logs of its runs."""
        run = self._opened.config.get("run")
        stated = run.get("durability") if isinstance(run, Mapping) else None
        try:
            return Durability(str(stated))
        except ValueError:
            return Durability.CHECKPOINT

    @property
    def wait_s(self) -> float | None:
        """How long to wait for a server that cannot be reached, where that is stated."""
        server = self._opened.config.get("server")
        stated = server.get("wait_s") if isinstance(server, Mapping) else None
        return float(stated) if isinstance(stated, int | float) else None

    def config_of(self, variant: Variant) -> RunConfig:
        """The configuration of a variant. Raises ConfigurationError, ResumeRefusedError."""
        document = set_values(self._opened.config, variant.values)
        config = parse_document(document, name=self._opened.name or None)
        if variant.found >= len(self.found):
            raise ResumeRefusedError(
                f"{self._folder.name}: variant {variant.variant_index + 1} names inputs that were "
                "not recorded"
            )
        return self.found[variant.found].apply_to(config)


def mark_varied(
    plan: StageExecutionPlan,
    variant_index: int,
    varied: Mapping[str, Any],
    document: Mapping[str, Any],
) -> StageExecutionPlan:
    """The plan of a variant of ``document``: ``learning_mode`` is true in the stages that vary.

    A flat key belongs to the stage that it is for, one of the top level to the first stage.
    """
    names = {nested_key(key, document).split(".")[0] for key in varied} - _OF_NO_STAGE
    first = plan.stages[0].stage_type
    types = {name if name in stage_types() else first for name in names}
    stages = tuple(
        msgspec.structs.replace(
            stage, variant_index=variant_index, learning_mode=stage.stage_type in types
        )
        for stage in plan.stages
    )
    return msgspec.structs.replace(plan, stages=stages)
