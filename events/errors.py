"""The error tree of stagewright.

::

    StagewrightError
    |-- EventLogError             something about a log; names the file
    |   |-- LogWriteError         a record or an image could not be made durable
    |   |-- LogCorruptError       a record fails its check; names offset and sequence number
    |   |   `-- PlanLostError     RunOpened itself does: nothing can be salvaged
    |   |-- LogLockedError        another process writes this run; names the holder
    |   `-- SequenceError         an event with a doubled, gapped or foreign sequence number
    |-- SalvageRefusedError       (ValueError) a run whose log is not corrupt
    |-- JobTableError             the jobs of a queue cannot be looked up; in events.queue
    |-- SubscriberMutedError      a receiver that failed ten times in a row is not called again
    |-- RunNotFoundError          no such run, or a prefix that fits several
    |   `-- GroupNotFoundError    no such group of runs, or a prefix that fits several
    |-- ImageAlteredError         a recorded image is not what was recorded
    |-- ImageError                an image cannot be decoded or is too large; in adapters.imaging
    |-- LearningRecordsError      records not brought up to date; in adapters.projections
    |-- ReportRefusedError        (ValueError) it would replace another file; in adapters.export
    |-- SheetRefusedError         (ValueError) no sheet can be drawn; in adapters.export
    |-- BundleRefusedError        (ValueError) no bundle can be made; in adapters.export
    |-- ExportRefusedError        (ValueError) images cannot be copied as asked; in adapters.export
    |-- InvalidTransitionError    a trigger that the lifecycle refuses in its state
    |-- MissingToolkitError       (ImportError) a GUI toolkit is not installed; in adapters.errors
    |-- NotDeliveredError         a message about a run was not taken; in adapters.notifications
    |   `-- WrongReceiverError        and will not be, as the settings are
    |-- UserCommandError          a command of the user's settings failed; in adapters.errors
    |   `-- CommandNotStartedError    it cannot be started
    |-- ConfigurationError        (ValueError) a configuration that cannot be read
    |   |-- InvalidStagePlanError a configuration that makes no valid plan; names the key
    |   |-- PreflightError        a server that cannot be reached, or lacks a name
    |   `-- InputImageError       an input image or mask that is missing or cannot be used
    |       `-- InputRefusedError  the run was made without it, so its images are missing
    |-- ImageChoiceError          (ValueError) a list that chooses no images, or ones not there
    |-- ResumeRefusedError        a resume would be of no use; says why
    |-- RemovalRefusedError       (ValueError) a run or image that cannot be removed or archived
    |-- JobRefusedError           (ValueError) a job of a queue that cannot be changed as asked
    |   `-- JobNotFoundError      no such job, or a prefix that fits several
    |-- ControllerBusyError       the controller has a run already
    |-- StageConflictError        two keys say different things about one stage
    |-- MissingImagesError        a run that went on past failed images ended without them
    `-- BackendError              one attempt at one request failed; says if it is transient
        |-- BackendAnswerError    the answer is not the images asked for
        |-- ServerError           a server; its branches are in adapters.backends.http.errors
        `-- GenerationCancelled   the backend stopped because the run was cancelled
            `-- GenerationInterrupted  after an interrupt; its answer is dropped

What is not in adapters, from ``InvalidTransitionError`` on, is in ``stagewright.statemachine``.
"""

from __future__ import annotations

from pathlib import Path


class StagewrightError(Exception):
    """Root of every error that stagewright raises on purpose."""


class EventLogError(StagewrightError):
    """Something is wrong with a run's log.

    ``path`` is the log's file, or None for a log in memory.
    """

    def __init__(self, message: str, *, path: Path | None = None) -> None:
        super().__init__(message if path is None else f"{path}: {message}")
        self.path = path


class LogWriteError(EventLogError):
    """A record or an image could not be made durable; ``__cause__`` is the OS's error."""


class LogCorruptError(EventLogError):
    """A record fails its check. ``offset`` is its first byte, ``seq`` its sequence number.

    ``advice`` says what to do.
    """

    def __init__(
        self,
        reason: str,
        *,
        offset: int,
        seq: int,
        path: Path | None = None,
        advice: str = "`stagewright salvage` copies what is sound into a new run",
    ) -> None:
        super().__init__(
            f"corrupt at byte {offset} (record {seq}): {reason}; nothing is written to it any more "
            f"({advice})",
            path=path,
        )
        self.reason = reason
        self.offset = offset
        self.seq = seq


class LogLockedError(EventLogError):
    """Another process holds the lock of a run or a group; ``holder`` says which."""

    def __init__(self, holder: str, *, path: Path | None = None, noun: str = "run") -> None:
        super().__init__(f"another process works on this {noun}: {holder}", path=path)
        self.holder = holder


class SequenceError(EventLogError):
    """An event does not follow the one before it: doubled, gapped, or of another run."""


class SubscriberMutedError(StagewrightError):
    """A subscription has ended, because its receiver failed too often in a row.

    What it raised has been logged by ``stagewright.signals``.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is not called any more: it failed too often in a row")


class RunNotFoundError(StagewrightError):
    """No run has this id, or more than one begins with it."""


class ImageAlteredError(StagewrightError):
    """An image in a run folder is not the one that the log records there."""


class GroupNotFoundError(RunNotFoundError):
    """No group of runs has this id, or more than one begins with it."""
