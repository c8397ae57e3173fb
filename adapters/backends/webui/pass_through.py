"""Checks the options and scripts that a stage passes through to its server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ....statemachine.stages import StageConfig
from .features import IMG2IMG, TXT2IMG
from .lists import OPTIONS, SCRIPTS, ServerLists
from .names import Entry
from .payload import Payload

SCRIPT_INFO = "/sdapi/v1/script-info"
REFINER_PASS = "hires_fix_refiner_pass"  # noqa: S105 - no password: the pass of a refiner
_TABS = {TXT2IMG: "txt2img", IMG2IMG: "img2img"}
"""By route, what the server calls its scripts."""


def overridden_options(config: StageConfig) -> Mapping[str, Any]:
    """The options of the server that a stage overrides by their own names."""
    found: Mapping[str, Any] | None = getattr(config, "override_settings", None)
    return found or {}


def pass_through_problems(
    config: StageConfig, payload: Payload, lists: ServerLists
) -> Iterator[str]:
    """Options and scripts that the server does not have, and scripts that cannot run this way.

    A list that the server does not offer is not checked. Raises ServerError.
    """
    yield from _unknown_options(config, payload, lists)
    tab = _TABS.get(payload.endpoint)
    found = lists.answer(SCRIPTS) if config.alwayson_scripts and tab else None
    known = found.get(tab) if isinstance(found, Mapping) else None
    if not isinstance(known, list):
        return
    names = {one.casefold(): one for one in known if isinstance(one, str)}
    for script, arguments in (config.alwayson_scripts or {}).items():
        where = f"{config.stage_type}.alwayson_scripts"
        if script.casefold() not in names:
            yield f"{where}: the server has no script {script}{_nearest(script, names, lists)}"
        else:
            is_img2img = payload.endpoint == IMG2IMG
            problem = _script_problem(script, arguments, lists, is_img2img=is_img2img)
            if problem:
                yield f"{where}: {problem}"


def _unknown_options(config: StageConfig, payload: Payload, lists: ServerLists) -> Iterator[str]:
    own, has_pass = overridden_options(config), REFINER_PASS in payload.overrides
    options = lists.answer(OPTIONS) if own or has_pass else None
    if not isinstance(options, Mapping):
        return
    for key in own.keys() - options.keys():
        near = _nearest(key, options, lists)
        yield f"{config.stage_type}.override_settings: the server has no option {key}{near}"
    if has_pass and REFINER_PASS not in options:
        yield (
            f"{config.stage_type}.refiner: the server applies none beside a hires pass (it has no "
            f"option {REFINER_PASS}); switch one of them off"
        )


def _script_problem(script: str, arguments: Any, lists: ServerLists, *, is_img2img: bool) -> str:
    """What is wrong with the use of a script that is there; "" if nothing is known to be."""
    infos = lists.answer(SCRIPT_INFO)
    for info in infos if isinstance(infos, list) else ():
        if not isinstance(info, Mapping) or str(info.get("name")).casefold() != script.casefold():
            continue
        if info.get("is_img2img") not in (None, is_img2img):
            continue
        if info.get("is_alwayson") is False:
            return f"{script} is a script to select, not one that is always on"
        taken, given = info.get("args"), arguments
        values = given.get("args") if isinstance(given, Mapping) else None
        if isinstance(taken, list) and isinstance(values, list) and len(values) > len(taken):
            return f"{script} takes {len(taken)} arguments, and {len(values)} are given"
    return ""


def _nearest(name: str, known: Iterable[str], lists: ServerLists) -> str:
    near = lists.nearest(name, tuple(Entry(one, frozenset([one])) for one in known))
    return f"; did you mean {near[0]}?" if near else ""
