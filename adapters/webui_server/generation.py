"""Serves txt2img and img2img requests, with ADetailer."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from ...statemachine.run.cancel import CancelToken
from .answers import generation_answer
from .api_errors import client_error, server_error, validation_error
from .bodies import Body, decode_body, decode_image
from .jobs import Jobs
from .offered_names import Checkpoints
from .renderer import Picture, Renderer
from .request_mapping import phases_of
from .settings import Settings
from .work import Work, check_scripts, work_of

_LONGEST_ID = 1000
"""The longest task id in characters; some ids are kept after their request."""


class Generator:
    """Serves generating requests, one at a time."""

    def __init__(
        self, models: Checkpoints, settings: Settings, jobs: Jobs, renderer: Renderer
    ) -> None:
        self._models = models
        self._settings = settings
        self._jobs = jobs
        self._renderer = renderer

    def txt2img(self, data: bytes) -> dict[str, Any]:
        """The answer to a txt2img body. Raises ApiError."""
        return self._answer("txt2img", decode_body(data, "StableDiffusionProcessingTxt2Img"))

    def img2img(self, data: bytes) -> dict[str, Any]:
        """The answer to an img2img body. Raises ApiError."""
        asked = decode_body(data, "StableDiffusionProcessingImg2Img")
        if asked.all["init_images"] is None:
            raise client_error(404, "Init image not found")
        sources = [decode_image(image) for image in asked.all["init_images"]]
        if not sources:
            raise server_error("RuntimeError", "init_images is empty; send one image")
        mask = decode_image(asked.all["mask"]) if asked.all["mask"] else None
        return self._answer("img2img", asked, sources[0], mask)

    def _answer(
        self, kind: str, asked: Body, source: bytes | None = None, mask: bytes | None = None
    ) -> dict[str, Any]:
        """Do a job when its turn comes."""
        check_scripts(asked)
        overrides = asked.all["override_settings"] or {}
        with self._jobs.turn(f"scripts_{kind}", _task_id(kind, asked)):
            try:
                loaded = self._settings.loaded(overrides)
                work = work_of(asked, loaded, self._models, source, mask)
                answer = generation_answer(work, self._render(work), self._jobs.timestamp)
                if not asked.all["override_settings_restore_afterwards"]:
                    self._settings.update(self._settings.accepted(overrides))
            finally:
                self._jobs.end()
        return answer

    def _render(self, work: Work) -> list[Picture]:
        """The pictures in the order of their seeds, until an interrupt."""
        phases = _phases(work)
        self._jobs.divide(work.asked.all["n_iter"] * len(phases))
        pictures: list[Picture] = []
        for place in range(work.images):
            token = self._jobs.begin_image(first=place == 0)
            if token is None:
                break
            tell = self._step_teller(phases, work.asked.all["batch_size"], place)
            pictures.append(self._picture(work, work.seed + place, token, tell))
        return pictures

    def _picture(
        self, work: Work, seed: int, token: CancelToken, tell: Callable[[int], None]
    ) -> Picture:
        source, before = work.source, 0
        if work.config is not None:
            picture = self._renderer.render(
                work.config, seed, token, tell, source=source, mask=work.mask
            )
            if work.detail is None or not picture.whole:
                return picture
            source, before = picture.data, sum(phases_of(work.config))
        assert work.detail is not None
        return self._renderer.render(
            work.detail, seed, token, lambda done: tell(before + done), source=source
        )

    def _step_teller(self, phases: list[int], batch_size: int, place: int) -> Callable[[int], None]:
        """Converts the finished steps of one picture to parts of the job and steps of a part.

        The pictures of a batch go through a part together, as far as the state knows.
        """
        iteration, in_batch = divmod(place, batch_size)

        def tell(done: int) -> None:
            done = (in_batch * sum(phases) + done) // batch_size
            phase = 0
            while phase < len(phases) - 1 and done > phases[phase]:
                done -= phases[phase]
                phase += 1
            self._jobs.step(iteration * len(phases) + phase, done, phases[phase])

        return tell


def _phases(work: Work) -> list[int]:
    configs = [config for config in (work.config, work.detail) if config is not None]
    return [steps for config in configs for steps in phases_of(config)]


def _task_id(kind: str, asked: Body) -> str:
    task: str = asked.all["force_task_id"] or f"task({kind}-{secrets.token_hex(8)})"
    if len(task) > _LONGEST_ID:
        words = f"a task id may have {_LONGEST_ID} characters"
        raise validation_error(("body", "force_task_id"), words)
    return task
