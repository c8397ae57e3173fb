"""The option ``--farm``, which names a farm instead of a server."""

from __future__ import annotations

import click

farm_option = click.option(
    "--farm",
    metavar="ADDRESS",
    help="Farm to use instead of a server: the address of its scheduler. On another machine it "
    "needs TLS, or --insecure.",
)


def with_farm(servers: tuple[str, ...], farm: str | None) -> tuple[str, ...]:
    """The servers that the user named, or the farm. Raises ConfigurationError."""
    if farm is None:
        return servers
    if servers:
        raise click.UsageError("--farm and --server exclude each other: a farm has its own servers")
    # A farm's address is that of a server with another scheme; only a farm's user loads this.
    from ..backends.farm.addresses import scheduler_address  # noqa: PLC0415 - see above

    return (scheduler_address(farm),)
