"""The kinds of backends: what the command line, ``doctor`` and reports need of each of them.

Those of other packages are found by their entry points in the group ``stagewright.backends``:
the name is the kind, the object a ``BackendKind``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Protocol, cast, runtime_checkable

import msgspec

from ...events.model import BackendDescription
from ...statemachine.config.schema import ServerTable
from ...statemachine.config.validation import refuse_userinfo
from ...statemachine.errors import ConfigurationError
from ...statemachine.plan.plan import StageExecutionPlan
from ...statemachine.ports import ImageBackend, UnsettledCall
from ...statemachine.stages import StageConfig
from .http.address import ServerAddress
from .report import ServerReport

ENTRY_POINTS = "stagewright.backends"
EMBEDDED = "embedded"
WEBUI = "webui"
FARM = "farm"
_BUILT_IN = {EMBEDDED: "embedded.kind", WEBUI: "webui.kind", FARM: "farm.kind"}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HTTP = frozenset(["http", "https"])
_OF_FARMS = frozenset(["tcp", "tls"])


class ServerChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A server to be used. Credentials may go to it only if it was ``named_by_user``.

    ``insecure`` lifts the rules on where they may go. ``headers`` are those of the user's settings,
    by the address of the server that they are for. ``unsettled`` are calls of an earlier
    process that the server may still be working on; ``unsettled_calls`` are those of all servers
    of the run, for a backend that has several.
    """

    url: str
    named_by_user: bool
    settings: ServerTable = ServerTable()
    insecure: bool = False
    headers: Mapping[str, Mapping[str, str]] = {}
    unsettled: Mapping[str, str] = {}
    unsettled_calls: tuple[UnsettledCall, ...] = ()
    prompts: tuple[str, ...] = ()


class ServedBackend(ImageBackend, Protocol):
    """A backend that was made for a server."""

    def preflight(self, plan: StageExecutionPlan) -> None:
        """See whether the server has what ``plan`` needs. Raises PreflightError."""
        ...

    def close(self) -> None:
        """Release what is held for the server; the backend can be used again."""
        ...


class EarlierRun(msgspec.Struct, frozen=True, kw_only=True):
    """An earlier run on a server: what it recorded, and whether a process works on it now."""

    backend: BackendDescription
    plan: Mapping[str, Any]
    is_alive: bool


class RunPreparation(msgspec.Struct, frozen=True, kw_only=True):
    """What the servers of a run are prepared for.

    ``recorded`` is the backend of a resumed run. ``earlier`` reads the runs on the server of an
    address that died or are still running, the latest first.
    """

    plan: StageExecutionPlan
    recorded: BackendDescription | None
    preflight: bool
    earlier: Callable[[str], Iterable[EarlierRun]]


@runtime_checkable
class OptionsBackend(Protocol):
    """A backend whose server has options that change what a request makes."""

    def pin_options(
        self, run: RunPreparation, like: BackendDescription | None = None
    ) -> Sequence[str]:
        """Take the options for the run: those recorded, else the server's present ones.

        Where another server of the run comes first, they are those of its description, ``like``.
        ``description`` holds them afterwards; returns those that this server lacks. What an earlier
        run that died left there is undone. Raises BackendError.
        """
        ...


@runtime_checkable
class CheckpointBackend(Protocol):
    """A backend that knows which checkpoint its server has loaded."""

    def has_loaded(self, config: StageConfig) -> bool:
        """Whether the server is known to have loaded the checkpoint of a stage."""
        ...


class BackendKind(Protocol):
    """One kind of backend. ``schemes`` are those of the addresses that are its own."""

    @property
    def schemes(self) -> frozenset[str]:
        """Of ``pngs:///some/folder`` the scheme is ``pngs``."""
        ...

    def address(self, text: str) -> str:
        """The address as it is recorded. Raises ConfigurationError for one that is none."""
        ...

    def make(self, choice: ServerChoice) -> ServedBackend:
        """The backend for a server; nothing is sent yet. Raises ConfigurationError."""
        ...

    def inspect(self, choice: ServerChoice, plan: StageExecutionPlan | None) -> ServerReport:
        """What the server is, and whether it has what ``plan`` needs.

        Raises PreflightError where it cannot be reached.
        """
        ...

    def settings_used(self, stage_type: str, info: Mapping[str, Any]) -> Mapping[str, Any]:
        """What an answer's ``info`` says of a stage's settings, by dotted configuration key."""
        ...


def find_kind(name: str) -> BackendKind | None:
    """The kind of this name; None where it is not installed. Raises ConfigurationError."""
    if name in _BUILT_IN:
        module = import_module(f".{_BUILT_IN[name]}", __package__)
        return cast(BackendKind, module.BACKEND)
    for found in entry_points(group=ENTRY_POINTS, name=name):
        try:
            return cast(BackendKind, found.load())
        except Exception as error:
            raise ConfigurationError(
                f"the backend {name!r} ({found.value}) cannot be loaded: {error}"
            ) from error
    return None


def installed_kind(name: str) -> BackendKind:
    """The kind of this name. Raises ConfigurationError, with the names of those installed."""
    kind = find_kind(name)
    if kind is None:
        others = sorted(one.name for one in entry_points(group=ENTRY_POINTS))
        raise ConfigurationError(
            f"server.kind = {name!r}: only {', '.join([WEBUI, *others])} is installed; install the "
            "package of that kind, or name another one",
            key="server.kind",
        )
    return kind


def kind_of_server(address: str, kind: str | None = None) -> BackendKind:
    """The kind of the server at an address; it is detected by the scheme if not given.

    An address without a scheme is one of http. Raises ConfigurationError.
    """
    refuse_userinfo(address)
    if kind is not None:
        return installed_kind(kind)
    found = _SCHEME.match(address)
    scheme = found[1].lower() if found else "http"
    if scheme in _HTTP:
        return installed_kind(WEBUI)
    if scheme in _OF_FARMS:
        return installed_kind(FARM)
    others = [installed_kind(one.name) for one in entry_points(group=ENTRY_POINTS)]
    for other in others:
        if scheme in other.schemes:
            return other
    known = sorted(_HTTP.union(_OF_FARMS, *(other.schemes for other in others)))
    raise ConfigurationError(
        f"server {address}: the scheme must be one of {', '.join(known)}", key="server.url"
    )


def recorded_address(address: str, kind: str | None = None) -> str:
    """The address of a server as the logs of its runs have it.

    A WebUI's is found without its HTTP client, which takes 100 ms to load. Raises
    ConfigurationError.
    """
    found = _SCHEME.match(address)
    is_http = found is None or found[1].lower() in _HTTP
    if kind == WEBUI or (kind is None and is_http):
        return ServerAddress.parse(address).url
    return kind_of_server(address, kind).address(address)
