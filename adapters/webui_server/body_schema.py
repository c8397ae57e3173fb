"""Decodes and validates JSON bodies, and encodes JSON answers."""

from __future__ import annotations

import json
import re
import threading
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import pybase64

from ..backends.embedded.pictures import PictureError, decode_picture
from .api_errors import ApiError, client_error, validation_error

Body = TypeVar("Body", bound=msgspec.Struct)

MAX_VALUES = 1_000_000
"""The most values in a body; a value takes up to 20 times the memory of its text."""

_DECODING = threading.Lock()
"""Held while a picture is checked: the largest takes some 400 MB."""

_PLACE = re.compile(r"^(?P<message>.*?)(?: - at `(?:key in )?\$(?P<path>[^`]*)`)?$", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_LACKING = re.compile(r"Object missing required field `(?P<field>[^`]+)`")
_KINDS = {"int": "integer", "float": "float", "bool": "bool", "str": "str"}


class DecodedBody(NamedTuple, Generic[Body]):
    """A valid body: with defaults (``body``), and with None for missing keys (``given``)."""

    body: Body
    given: Body


def decode_json(data: bytes) -> Any:
    """The value of a JSON text. Raises ApiError: 422 for anything else, 413 for too much."""
    if not data:
        raise validation_error(("body",), "field required", "value_error.missing")
    # Commas approximate the number of values; base64 has none.
    if data.count(b",") > MAX_VALUES:
        raise ApiError(413, detail=f"a body may have {MAX_VALUES} values")
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError):
        pass
    try:
        # Escapes of lone surrogates are JSON; msgspec refuses them.
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        place = ("body", getattr(error, "pos", 0))
        raise validation_error(place, str(error), "value_error.jsondecode") from error


def encode_json(value: Any) -> bytes:
    """The JSON text of a value, which may hold lone surrogates."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(value).encode("ascii")


def decode_body(data: bytes, kind: type[Body]) -> DecodedBody[Body]:
    """A body of this kind; fields that it does not know are ignored.

    Numbers may come as strings. Raises ApiError, 422, naming the field at fault.
    """
    raw = decode_json(data)
    try:
        body = msgspec.convert(raw, kind, strict=False)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    absent = {
        field.name: None
        for field in msgspec.structs.fields(kind)
        if field.name not in raw and _may_be_null(field.type)
    }
    return DecodedBody(body, msgspec.structs.replace(body, **absent))


def decode_object(data: bytes) -> dict[str, Any]:
    """A body that is any JSON object. Raises ApiError, 422."""
    raw = decode_json(data)
    if not isinstance(raw, dict):
        raise validation_error(("body",), "value is not a valid dict", "type_error.dict")
    return raw


def decode_image(text: object) -> bytes:
    """The bytes of a picture in base64, with or without a ``data:`` prefix.

    Raises ApiError, 500, for invalid data, and for URLs, which are not fetched.
    """
    words = text if isinstance(text, str) else ""
    if words.startswith(("http://", "https://")):
        raise client_error(500, "Requests not allowed")
    if words.startswith("data:"):
        words = words.partition(",")[2]
    try:
        data = pybase64.b64decode(words.encode("ascii"))
        with _DECODING:
            decode_picture(data, "the image")
    except (ValueError, PictureError) as error:
        raise client_error(500, "Invalid encoded image") from error
    return data


def _may_be_null(kind: Any) -> bool:
    return type(None) in getattr(kind, "__args__", ())


def _invalid(words: str) -> ApiError:
    found = _PLACE.match(words)
    assert found is not None
    place: list[str | int] = ["body"]
    for name, index in _STEP.findall(found["path"] or ""):
        place.append(name or (int(index) if index.isdigit() else 0))
    lacking = _LACKING.match(found["message"])
    if lacking is not None:
        return validation_error((*place, lacking["field"]), "field required", "value_error.missing")
    wanted = re.match(r"Expected `(\w+)", found["message"])
    kind = f"type_error.{_KINDS.get(wanted[1], wanted[1])}" if wanted else "value_error"
    return validation_error(tuple(place), found["message"], kind)
