"""The facts of a run: events, the log that holds them, and the result folded from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy_imports import lazy_names

if TYPE_CHECKING:
    from . import signals as signals
    from .errors import EventLogError as EventLogError
    from .errors import ImageAlteredError as ImageAlteredError
    from .errors import LogCorruptError as LogCorruptError
    from .errors import LogLockedError as LogLockedError
    from .errors import LogWriteError as LogWriteError
    from .errors import RunNotFoundError as RunNotFoundError
    from .errors import SequenceError as SequenceError
    from .errors import StagewrightError as StagewrightError
    from .errors import SubscriberMutedError as SubscriberMutedError
    from .folds import fold as fold
    from .folds import replay as replay
    from .folds import replay_many as replay_many
    from .log.file_log import FileEventLog as FileEventLog
    from .log.memory_log import EventLog as EventLog
    from .log.memory_log import MemoryEventLog as MemoryEventLog
    from .log.reader import iterate as iterate
    from .model import *  # noqa: F403 - as at run time: each event type is named once
    from .model import EVENT_TYPES as EVENT_TYPES
    from .result import FinishedImage as FinishedImage
    from .result import MissingImage as MissingImage
    from .result import PipelineRunResult as PipelineRunResult
    from .result import StageResult as StageResult
    from .subscriptions.log_tail import LogTail as LogTail
    from .subscriptions.log_tail import follow as follow
    from .subscriptions.subscription import Subscription as Subscription
    from .subscriptions.subscription import subscribe as subscribe
    from .testing.assertions import RecordedEvents as RecordedEvents
    from .testing.recorder import EventRecorder as EventRecorder

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "errors": [
            "EventLogError", "ImageAlteredError", "LogCorruptError", "LogLockedError",
            "LogWriteError",
            "RunNotFoundError", "SequenceError", "StagewrightError",
            "SubscriberMutedError",
        ],
        "log.file_log": ["FileEventLog"],
        "folds": ["fold", "replay", "replay_many"],
        "log.memory_log": ["EventLog", "MemoryEventLog"],
        "model": ["EVENT_TYPES"],
        "log.reader": ["iterate"],
        "testing.assertions": ["RecordedEvents"],
        "result": ["FinishedImage", "MissingImage", "PipelineRunResult", "StageResult"],
        "subscriptions.log_tail": ["LogTail", "follow"],
        "subscriptions.subscription": ["Subscription", "subscribe"],
        "testing.recorder": ["EventRecorder"],
    },
    modules=["signals"],
    classes_of="model",
)  # fmt: skip
