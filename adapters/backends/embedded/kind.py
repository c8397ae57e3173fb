"""The embedded backend as a kind of backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from ....statemachine.errors import ConfigurationError
from ....statemachine.plan.plan import StageExecutionPlan
from ..infotext_settings import settings_used
from ..registry import ServerChoice


class _EmbeddedKind:
    """Makes pictures in this process, so it has no address, and `doctor` has nothing to check."""

    schemes: frozenset[str] = frozenset()

    def address(self, text: str) -> NoReturn:
        raise ConfigurationError(f"server {text}: the embedded backend has no address")

    def make(self, choice: ServerChoice) -> NoReturn:
        self.address(choice.url)

    def inspect(self, choice: ServerChoice, _plan: StageExecutionPlan | None) -> NoReturn:
        self.address(choice.url)

    def settings_used(self, stage_type: str, info: Mapping[str, Any]) -> dict[str, Any]:
        return settings_used(stage_type, info)


BACKEND = _EmbeddedKind()
