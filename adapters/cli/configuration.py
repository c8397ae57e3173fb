"""The configuration and the server that a command line names."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click
import msgspec

from ...events.origins import prompt_texts
from ...statemachine.config.inputs import ConfigDocument, load_document
from ...statemachine.config.schema import RunConfig, ServerTable
from ...statemachine.config.sweeps import sweep_of
from ...statemachine.variants.sweep import MAX_VARIANTS
from ..backends.registry import BackendKind, ServerChoice, kind_of_server, recorded_address
from ..inputs import PillowInputReader
from .settings import current_settings, find_profile, named_servers, server_headers


def read_document(config: Path, *, overrides: Sequence[str], profile: str | None) -> ConfigDocument:
    """CONFIG with its profile and overrides, not yet checked. Raises ConfigurationError."""
    found = find_profile(profile)
    return load_document(
        config, overrides=overrides, profile=found.tables, profile_source=found.source
    )


def find_config(document: ConfigDocument, runs: Path) -> RunConfig:
    """The configuration of one run, with its inputs. Raises ConfigurationError."""
    return document.find(document.parse(), inputs=PillowInputReader(), runs=runs)


CONFIRMED_ABOVE = 1_000
"""More variants than this need a confirmation (contract, section 9)."""


class ChosenServers(NamedTuple):
    """The servers to use: those that the user ``named``, or a ``foreign`` one of a folder's file.

    The latter gets no credentials, like those of a configuration. Neither is set where the
    configuration names servers, or none is named anywhere.
    """

    named: tuple[str, ...] = ()
    foreign: str | None = None


def choose_servers(servers: tuple[str, ...], of_config: object) -> ChosenServers:
    """The servers that the user named; else, without one of the configuration, of the settings."""
    named = named_servers(servers)
    default = None if named or of_config else current_settings().server
    if default is None:
        return ChosenServers(named)
    return (
        ChosenServers((default.url,)) if default.named_by_user else ChosenServers((), default.url)
    )


def with_server(loaded: RunConfig, chosen: ChosenServers) -> RunConfig:
    """The configuration with the foreign server, if there is one."""
    if chosen.foreign is None:
        return loaded
    server = msgspec.structs.replace(loaded.server, url=chosen.foreign)
    return msgspec.structs.replace(loaded, server=server)


def find_servers(
    servers: tuple[str, ...], loaded: RunConfig, *, insecure: bool
) -> list[tuple[BackendKind, ServerChoice]]:
    """The servers that a command is to look at, none if none is named anywhere.

    Raises ConfigurationError.
    """
    chosen = choose_servers(servers, loaded.server.url)
    loaded = with_server(loaded, chosen)
    found = []
    for named in chosen.named or loaded.server.urls:
        kind = kind_of_server(named, loaded.server.kind)
        choice = ServerChoice(
            url=kind.address(named),
            named_by_user=bool(chosen.named),
            settings=loaded.server_settings,
            insecure=insecure,
            headers=server_headers(),
            prompts=prompt_texts(loaded.drawn_prompts.prompts) if loaded.drawn_prompts else (),
        )
        found.append((kind, choice))
    return found


def addresses_of_servers(server: ServerTable) -> tuple[str | None, ...]:
    """The addresses, as logs have them, of the servers that `run` would use; one None: embedded.

    Raises ConfigurationError.
    """
    chosen = choose_servers((), server.url)
    addresses = chosen.named or (*filter(None, [chosen.foreign]), *server.urls)
    found = dict.fromkeys(recorded_address(one, server.kind) for one in addresses)
    return (*found,) or (None,)


def with_farm(servers: tuple[str, ...], farm: str | None) -> tuple[str, ...]:
    """The servers that the user named, or the farm. Raises ConfigurationError."""
    if farm is None:
        return servers
    if servers:
        raise click.UsageError("--farm and --server exclude each other: a farm has its own servers")
    # A farm's address is that of a server with another scheme; only a farm's user loads this.
    from ..backends.farm.addresses import scheduler_address  # noqa: PLC0415 - see above

    return (scheduler_address(farm),)


def is_sweep(document: ConfigDocument, vary: tuple[str, ...], *, zip_axes: bool) -> bool:
    """Whether a configuration makes a group of runs. Raises ConfigurationError."""
    return sweep_of(document, vary, zip=zip_axes) is not None


def confirm_count(
    document: ConfigDocument, vary: tuple[str, ...], *, zip_axes: bool, yes: bool
) -> None:
    """Ask before a sweep of many variants. Raises UsageError without a terminal to ask on."""
    sweep = sweep_of(document, vary, zip=zip_axes)
    variants = sweep.count() if sweep else 0
    if yes or not CONFIRMED_ABOVE < variants <= MAX_VARIANTS:  # the plan of more is refused
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"the sweep makes {variants} variants; add --yes to run them all")
    click.confirm(f"Run {variants} variants?", abort=True, err=True)
