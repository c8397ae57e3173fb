"""Names checked with a server before a run is started, over real HTTP."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from stagewright.adapters import open_controller
from stagewright.adapters.webui.address import Credentials, ServerAddress
from stagewright.adapters.webui.client import WebUIClient
from stagewright.adapters.webui.features import ServerFeatures
from stagewright.adapters.webui.names import NameKind, Verdict, names_used
from stagewright.adapters.webui.preflight import ServerReport, inspect_server, preflight
from stagewright.statemachine import build_stage_execution_plan
from stagewright.statemachine.errors import PreflightError

from .support import document
from .webui_names import Names
from .webui_queue import WebUIError
from .webui_server import ScriptedWebUI

API = "/sdapi/v1/"
SYSINFO = "/internal/sysinfo"
LISTS_OF_NOBODY = (
    *("sd-models", "sd-vae", "sd-modules", "samplers", "schedulers", "upscalers"),
    *("latent-upscale-modes", "prompt-styles", "scripts", "options"),
)


class ListingWebUI(ScriptedWebUI):
    """The scripted server, with other answers at some paths, and 500 at a ``broken`` one."""

    def __init__(self, more: dict[str, Any] | None = None, **settings: Any) -> None:
        self.more = more or {}
        self.broken = ""
        super().__init__(**settings)

    def lists(self) -> dict[str, Any]:
        """What the plain GET routes answer, by path."""
        if self.requests[-1].path == self.broken:
            raise WebUIError(500, {"error": "RuntimeError", "detail": "", "errors": "broken"})
        return super().lists() | self.more

    def asked(self) -> list[str]:
        """The paths that were asked for, without ``/sdapi/v1/``."""
        return [one.path.removeprefix(API) for one in self.requests]


@contextmanager
def talking_to(url: str, credentials: Credentials | None = None) -> Iterator[WebUIClient]:
    """A client of the server at ``url``."""
    client = WebUIClient(ServerAddress(url), None, credentials)
    try:
        yield client
    finally:
        client.close()


def inspected(server: ScriptedWebUI, config: dict[str, Any] | None) -> ServerReport:
    """The report on a server and a configuration."""
    plan = None if config is None else build_stage_execution_plan(config)
    with talking_to(server.url) as client:
        return inspect_server(client, plan)


def passed(server: ScriptedWebUI, config: dict[str, Any]) -> ServerFeatures:
    """What preflight finds the server to be."""
    with talking_to(server.url) as client:
        return preflight(client, build_stage_execution_plan(config))


def refusal(server: ScriptedWebUI, config: dict[str, Any]) -> str:
    """The words that preflight refuses a run with: one line that names the server."""
    with pytest.raises(PreflightError) as caught:
        passed(server, config)
    words = str(caught.value)
    assert words.startswith(server.url)
    assert "\n" not in words
    return words


def verdict(server: ScriptedWebUI, config: dict[str, Any], key: str) -> Verdict:
    """What became of the name at ``key``."""
    found = [check.verdict for check in inspected(server, config).checks if check.key == key]
    assert len(found) == 1, found
    return found[0]


def with_txt2img(**keys: Any) -> dict[str, Any]:
    """A txt2img configuration with these keys."""
    config = document("txt2img")
    config["txt2img"] |= keys
    return config


def with_pass(*passes: dict[str, Any]) -> dict[str, Any]:
    """A configuration with these ADetailer passes."""
    return document("txt2img", "adetailer") | {"adetailer": {"passes": list(passes)}}


HIRES = {"scale": 2.0, "denoise": 0.4}
EVERYTHING = document("txt2img", "img2img", "upscale", "adetailer")
EVERYTHING["txt2img"] |= {
    "vae": "vae.safetensors",
    "scheduler": "Karras",
    "styles": ["photo", "film"],
    "refiner": {"model": "refiner", "switch_at": 0.8},
    "hires": {**HIRES, "upscaler": "Latent", "sampler": "DDIM", "scheduler": "Exponential"},
}
EVERYTHING["upscale"] |= {"upscaler": "R-ESRGAN 4x+", "upscaler_2": "Lanczos"}
EVERYTHING["adetailer"] = {
    "passes": [
        {"model": "face_yolov8n.pt"},
        {
            "model": "hand_yolov8n.pt",
            "checkpoint": "other",
            "vae": "vae.safetensors",
            "sampler": "Euler",
            "scheduler": "Karras",
        },
    ]
}
STYLES = [{"name": "photo", "prompt": "photo"}, {"name": "film", "prompt": "film"}]


def test_every_name_that_is_sent_is_told_with_its_key() -> None:
    """Inherited names stand once, where they come from; all other names at their own key."""
    used = [
        (use.kind, use.key, use.name) for use in names_used(build_stage_execution_plan(EVERYTHING))
    ]
    assert used == [
        (NameKind.CHECKPOINT, "txt2img.model", "base.safetensors"),
        (NameKind.VAE, "txt2img.vae", "vae.safetensors"),
        (NameKind.SAMPLER, "txt2img.sampler", "Euler a"),
        (NameKind.SCHEDULER, "txt2img.scheduler", "Karras"),
        (NameKind.CHECKPOINT, "txt2img.refiner.model", "refiner"),
        (NameKind.STYLE, "txt2img.styles.0", "photo"),
        (NameKind.STYLE, "txt2img.styles.1", "film"),
        (NameKind.HIRES_UPSCALER, "txt2img.hires.upscaler", "Latent"),
        (NameKind.SAMPLER, "txt2img.hires.sampler", "DDIM"),
        (NameKind.SCHEDULER, "txt2img.hires.scheduler", "Exponential"),
        (NameKind.UPSCALER, "upscale.upscaler", "R-ESRGAN 4x+"),
        (NameKind.UPSCALER, "upscale.upscaler_2", "Lanczos"),
        (NameKind.DETECTOR, "adetailer.passes.0.model", "face_yolov8n.pt"),
        (NameKind.DETECTOR, "adetailer.passes.1.model", "hand_yolov8n.pt"),
        (NameKind.CHECKPOINT, "adetailer.passes.1.checkpoint", "other"),
        (NameKind.VAE, "adetailer.passes.1.vae", "vae.safetensors"),
        (NameKind.SAMPLER, "adetailer.passes.1.sampler", "Euler"),
        (NameKind.SCHEDULER, "adetailer.passes.1.scheduler", "Karras"),
    ]  # fmt: skip


def test_a_stage_s_own_names_stand_at_its_own_keys() -> None:
    """img2img with a model, sampler and refiner of its own, and a hires model of its own."""
    config = document("txt2img", "img2img")
    config["txt2img"]["hires"] = {**HIRES, "model": "other"}
    own = {"model": "other", "sampler": "DDIM", "refiner": {"model": "refiner", "switch_at": 0.5}}
    config["img2img"] |= own
    keys = {use.key: use.name for use in names_used(build_stage_execution_plan(config))}
    assert keys["img2img.model"] == "other"
    assert keys["img2img.sampler"] == "DDIM"
    assert keys["img2img.refiner.model"] == "refiner"
    assert keys["txt2img.hires.model"] == "other"


def test_what_is_switched_off_or_known_everywhere_is_no_name() -> None:
    """Refiner and hires that are off, VAE "Automatic", "Use same sampler" need no check."""
    off = {"enabled": False, "model": "nowhere", "switch_at": 0.5}
    config = with_pass(
        {
            "model": "face_yolov8n.pt",
            "checkpoint": "Use same checkpoint",
            "vae": "Use same VAE",
            "sampler": "Use same sampler",
            "scheduler": "Use same scheduler",
        }
    )
    config["upscale"] = {"upscaler": "Lanczos", "factor": 2.0, "upscaler_2": "None"}
    config["txt2img"] |= {
        "vae": "Automatic",
        "scheduler": "Automatic",
        "refiner": off,
        "hires": {"enabled": False, "upscaler": "nowhere", **HIRES},
    }
    keys = [use.key for use in names_used(build_stage_execution_plan(config))]
    assert keys == [
        "txt2img.model",
        "txt2img.sampler",
        "upscale.upscaler",
        "adetailer.passes.0.model",
    ]


def test_a_server_that_has_everything_is_told_and_let_pass() -> None:
    """No complaint, every name found, and the features are those of the schema."""
    with ListingWebUI({API + "prompt-styles": STYLES}) as server:
        assert passed(server, EVERYTHING).product == "AUTOMATIC1111"
        report = inspected(server, EVERYTHING)
    assert {check.verdict for check in report.checks} == {Verdict.FOUND}
    assert report.complaints == ()
    assert report.notes == ()


@pytest.mark.parametrize(
    ("key", "name", "nearest", "table"),
    [
        ("model", "bas.safetensors", "base.safetensors", {}),
        ("vae", "vea.safetensors", "vae.safetensors", {}),
        ("sampler", "euler A", "Euler a", {}),
        ("scheduler", "Karas", "Karras", {}),
        ("refiner.model", "refinr", "refiner.safetensors", {"switch_at": 0.5}),
        ("hires.upscaler", "Latent (narest)", "Latent (nearest)", HIRES),
        ("hires.upscaler", "R-ESRGAN 4x", "R-ESRGAN 4x+", HIRES),
        ("hires.sampler", "DDMI", "DDIM", HIRES),
        ("hires.scheduler", "Exponental", "Exponential", HIRES),
        ("hires.model", "othr", "other.safetensors", HIRES),
    ],
)
def test_a_name_that_the_server_lacks_is_named_with_the_nearest(
    key: str, name: str, nearest: str, table: dict[str, Any]
) -> None:
    """The refusal names the server, the key, the name, and what was perhaps meant."""
    first, _, last = key.partition(".")
    config = with_txt2img(**{first: {**table, last: name} if last else name})
    with ListingWebUI() as server:
        words = refusal(server, config)
    asked = f'txt2img.{key} = "{name}" is not on the server'
    assert f'{asked}; did you mean "{nearest}"' in words


def test_a_style_that_the_server_lacks_is_named_by_its_place() -> None:
    """Servers ignore unknown styles silently."""
    with ListingWebUI({API + "prompt-styles": STYLES}) as server:
        words = refusal(server, with_txt2img(styles=["photo", "flim"]))
    assert 'txt2img.styles.1 = "flim" is not on the server; did you mean "film"?' in words


def test_where_nothing_is_near_nothing_is_suggested() -> None:
    """A name like no other is said to be missing, and that is all."""
    with ListingWebUI() as server:
        words = refusal(server, with_txt2img(model="entirely different"))
    assert words.endswith('txt2img.model = "entirely different" is not on the server')


@pytest.mark.parametrize(
    ("key", "value", "nearest"),
    [
        ("model", "face_yolo8n.pt", "face_yolov8n.pt"),
        ("checkpoint", "othr.safetensors", "other.safetensors"),
        ("vae", "vea.safetensors", "vae.safetensors"),
        ("sampler", "DDMI", "DDIM"),
        ("scheduler", "Karas", "Karras"),
    ],
)
def test_the_names_of_a_pass_are_checked_as_well(key: str, value: str, nearest: str) -> None:
    """Each key of an ADetailer pass that is a name has its did-you-mean."""
    config = with_pass({"model": "face_yolov8n.pt", key: value})
    with ListingWebUI() as server:
        words = refusal(server, config)
    assert f'adetailer.passes.0.{key} = "{value}"' in words
    assert f'did you mean "{nearest}"' in words


def test_all_missing_names_are_told_at_once() -> None:
    """Two stages, three slips: one line, and the first key as the key at fault."""
    config = document("txt2img", "upscale")
    config["txt2img"] |= {"model": "bse", "sampler": "Eulr"}
    config["upscale"]["upscaler"] = "Lanczo"
    with ListingWebUI() as server:
        words = refusal(server, config)
        with pytest.raises(PreflightError) as caught:
            passed(server, config)
    assert all(key in words for key in ("txt2img.model", "txt2img.sampler", "upscale.upscaler"))
    assert caught.value.key == "txt2img.model"


CHECKPOINTS = [
    {
        "title": "SDXL/photo_v1.5.safetensors [0123abcdef]",
        "model_name": "photo_v1.5",
        "filename": "/models/Stable-diffusion/SDXL/photo_v1.5.safetensors",
    }
]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SDXL/photo_v1.5.safetensors [0123abcdef]", Verdict.FOUND),
        ("SDXL/photo_v1.5.safetensors", Verdict.FOUND),
        ("SDXL\\photo_v1.5.safetensors", Verdict.FOUND),
        ("photo_v1.5.safetensors", Verdict.FOUND),
        ("photo_v1.5", Verdict.FOUND),
        ("photo_v1.5 [0123abcdef]", Verdict.FOUND),
        ("photo_v1.5.safetensors [fedcba3210]", Verdict.FOUND),
        ("photo_v1.5.ckpt", Verdict.MISSING),
        ("SD15/photo_v1.5.safetensors", Verdict.MISSING),
        ("photo", Verdict.MISSING),
    ],
)
def test_a_checkpoint_goes_by_title_file_and_stem(name: str, expected: Verdict) -> None:
    """With and without hash, folder and suffix; another folder or suffix is another model."""
    with ListingWebUI({API + "sd-models": CHECKPOINTS}) as server:
        assert verdict(server, with_txt2img(model=name), "txt2img.model") is expected


SAMPLERS = [
    {"name": "DPM++ 2M", "aliases": ["k_dpmpp_2m"], "options": {}},
    {"name": "Euler a", "aliases": ["k_euler_a"], "options": {}},
]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("DPM++ 2M", Verdict.FOUND),
        ("k_dpmpp_2m", Verdict.MISSING),
        ("DPM++ 2M Karras", Verdict.FOUND),
        ("DPM++ 2M karras", Verdict.FOUND),
        ("DPM++ 2M Nonsense", Verdict.MISSING),
        ("DPM++ 3M Karras", Verdict.MISSING),
    ],
)
def test_a_sampler_goes_by_its_name_also_with_a_schedule(name: str, expected: Verdict) -> None:
    """Not by an alias; the one name for both that was usual before 1.9 is taken as its parts."""
    with ListingWebUI({API + "samplers": SAMPLERS}) as server:
        assert verdict(server, with_txt2img(sampler=name), "txt2img.sampler") is expected


def test_the_hires_sampler_must_be_the_exact_name() -> None:
    """The server refuses anything else after the first pass."""
    name = "DPM++ 2M Karras"
    config = with_txt2img(sampler=name, hires={**HIRES, "sampler": name})
    with ListingWebUI({API + "samplers": SAMPLERS}) as server:
        checks = {check.key: check.verdict for check in inspected(server, config).checks}
    assert checks["txt2img.sampler"] is Verdict.FOUND
    assert checks["txt2img.hires.sampler"] is Verdict.MISSING


@pytest.mark.parametrize("name", ["sgm_uniform", "SGM Uniform"])
def test_a_scheduler_goes_by_name_and_label(name: str) -> None:
    """Either is accepted."""
    schedulers = [{"name": "sgm_uniform", "label": "SGM Uniform"}]
    with ListingWebUI({API + "schedulers": schedulers}) as server:
        assert verdict(server, with_txt2img(scheduler=name), "txt2img.scheduler") is Verdict.FOUND


@pytest.mark.parametrize("name", ["Latent (nearest)", "R-ESRGAN 4x+"])
def test_hires_takes_latent_modes_and_upscalers(name: str) -> None:
    """Both lists count, and the second is only asked for when the first lacks the name."""
    config = with_txt2img(hires={**HIRES, "upscaler": name})
    with ListingWebUI() as server:
        passed(server, config)
        asked = set(server.asked())
    assert asked & {"upscalers", "latent-upscale-modes"} == {
        "latent-upscale-modes" if name.startswith("Latent") else "upscalers"
    }


def test_a_detector_listed_by_path_goes_by_its_file_name() -> None:
    """Any path's file name will do."""
    listed = {"/adetailer/v1/ad_model": {"ad_model": ["/extra/detectors/eyes.pt"]}}
    config = with_pass({"model": "eyes.pt"})
    with ListingWebUI(listed) as server:
        assert verdict(server, config, "adetailer.passes.0.model") is Verdict.FOUND


