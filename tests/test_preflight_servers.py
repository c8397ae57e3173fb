"""Preflight on servers that hide something, lack something, or are none, over real HTTP."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from stagewright.adapters import open_controller
from stagewright.adapters.backends.http.credentials import Credentials
from stagewright.adapters.backends.report import Verdict
from stagewright.adapters.backends.webui.preflight import inspect_server, preflight
from stagewright.statemachine import build_stage_execution_plan
from stagewright.statemachine.errors import PreflightError

from . import webui_faults as faults
from .preflighting import (
    API,
    EVERYTHING,
    HIRES,
    LISTS_OF_NOBODY,
    SYSINFO,
    answering,
    asked,
    inspected,
    passed,
    refusal,
    talking_to,
    with_pass,
    with_txt2img,
)
from .support import document
from .webui_names import Names
from .webui_server import ScriptedWebUI


def test_lists_that_are_not_offered_are_not_checked() -> None:
    """Every list answers 404: nothing is refused, every name is "not checked"."""
    routes = tuple(API + name for name in LISTS_OF_NOBODY)
    with ScriptedWebUI(missing_routes=(*routes, "/adetailer/v1/ad_model")) as server:
        assert passed(server, EVERYTHING).product == "AUTOMATIC1111"
        report = inspected(server, EVERYTHING)
    assert {check.verdict for check in report.checks} == {Verdict.NOT_CHECKED}
    assert any("sd-models" in note for note in report.notes)


@pytest.mark.parametrize(
    "told", [{"models": []}, ["base.safetensors"], [{"size": 3}], "x", None, 3]
)
def test_a_list_that_is_none_is_not_checked_and_noted(told: Any) -> None:
    """Anything but a list of things with names is no list; the run is not refused for it."""
    with ScriptedWebUI(more={API + "sd-models": told}) as server:
        passed(server, with_txt2img())
        report = inspected(server, with_txt2img())
    verdicts = {check.key: check.verdict for check in report.checks}
    assert verdicts["txt2img.model"] is Verdict.NOT_CHECKED
    assert any("sd-models: the answer is not a list of names" in note for note in report.notes)


@pytest.mark.parametrize("path", ["/openapi.json", API + "sd-models"])
def test_a_route_that_fails_is_not_checked_and_noted(path: str) -> None:
    """A 500 of one list, or of the schema, says nothing about the names."""
    with ScriptedWebUI() as server:
        server.odd = answering(path, faults.server_error("RuntimeError", "broken"))
        passed(server, with_txt2img())
        assert any(f"{path}: 500" in note for note in inspected(server, with_txt2img()).notes)


def test_an_empty_list_lacks_every_name() -> None:
    """A server that lists nothing has nothing."""
    with ScriptedWebUI(more={API + "sd-models": []}) as server:
        assert "txt2img.model" in refusal(server, with_txt2img())


def test_only_the_lists_that_are_needed_are_asked_for_and_each_once() -> None:
    """txt2img needs models and samplers; passes also scripts, detectors and the option."""
    more = document("txt2img", "adetailer")
    more["adetailer"]["passes"] = [{"model": "face_yolov8n.pt"}, {"model": "hand_yolov8n.pt"}]
    basic = ["progress", "/openapi.json", "sd-models", "samplers"]
    with ScriptedWebUI() as server:
        passed(server, with_txt2img())
        assert asked(server)[0] == "progress"
        assert sorted(asked(server)) == sorted(basic)
        server.requests.clear()
        passed(server, more)
        assert sorted(asked(server)) == sorted(
            [*basic, "scripts", "options", "/adetailer/v1/ad_model", "/adetailer/v1/schema"]
        )


def test_a_hidden_schema_hides_nothing_of_the_lists() -> None:
    """Without /openapi.json the names are checked all the same, and the product is unknown."""
    with ScriptedWebUI(openapi=False) as server:
        assert passed(server, with_txt2img()).product is None
        assert "txt2img.model" in refusal(server, with_txt2img(model="nowhere"))
        assert any("openapi.json" in note for note in inspected(server, with_txt2img()).notes)


@pytest.mark.parametrize("openapi", [True, False])
def test_forge_lists_its_vaes_as_modules(*, openapi: bool) -> None:
    """Forge is recognised by its modules even where it hides its schema."""
    with ScriptedWebUI(fork="forge", openapi=openapi) as server:
        assert passed(server, with_txt2img(vae="vae.safetensors")).product == "Forge"
        assert "sd-vae" not in asked(server)
        words = refusal(server, with_txt2img(vae="vea.safetensors"))
    assert 'did you mean "vae.safetensors"?' in words


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (with_txt2img(scheduler="Karras"), "takes no scheduler"),
        (document("txt2img", "adetailer"), "SD.Next has no ADetailer"),
        (with_txt2img(hires={**HIRES, "model": "other"}), "hr_checkpoint_name"),
        (with_txt2img(hires={**HIRES, "scheduler": "Karras"}), "hr_scheduler"),
    ],
)
def test_what_sd_next_does_not_take_is_refused(config: dict[str, Any], words: str) -> None:
    """The refusal says what the server lacks, once, before anything is sent."""
    with ScriptedWebUI(fork="sdnext") as server:
        said = refusal(server, config)
        assert not server.generating()
    assert said.count(words) == 1
    assert "no ADetailer extension" not in said


def without_fields(server: ScriptedWebUI, *fields: str) -> None:
    """Take fields out of the schema, as an older server's has it."""
    for name in ("Txt2Img", "Img2Img"):
        schema = server.description["components"]["schemas"]
        for one in fields:
            schema[f"StableDiffusionProcessing{name}"]["properties"].pop(one, None)


