"""The OpenAPI document of the server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from .bodies import (
    ExtrasBatchBody,
    ExtrasSingleBody,
    Img2ImgBody,
    PngInfoBody,
    TaskProgressBody,
    Txt2ImgBody,
)

BODIES: Mapping[str, tuple[str, type[msgspec.Struct]]] = {
    "/sdapi/v1/txt2img": ("StableDiffusionProcessingTxt2Img", Txt2ImgBody),
    "/sdapi/v1/img2img": ("StableDiffusionProcessingImg2Img", Img2ImgBody),
    "/sdapi/v1/extra-single-image": ("ExtrasSingleImageRequest", ExtrasSingleBody),
    "/sdapi/v1/extra-batch-images": ("ExtrasBatchImagesRequest", ExtrasBatchBody),
    "/sdapi/v1/png-info": ("PNGInfoRequest", PngInfoBody),
    "/internal/progress": ("modules__progress__ProgressRequest", TaskProgressBody),
}
"""The name and the struct of the body that a route takes."""

_REFERENCES = "#/components/schemas/{name}"

Schema = dict[str, Any]


def openapi_schema(routes: Iterable[tuple[str, str]]) -> Schema:
    """The OpenAPI document of these routes, each a method and a path."""
    paths: dict[str, Schema] = {}
    for method, path in routes:
        paths.setdefault(path, {})[method.lower()] = _operation(method, path)
    named = dict(BODIES.values())
    _, components = msgspec.json.schema_components(named.values(), ref_template=_REFERENCES)
    schemas = {name: _as_pydantic(components.pop(kind.__name__)) for name, kind in named.items()}
    schemas |= {name: _as_pydantic(schema) for name, schema in components.items()}
    return {
        "openapi": "3.0.2",
        "info": {"title": "FastAPI", "version": "0.1.0"},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _operation(method: str, path: str) -> Schema:
    name = path.rsplit("/", 1)[-1].replace("-", "_")
    answer = {"description": "Successful Response", "content": {"application/json": {}}}
    operation: Schema = {
        "operationId": f"{name}{path.replace('/', '_').replace('-', '_')}_{method.lower()}",
        "responses": {"200": answer},
    }
    if method == "POST" and path in BODIES:
        reference = {"$ref": _REFERENCES.format(name=BODIES[path][0])}
        content = {"application/json": {"schema": reference}}
        operation["requestBody"] = {"content": content, "required": True}
    return operation


def _as_pydantic(schema: Schema) -> Schema:
    """The schema as the WebUI's library writes it, where optional fields have no default."""
    fields = schema.get("properties", {})
    schema = {key: value for key, value in schema.items() if key != "required" or value}
    return schema | {"properties": {name: _field(name, fields[name]) for name in fields}}


def _field(name: str, field: Schema) -> Schema:
    default = {key: value for key, value in field.items() if key == "default"}
    kinds = [kind for kind in field.get("anyOf", [field]) if kind.get("type") != "null"]
    kind = {key: value for key, value in kinds[0].items() if key != "default"}
    if None in kind.get("enum", ()):
        kind["enum"] = [value for value in kind["enum"] if value is not None]
    if set(kind.get("enum", ())) == {0, 1}:
        kind["type"] = "integer"
    if kind.get("type") == "array":
        kind.setdefault("items", {})
    if default.get("default", 0) is None:
        default = {}
    return {"title": name.replace("_", " ").title(), **kind, **default}