def test_lists_that_are_not_offered_are_not_checked() -> None:
    """Every list answers 404: nothing is refused, every name is "not checked"."""
    routes = tuple(API + name for name in LISTS_OF_NOBODY)
    with ListingWebUI(missing_routes=(*routes, "/adetailer/v1/ad_model")) as server:
        assert passed(server, EVERYTHING).product == "AUTOMATIC1111"
        report = inspected(server, EVERYTHING)
    assert {check.verdict for check in report.checks} == {Verdict.NOT_CHECKED}
    assert any("sd-models" in note for note in report.notes)


@pytest.mark.parametrize(
    "told", [{"models": []}, ["base.safetensors"], [{"size": 3}], "x", None, 3]
)
def test_a_list_that_is_none_is_not_checked_and_noted(told: Any) -> None:
    """Anything but a list of things with names is no list; the run is not refused for it."""
    with ListingWebUI({API + "sd-models": told}) as server:
        passed(server, with_txt2img())
        report = inspected(server, with_txt2img())
    verdicts = {check.key: check.verdict for check in report.checks}
    assert verdicts["txt2img.model"] is Verdict.NOT_CHECKED
    assert any("sd-models: the answer is no list of names" in note for note in report.notes)


@pytest.mark.parametrize("path", ["/openapi.json", API + "sd-models"])
def test_a_route_that_fails_is_not_checked_and_noted(path: str) -> None:
    """A 500 of one list, or of the schema, says nothing about the names."""
    with ListingWebUI() as server:
        server.broken = path
        passed(server, with_txt2img())
        assert any(f"{path}: 500" in note for note in inspected(server, with_txt2img()).notes)