def test_a_refiner_on_a_server_without_refiners_is_refused() -> None:
    """The field is unknown to its schema and would be ignored silently."""
    with ScriptedWebUI() as server:
        without_fields(server, "refiner_checkpoint", "refiner_switch_at")
        config = with_txt2img(refiner={"model": "refiner", "switch_at": 0.5})
        assert "takes no refiner_checkpoint, refiner_switch_at" in refusal(server, config)


@pytest.mark.parametrize(
    ("sampler", "scheduler", "missing"),
    [
        ("DPM++ 2M", "Karras", ""),
        ("DPM++ 2M", "Karas", '= "Karas" is not on the server; did you mean "Karras"?'),
        ("Euler a", "Karras", 'txt2img.scheduler = "Karras" is not on the server'),
        ("Euler a", "Automatic", ""),
        ("DPM++ 2M Exponential", None, 'txt2img.sampler = "DPM++ 2M Exponential" is not'),
        ("DPM++ 2M Karras", None, ""),
        ("DPM3", "Karras", ""),
    ],
)  # fmt: skip
def test_before_schedulers_the_combined_name_must_be_a_sampler(
    sampler: str, scheduler: str | None, missing: str
) -> None:
    """A server without the scheduler field is sent one name, so that one is looked for."""
    names = Names(samplers=("DPM++ 2M", "DPM++ 2M Karras", "Euler a", "DPM3 Karras"))
    keys = {"sampler": sampler, **({} if scheduler is None else {"scheduler": scheduler})}
    with ScriptedWebUI(names=names) as server:
        without_fields(server, "scheduler", "hr_scheduler")
        if missing:
            assert missing in refusal(server, with_txt2img(**keys))
        else:
            passed(server, with_txt2img(**keys))
        assert "schedulers" not in asked(server)


def test_a_server_without_the_adetailer_extension_is_refused() -> None:
    """Its list of detectors is not even asked for."""
    scripts = {"txt2img": ["refiner"], "img2img": ["refiner"]}
    with ScriptedWebUI(more={API + "scripts": scripts}) as server:
        words = refusal(server, document("txt2img", "adetailer"))
        assert "/adetailer/v1/ad_model" not in asked(server)
    assert "the server has no ADetailer extension" in words


def test_more_passes_than_the_server_runs_are_refused() -> None:
    """It would drop them silently; as many as it runs are let pass."""
    passes = [{"model": "face_yolov8n.pt"}] * 3
    with ScriptedWebUI() as server:
        server.painter.options["ad_max_models"] = 2
        assert "the server runs 2 of these 3 passes" in refusal(server, with_pass(*passes))
        passed(server, with_pass(*passes[:2]))


def test_a_server_without_the_route_of_a_stage_is_refused() -> None:
    """A WebUI that was started without --api shows its schema, and no API in it."""
    with ScriptedWebUI(missing_routes=(API + "txt2img",)) as server:
        del server.description["paths"]["/sdapi/v1/txt2img"]
        assert "it has no /sdapi/v1/txt2img; was it started with --api?" in refusal(
            server, with_txt2img()
        )


