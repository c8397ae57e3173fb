"""Two backends of one's own.

    python examples/own_backend.py [RUNS]

makes two pictures with a painter that works on a thread, and can be slow, stopped or stuck, and
enlarges them. What a backend owes to stagewright is in ``generate_images``.

The second one hands out prepared PNG files. It is there for the command line as well: a package
with the entry point

    [project.entry-points."stagewright.backends"]
    pngs = "own_backend:PREPARED_PNGS"

makes ``stagewright run CONFIG --server pngs:///some/folder`` use it, and ``resume`` and ``doctor``.
"""

from __future__ import annotations

import hashlib
import io
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from stagewright.adapters import PillowInputReader
from stagewright.adapters.backends.registry import ServerChoice
from stagewright.adapters.backends.report import ServerReport
from stagewright.events import BackendDescription
from stagewright.statemachine import (
    BackendError,
    CancelToken,
    GenerateAnswer,
    GeneratedImage,
    GenerateRequest,
    GenerationCancelled,
    PipelineController,
    StageExecutionPlan,
)
from stagewright.statemachine.errors import PreflightError
from stagewright.statemachine.ports import OnStep
from stagewright.statemachine.stages import Txt2ImgConfig, UpscaleConfig

ENDPOINT = "painter"


class Painting:
    """One request under way: how far it is, and whether it is to be given up."""

    def __init__(self) -> None:
        self.step = 0
        self.stopped = threading.Event()
        self.pictures: Future[list[bytes]] = Future()


class PainterBackend:
    """Paints with Pillow, one request at a time, each step ``step_s`` seconds long.

    A request that takes longer than ``patience_s`` seconds fails, and may be tried again.
    """

    slots = 1
    description = BackendDescription(kind="painter", product="own_backend.py", version="1")

    def __init__(self, *, step_s: float = 0.0, patience_s: float = 60.0) -> None:
        self._step_s = step_s
        self._patience_s = patience_s
        self._under_way: dict[str, Painting] = {}

    def generate_images(
        self, request: GenerateRequest, *, cancel: CancelToken, on_step: OnStep
    ) -> GenerateAnswer:
        """Make one attempt at one request; whether there is another is the runner's decision."""
        # 1. What has become of earlier attempts at this image? None may be painting any more.
        for call_id in request.unanswered:
            self._settle(call_id)
        # 2. Refuse at once, and for good (not transient), what can never be done.
        steps = steps_of(request)
        # 3. Work, and meanwhile tell the steps, obey a cancel, and lose patience in the end.
        painting = self._under_way[request.call_id] = Painting()
        threading.Thread(target=self._paint, args=(request, painting)).start()
        deadline = time.monotonic() + self._patience_s
        while not painting.pictures.done():
            if cancel.wait(0.01):
                self._settle(request.call_id)
                raise GenerationCancelled("the painter stopped", endpoint=ENDPOINT, settled=True)
            if time.monotonic() > deadline:
                painting.stopped.set()  # the next attempt sees to it that it has obeyed
                message = f"the painter needs more than {self._patience_s:g} s"
                raise BackendError(message, transient=True, endpoint=ENDPOINT)
            on_step(painting.step, steps, fraction=painting.step / steps)
        on_step(steps, steps, fraction=1.0)
        # 4. Answer: `count` images in the order of their seeds, and what was really used.
        self._settle(request.call_id)
        images = tuple(GeneratedImage(data=data) for data in painting.pictures.result())
        info = {"seed": request.seed, "steps": steps, "painter": self.description.version}
        return GenerateAnswer(images=images, endpoint=ENDPOINT, info=info)

    def _settle(self, call_id: str) -> None:
        """See to it that nothing is painted for this call any more.

        The painter dies with this process, so of the calls of an earlier one nothing is left;
        a server would have to be asked.
        """
        painting = self._under_way.pop(call_id, None)
        if painting is not None:
            painting.stopped.set()
            painting.pictures.exception()  # waits until the painter has put its brush down

    def _paint(self, request: GenerateRequest, painting: Painting) -> None:
        try:
            painting.pictures.set_result(
                [self._picture(request, place, painting) for place in range(request.count)]
            )
        except Exception as error:  # noqa: BLE001 - it is raised again where the answer is awaited
            painting.pictures.set_exception(error)

    def _picture(self, request: GenerateRequest, place: int, painting: Painting) -> bytes:
        """Picture ``place`` of the request: the same for the same request, on any day."""
        if isinstance(request.config, UpscaleConfig):
            picture = enlarged(request.inputs[0].data, request.config.factor or 1.0)
        else:
            assert isinstance(request.config, Txt2ImgConfig)
            picture = self._sky(request.config, request.seed + place, painting)
        stream = io.BytesIO()
        picture.save(stream, "PNG")
        return stream.getvalue()

    def _sky(self, config: Txt2ImgConfig, seed: int, painting: Painting) -> Image.Image:
        size = (config.width or 64, config.height or 64)
        chance = hashlib.sha256(f"{config.prompt} {seed}".encode()).digest()
        picture = Image.linear_gradient("L").resize(size)
        for step in range(config.steps or 1):
            if painting.stopped.wait(self._step_s):
                raise RuntimeError("stopped")
            angle = chance[step % len(chance)] * 360 / 256
            clouds = Image.radial_gradient("L").rotate(angle).resize(size)
            picture = Image.blend(picture, clouds, 0.3)
            painting.step += 1
        return ImageOps.colorize(picture, black=tuple(chance[:3]), white=tuple(chance[3:6]))


