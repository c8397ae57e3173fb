"""Sizes and pixels of received images."""

from __future__ import annotations

from ....statemachine.errors import BackendAnswerError, InputImageError
from ....statemachine.files.png import is_png, size_in_header
from ....statemachine.ports import InputReader
from ....statemachine.stages.sizes import Dimensions
from ..http.client import HttpClient


def size_of(
    data: bytes, reader: InputReader, client: HttpClient, endpoint: str, name: str
) -> Dimensions:
    """The size in the header of an image. Raises BackendAnswerError, naming ``name``."""
    if is_png(data):
        size = size_in_header(data)
        if size is not None:
            return size
    try:
        facts = reader.inspect(data, name=name, decode=False)
    except InputImageError as error:
        raise client.failure(BackendAnswerError, endpoint, str(error)) from error
    return facts.width, facts.height


def is_plain_resize(source: bytes, enlarged: bytes) -> bool | None:
    """Whether an image is its source enlarged by plain interpolation; None if it does not show.

    A server does that with a model that it cannot load.
    """
    from ... import pixel_comparison  # noqa: PLC0415 - it loads Pillow, which few requests need

    return pixel_comparison.is_plain_resize(source, enlarged)


def same_pixels(one: bytes, other: bytes) -> bool:
    """Whether two images are known to have equal pixels, in any format."""
    from ... import pixel_comparison  # noqa: PLC0415 - it loads Pillow, which few requests need

    return pixel_comparison.same_pixels(one, other) is True
