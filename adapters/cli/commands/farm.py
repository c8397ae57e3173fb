"""``farm``: the processes of a farm, its certificates, and what its workers do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from ..common_options import with_common_options
from ..options import json_option
from ..output import print_json, print_line, print_note
from ..settings import server_headers
from ..statuses import EXIT_ERROR
from ..stop_signals import stop_signals

if TYPE_CHECKING:
    from ...backends.farm.status import WorkerReport

_LONGEST_S = 3600.0
_DAYS = 3650

_insecure_option = click.option(
    "--insecure",
    is_flag=True,
    help="Connect machines without TLS, and send credentials of a server over plain http.",
)
_port = click.IntRange(0, 65_535)


class _Farm(click.Group):
    """Gives its commands the options that every command has."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = super().get_command(ctx, cmd_name)
        return None if command is None else with_common_options(command)


@click.group("farm", cls=_Farm)
def farm_command() -> None:
    """Make images on several machines.

    A farm has one scheduler, and a worker beside the WebUI server of each machine. `stagewright
    run CONFIG --farm ADDRESS` uses all its workers. docs/farm.md explains it step by step.
    """


@farm_command.command("scheduler")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=_port, default=8786, show_default=True, help="Port; 0 takes a free one."
)
@click.option(
    "--dashboard-port",
    type=_port,
    default=8787,
    show_default=True,
    help="Port of Dask's dashboard, on this machine alone.",
)
@click.option(
    "--worker-timeout",
    type=click.FloatRange(1, _LONGEST_S),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="A worker that is silent for so long is given up.",
)
@_insecure_option
def scheduler_command(
    host: str,
    port: int,
    dashboard_port: int,
    worker_timeout: float,
    insecure: bool,
) -> None:
    """Serve as the scheduler of a farm.

    It is Dask's scheduler, set so that Dask neither repeats nor moves requests. Dask's dashboard
    needs the package bokeh. Ctrl-C stops it.
    """
    from ...backends.farm.scheduler import SchedulerChoice, run_scheduler  # noqa: PLC0415 - the help is quick

    choice = SchedulerChoice(
        host=host,
        port=port,
        dashboard_port=dashboard_port,
        worker_timeout_s=worker_timeout,
        insecure=insecure,
    )

    def announce(address: str, dashboard: str) -> None:
        print_line(f"scheduler at {address}, dashboard at {dashboard} (Ctrl-C stops it)")

    with stop_signals() as stopped:
        run_scheduler(choice, stopped, announce)


@farm_command.command("worker")
@click.option("--scheduler", required=True, metavar="ADDRESS", help="Scheduler of the farm.")
@click.option("--server", required=True, metavar="URL", help="WebUI server of this machine.")
@click.option(
    "--resource",
    "resources",
    multiple=True,
    metavar="NAME",
    help="What a stage may ask for with farm_hint; can be repeated.",
)
@click.option("--name", help="Name of this worker.  [default: the address of its server]")
@click.option(
    "--host",
    help="Address at which the other machines reach this worker.  [default: that from which it "
    "reaches the scheduler]",
)
@click.option("--port", type=_port, default=0, help="Port to listen on.  [default: any free one]")
@_insecure_option
def worker_command(
    scheduler: str,
    server: str,
    resources: tuple[str, ...],
    name: str | None,
    host: str | None,
    port: int,
    insecure: bool,
) -> None:
    """Make images for a farm on the server of this machine.

    It makes one request at a time. The user and password of the server (STAGEWRIGHT_AUTH), and its
    headers of your settings, stay on this machine. Ctrl-C stops it.
    """
    from ...backends.farm.worker import WorkerSettings, run_worker  # noqa: PLC0415 - see above

    settings = WorkerSettings(
        scheduler=scheduler,
        server=server,
        name=name,
        resources=resources,
        host=host,
        port=port,
        insecure=insecure,
        headers=server_headers(),
    )
    with stop_signals() as stopped:
        run_worker(settings, stopped, print_line)


@farm_command.command("status")
@click.argument("address", metavar="ADDRESS")
@_insecure_option
@json_option
def status_command(
    address: str,
    insecure: bool,
    as_json: bool,
) -> int | None:
    """Show the workers of a farm, and what each does.

    It shows their servers, loaded models and resources. ADDRESS is that of the scheduler. Exit
    status 1: a worker has a problem, or there is none.
    """
    from ...backends.farm.status import read_farm  # noqa: PLC0415 - see above

    workers = read_farm(address, insecure=insecure)
    if as_json:
        print_json({"workers": msgspec.to_builtins(workers)})
    else:
        for worker in workers:
            print_worker(worker)
    if not workers:
        print_note(f"the farm at {address} has no worker")
    is_sound = bool(workers) and not any(worker.problem for worker in workers)
    return None if is_sound else EXIT_ERROR


@farm_command.command("certificates")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--days",
    type=click.IntRange(1, 36_500),
    default=_DAYS,
    show_default=True,
    help="How long they are valid.",
)
def certificates_command(folder: Path, days: int) -> None:
    """Make the certificates of a farm in DIR.

    They are an authority, and one for each role. DIR also gets dask.yaml, Dask's settings with
    these files. Set DASK_CONFIG to DIR on each machine, and keep ca-key.pem to yourself.
    """
    from ...backends.farm.certificates import make_certificates  # noqa: PLC0415 - see above

    for path in make_certificates(folder, days=days):
        print_line(str(path))
    print_note(f"set DASK_CONFIG={folder.absolute()} where the farm is used")


def print_worker(worker: WorkerReport) -> None:
    """Print what `farm status` shows of one worker."""
    server = " ".join(filter(None, (worker.product, worker.version))) or "unknown server"
    models = ", ".join(worker.loaded.get("checkpoints", ())) or "none loaded"
    print_line(f"{worker.name}")
    print_line(f"    server     {worker.server} ({server})")
    print_line(f"    model      {models}")
    print_line(f"    resources  {', '.join(worker.resources) or '-'}")
    print_line(f"    works on   {worker.call_id or '-'}")
    if worker.problem:
        print_line(f"    problem    {worker.problem}")
