"""One request to a server, and how its values are written."""

from __future__ import annotations

from typing import Any

import msgspec
import pybase64

from ....statemachine.ports import SourceImage

Body = dict[str, Any]


class Payload(msgspec.Struct, frozen=True):
    """One HTTP request: ``endpoint`` is the path, ``body`` holds its JSON values."""

    endpoint: str
    body: Body

    @property
    def overrides(self) -> Body:
        """The options of the server that the request overrides."""
        overrides: Body = self.body.get("override_settings") or {}
        return overrides

    def encoded(self) -> bytes:
        """The body's bytes."""
        return msgspec.json.encode(self.body)


def encoded_image(image: SourceImage) -> msgspec.Raw:
    """An image's bytes as a JSON string of base64."""
    return msgspec.Raw(b'"' + pybase64.b64encode(image.data) + b'"')


def set_fields(**fields: Any) -> Body:
    """The fields that are set."""
    return {key: value for key, value in fields.items() if value is not None}
