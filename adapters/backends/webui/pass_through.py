"""Checks the options and scripts that a stage passes through to its server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ....statemachine.plan.plan import StageExecution
from ....statemachine.stages import StageConfig
from .features import IMG2IMG, TXT2IMG
from .lists import OPTIONS, SCRIPTS, ServerLists
from .names import Entry

SCRIPT_INFO = "/sdapi/v1/script-info"
_TABS = {TXT2IMG: "txt2img", IMG2IMG: "img2img"}
"""By route, what the server calls its scripts."""


def overridden_options(config: StageConfig) -> Mapping[str, Any]:
    """The options of the server that a stage overrides by their own names."""
    found: Mapping[str, Any] | None = getattr(config, "override_settings", None)
    return found or {}


def pass_through_problems(
    stage: StageExecution, endpoint: str, lists: ServerLists
) -> Iterator[str]:
    """Options and scripts that the server does not have, and scripts that cannot run this way.

    A list that the server does not offer is not checked. Raises ServerError.
    """
    config, name = stage.config, stage.stage_type
    options = lists.answer(OPTIONS) if overridden_options(config) else None
    if isinstance(options, Mapping):
        for key in overridden_options(config).keys() - options.keys():
            yield (
                f"{name}.override_settings: the server has no option {key}"
                f"{_nearest(key, options, lists)}"
            )
    tab = _TABS.get(endpoint)
    found = lists.answer(SCRIPTS) if config.alwayson_scripts and tab else None
    known = found.get(tab) if isinstance(found, Mapping) else None
    if not isinstance(known, list):
        return
    names = {one.casefold(): one for one in known if isinstance(one, str)}
    for script, arguments in (config.alwayson_scripts or {}).items():
        where = f"{name}.alwayson_scripts"
        if script.casefold() not in names:
            yield f"{where}: the server has no script {script}{_nearest(script, names, lists)}"
        else:
            problem = _script_problem(script, arguments, lists, is_img2img=endpoint == IMG2IMG)
            if problem:
                yield f"{where}: {problem}"


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
