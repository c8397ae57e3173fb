"""Farms as a kind of backend: their addresses are those of schedulers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....statemachine.errors import ConfigurationError
from ....statemachine.plan.plan import StageExecutionPlan
from ..infotext_settings import settings_used
from ..registry import ServedBackend, ServerChoice
from ..report import ServerReport


class _FarmKind:
    """Dask is loaded for the addresses of farms alone: a report shows the runs of farms without."""

    schemes = frozenset(["tcp", "tls"])

    def address(self, text: str) -> str:
        from .addresses import scheduler_address  # noqa: PLC0415 - see the class

        return scheduler_address(text)

    def make(self, choice: ServerChoice) -> ServedBackend:
        from .backend import FarmBackend  # noqa: PLC0415 - see the class

        return FarmBackend(choice)

    def inspect(self, choice: ServerChoice, plan: StageExecutionPlan | None) -> ServerReport:
        del plan
        raise ConfigurationError(
            f"{choice.url} is a farm: `stagewright farm status {choice.url}` shows its workers"
        )

    def settings_used(self, stage_type: str, info: Mapping[str, Any]) -> dict[str, Any]:
        return settings_used(stage_type, info)


BACKEND = _FarmKind()
