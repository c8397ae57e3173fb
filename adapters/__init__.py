"""The outside world: backends, image decoding, the command line, projections of logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..events.lazy_imports import lazy_names

if TYPE_CHECKING:
    from .backends.embedded.backend import EmbeddedBackend as EmbeddedBackend
    from .bootstrap import open_controller as open_controller
    from .errors import MissingToolkitError as MissingToolkitError
    from .inputs import PillowInputReader as PillowInputReader
    from .projections.learning.records import LearningRecord as LearningRecord
    from .projections.learning.update import LearningUpdate as LearningUpdate
    from .projections.learning.writer import LearningRecordsError as LearningRecordsError
    from .projections.learning.writer import LearningRecordWriter as LearningRecordWriter
    from .projections.status import RunStatus as RunStatus
    from .projections.status import StatusBar as StatusBar

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "bootstrap": ["open_controller"],
        "backends.embedded.backend": ["EmbeddedBackend"],
        "errors": ["MissingToolkitError"],
        "inputs": ["PillowInputReader"],
        "projections.learning.records": ["LearningRecord"],
        "projections.learning.update": ["LearningUpdate"],
        "projections.learning.writer": ["LearningRecordWriter", "LearningRecordsError"],
        "projections.status": ["RunStatus", "StatusBar"],
    },
)
