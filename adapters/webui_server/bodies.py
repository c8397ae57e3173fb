"""Decodes JSON bodies, and the pictures in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pybase64

from ..backends.embedded.pictures import PictureError, decode_picture
from .api_errors import client_error, validation_error
from .schema import STANDARD, ApiSchema

if TYPE_CHECKING:
    from PIL.Image import Image


class Body(NamedTuple):
    """The fields of a valid body: those that were sent, and all of them with defaults.

    A field that was sent as null is not set.
    """

    given: Mapping[str, Any]
    all: Mapping[str, Any]

    def sent(self, *names: str) -> dict[str, Any]:
        """The values of these fields, None where they were not sent."""
        return {name: self.given.get(name) for name in names}


def decode_body(data: bytes, name: str, schema: ApiSchema = STANDARD) -> Body:
    """A body with the schema of this name; fields that it does not know are ignored.

    Raises ApiError, 422, naming the field at fault.
    """
    sent = {key: value for key, value in decode_object(data).items() if value is not None}
    given = schema.valid_fields(sent, name, ("body",))
    return Body(given, schema.defaults(name) | given)


def decode_object(data: bytes) -> dict[str, Any]:
    """A body that is any JSON object. Raises ApiError, 422."""
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise validation_error(("body",), f"the body is not valid JSON: {error}") from error
    if not isinstance(raw, dict):
        raise validation_error(("body",), "value is not a valid dict")
    return raw


def decode_image(text: object) -> Image:
    """The picture that a text holds. Raises ApiError, 500."""
    try:
        return decode_picture(image_bytes(text), "the image")
    except PictureError as error:
        raise client_error(500, "Invalid encoded image") from error


def image_bytes(text: object) -> bytes:
    """The bytes of a picture in base64, with or without a ``data:`` prefix.

    Raises ApiError, 500, for anything else; URLs are not fetched.
    """
    words = text if isinstance(text, str) else ""
    if words.startswith("data:"):
        words = words.partition(",")[2]
    try:
        return pybase64.b64decode(words.encode("ascii"))
    except ValueError as error:
        raise client_error(500, "Invalid encoded image") from error
