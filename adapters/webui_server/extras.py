"""Serves upscaling requests, with the WebUI's cache that also keeps interrupted results."""

from __future__ import annotations

import html
from collections import OrderedDict
from hashlib import sha256
from typing import Any

import msgspec

from ...statemachine.run.cancel import CancelToken
from ...statemachine.stages import UpscaleConfig
from ..backends.embedded.infotext import extra_parameters
from ..backends.embedded.pictures import decode_picture
from .answers import in_base64
from .api_errors import server_error
from .bodies import ExtrasBatchBody, ExtrasBody, ExtrasSingleBody
from .body_schema import DecodedBody, decode_body, decode_image
from .model_catalogue import MISSING_UPSCALERS, UPSCALERS
from .progress import FairLock, Progress
from .renderer import Renderer

_CACHED = 5
_PLAIN = "Lanczos"
_NO_UPSCALER = (None, "None")

Key = tuple[object, ...]


class _Cache:
    """The last upscales, and whether they were interrupted. Interrupted results are repeated.

    What was made well need not be kept, for it would be made again alike.
    """

    def __init__(self) -> None:
        self._interrupted: OrderedDict[Key, bool] = OrderedDict()

    def interrupted(self, key: Key) -> bool | None:
        """Whether the cached upscale was interrupted; None if it is not cached."""
        return self._interrupted.get(key)

    def put(self, key: Key, *, interrupted: bool) -> None:
        """Add an upscale, and drop the oldest."""
        self._interrupted.pop(key, None)
        self._interrupted[key] = interrupted
        if len(self._interrupted) > _CACHED:
            self._interrupted.popitem(last=False)


class Extras:
    """Serves upscaling requests, which have no task id."""

    def __init__(self, progress: Progress, lock: FairLock, renderer: Renderer) -> None:
        self._progress = progress
        self._lock = lock
        self._renderer = renderer
        self._cache = _Cache()

    def single(self, data: bytes) -> dict[str, Any]:
        """The answer to an extra-single-image body. Raises ApiError."""
        asked = decode_body(data, ExtrasSingleBody)
        source = decode_image(asked.body.image)
        images, words = self._run(asked, [source])
        return {"html_info": words, "image": images[0]}

    def batch(self, data: bytes) -> dict[str, Any]:
        """The answer to an extra-batch-images body. Raises ApiError."""
        asked = decode_body(data, ExtrasBatchBody)
        sources = [decode_image(file.data) for file in asked.body.imageList]
        images, words = self._run(asked, sources)
        return {"html_info": words, "images": images}

    def _run(self, asked: DecodedBody[Any], sources: list[bytes]) -> tuple[list[str], str]:
        images: list[str] = []
        with self._lock.hold():
            self._progress.begin("Upscale", len(sources))
            self._progress.step(len(sources), 0, 0)
            config = upscale_config(asked.body, asked.given)
            for source in sources:
                token = self._progress.begin_image(first=not images)
                if token is None:
                    break
                images.append(in_base64(self._enlarged(config, asked.body, source, token)))
            # After an exception the state is left unchanged, as in a WebUI.
            self._progress.end()
        return images, _words(config)

    def _enlarged(
        self, config: UpscaleConfig, body: ExtrasBody, source: bytes, token: CancelToken
    ) -> bytes:
        keys = _keys(config, body, source)
        interrupted = {name: self._cache.interrupted(key) for name, key in keys.items()}
        plain = {name for name in keys if interrupted[name] or name in MISSING_UPSCALERS}
        picture = self._renderer.render(
            _with_plain(config, plain), 0, token, lambda _done: None, source=source
        )
        for name, key in keys.items():
            bad = bool(interrupted[name]) or (interrupted[name] is None and not picture.whole)
            self._cache.put(key, interrupted=bad)
        return picture.data


def upscale_config(body: ExtrasBody, given: ExtrasBody) -> UpscaleConfig:
    """The stage's configuration; without a first upscaler nothing is resized.

    Raises ApiError, 500, for an upscaler that is not listed.
    """
    restoring = UpscaleConfig(
        gfpgan_visibility=given.gfpgan_visibility,
        codeformer_visibility=given.codeformer_visibility,
        codeformer_weight=given.codeformer_weight,
        upscale_first=given.upscale_first,
    )
    if body.upscaler_1 in _NO_UPSCALER:
        return restoring
    second = None if body.upscaler_2 in _NO_UPSCALER else body.upscaler_2
    for name in (body.upscaler_1, second):
        if name is not None and name not in UPSCALERS:
            raise server_error("AssertionError", f"could not find upscaler named {name}")
    by_size = body.resize_mode == 1
    return msgspec.structs.replace(
        restoring,
        upscaler=body.upscaler_1,
        factor=None if by_size else body.upscaling_resize,
        width=body.upscaling_resize_w if by_size else None,
        height=body.upscaling_resize_h if by_size else None,
        crop=given.upscaling_crop if by_size else None,
        upscaler_2=second,
        upscaler_2_visibility=None if second is None else given.extras_upscaler_2_visibility,
    )


def _with_plain(config: UpscaleConfig, plain: set[str]) -> UpscaleConfig:
    """The same configuration with Lanczos instead of these upscalers."""
    first, second = (
        _PLAIN if name in plain else name for name in (config.upscaler, config.upscaler_2)
    )
    return msgspec.structs.replace(config, upscaler=first, upscaler_2=second)


def _keys(config: UpscaleConfig, body: ExtrasBody, source: bytes) -> dict[str, Key]:
    """The cache key of each upscale. In mode 1 the factor follows from the size."""
    image = decode_picture(source, "the image")
    factor = body.upscaling_resize
    if config.width and config.height:
        factor = max(config.width / image.width, config.height / image.height)
    pixels = sha256(image.tobytes()).digest()
    rest = (body.upscaling_resize_w, body.upscaling_resize_h, body.upscaling_crop)
    names = [config.upscaler]
    if config.upscaler_2_visibility:
        names.append(config.upscaler_2)
    return {
        name: (image.size, pixels, name, body.resize_mode, factor, *rest)
        for name in names
        if name is not None
    }


def _words(config: UpscaleConfig) -> str:
    """``html_info``, which repeats the request."""
    words = ", ".join(f"{key}: {value}" for key, value in extra_parameters(config).items())
    return f"<p>{html.escape(words)}</p>"
