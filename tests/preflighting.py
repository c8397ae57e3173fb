"""What the tests of preflight share: servers with other lists, and what is found on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from stagewright.adapters.backends.http.address import ServerAddress
from stagewright.adapters.backends.http.client import HttpClient
from stagewright.adapters.backends.http.credentials import Credentials
from stagewright.adapters.backends.report import ServerReport, Verdict
from stagewright.adapters.backends.webui.features import ServerFeatures
from stagewright.adapters.backends.webui.preflight import inspect_server, preflight
from stagewright.statemachine import build_stage_execution_plan
from stagewright.statemachine.errors import PreflightError

from . import webui_faults as faults
from .support import document
from .webui_names import Received
from .webui_server import ScriptedWebUI

API = "/sdapi/v1/"
SYSINFO = "/internal/sysinfo"
LISTS_OF_NOBODY = (
    *("sd-models", "sd-vae", "sd-modules", "samplers", "schedulers", "upscalers"),
    *("latent-upscale-modes", "prompt-styles", "scripts", "options"),
)


def answering(path: str, fault: faults.Fault) -> Callable[[Received], faults.Fault | None]:
    """The fault for one path."""
    return lambda received: fault if received.path == path else None


def refusing(path: str, status: int) -> Callable[[Received], faults.Fault | None]:
    """A proxy in front of the server refuses one path."""
    return answering(path, faults.Replies(status, b'{"detail": "not for you"}'))


def asked(server: ScriptedWebUI) -> list[str]:
    """The paths that were asked for, without ``/sdapi/v1/``."""
    return [one.path.removeprefix(API) for one in server.requests]


@contextmanager
def talking_to(url: str, credentials: Credentials | None = None) -> Iterator[HttpClient]:
    """A client of the server at ``url``."""
    client = HttpClient(ServerAddress(url), None, credentials)
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