def test_an_empty_list_lacks_every_name() -> None:
    """A server that lists nothing has nothing."""
    with ListingWebUI({API + "sd-models": []}) as server:
        assert "txt2img.model" in refusal(server, with_txt2img())


def test_only_the_lists_that_are_needed_are_asked_for_and_each_once() -> None:
    """txt2img needs models and samplers; passes also scripts, detectors and the option."""
    more = document("txt2img", "adetailer")
    more["adetailer"]["passes"] = [{"model": "face_yolov8n.pt"}, {"model": "hand_yolov8n.pt"}]
    basic = ["/openapi.json", SYSINFO, "sd-models", "samplers"]
    with ListingWebUI() as server:
        passed(server, with_txt2img())
        assert sorted(server.asked()) == sorted(basic)
        server.requests.clear()
        passed(server, more)
        assert sorted(server.asked()) == sorted(
            [*basic, "scripts", "options", "/adetailer/v1/ad_model"]
        )


def test_a_hidden_schema_hides_nothing_of_the_lists() -> None:
    """Without /openapi.json the names are checked all the same, and the product is unknown."""
    with ListingWebUI(openapi=False) as server:
        assert passed(server, with_txt2img()) == ServerFeatures()
        assert "txt2img.model" in refusal(server, with_txt2img(model="nowhere"))
        assert any("openapi.json" in note for note in inspected(server, with_txt2img()).notes)


