"""The only place where concrete parts are put together."""

from __future__ import annotations

from pathlib import Path

from ..statemachine.controller import PipelineController
from ..statemachine.documents import refuse_userinfo
from ..statemachine.errors import ConfigurationError
from ..statemachine.ports import ImageBackend
from .embedded.backend import EmbeddedBackend
from .inputs import PillowInputReader


def open_backend(server: str | None = None) -> ImageBackend:
    """The backend at ``server``, or the embedded one. Raises ConfigurationError."""
    refuse_userinfo(server)
    if server is not None:
        raise ConfigurationError(
            f"server {server}: this version speaks to no WebUI server yet; leave --server and "
            "[server].url out to use the embedded backend",
            key="server.url",
        )
    return EmbeddedBackend()


def open_controller(runs: Path | str, server: str | None = None) -> PipelineController:
    """A controller that keeps its runs below ``runs``: the one call for authors of GUIs.

    ``server`` is the address of a WebUI server; without it the embedded backend is used.
    Raises ConfigurationError.
    """
    return PipelineController(
        backend=open_backend(server), runs=Path(runs), inputs=PillowInputReader()
    )
