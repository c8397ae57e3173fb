"""Decodes JSON bodies, and the pictures in bodies and answers."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import pybase64

from ..backends.embedded.pictures import PictureError, decode_picture
from .api_errors import ApiError, client_error, validation_error
from .schema import STANDARD, ApiSchema

MAX_VALUES = 1_000_000
"""The most values in a body; a value takes up to 20 times the memory of its text."""

_DECODING = threading.Lock()
"""Held while a picture is checked: the largest takes some 400 MB."""


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
    """A body that is any JSON object. Raises ApiError, 422, or 413 for too many values."""
    raw = _decode_json(data)
    if not isinstance(raw, dict):
        raise validation_error(("body",), "value is not a valid dict")
    return raw


def _decode_json(data: bytes) -> Any:
    # Commas approximate the number of values; base64 has none.
    if data.count(b",") > MAX_VALUES:
        raise ApiError(413, detail=f"a body may have {MAX_VALUES} values")
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise validation_error(("body",), f"the body is not valid JSON: {error}") from error


def decode_image(text: object) -> bytes:
    """The bytes of a picture in base64, with or without a ``data:`` prefix.

    Raises ApiError, 500, for anything else; URLs are not fetched.
    """
    words = text if isinstance(text, str) else ""
    if words.startswith("data:"):
        words = words.partition(",")[2]
    try:
        data = pybase64.b64decode(words.encode("ascii"))
        with _DECODING:
            decode_picture(data, "the image")
    except (ValueError, PictureError) as error:
        raise client_error(500, "Invalid encoded image") from error
    return data


def encode_image(data: bytes) -> str:
    """The bytes of a picture in base64, as in an answer."""
    return pybase64.b64encode(data).decode("ascii")