@pytest.mark.parametrize("openapi", [True, False])
def test_forge_lists_its_vaes_as_modules(*, openapi: bool) -> None:
    """Forge is recognised by its modules even where it hides its schema."""
    with ListingWebUI(fork="forge", openapi=openapi) as server:
        assert passed(server, with_txt2img(vae="vae.safetensors")).product == "Forge"
        assert "sd-vae" not in server.asked()
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
    with ListingWebUI(fork="sdnext") as server:
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
    with ListingWebUI() as server:
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
    with ListingWebUI(names=names) as server:
        without_fields(server, "scheduler", "hr_scheduler")
        if missing:
            assert missing in refusal(server, with_txt2img(**keys))
        else:
            passed(server, with_txt2img(**keys))
        assert "schedulers" not in server.asked()


def test_a_server_without_the_adetailer_extension_is_refused() -> None:
    """Its list of detectors is not even asked for."""
    scripts = {"txt2img": ["refiner"], "img2img": ["refiner"]}
    with ListingWebUI({API + "scripts": scripts}) as server:
        words = refusal(server, document("txt2img", "adetailer"))
        assert "/adetailer/v1/ad_model" not in server.asked()
    assert "the server has no ADetailer extension" in words


def test_more_passes_than_the_server_runs_are_refused() -> None:
    """It would drop them silently; as many as it runs are let pass."""
    passes = [{"model": "face_yolov8n.pt"}] * 3
    with ListingWebUI() as server:
        server.painter.options["ad_max_models"] = 2
        assert "the server runs 2 of these 3 passes" in refusal(server, with_pass(*passes))
        passed(server, with_pass(*passes[:2]))


