"""``serve-embedded``: serves the embedded backend as a WebUI-compatible HTTP server."""

from __future__ import annotations

import os

import click

from ...backends.http.address import is_loopback
from ...backends.http.credentials import AUTH_VARIABLE
from ...webui_server import EmbeddedServer
from ...webui_server.admission import name_in
from ...webui_server.product import DEFAULT_PRODUCT, PRODUCTS
from ..output import print_line
from ..statuses import EXIT_COMPLETED, print_error
from ..stop_signals import stop_signals

_LONGEST_DELAY_S = 3600.0
_LOOK_S = 0.5


@click.command("serve-embedded")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=7860,
    show_default=True,
    help="Port; 0 takes a free one.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    help="A further model to offer; can be repeated.",
)
@click.option(
    "--as",
    "product",
    type=click.Choice(list(PRODUCTS)),
    default=DEFAULT_PRODUCT,
    show_default=True,
    help="The server to behave as.",
)
@click.option("--require-auth", is_flag=True, help=f"Require the user:password of {AUTH_VARIABLE}.")
@click.option(
    "--allow-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="A further host name of this server, from which web pages may send requests.",
)
@click.option("--no-ui", is_flag=True, help="Leave out the /internal routes.")
@click.option(
    "--step-delay",
    type=click.FloatRange(0, _LONGEST_DELAY_S),
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="Extra time of each sampling step.",
)
def serve_embedded_command(
    host: str,
    port: int,
    models: tuple[str, ...],
    product: str,
    require_auth: bool,
    allowed_hosts: tuple[str, ...],
    no_ui: bool,
    step_delay: float,
) -> None:
    """Serve the embedded backend as a WebUI server.

    It behaves like AUTOMATIC1111 1.10.1 with ADetailer 25.3.0, Forge or Forge Neo, and offers the
    model names of the examples. Ctrl-C stops it.
    """
    for name in allowed_hosts:
        if "/" in name or not name_in(name):
            raise click.UsageError(
                f"--allow-host {name}: give a host name alone, for example gpu.example.org"
            )
    auth = _auth_of_environment() if require_auth else None
    if auth is None and not is_loopback(host):
        message = f"warning: anyone who can reach {host} can use this server; see --require-auth"
        print_error(message, EXIT_COMPLETED)
    with stop_signals() as stopped:
        try:
            server = EmbeddedServer(
                models, host=host, port=port, auth=auth, ui=not no_ui, step_delay_s=step_delay,
                allowed_hosts=allowed_hosts, product=product,
            )  # fmt: skip
        except OSError as error:
            words = error.strerror or str(error)
            raise click.UsageError(f"cannot listen on {host} port {port}: {words}") from error
        with server:
            print_line(f"serving on {server.url} (Ctrl-C stops it)")
            while not stopped.wait(_LOOK_S):
                pass


def _auth_of_environment() -> tuple[str, str]:
    user, colon, password = os.environ.get(AUTH_VARIABLE, "").partition(":")
    if not colon:
        raise click.UsageError(f"--require-auth needs {AUTH_VARIABLE}=user:password")
    return user, password
