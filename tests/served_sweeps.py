"""Sweeps against ``serve-embedded``, and what a test counts on the way to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from stagewright.events import replay

from .command_line import stagewright, write_config
from .support import TXT2IMG, document
from .webui_names import Received
from .webui_recorder import Recorder

Json = dict[str, Any]

MODELS = ["sd_xl_base_1.0.safetensors", "sd_xl_refiner_1.0.safetensors"]
STAGES = ("txt2img", "img2img", "upscale", "adetailer")
AXES: list[Json] = [
    {"key": "prompt", "values": ["a lighthouse", "a harbour", "a storm"]},
    {"key": "txt2img.cfg_scale", "values": [5.0, 7.0, 9.0]},
    {"key": "txt2img.model", "values": MODELS},
]
"""The model is last: in the order of the product it would change with every variant."""
VARIANTS, IMAGES = 18, 2
REQUESTS = VARIANTS * IMAGES * len(STAGES)
TO_A_VARIANT = IMAGES * len(STAGES)


class WatchedRecorder(Recorder):
    """Calls ``on_request`` before it passes a generating request on; the number counts from 1."""

    on_request: Callable[[int], object] = staticmethod(lambda _number: None)

    def came(self, request: Received) -> None:
        super().came(request)
        if request.stage is not None:
            self.on_request(sum(one.stage is not None for one in self.requests))


def checkpoint_changes(recorder: Recorder) -> int:
    """How often a request that was answered needed another checkpoint than the one before."""
    bodies = [one.request.body for one in recorder.generating()]
    loaded = [
        options["sd_model_checkpoint"]
        for body in bodies
        if "sd_model_checkpoint" in (options := body.get("override_settings", {}))
    ]
    assert loaded
    return sum(one != other for one, other in pairwise(loaded))


def night(folder: Path, **top: Any) -> Path:
    """A configuration of 18 variants of two small images through all stages, and its file."""
    folder.mkdir(exist_ok=True)
    config = document(*STAGES, name="night", images=IMAGES, sweep={"axes": AXES}, **top)
    config["txt2img"] = {**TXT2IMG, "model": MODELS[0], "steps": 2}
    config["img2img"]["steps"] = 2
    config["upscale"]["factor"] = 1.5
    return write_config(folder, json.dumps(config), "night.json")


def swept(config: Path, *arguments: str, status: int = 0) -> Json:
    """The result of a group that ``run --json`` prints."""
    done = stagewright("run", config, "--json", *arguments, folder=config.parent)
    assert done.returncode == status, done.stderr
    result: Json = json.loads(done.stdout)
    return result


def resumed(folder: Path, *arguments: str, status: int = 0) -> Json:
    """The result of the last group that ``resume --json`` prints."""
    done = stagewright("resume", "last-group", "--json", *arguments, folder=folder)
    assert done.returncode == status, done.stderr
    result: Json = json.loads(done.stdout)
    return result


def images_of(folder: Path, group: Mapping[str, Any]) -> dict[str, dict[tuple[str, int], str]]:
    """By the values of each variant, the digests of its images' sources by stage and index."""
    return {
        json.dumps(variant["values"], sort_keys=True): {
            (stage.stage_id, image.image_index): image.source_sha256
            for stage in replay(folder / "runs" / variant["run_id"]).stages
            for image in stage.images
        }
        for variant in group["variants"]
        if variant["run_id"] is not None
    }


def states(group: Mapping[str, Any]) -> list[str]:
    """The state of each variant, in the order in which they run."""
    return [variant["state"] for variant in group["variants"]]


def only_group(folder: Path) -> Path:
    """The folder of the one group below ``folder``."""
    (log,) = folder.glob("runs/groups/*/group.jsonl")
    return log.parent
