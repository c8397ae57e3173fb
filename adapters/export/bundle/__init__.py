"""A zip of a run for a bug report, without credentials, home folders and names of machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....events.lazy_imports import lazy_names

if TYPE_CHECKING:
    from .bundle import Bundle as Bundle
    from .bundle import bundle_run as bundle_run
    from .errors import BundleRefusedError as BundleRefusedError

# Commands that only look whether a run folder is an unpacked bundle need none of these.
__getattr__, __dir__ = lazy_names(
    __name__, {"bundle": ["Bundle", "bundle_run"], "errors": ["BundleRefusedError"]}
)
