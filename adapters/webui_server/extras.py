"""Serves upscaling requests, with the WebUI's cache that also keeps interrupted results."""

from __future__ import annotations

import html
from collections import deque
from hashlib import sha256
from typing import Any

import msgspec

from ...statemachine.config.stage_configs import UpscaleConfig
from ...statemachine.run.cancel import CancelToken
from ..backends.embedded.infotext import extra_parameters
from ..backends.embedded.pictures import decode_picture
from .bodies import Body, decode_body, decode_image, encode_image
from .jobs import Jobs
from .offered_names import MISSING_UPSCALERS
from .renderer import Renderer
from .request_mapping import PLAIN_UPSCALER, upscale_config

_CACHED = 5

Key = tuple[object, ...]


class Extras:
    """Serves upscaling requests, which have no task id.

    An interrupted upscale is answered again and again until five others were interrupted.
    """

    def __init__(self, jobs: Jobs, renderer: Renderer) -> None:
        self._jobs = jobs
        self._renderer = renderer
        self._interrupted: deque[Key] = deque(maxlen=_CACHED)

    def single(self, data: bytes) -> dict[str, Any]:
        """The answer to an extra-single-image body. Raises ApiError."""
        asked = decode_body(data, "ExtrasSingleImageRequest")
        images, words = self._run(asked, [decode_image(asked.all["image"])])
        return {"html_info": words, "image": images[0]}

    def batch(self, data: bytes) -> dict[str, Any]:
        """The answer to an extra-batch-images body. Raises ApiError."""
        asked = decode_body(data, "ExtrasBatchImagesRequest")
        images, words = self._run(
            asked, [decode_image(file["data"]) for file in asked.all["imageList"]]
        )
        return {"html_info": words, "images": images}

    def _run(self, asked: Body, sources: list[bytes]) -> tuple[list[str], str]:
        images: list[str] = []
        with self._jobs.turn("Upscale"):
            self._jobs.divide(len(sources))
            self._jobs.step(len(sources), 0, 0)
            config = upscale_config(asked)
            for source in sources:
                token = self._jobs.begin_image(first=not images)
                if token is None:
                    break
                images.append(encode_image(self._upscaled(config, asked, source, token)))
            # After an exception the state is left unchanged, as in a WebUI.
            self._jobs.end()
        words = ", ".join(f"{key}: {value}" for key, value in extra_parameters(config).items())
        return images, f"<p>{html.escape(words)}</p>"

    def _upscaled(
        self, config: UpscaleConfig, asked: Body, source: bytes, token: CancelToken
    ) -> bytes:
        keys = _cache_keys(config, asked, source)
        plain = {name for name, key in keys.items() if key in self._interrupted}
        plain |= MISSING_UPSCALERS
        first, second = (
            PLAIN_UPSCALER if name in plain else name
            for name in (config.upscaler, config.upscaler_2)
        )
        used = msgspec.structs.replace(config, upscaler=first, upscaler_2=second)
        picture = self._renderer.render(used, 0, token, lambda _done: None, source=source)
        if not picture.whole:
            self._interrupted.extend(key for key in keys.values() if key not in self._interrupted)
        return picture.data


def _cache_keys(config: UpscaleConfig, asked: Body, source: bytes) -> dict[str, Key]:
    """The cache key of each upscaler's result. In mode 1 the factor follows from the size."""
    image, fields = decode_picture(source, "the image"), asked.all
    width, height, factor = config.width, config.height, config.factor
    if width and height:
        factor = max(width / image.width, height / image.height)
    pixels = sha256(image.tobytes()).digest()
    names = [config.upscaler, config.upscaler_2 if config.upscaler_2_visibility else None]
    crop = fields["upscaling_crop"]
    return {
        name: (image.size, pixels, name, factor, width, height, crop)
        for name in names
        if name is not None
    }
