"""The configuration and the server that a command line names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click
import msgspec

from ...events.origins import prompt_texts
from ...statemachine.config.inputs import ConfigDocument, load_document
from ...statemachine.config.schema import RunConfig, ServerTable
from ..backends.registry import BackendKind, ServerChoice, kind_of_server, recorded_address
from ..inputs import PillowInputReader
from .completion import complete_key
from .settings import current_settings, find_profile, named_servers, server_headers

set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    shell_complete=complete_key,
    help="Override a key, for example txt2img.steps=30; can be repeated.",
)
config_argument = click.argument("config", type=click.Path(path_type=Path))


vary_option = click.option(
    "--vary",
    multiple=True,
    metavar="KEY=V1,V2,...",
    shell_complete=complete_key,
    help="Make a variant for each value, such as txt2img.cfg_scale=5,7 or txt2img.steps=20..30:5; "
    "repeated, for each combination.",
)
zip_option = click.option(
    "--zip", "zip_axes", is_flag=True, help="Combine the values of several --vary side by side."
)


def read_document(config: Path, *, overrides: Sequence[str], profile: str | None) -> ConfigDocument:
    """CONFIG with its profile and overrides, not yet checked. Raises ConfigurationError."""
    found = find_profile(profile)
    return load_document(
        config, overrides=overrides, profile=found.tables, profile_source=found.source
    )


def read_config(
    config: Path, *, overrides: Sequence[str], profile: str | None, runs: Path
) -> RunConfig:
    """CONFIG with its profile, overrides and inputs. Raises ConfigurationError."""
    document = read_document(config, overrides=overrides, profile=profile)
    return find_config(document, runs)


def find_config(document: ConfigDocument, runs: Path) -> RunConfig:
    """The configuration of one run, with its inputs. Raises ConfigurationError."""
    return document.find(document.parse(), inputs=PillowInputReader(), runs=runs)


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
