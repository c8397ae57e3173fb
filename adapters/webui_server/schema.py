"""The schema of the API (``openapi.json``), and the validation of values against it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import msgspec

from .api_errors import validation_error

Fields = dict[str, Any]

_DOCUMENT: Fields = msgspec.json.decode(Path(__file__).with_name("openapi.json").read_bytes())
_SCHEMAS: Mapping[str, Fields] = _DOCUMENT["components"]["schemas"]
_TYPES: Mapping[str, Any] = {
    "integer": int, "number": float, "boolean": bool, "string": str, "null": None,
    "object": dict[str, Any], "array": list[Any],
}  # fmt: skip
_BOUNDS = {"minimum": "ge", "maximum": "le", "exclusiveMinimum": "gt"}


def api_schema(*, ui: bool) -> Fields:
    """The OpenAPI document, without ``ui`` also without the ``/internal`` routes."""
    paths = _DOCUMENT["paths"]
    return _DOCUMENT | {
        "paths": {path: paths[path] for path in paths if ui or not path.startswith("/internal/")}
    }


def component(name: str) -> Fields:
    """The schema of this name."""
    return _SCHEMAS[name]


def defaults(name: str) -> Fields:
    """All fields of a schema with their defaults, None where a field has none."""
    return {key: field.get("default") for key, field in _SCHEMAS[name]["properties"].items()}


def valid_fields(raw: object, name: str, place: tuple[str | int, ...]) -> Fields:
    """The fields of an object that its schema knows; ``place`` is where the object was found.

    Numbers may be written as strings. Raises ApiError, 422, naming the place of a wrong value.
    """
    if not isinstance(raw, dict):
        raise validation_error(place, "value is not a valid dict")
    schema = _SCHEMAS[name]
    for key in schema.get("required", ()):
        if key not in raw:
            raise validation_error((*place, key), "field required")
    return {
        key: _valid(raw[key], field, (*place, key))
        for key, field in schema["properties"].items()
        if key in raw
    }


def _valid(value: object, schema: Fields, place: tuple[str | int, ...]) -> Any:
    if "$ref" in schema:
        return valid_fields(value, schema["$ref"].rpartition("/")[2], place)
    try:
        found = msgspec.convert(value, _type(schema), strict=False)
    except msgspec.ValidationError as error:
        raise validation_error(place, str(error)) from error
    if schema.get("items"):
        return [_valid(one, schema["items"], (*place, index)) for index, one in enumerate(found)]
    return found


def _type(schema: Fields) -> Any:
    if "anyOf" in schema:
        return Union[tuple(map(_type, schema["anyOf"]))]  # noqa: UP007 - the members are computed
    if "enum" in schema:
        return Literal[tuple(schema["enum"])]
    kind = _TYPES[schema["type"]]
    bounds: Fields = {word: kind(schema[key]) for key, word in _BOUNDS.items() if key in schema}
    return Annotated[kind, msgspec.Meta(**bounds)]
