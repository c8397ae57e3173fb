"""``queue servers``: the servers that workers use which are given none."""

from __future__ import annotations

from pathlib import Path

import click

from ...backends.registry import recorded_address
from ..options import json_option, runs_option
from ..output import print_json, print_line
from ..queues import open_queue


@click.command("servers")
@click.argument("action", required=False, type=click.Choice(["add", "remove"]))
@click.argument("url", required=False)
@runs_option
@json_option
def servers_command(action: str | None, url: str | None, runs: Path, as_json: bool) -> None:
    """Show, add or remove the servers of workers.

    `queue work` without --server uses them for jobs whose configuration names no server. They are
    kept in the queue's log. Credentials are sent only to a --server that is given to `queue work`,
    or to the origin in STAGEWRIGHT_AUTH_ORIGIN.
    """
    if (action is None) != (url is None):
        raise click.UsageError("say `queue servers add URL` or `queue servers remove URL`")
    queue = open_queue(runs, check=action != "add")
    if action == "add" and url is not None:
        queue.add_server(recorded_address(url))
    elif url is not None:
        queue.remove_server(url if url in queue.refresh().servers else recorded_address(url))
    servers = queue.refresh().servers
    if as_json:
        print_json(servers)
        return
    for server in servers:
        print_line(server)
    if not servers:
        print_line("the queue names no server")
