"""Serves upscaling requests, with the WebUI's cache that also keeps interrupted results."""

from __future__ import annotations

import html
from collections import deque
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from ...statemachine.run.cancel_token import CancelToken
from ..backends.embedded.generation import Sources
from ..backends.embedded.infotext import extra_parameters
from .answers import encode_image
from .bodies import Body, decode_body, decode_image
from .jobs import Jobs
from .offered_names import MISSING_UPSCALERS
from .renderer import render
from .request_mapping import NO_UPSCALER, upscale_config

if TYPE_CHECKING:
    from PIL.Image import Image

_CACHED = 5

Key = tuple[object, ...]


class Extras:
    """Serves upscaling requests, which have no task id.

    An interrupted upscale is answered again and again until five others were interrupted.
    """

    def __init__(self, jobs: Jobs, step_delay_s: float) -> None:
        self._jobs = jobs
        self._step_delay_s = step_delay_s
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

    def _run(self, asked: Body, sources: list[Image]) -> tuple[list[str], str]:
        images: list[str] = []
        with self._jobs.turn("Upscale"):
            self._jobs.divide(len(sources))
            self._jobs.step(len(sources), 0, 0)
            config = upscale_config(asked)
            for source in sources:
                token = self._jobs.begin_image(first=not images)
                if token is None:
                    break
                images.append(self._upscaled(asked, source, token))
            # After an exception the state is left unchanged, as in a WebUI.
            self._jobs.end()
        words = ", ".join(f"{key}: {value}" for key, value in extra_parameters(config).items())
        return images, f"<p>{html.escape(words)}</p>"

    def _upscaled(self, asked: Body, source: Image, token: CancelToken) -> str:
        keys = _cache_keys(asked.all, source)
        plain = {name for name, key in keys.items() if key in self._interrupted}
        config = upscale_config(asked, plain | MISSING_UPSCALERS)
        picture = render(
            config, 0, Sources(source, None), token, lambda _done: None, self._step_delay_s
        )
        if not picture.whole:
            self._interrupted.extend(key for key in keys.values() if key not in self._interrupted)
        return encode_image(picture)


def _cache_keys(fields: Mapping[str, Any], source: Image) -> dict[str, Key]:
    """The cache key of each upscaler's result. In mode 1 the factor follows from the size."""
    size, factor = None, fields["upscaling_resize"]
    if fields["resize_mode"] == 1:
        size = (fields["upscaling_resize_w"], fields["upscaling_resize_h"])
        factor = max(size[0] / source.width, size[1] / source.height)
    pixels = sha256(source.tobytes()).digest()
    names = [fields["upscaler_1"]]
    if fields["extras_upscaler_2_visibility"]:
        names.append(fields["upscaler_2"])
    rest = (source.size, pixels, factor, size, fields["upscaling_crop"])
    return {name: (name, *rest) for name in names if name not in NO_UPSCALER}