def test_a_server_without_the_route_of_a_stage_is_refused() -> None:
    """A WebUI that was started without --api shows its schema, and no API in it."""
    with ListingWebUI(missing_routes=(API + "txt2img",)) as server:
        del server.description["paths"]["/sdapi/v1/txt2img"]
        assert "it has no /sdapi/v1/txt2img; was it started with --api?" in refusal(
            server, with_txt2img()
        )


def test_the_version_is_the_server_s_own_where_it_tells_it() -> None:
    """It is cut, and without control characters; else the schema's guess stands."""
    told = "v1.10.1\x1b[31m" + "x" * 500
    with ListingWebUI({SYSINFO: {"Version": told}}) as server:
        version = passed(server, with_txt2img()).version
        assert version is not None
        assert version.startswith("v1.10.1[31mx")
        assert len(version) == 80
        server.more[SYSINFO] = {"Version": 3}
        assert passed(server, with_txt2img()).version == "1.9.1 or later"


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
        ListingWebUI(auth=("user", "secret")) as server,
        talking_to(server.url, withheld) as client,
        pytest.raises(PreflightError, match=r"401.*STAGEWRIGHT_AUTH"),
    ):
        preflight(client, plan)


def test_a_run_that_is_refused_has_not_begun(tmp_path: Path) -> None:
    """No folder is made and nothing sent; with preflight = false the run takes its chance."""
    config = document("txt2img", "upscale")
    config["upscale"]["upscaler"] = "Lanczo"
    config["server"] = {"retries": 0}
    with ListingWebUI() as server:
        controller = open_controller(tmp_path / "runs", server.url)
        with pytest.raises(PreflightError, match=r"upscale\.upscaler"):
            controller.start(config)
        assert not server.generating()
        assert not list((tmp_path / "runs").glob("*"))
        controller.start(config | {"run": {"preflight": False}}).wait()
        assert server.generating()
