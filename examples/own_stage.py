"""A stage of one's own: it makes the background transparent, between upscale and adetailer.

    python examples/own_stage.py [RUNS]

makes two pictures through the stage, and a report of the run. A stage is a class; its fields are
the keys of its table in a configuration. The backend serves the stage itself and leaves the others
to the embedded backend.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated

import msgspec
from PIL import Image, ImageChops
from stagewright.adapters import EmbeddedBackend, PillowInputReader
from stagewright.adapters.export.report import write_report
from stagewright.events import BackendDescription
from stagewright.statemachine import (
    CancelToken,
    GenerateAnswer,
    GeneratedImage,
    GenerateRequest,
    PipelineController,
    StageConfig,
    register_stage,
)
from stagewright.statemachine.ports import OnStep


class RembgConfig(StageConfig, frozen=True, kw_only=True):
    """``[rembg]``: what differs from the top left corner by no more than ``tolerance`` goes."""

    stage_type = "rembg"
    required = ("model",)
    recorded = ("model",)

    model: str | None = None
    tolerance: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None


def register() -> None:
    """Add the stage; an entry point in the group ``stagewright.stages`` may name this function."""
    register_stage(RembgConfig, after="upscale")


class RembgBackend:
    """Serves ``[rembg]`` itself, and every other stage on the embedded backend."""

    slots = 1
    description = BackendDescription(kind="own-stage", product="own_stage.py", version="1")

    def __init__(self) -> None:
        self._embedded = EmbeddedBackend()

    def generate_images(
        self, request: GenerateRequest, *, cancel: CancelToken, on_step: OnStep
    ) -> GenerateAnswer:
        """Make one attempt at one request."""
        if not isinstance(request.config, RembgConfig):
            return self._embedded.generate_images(request, cancel=cancel, on_step=on_step)
        tolerance = request.config.tolerance or 0.0
        image = without_background(request.inputs[0].data, tolerance)
        # What was used, under the names of the fields: reports compare it with what was asked.
        info = {"model": request.config.model, "tolerance": tolerance}
        return GenerateAnswer(images=(GeneratedImage(data=image),), endpoint="rembg", info=info)


def without_background(source: bytes, tolerance: float) -> bytes:
    """The picture as a PNG in which the background is transparent."""
    with Image.open(io.BytesIO(source)) as opened:
        picture = opened.convert("RGB")
    corner = Image.new("RGB", picture.size, picture.getpixel((0, 0)))
    difference = ImageChops.difference(picture, corner).convert("L")
    picture.putalpha(
        difference.point([0 if level <= tolerance * 255 else 255 for level in range(256)])
    )
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


CONFIG = {
    "name": "cut out",
    "prompt": "a lighthouse at dusk",
    "seed": 42,
    "images": 2,
    "txt2img": {
        "model": "base.safetensors",
        "sampler": "Euler a",
        "steps": 4,
        "cfg_scale": 7.0,
        "width": 64,
        "height": 64,
    },
    "upscale": {"upscaler": "Lanczos", "factor": 2.0},
    "rembg": {"model": "corner", "tolerance": 0.1},
    "adetailer": {"passes": [{"model": "face_yolov8n.pt"}]},
}


def main() -> None:
    """Run the configuration, and write a report beside the run."""
    register()
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs")
    controller = PipelineController(backend=RembgBackend(), runs=runs, inputs=PillowInputReader())
    print(controller.validate(CONFIG).summary)
    handle = controller.start(CONFIG)
    print(handle.wait().state)
    print(write_report(handle.folder, runs / "cut-out.html").path)


if __name__ == "__main__":
    main()
