"""The products that the server can behave as (``products.json``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec


class Product(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a product has other than AUTOMATIC1111 1.10.1.

    ``fields`` are further fields, and ``dropped`` those that are missing, by the name of the
    schema; ``options`` are further options with their defaults, ``without`` routes and options
    that are missing. ``distilled`` and ``shifted`` are parts of the names of models that take a
    distilled CFG scale, or a shift in its field. With ``needs_hires_modules`` a hires pass fails
    unless its modules are sent.
    """

    fields: Mapping[str, Mapping[str, Any]] = {}
    dropped: Mapping[str, tuple[str, ...]] = {}
    options: Mapping[str, Any] = {}
    without: frozenset[str] = frozenset()
    distilled: tuple[str, ...] = ()
    shifted: tuple[str, ...] = ()
    needs_hires_modules: bool = False


PRODUCTS: Mapping[str, Product] = msgspec.json.decode(
    Path(__file__).with_name("products.json").read_bytes(), type=dict[str, Product]
)
"""By the name that the command line gives them."""

DEFAULT_PRODUCT = "a1111"
