"""``doctor``: is a server there, what is it, and does it have what a configuration names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ....statemachine.config.inputs import load_config
from ....statemachine.config.schema import ServerTable
from ....statemachine.errors import PreflightError
from ....statemachine.plan.builder import build_stage_execution_plan
from ....statemachine.plan.plan import StageExecutionPlan
from ...backends.webui.address import ServerAddress, credentials_for
from ...backends.webui.client import WebUIClient
from ...backends.webui.names import NameCheck, Verdict
from ...backends.webui.preflight import RouteCheck, ServerReport, inspect_server
from ...inputs import PillowInputReader
from ..output import count, insecure_option, json_option, one_line, print_json, runs_option, say
from .plan import set_option

_EXIT_READY, _EXIT_NOT_READY = 0, 2
_THERE = {True: "there", False: "missing", None: "not known"}
_VERDICTS = {
    Verdict.FOUND: "found",
    Verdict.MISSING: "missing",
    Verdict.NOT_CHECKED: "not checked",
}


@click.command("doctor")
@click.argument("config", type=click.Path(path_type=Path), required=False)
@click.option(
    "--server", metavar="URL", help="The WebUI server to look at; else the one CONFIG names."
)
@set_option
@insecure_option
@runs_option
@json_option
def doctor_command(
    config: Path | None,
    server: str | None,
    overrides: tuple[str, ...],
    insecure: bool,  # noqa: FBT001 - click passes flags
    runs: Path,
    as_json: bool,  # noqa: FBT001 - the same
) -> int:
    """Say what a server is, and whether it has everything that CONFIG names.

    Nothing is started. Exit status 0: ready; 2: out of reach, or something is missing.
    """
    if overrides and config is None:
        raise click.UsageError("--set needs a CONFIG to override")
    plan, settings = _plan_of(config, overrides, runs)
    named = server or settings.url
    if named is None:
        raise click.UsageError("which server? Give --server URL")
    address = ServerAddress.parse(named)
    credentials = credentials_for(
        address, named_by_user=server is not None, settings=settings, insecure=insecure
    )
    client = WebUIClient(address, settings, credentials)
    try:
        report = inspect_server(client, plan)
    except PreflightError as error:
        if as_json:
            print_json(_unreachable(address, error))
        raise
    finally:
        client.close()
    wrong = _what_is_wrong(report, plan)
    if as_json:
        print_json(_document(report, wrong))
    else:
        _show(report, wrong, config)
    return _EXIT_NOT_READY if wrong else _EXIT_READY


def _plan_of(
    config: Path | None, overrides: Sequence[str], runs: Path
) -> tuple[StageExecutionPlan | None, ServerTable]:
    """The plan of CONFIG, and how it wants servers to be spoken to."""
    if config is None:
        return None, ServerTable()
    loaded = load_config(config, inputs=PillowInputReader(), runs=runs, overrides=overrides)
    return build_stage_execution_plan(loaded), loaded.server


def _what_is_wrong(report: ServerReport, plan: StageExecutionPlan | None) -> tuple[str, ...]:
    """What keeps the plan from being run on this server, in words."""
    conflicts = plan.conflicts if plan is not None else ()
    return (*report.complaints, *(f"conflict: {conflict}" for conflict in conflicts))


def _document(report: ServerReport, wrong: Sequence[str]) -> dict[str, Any]:
    return {
        "server": report.url,
        "reachable": True,
        "ready": not wrong,
        "product": report.features.product,
        "version": report.features.version,
        "routes": {route.path: route.there for route in report.routes},
        "offers": report.offers,
        "checks": report.checks,
        "problems": report.problems,
        "wrong": wrong,
        "notes": report.notes,
    }


def _unreachable(address: ServerAddress, error: PreflightError) -> dict[str, Any]:
    return {
        "server": address.url,
        "reachable": False,
        "ready": False,
        "product": None,
        "version": None,
        "routes": {},
        "offers": {},
        "checks": [],
        "problems": [],
        "wrong": [str(error)],
        "notes": [],
    }


def _show(report: ServerReport, wrong: Sequence[str], config: Path | None) -> None:
    say(f"{report.url}: reachable")
    product = report.features.product or "not known; the server does not show its schema"
    say(f"product: {product}")
    say(f"version: {report.features.version or 'not known'}")
    _show_routes(report.routes)
    if config is None:
        _show_offers(report)
    else:
        _show_checks(report.checks, config)
    for note in report.notes:
        say(f"note: {one_line(note)}")
    say(f"not ready: {one_line('; '.join(wrong))}" if wrong else "ready")


def _show_routes(routes: Sequence[RouteCheck]) -> None:
    say("routes:")
    for route in routes:
        say(f"  {_THERE[route.there]:<12} {route.path}")


def _show_offers(report: ServerReport) -> None:
    say("offers:")
    for name, number in report.offers.items():
        say(f"  {name:<21} {'no such list' if number is None else number}")


def _show_checks(checks: Sequence[NameCheck], config: Path) -> None:
    say(f"{config} uses {count(len(checks), 'name')}:")
    for check in checks:
        words = f'  {_VERDICTS[check.verdict]:<12} {check.kind}: {check.key} = "{check.name}"'
        say(words + check.suggestion())