def steps_of(request: GenerateRequest) -> int:
    """How many steps the request takes. Raises BackendError for what the painter cannot do."""
    if isinstance(request.config, Txt2ImgConfig):
        return (request.config.steps or 1) * request.count
    if isinstance(request.config, UpscaleConfig):
        return 1
    raise BackendError(f"the painter cannot do {request.stage_type}", endpoint=ENDPOINT)


def enlarged(source: bytes, factor: float) -> Image.Image:
    """The picture that a stage before this one made, larger."""
    with Image.open(io.BytesIO(source)) as picture:
        return picture.resize((round(picture.width * factor), round(picture.height * factor)))


class PreparedPngs:
    """Gives image ``i`` of a run the file ``i`` of a folder, in the order of the names."""

    slots = 1

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.description = BackendDescription(kind="pngs", url=address_of(folder))

    def files(self) -> list[Path]:
        """The prepared files. Raises PreflightError."""
        if not self._folder.is_dir():
            raise PreflightError(f"{self._folder} is not a folder")
        return sorted(self._folder.glob("*.png"))

    def report(self, plan: StageExecutionPlan | None) -> ServerReport:
        """What ``doctor`` shows: how many files there are, and what of the plan they cannot do."""
        files = self.files()
        stages = [stage.stage_type for stage in plan.stages] if plan else []
        problems = [f"prepared files cannot do {one}" for one in stages if one != "txt2img"]
        if plan is not None and plan.total_images > len(files):
            problems.append(
                f"{plan.total_images} images need as many files; {len(files)} are there"
            )
        return ServerReport(
            url=address_of(self._folder),
            product="prepared PNGs",
            offers={"files": len(files)},
            problems=tuple(problems),
        )

    def preflight(self, plan: StageExecutionPlan) -> None:
        """Called before a run is started. Raises PreflightError."""
        problems = self.report(plan).complaints
        if problems:
            raise PreflightError(f"{address_of(self._folder)}: {'; '.join(problems)}")

    def close(self) -> None:
        """Nothing is held open."""

    def generate_images(
        self, request: GenerateRequest, *, cancel: CancelToken, on_step: OnStep
    ) -> GenerateAnswer:
        """Read the files of one request; that takes no time, so nothing is left to settle."""
        if not isinstance(request.config, Txt2ImgConfig):
            raise BackendError(f"prepared files cannot do {request.stage_type}", endpoint="pngs")
        first = request.image_index
        files = self.files()[first : first + request.count]
        if len(files) < request.count:
            raise BackendError(f"there is no file for image {first + 1}", endpoint="pngs")
        if cancel.cancelled:
            raise GenerationCancelled("nothing was read", endpoint="pngs", settled=True)
        images = tuple(GeneratedImage(data=file.read_bytes()) for file in files)
        on_step(1, 1, fraction=1.0)
        info = {"file": files[0].name, "folder": self._folder.name}
        return GenerateAnswer(images=images, endpoint="pngs", info=info)


class PreparedPngsKind:
    """What the command line, ``doctor`` and reports need of this kind of backend."""

    schemes = frozenset(["pngs"])

    def address(self, text: str) -> str:
        return address_of(folder_at(text))

    def make(self, choice: ServerChoice) -> PreparedPngs:
        return PreparedPngs(folder_at(choice.url))

    def inspect(self, choice: ServerChoice, plan: StageExecutionPlan | None) -> ServerReport:
        return self.make(choice).report(plan)

    def settings_used(self, _stage_type: str, info: Mapping[str, Any]) -> dict[str, Any]:
        return {"model": info["folder"]} if "folder" in info else {}


def folder_at(address: str) -> Path:
    """The folder of an address like ``pngs:///some/folder``."""
    return Path(address.partition("://")[2]).absolute()


def address_of(folder: Path) -> str:
    """The address that a log records; a resume finds the folder by it."""
    return f"pngs://{folder.as_posix()}"


PREPARED_PNGS = PreparedPngsKind()

CONFIG = {
    "name": "painted",
    "prompt": "an evening sky",
    "seed": 42,
    "images": 2,
    "txt2img": {
        "model": "painter",
        "sampler": "brush",
        "steps": 20,
        "cfg_scale": 7.0,
        "width": 256,
        "height": 256,
    },
    "upscale": {"upscaler": "Pillow", "factor": 2.0},
}


def main() -> None:
    """Run the configuration on the painter."""
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs")
    controller = PipelineController(
        backend=PainterBackend(step_s=0.01), runs=runs, inputs=PillowInputReader()
    )
    handle = controller.start(CONFIG)
    result = handle.wait()
    print(result.state, *(image.file for image in result.images), sep="\n")


if __name__ == "__main__":
    main()
