"""``doctor``: checks whether a server is reachable and has what a configuration names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ....statemachine.config.document import check_config
from ....statemachine.config.prompts import draw_prompts
from ....statemachine.config.schema import RunConfig
from ....statemachine.errors import PreflightError
from ....statemachine.plan.builder import build_stage_execution_plan
from ....statemachine.plan.plan import StageExecutionPlan
from ...backends.registry import BackendKind, ServerChoice
from ...backends.report import NameCheck, RouteCheck, ServerReport, Verdict
from ..configuration import find_config, find_servers, read_document
from ..options import (
    insecure_option,
    json_option,
    profile_option,
    runs_option,
    servers_option,
    set_option,
)
from ..output import count, one_line, print_json, print_line
from ..statuses import print_error

_EXIT_READY, _EXIT_NOT_READY = 0, 2
_LISTS = {
    "models": "checkpoints",
    **{
        name: name
        for name in (
            *("vaes", "samplers", "schedulers", "upscalers", "detectors"),
            *("loras", "embeddings", "styles", "modules"),
        )
    },
}
"""The lists by what ``--list`` calls them, and what a report does."""
_THERE = {True: "found", False: "missing", None: "unknown"}
_VERDICTS = {
    Verdict.FOUND: "found",
    Verdict.MISSING: "missing",
    Verdict.NOT_CHECKED: "not checked",
}


@click.command("doctor")
@click.argument("config", type=click.Path(path_type=Path), required=False)
@servers_option("A server to check; can be repeated.  [default: [server].url of CONFIG]")
@click.option(
    "--list",
    "listed",
    is_flag=False,
    flag_value="",
    metavar="LIST",
    help=f"Show the names of one of the server's lists: {', '.join(_LISTS)}.",
)
@set_option
@profile_option
@insecure_option
@runs_option
@json_option
def doctor_command(
    config: Path | None,
    servers: tuple[str, ...],
    listed: str | None,
    overrides: tuple[str, ...],
    profile: str | None,
    insecure: bool,
    runs: Path,
    as_json: bool,
) -> int:
    """Check a server, and whether it has what CONFIG names.

    Nothing is generated. Exit status: 0 if the server is ready; 2 if it cannot be reached or
    lacks something.
    """
    if overrides and config is None:
        raise click.UsageError("--set needs a CONFIG")
    if listed is not None and listed not in _LISTS:
        given = f"--list {listed}".strip()
        raise click.UsageError(f"{given}: the lists are {', '.join(_LISTS)}")
    loaded, plan = RunConfig(), None
    if config is not None:
        document = read_document(config, overrides=overrides, profile=profile)
        loaded = draw_prompts(check_config(find_config(document, runs)))
        plan = build_stage_execution_plan(loaded)
    found = find_servers(servers, loaded, insecure=insecure)
    if not found:
        raise click.UsageError(
            "no server is given: use --server URL, or set [server].url in CONFIG"
        )
    if listed and len(found) > 1:
        raise click.UsageError("--list shows the names of one server; give --server once")
    return _check(found, plan, config, listed, as_json=as_json)


def _check(
    found: Sequence[tuple[BackendKind, ServerChoice]],
    plan: StageExecutionPlan | None,
    config: Path | None,
    listed: str | None,
    *,
    as_json: bool,
) -> int:
    """Report on each server, or print one of its lists; ready if all are."""
    documents = []
    for kind, choice in found:
        try:
            report = kind.inspect(choice, None if listed else plan)
        except PreflightError as error:
            print_error(str(error), _EXIT_NOT_READY)
            unreachable = ServerReport(url=choice.url)
            documents.append(_document(unreachable, [str(error)], is_reachable=False))
            continue
        if listed:
            return _show_list(report, listed, as_json=as_json)
        wrong = _what_is_wrong(report, plan)
        documents.append(_document(report, wrong))
        if not as_json:
            _show(report, wrong, config)
    if as_json:
        print_json(documents if len(found) > 1 else documents[0])
    return _EXIT_READY if all(one["ready"] for one in documents) else _EXIT_NOT_READY


def _what_is_wrong(report: ServerReport, plan: StageExecutionPlan | None) -> tuple[str, ...]:
    """What keeps the plan from being run on this server, in words."""
    conflicts = plan.conflicts if plan is not None else ()
    return (*report.complaints, *(f"conflict: {conflict}" for conflict in conflicts))


def _document(
    report: ServerReport, wrong: Sequence[str], *, is_reachable: bool = True
) -> dict[str, Any]:
    return {
        "server": report.url,
        "reachable": is_reachable,
        "ready": not wrong,
        "product": report.product,
        "version": report.version,
        "routes": {route.path: route.there for route in report.routes},
        "offers": report.offers,
        "checks": report.checks,
        "problems": report.problems,
        "wrong": wrong,
        "notes": report.notes,
    }


def _show_list(report: ServerReport, listed: str, *, as_json: bool) -> int:
    """The names of a list, one a line, with a mark at those that the server has loaded."""
    key = _LISTS[listed]
    names, loaded = report.names.get(key), report.loaded.get(key, ())
    is_useless = bool(report.problems) and not any(report.names.values())
    is_offered = not is_useless and names is not None and report.offers.get(key, 0) is not None
    if as_json:
        shown = names if is_offered else None
        print_json({"server": report.url, "list": listed, "names": shown, "loaded": loaded})
    for name in names if names and not as_json else ():
        print_line(f"{name}  (loaded)" if name in loaded else name)
    if is_offered:
        return _EXIT_READY
    lacks_list = f"{report.url}: the server does not list its {listed}"
    return print_error(report.problems[-1] if is_useless else lacks_list, _EXIT_NOT_READY)


def _show(report: ServerReport, wrong: Sequence[str], config: Path | None) -> None:
    print_line(f"{report.url}: reachable")
    product = report.product or "unknown (the server does not publish its API schema)"
    print_line(f"product: {product}")
    print_line(f"version: {report.version or 'unknown'}")
    if report.routes:
        _show_routes(report.routes)
    if config is None and report.offers:
        _show_offers(report)
    if config is not None:
        _show_checks(report.checks, config)
    for note in report.notes:
        print_line(f"note: {one_line(note)}")
    print_line(f"not ready: {one_line('; '.join(wrong))}" if wrong else "ready")


def _show_routes(routes: Sequence[RouteCheck]) -> None:
    print_line("routes:")
    for route in routes:
        print_line(f"  {_THERE[route.there]:<12} {route.path}")


def _show_offers(report: ServerReport) -> None:
    print_line("offers:")
    for name, number in report.offers.items():
        print_line(f"  {name:<21} {'not offered' if number is None else number}")


def _show_checks(checks: Sequence[NameCheck], config: Path) -> None:
    print_line(f"{config} uses {count(len(checks), 'name')}:")
    for check in checks:
        words = f'  {_VERDICTS[check.verdict]:<12} {check.kind}: {check.key} = "{check.name}"'
        print_line(words + check.suggestion())
