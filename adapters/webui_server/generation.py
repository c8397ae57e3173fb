"""Serves txt2img and img2img requests, with ADetailer."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from ...statemachine.run.cancel import CancelToken
from ..backends.embedded.settings import passes_of
from .answers import Work, generation_answer
from .api_errors import ApiError, client_error, server_error, validation_error
from .bodies import CommonBody, Img2ImgBody, Txt2ImgBody
from .body_schema import DecodedBody, decode_body, decode_image
from .detailer import Detailing, detailing_of
from .model_catalogue import SCRIPTS, Checkpoints
from .progress import FairLock, Progress, Tasks
from .renderer import Picture, Renderer
from .request_mapping import (
    ResolvedRequest,
    adetailer_config,
    img2img_config,
    resolve_request,
    txt2img_config,
)
from .settings import Settings

_ADETAILER = "adetailer"
_LONGEST_ID = 1000
"""The longest task id in characters; some ids are kept after their request."""

MakeWork = Callable[[ResolvedRequest, Detailing | None], Work]


class Generator:
    """Serves generating requests, one at a time."""

    def __init__(
        self, models: Checkpoints, settings: Settings, progress: Progress, lock: FairLock,
        tasks: Tasks, renderer: Renderer,
    ) -> None:  # fmt: skip
        self._models = models
        self._settings = settings
        self._progress = progress
        self._lock = lock
        self._tasks = tasks
        self._renderer = renderer

    def txt2img(self, data: bytes) -> dict[str, Any]:
        """The answer to a txt2img body. Raises ApiError."""
        asked = decode_body(data, Txt2ImgBody)
        arguments = _adetailer_arguments(asked.body)
        task = self._queued("txt2img", asked.body)

        def work(resolved: ResolvedRequest, detailing: Detailing | None) -> Work:
            config = txt2img_config(asked, resolved)
            detail = None
            if detailing is not None:
                detail = adetailer_config(*asked, resolved, detailing.passes)
            return Work(resolved, config, detail, detailing)

        with self._lock.hold():
            return self._run("scripts_txt2img", task, asked.body, asked.given, arguments, work)

    def img2img(self, data: bytes) -> dict[str, Any]:
        """The answer to an img2img body. Raises ApiError."""
        asked = decode_body(data, Img2ImgBody)
        if asked.body.init_images is None:
            raise client_error(404, "Init image not found")
        mask = decode_image(asked.body.mask) if asked.body.mask else None
        arguments = _adetailer_arguments(asked.body)
        task = self._queued("img2img", asked.body)
        with self._lock.hold():
            try:
                sources = [decode_image(image) for image in asked.body.init_images]
            except ApiError:
                self._tasks.refuse(task)
                raise

            def work(resolved: ResolvedRequest, detailing: Detailing | None) -> Work:
                return _img2img_work(asked, resolved, detailing, sources, mask)

            return self._run("scripts_img2img", task, asked.body, asked.given, arguments, work)

    def _queued(self, kind: str, body: CommonBody) -> str:
        task = body.force_task_id or f"task({kind}-{secrets.token_hex(8)})"
        if len(task) > _LONGEST_ID:
            words = f"a task id may have {_LONGEST_ID} characters"
            raise validation_error(("body", "force_task_id"), words, "value_error")
        self._tasks.add(task)
        return task

    def _run(
        self, job: str, task: str, body: CommonBody, given: CommonBody, arguments: object,
        make_work: MakeWork,
    ) -> dict[str, Any]:  # fmt: skip
        """Do a job when the lock is free. A task that fails is not marked as finished."""
        self._progress.begin(job)
        self._tasks.start(task)
        try:
            loaded = self._settings.loaded(body.override_settings)
            detailing = detailing_of(arguments, loaded.detailer_passes)
            work = make_work(resolve_request(body, given, loaded, self._models), detailing)
            pictures = self._render(work)
            answer = generation_answer(body, work, pictures, self._progress.timestamp)
            if body.override_settings_restore_afterwards is False:
                self._settings.keep(body.override_settings)
            self._tasks.finish(task)
        finally:
            self._progress.end()
        return answer

    def _render(self, work: Work) -> list[Picture]:
        """The pictures in the order of their seeds, until an interrupt."""
        resolved, phases = work.resolved, _phases(work)
        self._progress.divide(resolved.iterations * len(phases))
        pictures: list[Picture] = []
        for place in range(resolved.images):
            token = self._progress.begin_image(first=place == 0)
            if token is None:
                break
            meter = _Meter(self._progress, phases, resolved.batch_size, place)
            pictures.append(self._picture(work, resolved.seed + place, token, meter))
        return pictures

    def _picture(self, work: Work, seed: int, token: CancelToken, meter: _Meter) -> Picture:
        source, before = work.source, 0
        if work.config is not None:
            picture = self._renderer.render(
                work.config, seed, token, meter.tell, source=source, mask=work.mask
            )
            if work.detail is None or not picture.whole:
                return picture
            source, before = picture.data, sum(passes_of(work.config))
        assert work.detail is not None
        return self._renderer.render(
            work.detail, seed, token, lambda done: meter.tell(before + done), source=source
        )


class _Meter:
    """Turns the steps of one picture into those of the state: parts of a job, steps of a part.

    The pictures of a batch go through a part together, as far as the state knows.
    """

    def __init__(self, progress: Progress, phases: list[int], batch_size: int, place: int) -> None:
        self._progress = progress
        self._phases = phases
        self._batch_size = batch_size
        self._iteration, self._in_batch = divmod(place, batch_size)

    def tell(self, done: int) -> None:
        """``done`` steps of all of the picture's passes are done."""
        last = len(self._phases) - 1
        done = (self._in_batch * sum(self._phases) + done) // self._batch_size
        phase = 0
        while phase < last and done > self._phases[phase]:
            done -= self._phases[phase]
            phase += 1
        job_no = self._iteration * len(self._phases) + phase
        self._progress.step(job_no, done, self._phases[phase])


def _phases(work: Work) -> list[int]:
    configs = [config for config in (work.config, work.detail) if config is not None]
    return [steps for config in configs for steps in passes_of(config)]


def _img2img_work(
    asked: DecodedBody[Img2ImgBody],
    resolved: ResolvedRequest,
    detailing: Detailing | None,
    sources: list[bytes],
    mask: bytes | None,
) -> Work:
    if not sources:
        raise server_error("RuntimeError", "bad number of images passed: 0; expecting 1 or less")
    config = img2img_config(asked, resolved)
    if detailing is not None and detailing.skips and mask is not None:
        detailing = None  # ADetailer does not skip an inpainting; it does nothing then.
    if detailing is None:
        return Work(resolved, config, None, None, sources[0], mask)
    detail = adetailer_config(*asked, resolved, detailing.passes)
    outer = None if detailing.skips else config
    return Work(resolved, outer, detail, detailing, sources[0], mask)


def _adetailer_arguments(body: CommonBody) -> object:
    """ADetailer's arguments, if it is named. Raises ApiError, 422, for unknown scripts."""
    if body.script_name:
        raise client_error(422, f"Script '{body.script_name}' not found")
    arguments: object = None
    for name, table in body.alwayson_scripts.items():
        if name.lower() not in SCRIPTS:
            raise client_error(422, f"Script '{name}' not found")
        if name.lower() == _ADETAILER and isinstance(table, dict):
            arguments = table.get("args")
    return arguments