def test_the_version_is_the_server_s_own_where_it_tells_it() -> None:
    """It is cut, and without control characters; else the schema's guess stands."""
    told = "v1.10.1\x1b[31m" + "x" * 500
    with ScriptedWebUI(more={SYSINFO: {"Version": told}}) as server:
        version = inspected(server, with_txt2img()).version
        assert version is not None
        assert version.startswith("v1.10.1[31mx")
        assert len(version) == 80
        server.more[SYSINFO] = {"Version": 3}
        assert inspected(server, with_txt2img()).version == "1.9.1 or later"


def test_the_schema_of_a_server_that_is_starting_is_not_asked_for() -> None:
    """Its port is open before its routes are there, and it would keep what it gives then."""
    with ScriptedWebUI() as server:
        every = [f"{API}{name}" for name in (*LISTS_OF_NOBODY, "progress")]
        server.missing_routes = (*every, "/adetailer/v1/ad_model")
        assert "is it ready?" in refusal(server, with_txt2img())
        assert "/openapi.json" not in asked(server)
        server.missing_routes = ()
        assert passed(server, with_txt2img()).product == "AUTOMATIC1111"


def test_a_server_that_nobody_runs_is_named() -> None:
    """Nothing listens at the address: one line with the server's name."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        plan = build_stage_execution_plan(document())
        for check in (preflight, inspect_server):
            with talking_to(url) as client, pytest.raises(PreflightError, match=url) as caught:
                check(client, plan)
            assert "cannot be reached" in str(caught.value)


def test_a_server_that_wants_credentials_is_refused() -> None:
    """401 is an error and no "not checked", and says how credentials are given."""
    withheld = Credentials(withheld="set STAGEWRIGHT_AUTH=user:password")
    plan = build_stage_execution_plan(document())
    with (
        ScriptedWebUI(auth=("user", "secret")) as server,
        talking_to(server.url, withheld) as client,
        pytest.raises(PreflightError, match=r"401.*STAGEWRIGHT_AUTH"),
    ):
        preflight(client, plan)


def test_a_run_that_is_refused_has_not_begun(tmp_path: Path) -> None:
    """No folder is made and nothing sent; with preflight = false the run takes its chance."""
    config = document("txt2img", "upscale")
    config["upscale"]["upscaler"] = "Lanczo"
    config["server"] = {"retries": 0}
    with ScriptedWebUI() as server:
        controller = open_controller(tmp_path / "runs", server.url)
        with pytest.raises(PreflightError, match=r"upscale\.upscaler"):
            controller.start(config)
        assert not server.generating()
        assert not list((tmp_path / "runs").glob("*"))
        controller.start(config | {"run": {"preflight": False}}).wait()
        assert server.generating()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"prompt": "a <lora:film grian:1>"}, 'no LoRA "film grian"; did you mean "film grain"'),
        ({"styles": ["lost"]}, 'txt2img.styles: prompt: the server has no LoRA "inc"'),
        ({"hires": {**HIRES, "prompt": "<lora:nowhere:1>"}}, "txt2img.hires.prompt: the server"),
        ({"prompt": "a embedding:nohand"}, 'no embedding "nohand"'),
        ({"prompt": "<lora:ink:1> <lora:ink alias:0.2:0.3> embedding:badhand"}, ""),
        ({"styles": ["inked"]}, ""),
    ],
)
def test_loras_and_embeddings_in_prompts_are_looked_up(keys: dict[str, Any], words: str) -> None:
    """By name and by alias, in every prompt and in those of styles."""
    top = {name: keys.pop(name) for name in ("prompt",) if name in keys}
    config = with_txt2img(**keys) | top
    with ScriptedWebUI() as server:
        if words:
            assert words in refusal(server, config)
        else:
            passed(server, config)


@pytest.mark.parametrize("keys", [{"model": "new.safetensors"}, {"vae": "new.vae.pt"}])
def test_a_file_that_was_just_copied_is_found_after_a_refresh(keys: dict[str, Any]) -> None:
    """The server is asked to read its files once before a name is refused."""
    with ScriptedWebUI() as server:
        names = server.painter.names
        server.copied = Names(
            models=(*names.models, "new.safetensors"), vaes=(*names.vaes, "new.vae.pt")
        )
        passed(server, with_txt2img(**keys))
    with ScriptedWebUI() as server:
        server.copied = Names(loras=("fresh",))
        passed(server, document("txt2img") | {"prompt": "<lora:fresh:1>"})
