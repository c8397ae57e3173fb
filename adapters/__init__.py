"""The world outside: backends, image decoding, the command line, projections of logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..events.lazy import lazy_names

if TYPE_CHECKING:
    from .bootstrap import open_controller as open_controller
    from .embedded.backend import EmbeddedBackend as EmbeddedBackend
    from .errors import MissingToolkitError as MissingToolkitError
    from .inputs import PillowInputReader as PillowInputReader
    from .learning.records import LearningRecord as LearningRecord
    from .learning.updating import LearningUpdate as LearningUpdate
    from .learning.writer import LearningRecordsError as LearningRecordsError
    from .learning.writer import LearningRecordWriter as LearningRecordWriter
    from .statusbar import RunStatus as RunStatus
    from .statusbar import StatusBar as StatusBar

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "bootstrap": ["open_controller"],
        "embedded.backend": ["EmbeddedBackend"],
        "errors": ["MissingToolkitError"],
        "inputs": ["PillowInputReader"],
        "learning.records": ["LearningRecord"],
        "learning.updating": ["LearningUpdate"],
        "learning.writer": ["LearningRecordWriter", "LearningRecordsError"],
        "statusbar": ["RunStatus", "StatusBar"],
    },
)
