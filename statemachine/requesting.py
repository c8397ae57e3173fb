"""Requests of a stage: the images they are made from, their seeds and their digest."""

from __future__ import annotations

from .plan import StageExecution
from .ports import GenerateRequest, SourceImage
from .spans import RequestSpan, request_digest, stage_seed
from .stage_configs import Img2ImgConfig
from .workshop import Workshop


class RequestMaker:
    """Makes one stage's requests from what the log and the image files hold."""

    def __init__(self, stage: StageExecution, shop: Workshop) -> None:
        self._stage = stage
        self._plan = shop.plan
        self._journal = shop.journal
        self._standing = shop.standing
        self._images = shop.images

    def request(self, span: RequestSpan) -> GenerateRequest:
        """The request of a span, but for what differs between attempts.

        Raises InputImageError for a source that is not what was recorded.
        """
        stage, journal = self._stage, self._journal
        inputs, mask = self._sources(span.image_index)
        seed = stage_seed(stage.config, journal.opened.seeds[0]) + span.image_index
        return GenerateRequest(
            call_id="",
            run_id=journal.run_id,
            stage_id=stage.stage_id,
            stage_type=stage.stage_type,
            image_index=span.image_index,
            count=span.count,
            total_images=self._plan.total_images,
            attempt=0,
            seed=seed,
            config=stage.config,
            inputs=inputs,
            mask=mask,
            request_sha256=request_digest(
                stage.stage_type,
                stage.config,
                seed=seed,
                count=span.count,
                inputs=inputs,
                mask=mask,
            ),
        )

    def _sources(self, image_index: int) -> tuple[tuple[SourceImage, ...], SourceImage | None]:
        """The image that a request is made from, and the mask, where there are any."""
        stage = self._stage
        if stage.input_source == "prompt":
            return (), None
        mask_path = stage.config.mask if isinstance(stage.config, Img2ImgConfig) else None
        recorded = self._journal.opened.inputs
        mask = None
        for record in recorded if mask_path is not None else ():
            if record.path == mask_path:
                mask = self._images.load_input(record)
        if stage.input_source == "file":
            # The mask, where there is one, stands behind the inputs.
            record = recorded[image_index // self._plan.images_per_input]
            return (self._images.load_input(record),), mask
        artifact = self._standing.artifact(stage.input_source, image_index)
        return (self._images.load(artifact),), mask
