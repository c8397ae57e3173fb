"""The schema of an API (``openapi.json``), and the validation of values against it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import msgspec

from .api_errors import validation_error
from .product import DEFAULT_PRODUCT, PRODUCTS, Product

Fields = dict[str, Any]

_DOCUMENT = Path(__file__).with_name("openapi.json").read_bytes()
_TYPES: Mapping[str, Any] = {
    "integer": int, "number": float, "boolean": bool, "string": str, "null": None,
    "object": dict[str, Any], "array": list[Any],
}  # fmt: skip
_BOUNDS = {"minimum": "ge", "maximum": "le", "exclusiveMinimum": "gt"}


class ApiSchema:
    """The schema of a product's API."""

    def __init__(self, product: Product) -> None:
        self.product = product
        self._document: Fields = msgspec.json.decode(_DOCUMENT)
        self._schemas: Mapping[str, Fields] = self._document["components"]["schemas"]
        for name, fields in product.fields.items():
            self._schemas[name]["properties"].update(fields)
        for name, dropped in product.dropped.items():
            for field in dropped:
                del self._schemas[name]["properties"][field]
        paths = self._document["paths"]
        paths["/sdapi/v1/sd-modules"] = paths["/sdapi/v1/sd-vae"]

    def document(self, *, ui: bool) -> Fields:
        """The OpenAPI document, without ``ui`` also without the ``/internal`` routes."""
        paths = {
            path: route
            for path, route in self._document["paths"].items()
            if path not in self.product.without and (ui or not path.startswith("/internal/"))
        }
        return self._document | {"paths": paths}

    def component(self, name: str) -> Fields:
        """The schema of this name."""
        return self._schemas[name]

    def defaults(self, name: str) -> Fields:
        """All fields of a schema with their defaults, None where a field has none."""
        fields = self._schemas[name]["properties"]
        return {key: field.get("default") for key, field in fields.items()}

    def valid_fields(self, raw: object, name: str, place: tuple[str | int, ...]) -> Fields:
        """The fields of an object that its schema knows; ``place`` is where the object was found.

        Numbers may be written as strings. Raises ApiError, 422, naming the place of a wrong value.
        """
        if not isinstance(raw, dict):
            raise validation_error(place, "value is not a valid dict")
        schema = self._schemas[name]
        for key in schema.get("required", ()):
            if key not in raw:
                raise validation_error((*place, key), "field required")
        return {
            key: self._valid(raw[key], field, (*place, key))
            for key, field in schema["properties"].items()
            if key in raw
        }

    def _valid(self, value: object, schema: Fields, place: tuple[str | int, ...]) -> Any:
        if "$ref" in schema:
            return self.valid_fields(value, schema["$ref"].rpartition("/")[2], place)
        try:
            found = msgspec.convert(value, _type(schema), strict=False)
        except msgspec.ValidationError as error:
            raise validation_error(place, str(error)) from error
        if not schema.get("items"):
            return found
        items = schema["items"]
        return [self._valid(one, items, (*place, index)) for index, one in enumerate(found)]


STANDARD = ApiSchema(PRODUCTS[DEFAULT_PRODUCT])
"""The schema of what all products have."""


def _type(schema: Fields) -> Any:
    if "anyOf" in schema:
        return Union[tuple(map(_type, schema["anyOf"]))]  # noqa: UP007 - the members are computed
    if "enum" in schema:
        return Literal[tuple(schema["enum"])]
    kind = _TYPES[schema["type"]]
    bounds: Fields = {word: kind(schema[key]) for key, word in _BOUNDS.items() if key in schema}
    return Annotated[kind, msgspec.Meta(**bounds)]
