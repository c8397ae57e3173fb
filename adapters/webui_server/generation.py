"""Serves txt2img and img2img requests, with ADetailer."""

from __future__ import annotations

import secrets
from functools import partial
from typing import TYPE_CHECKING, Any

from ...statemachine.run.cancel_token import CancelToken
from ..backends.embedded.generation import Sources
from ..backends.embedded.settings import passes_of
from .answers import generation_answer
from .api_errors import client_error, server_error, validation_error
from .bodies import Body, decode_body, decode_image
from .jobs import Jobs
from .offered_names import Checkpoints
from .renderer import Picture, render
from .schema import ApiSchema
from .settings import Settings
from .work import Work, check_scripts, work_of

if TYPE_CHECKING:
    from PIL.Image import Image

_LONGEST_ID = 1000
"""The longest task id in characters; some ids are kept after their request."""


class Generator:
    """Serves generating requests, one at a time."""

    def __init__(
        self,
        models: Checkpoints,
        settings: Settings,
        jobs: Jobs,
        schema: ApiSchema,
        step_delay_s: float,
    ) -> None:
        self._models = models
        self._settings = settings
        self._jobs = jobs
        self._schema = schema
        self._step_delay_s = step_delay_s

    def txt2img(self, data: bytes) -> dict[str, Any]:
        """The answer to a txt2img body. Raises ApiError."""
        asked = decode_body(data, "StableDiffusionProcessingTxt2Img", self._schema)
        return self._answer("txt2img", asked)

    def img2img(self, data: bytes) -> dict[str, Any]:
        """The answer to an img2img body. Raises ApiError."""
        asked = decode_body(data, "StableDiffusionProcessingImg2Img", self._schema)
        if asked.all["init_images"] is None:
            raise client_error(404, "Init image not found")
        sources = [decode_image(image) for image in asked.all["init_images"]]
        if not sources:
            raise server_error("RuntimeError", "init_images is empty; send one image")
        mask = decode_image(asked.all["mask"]) if asked.all["mask"] else None
        return self._answer("img2img", asked, sources[0], mask)

    def _answer(
        self, kind: str, asked: Body, source: Image | None = None, mask: Image | None = None
    ) -> dict[str, Any]:
        """Do a job when its turn comes."""
        check_scripts(asked)
        overrides = asked.all["override_settings"] or {}
        with self._jobs.turn(f"scripts_{kind}", _task_id(kind, asked)):
            try:
                restores = asked.all["override_settings_restore_afterwards"]
                with self._settings.overridden(overrides, restores=restores) as loaded:
                    work = work_of(asked, loaded, self._models, self._schema, source, mask)
                    answer = generation_answer(work, self._render(work), self._jobs.timestamp)
            finally:
                self._jobs.end()
        return answer

    def _render(self, work: Work) -> list[Picture]:
        """The pictures in the order of their seeds, until an interrupt."""
        self._jobs.divide(work.asked.all["n_iter"] * len(work.phases))
        pictures: list[Picture] = []
        for place in range(work.images):
            token = self._jobs.begin_image(first=place == 0)
            if token is None:
                break
            pictures.append(self._picture(work, place, token))
        return pictures

    def _picture(self, work: Work, place: int, token: CancelToken) -> Picture:
        sources, before = Sources(work.source, work.mask), 0
        for config in work.configs:
            on_done = partial(self._note_steps, work, place, before)
            seed = work.seed + place
            picture = render(config, seed, sources, token, on_done, self._step_delay_s)
            if not picture.whole:
                break
            sources, before = Sources(picture.image, None), before + sum(passes_of(config))
        return picture

    def _note_steps(self, work: Work, place: int, before: int, done: int) -> None:
        """Note ``before`` + ``done`` steps of picture ``place``, as parts of the job and steps.

        The pictures of a batch go through a part together, as far as the state knows.
        """
        batch_size: int = work.asked.all["batch_size"]
        iteration, in_batch = divmod(place, batch_size)
        phases, phase = work.phases, 0
        done = (in_batch * sum(phases) + before + done) // batch_size
        while phase < len(phases) - 1 and done > phases[phase]:
            done -= phases[phase]
            phase += 1
        self._jobs.step(iteration * len(phases) + phase, done, phases[phase])


def _task_id(kind: str, asked: Body) -> str:
    task: str = asked.all["force_task_id"] or f"task({kind}-{secrets.token_hex(8)})"
    if len(task) > _LONGEST_ID:
        words = f"a task id may have {_LONGEST_ID} characters"
        raise validation_error(("body", "force_task_id"), words)
    return task
