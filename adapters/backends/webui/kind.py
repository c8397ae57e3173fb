"""WebUI servers as a kind of backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....statemachine.plan.plan import StageExecutionPlan
from ...inputs import PillowInputReader
from ..http.address import ServerAddress
from ..http.client import HttpClient
from ..http.credentials import Credentials, credentials_for
from ..infotext_settings import settings_used
from ..registry import ServerChoice
from ..report import ServerReport
from .backend import WebUIBackend
from .features import ADVICE


class _WebUIKind:
    """Makes backends for WebUI servers, and inspects the servers."""

    schemes = frozenset(["http", "https"])

    def address(self, text: str) -> str:
        return ServerAddress.parse(text).url

    def make(self, choice: ServerChoice) -> WebUIBackend:
        address, credentials = _access(choice)
        return WebUIBackend(
            address,
            inputs=PillowInputReader(),
            settings=choice.settings,
            credentials=credentials,
            unsettled=choice.unsettled,
            prompts=choice.prompts,
        )

    def inspect(self, choice: ServerChoice, plan: StageExecutionPlan | None) -> ServerReport:
        from .preflight import inspect_server  # noqa: PLC0415 - only doctor needs it

        address, credentials = _access(choice)
        client = HttpClient(address, choice.settings, credentials, advice=ADVICE)
        try:
            return inspect_server(client, plan, choice.prompts)
        finally:
            client.close()

    def settings_used(self, stage_type: str, info: Mapping[str, Any]) -> dict[str, Any]:
        return settings_used(stage_type, info)


def _access(choice: ServerChoice) -> tuple[ServerAddress, Credentials]:
    address = ServerAddress.parse(choice.url)
    credentials = credentials_for(
        address,
        named_by_user=choice.named_by_user,
        settings=choice.settings,
        insecure=choice.insecure,
        headers=choice.headers,
    )
    return address, credentials


BACKEND = _WebUIKind()
