"""One request to a server, and how its values are written."""

from __future__ import annotations

from typing import Any

import msgspec
import pybase64

from ....statemachine.ports import SourceImage

Body = dict[str, Any]

DETAILER = "ADetailer"
SAME_MODULES = ["Use same choices"]
"""The modules of a hires pass that has none of its own."""
_LOADING = frozenset(["ad_use_checkpoint", "ad_use_vae", "ad_use_modules"])


class Payload(msgspec.Struct, frozen=True):
    """One HTTP request: ``endpoint`` is the path, ``body`` holds its JSON values."""

    endpoint: str
    body: Body

    @property
    def overrides(self) -> Body:
        """The options of the server that the request overrides."""
        overrides: Body = self.body.get("override_settings") or {}
        return overrides

    @property
    def detailer_passes(self) -> list[Body]:
        """The dicts of ADetailer's passes."""
        script = (self.body.get("alwayson_scripts") or {}).get(DETAILER) or {}
        return [one for one in script.get("args") or () if isinstance(one, dict)]

    @property
    def loads_models(self) -> bool:
        """Whether the server may load a further model in the middle of the request."""
        more = (self.body.get(key) for key in ("refiner_checkpoint", "hr_checkpoint_name"))
        modules = self.body.get("hr_additional_modules") or SAME_MODULES
        return (
            any(more)
            or "sd_model_refiner" in self.overrides
            or [*modules] != SAME_MODULES
            or any(not _LOADING.isdisjoint(one) for one in self.detailer_passes)
        )

    def encoded(self) -> bytes:
        """The body's bytes."""
        return msgspec.json.encode(self.body)


def encoded_image(image: SourceImage) -> msgspec.Raw:
    """An image's bytes as a JSON string of base64."""
    return msgspec.Raw(b'"' + pybase64.b64encode(image.data) + b'"')


def set_fields(**fields: Any) -> Body:
    """The fields that are set."""
    return {key: value for key, value in fields.items() if value is not None}
