"""Names checked with a server before a run is started: which, by what forms, in which words."""

from __future__ import annotations

from typing import Any

import pytest
from stagewright.adapters.backends.report import Verdict
from stagewright.adapters.backends.webui.names import NameKind, names_used
from stagewright.statemachine import build_stage_execution_plan
from stagewright.statemachine.errors import PreflightError

from .preflighting import (
    API,
    EVERYTHING,
    HIRES,
    STYLES,
    asked,
    inspected,
    passed,
    refusal,
    verdict,
    with_pass,
    with_txt2img,
)
from .support import document
from .webui_server import ScriptedWebUI


def test_every_name_that_is_sent_is_told_with_its_key() -> None:
    """Inherited names stand once, where they come from; all other names at their own key."""
    used = [
        (use.kind, use.key, use.name) for use in names_used(build_stage_execution_plan(EVERYTHING))
    ]
    assert sorted(used) == sorted([
        (NameKind.CHECKPOINT, "txt2img.model", "base.safetensors"),
        (NameKind.VAE, "txt2img.vae", "vae.safetensors"),
        (NameKind.SAMPLER, "txt2img.sampler", "Euler a"),
        (NameKind.SCHEDULER, "txt2img.scheduler", "Karras"),
        (NameKind.STYLE, "txt2img.styles.0", "photo"),
        (NameKind.STYLE, "txt2img.styles.1", "film"),
        (NameKind.CHECKPOINT, "txt2img.refiner.model", "refiner"),
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
    ])  # fmt: skip


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
    with ScriptedWebUI(more={API + "prompt-styles": STYLES}) as server:
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
        ("sampler", "Eulr a", "Euler a", {}),
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
    with ScriptedWebUI() as server:
        words = refusal(server, config)
    asked = f'txt2img.{key} = "{name}" is not on the server'
    assert f'{asked}; did you mean "{nearest}"' in words


@pytest.mark.parametrize("stage", ["txt2img", "img2img"])
def test_a_style_that_the_server_lacks_is_named_by_its_place(stage: str) -> None:
    """Servers ignore unknown styles silently; an inherited one is named once."""
    config = document("txt2img", "img2img")
    config[stage]["styles"] = ["photo", "flim"]
    with ScriptedWebUI(more={API + "prompt-styles": STYLES}) as server:
        words = refusal(server, config)
    assert f'{stage}.styles.1 = "flim" is not on the server; did you mean "film"?' in words
    assert words.count("flim") == 1


def test_where_nothing_is_near_nothing_is_suggested() -> None:
    """A name like no other is said to be missing, and that is all."""
    with ScriptedWebUI() as server:
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
    with ScriptedWebUI() as server:
        words = refusal(server, config)
    assert f'adetailer.passes.0.{key} = "{value}"' in words
    assert f'did you mean "{nearest}"' in words


def test_all_missing_names_are_told_at_once() -> None:
    """Two stages, three slips: one line, and the first key as the key at fault."""
    config = document("txt2img", "upscale")
    config["txt2img"] |= {"model": "bse", "sampler": "Eulr"}
    config["upscale"]["upscaler"] = "Lanczo"
    with ScriptedWebUI() as server:
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
        ("photo_v1.5.safetensors", Verdict.MISSING),
        ("photo_v1.5", Verdict.FOUND),
        ("photo_v1.5 [0123abcdef]", Verdict.FOUND),
        ("0123abcdef", Verdict.FOUND),
        ("photo_v1.5.safetensors [fedcba3210]", Verdict.MISSING),
        ("photo_v1.5.ckpt", Verdict.MISSING),
        ("SD15/photo_v1.5.safetensors", Verdict.MISSING),
        ("photo", Verdict.MISSING),
    ],
)
def test_a_checkpoint_goes_by_title_file_and_stem(name: str, expected: Verdict) -> None:
    """By the names that the server itself looks it up by, each also with its hash."""
    with ScriptedWebUI(more={API + "sd-models": CHECKPOINTS}) as server:
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
    with ScriptedWebUI(more={API + "samplers": SAMPLERS}) as server:
        assert verdict(server, with_txt2img(sampler=name), "txt2img.sampler") is expected


def test_the_hires_sampler_must_be_the_exact_name() -> None:
    """The server refuses anything else after the first pass."""
    name = "DPM++ 2M Karras"
    config = with_txt2img(sampler=name, hires={**HIRES, "sampler": name})
    with ScriptedWebUI(more={API + "samplers": SAMPLERS}) as server:
        checks = {check.key: check.verdict for check in inspected(server, config).checks}
    assert checks["txt2img.sampler"] is Verdict.FOUND
    assert checks["txt2img.hires.sampler"] is Verdict.MISSING


@pytest.mark.parametrize("name", ["sgm_uniform", "SGM Uniform"])
def test_a_scheduler_goes_by_name_and_label(name: str) -> None:
    """Either is accepted."""
    schedulers = [{"name": "sgm_uniform", "label": "SGM Uniform"}]
    with ScriptedWebUI(more={API + "schedulers": schedulers}) as server:
        assert verdict(server, with_txt2img(scheduler=name), "txt2img.scheduler") is Verdict.FOUND


@pytest.mark.parametrize("name", ["Latent (nearest)", "R-ESRGAN 4x+"])
def test_hires_takes_latent_modes_and_upscalers(name: str) -> None:
    """Both lists count, and the second is only asked for when the first lacks the name."""
    config = with_txt2img(hires={**HIRES, "upscaler": name})
    with ScriptedWebUI() as server:
        passed(server, config)
        paths = set(asked(server))
    assert paths & {"upscalers", "latent-upscale-modes"} == {
        "latent-upscale-modes" if name.startswith("Latent") else "upscalers"
    }


def test_a_detector_listed_by_path_goes_by_its_file_name() -> None:
    """Any path's file name will do."""
    listed = {"/adetailer/v1/ad_model": {"ad_model": ["/extra/detectors/eyes.pt"]}}
    config = with_pass({"model": "eyes.pt"})
    with ScriptedWebUI(more=listed) as server:
        assert verdict(server, config, "adetailer.passes.0.model") is Verdict.FOUND
