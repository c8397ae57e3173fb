"""Options and scripts of a server that a configuration passes through by their own names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from stagewright.adapters import open_controller
from stagewright.events import CallRequested, PipelineRunResult
from stagewright.statemachine import build_stage_execution_plan
from stagewright.statemachine.errors import InvalidStagePlanError, PreflightError

from . import webui_faults as faults
from .resuming import only, small
from .webui_server import ScriptedWebUI

ENSD, UNSAVED = "eta_noise_seed_delta", "upscaling_max_images_in_cache"
SCRIPT = "x/y/z plot"


ABOUT = {"is_alwayson": True, "args": [{}, {}]}
OF_SCRIPTS = {
    "/sdapi/v1/scripts": {"txt2img": [SCRIPT], "img2img": [SCRIPT, "loopback", "adetailer"]},
    "/sdapi/v1/script-info": [
        {"name": SCRIPT, "is_img2img": False, **ABOUT},
        {"name": SCRIPT, "is_img2img": True, "is_alwayson": True, "args": [{}]},
        {"name": "loopback", "is_img2img": True, "is_alwayson": False, "args": []},
    ],
}
"""What a server says of its scripts: in which tab they run, and what they take."""


def run(folder: Path, server: ScriptedWebUI, *stages: str, **tables: Any) -> PipelineRunResult:
    """A run of two images, with these keys in the tables of its stages."""
    config = small(*stages, images=2, server={"retries": 0})
    for stage, table in tables.items():
        config[stage] = {**config[stage], **table}
    return open_controller(folder, server.url).start(config).wait(30)


@pytest.mark.parametrize(
    ("stage", "given", "words"),
    [
        ("txt2img", {"override_settings": {"eta_noise_seed_delt": 3}},
         rf"txt2img\.override_settings: the server has no option eta_noise_seed_delt; .*{ENSD}"),
        ("txt2img", {"alwayson_scripts": {"X/Y/Z plots": {"args": [1]}}},
         r"txt2img\.alwayson_scripts: .* no script X/Y/Z plots; did you mean x/y/z plot\?"),
        ("txt2img", {"alwayson_scripts": {"loopback": {"args": []}}}, "no script loopback"),
        ("img2img", {"alwayson_scripts": {"Loopback": {"args": []}}},
         "Loopback is a script to select, not one that is always on"),
        ("txt2img", {"alwayson_scripts": {"X/Y/Z plot": {"args": [1, 2, 3]}}},
         "X/Y/Z plot takes 2 arguments, and 3 are given"),
        ("img2img", {"alwayson_scripts": {"X/Y/Z plot": {"args": [1, 2]}}}, "takes 1 arguments"),
        ("adetailer", {"alwayson_scripts": {"X/Y/Z plot": {"args": [1, 2]}}}, "takes 1 arguments"),
        ("adetailer", {"override_settings": {"lost": 1}}, "has no option lost"),
    ],
)  # fmt: skip
def test_what_the_server_does_not_have_is_refused_before_the_run(
    tmp_path: Path, stage: str, given: Mapping[str, Any], words: str
) -> None:
    """The server would ignore it, or fail once the model is loaded."""
    with (
        ScriptedWebUI(more=OF_SCRIPTS) as server,
        pytest.raises(PreflightError, match=words),
    ):
        run(tmp_path, server, "txt2img", "img2img", "adetailer", **{stage: given})
    assert server.generating() == []


@pytest.mark.parametrize("script", [[1], "text", {"arg": [1]}, {"args": {"a": 1}}, {"args": 1}])
@pytest.mark.parametrize("stage", ["txt2img", "img2img", "adetailer"])
def test_a_script_without_a_list_of_arguments_is_an_error(stage: str, script: Any) -> None:
    """A server would run it with its own settings."""
    config = small("txt2img", "img2img", "adetailer")
    config[stage] = {**config[stage], "alwayson_scripts": {"ControlNet": script}}
    words = rf"{stage}\.alwayson_scripts\.ControlNet .*one list, args"
    with pytest.raises(InvalidStagePlanError, match=words):
        build_stage_execution_plan(config)


def test_they_are_sent_unchanged_and_leave_nothing_behind(tmp_path: Path) -> None:
    """By each stage its own; a fresh server restores the options, for they were posted before."""
    scripts = {"X/Y/Z plot": {"args": [True, {"nested": [1, None]}]}}
    with ScriptedWebUI() as server:
        before = dict(server.painter.options)
        result = run(
            tmp_path, server, "txt2img", "img2img", "adetailer",
            txt2img={"override_settings": {ENSD: 7, UNSAVED: 9}, "alwayson_scripts": scripts},
            adetailer={"override_settings": {ENSD: 8}, "alwayson_scripts": scripts},
        )  # fmt: skip
        assert result.error is None, result.error
        bodies = {one.stage: one.body for one in server.generating()}
        assert server.painter.options == before
    settings = {stage: body["override_settings"] for stage, body in bodies.items()}
    assert [settings[stage].get(ENSD) for stage in settings] == [7, 0, 8]
    assert [settings[stage].get(UNSAVED) for stage in settings] == [9, None, None]
    assert bodies["txt2img"]["alwayson_scripts"] == scripts
    assert bodies["img2img"].get("alwayson_scripts") is None
    assert bodies["adetailer"]["alwayson_scripts"].keys() == {"X/Y/Z plot", "ADetailer"}


def test_they_are_part_of_the_digest_and_of_a_resume(tmp_path: Path) -> None:
    """Another value asks for another picture; a resume sends what the run had sent."""
    table = {"override_settings": {ENSD: 7}, "alwayson_scripts": {SCRIPT: {"args": [1]}}}
    digests = []
    for place, given in enumerate([{}, table, {**table, "override_settings": {ENSD: 8}}]):
        with ScriptedWebUI() as server:
            result = run(tmp_path / str(place), server, "txt2img", txt2img=given)
            digests.append(only(result.events, CallRequested)[0].request_sha256)
    assert len(set(digests)) == len(digests)
    with ScriptedWebUI() as server:
        server.on(1, faults.server_error("KeyError", "broken"))
        failed = run(tmp_path / "resumed", server, "txt2img", txt2img=table)
        assert failed.error is not None
        open_controller(tmp_path / "resumed", server.url).resume(failed.run_id).wait(30)
        sent = [{**one.body, "force_task_id": ""} for one in server.generating()[1:]]
    assert len(sent) == 2
    assert sent[0] == sent[1]


def test_lists_that_a_server_does_not_offer_are_not_checked(tmp_path: Path) -> None:
    """Then the server itself has the say."""
    missing = ("/sdapi/v1/options", "/sdapi/v1/scripts", "/sdapi/v1/script-info")
    table = {"override_settings": {"lost": 1}, "alwayson_scripts": {"Lost": {"args": [1]}}}
    with ScriptedWebUI(missing_routes=missing) as server:
        result = run(tmp_path, server, "txt2img", txt2img=table)
    assert result.error is not None
    assert "Script 'lost' not found" in result.error.message
