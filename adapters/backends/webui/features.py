"""Detects the product, version and request fields of a server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..http.errors import AnswerLostError
from .lists import OPTIONS, ServerLists
from .names import KINDS, SD_MODULES, NameKind

TXT2IMG = "/sdapi/v1/txt2img"
IMG2IMG = "/sdapi/v1/img2img"
EXTRA_SINGLE_IMAGE = "/sdapi/v1/extra-single-image"
PROGRESS = "/sdapi/v1/progress?skip_current_image=true"
INTERRUPT = "/sdapi/v1/interrupt"
INTERNAL_PROGRESS = "/internal/progress"
OPENAPI = "/openapi.json"
DETAILER_SCHEMA = "/adetailer/v1/schema"

ADVICE = "; is it a WebUI, and was it started with --api?"
"""Follows the words "no such route"."""

AUTOMATIC1111 = "AUTOMATIC1111"
FORGE = "Forge"
SD_NEXT = "SD.Next"

_LOOK_TIMEOUT_S = 2.0
_GENERATING = (TXT2IMG, IMG2IMG, EXTRA_SINGLE_IMAGE)


class ServerFeatures(msgspec.Struct, frozen=True, kw_only=True):
    """The features of a server, according to its schema.

    ``fields`` are the fields of each generating route; a route that is missing there is one
    of which nothing is known. ``version`` is the oldest version that has what was found.
    ``stems`` are, by each name that a checkpoint goes by, the one that answers give it; None
    as long as the list of checkpoints has not been asked for. ``spellings`` are the server's own
    of names that the plan writes in another way. ``detailer_keys`` are the keys of a pass that
    its ADetailer takes; None if it does not say, or has not been asked.
    """

    product: str | None = None
    version: str | None = None
    fields: Mapping[str, frozenset[str]] = {}
    routes: frozenset[str] = frozenset()
    stems: Mapping[str, str] | None = None
    detailer_keys: frozenset[str] | None = None
    spellings: Mapping[tuple[NameKind, str], str] = {}

    @property
    def vae_route(self) -> str:
        """Where the server lists its VAEs: Forge keeps them among its modules."""
        return SD_MODULES if self.product == FORGE else KINDS[NameKind.VAE].route

    def takes(self, endpoint: str, field: str) -> bool:
        """Whether a field may be sent; True if the schema is unknown."""
        known = self.fields.get(endpoint)
        return known is None or field in known


def discovered(lists: ServerLists) -> ServerFeatures:
    """What the server is; asked in the same way with and without preflight. Raises ServerError.

    The schema is asked for only once a route of the API answers: a server that is still starting
    would keep an incomplete schema until it ends. A proxy may refuse the schema alone.
    """
    if _has_progress(lists) is False and lists.answer(OPTIONS, noted=False) is None:
        return ServerFeatures()
    features = features_of(lists.answer(OPENAPI, may_be_hidden=True))
    if features.product is None and isinstance(lists.answer(SD_MODULES, noted=False), list):
        return msgspec.structs.replace(features, product=FORGE)
    return features


def with_detailer_keys(features: ServerFeatures, lists: ServerLists) -> ServerFeatures:
    """``features`` with the keys that the server's ADetailer takes. Raises ServerError."""
    if DETAILER_SCHEMA not in features.routes:
        return features
    keys = _mapping(_mapping(lists.answer(DETAILER_SCHEMA, noted=False)).get("properties"))
    return msgspec.structs.replace(features, detailer_keys=frozenset(keys) or None)


def _has_progress(lists: ServerLists) -> bool | None:
    """Whether the progress route exists; None where a busy server does not answer in time."""
    try:
        return lists.has(PROGRESS, timeout_s=_LOOK_TIMEOUT_S)
    except AnswerLostError:
        return None


def features_of(schema: Any) -> ServerFeatures:
    """The features in an OpenAPI document; empty if it is not one."""
    paths = _mapping(_mapping(schema).get("paths"))
    fields = {
        endpoint: names
        for endpoint in _GENERATING
        if (names := _fields(_mapping(schema), _mapping(paths.get(endpoint)))) is not None
    }
    routes = frozenset(paths)
    product = _product(fields.get(TXT2IMG), routes)
    return ServerFeatures(
        product=product,
        version=_version(fields.get(TXT2IMG), routes) if product == AUTOMATIC1111 else None,
        fields=fields,
        routes=routes,
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _fields(schema: Mapping[str, Any], route: Mapping[str, Any]) -> frozenset[str] | None:
    found: Any = route
    for key in ("post", "requestBody", "content", "application/json", "schema"):
        found = _mapping(_mapping(found).get(key))
    reference = found.get("$ref")
    if isinstance(reference, str):
        found = schema
        for key in reference.removeprefix("#/").split("/"):
            found = _mapping(_mapping(found).get(key))
    properties = _mapping(found.get("properties"))
    return frozenset(properties) if properties else None


def _product(fields: frozenset[str] | None, routes: frozenset[str]) -> str | None:
    if fields is None:
        return None
    if "distilled_cfg_scale" in fields or SD_MODULES in routes:
        return FORGE
    if any(name.startswith("detailer_") for name in fields):
        return SD_NEXT
    return AUTOMATIC1111


def _version(fields: frozenset[str] | None, routes: frozenset[str]) -> str:
    known = fields or frozenset()
    if KINDS[NameKind.SCHEDULER].route in routes:
        return "1.9.1 or later"
    if "scheduler" in known:
        return "1.9.0"
    if "force_task_id" in known:
        return "1.8.0"
    return "1.6.0 or 1.7.0" if "refiner_checkpoint" in known else "before 1.6.0"
