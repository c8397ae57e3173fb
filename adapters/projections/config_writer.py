"""Writes ``config.toml`` into the folder of each run of this process."""

from __future__ import annotations

import logging

from ...events.errors import StagewrightError
from ...events.log.open_log_registry import path_of_run
from ...events.log.reader import iterate
from ...events.log.storage import Storage
from ...events.model import RunOpened, RunResumed, StageEvent
from ...events.subscriptions.subscription import Subscription, subscribe

CONFIG_NAME = "config.toml"
_logger = logging.getLogger("stagewright.config")


def write_configs(storage: Storage) -> Subscription:
    """Write the file when a run begins, or is resumed without one, until the subscription ends.

    Nothing depends on the file, so it is not synced, and an error is only logged.
    """

    def write(event: StageEvent) -> None:
        log = path_of_run(event.run_id)
        if log is None or (path := log.parent / CONFIG_NAME).exists():
            return
        try:
            from .configurations import config_of_run  # noqa: PLC0415 - only a run needs it

            opened = event if isinstance(event, RunOpened) else next(iterate(log))
            assert isinstance(opened, RunOpened)
            storage.write_file(path, config_of_run(opened).encode(), durable=False)
        except Exception as error:  # no error here may affect a run
            is_known = isinstance(error, StagewrightError | OSError)
            _logger.warning("%s cannot be written: %s", path, error, exc_info=not is_known)

    return subscribe(write, RunOpened, RunResumed, on="publisher")
