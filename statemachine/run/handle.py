"""The handles that a program gets of what it started."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from ...events.errors import LogWriteError, StagewrightError
from ...events.result import PipelineRunResult
from ..groups.result import GroupResult

R = TypeVar("R")


class Handle(Generic[R]):
    """Something that was started and ends by itself, with a result.

    ``is_backend_out_of_reach`` says, once it has ended, whether images are missing because the
    backend could not be reached any more.
    """

    noun = "run"
    is_backend_out_of_reach = False

    def __init__(self, id: str, folder: Path) -> None:  # noqa: A002 - as the attribute
        self.id = id
        self.folder = folder
        self._ended = threading.Event()
        self._result: R | None = None
        self._error: BaseException | None = None

    @property
    def result(self) -> R | None:
        """The result once it has ended, else None."""
        return self._result

    def wait(self, timeout_s: float | None = None) -> R:
        """Wait for the end; the result, folded from the log.

        Raises TimeoutError, and LogWriteError when the end could not be recorded.
        """
        if not self.wait_ended(timeout_s):
            raise TimeoutError(f"{self.noun} {self.id} has not ended within {timeout_s} s")
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def wait_ended(self, timeout_s: float | None = None) -> bool:
        """Wait for the end, whichever it is; whether it has come."""
        return self._ended.wait(timeout_s)

    def start(self, work: Callable[[], R], on_end: Callable[[R | None], object]) -> None:
        """Do ``work`` in a thread of its own; only the controller does.

        ``on_end`` gets the result, if there is one, before anybody else learns of the end.
        """
        threading.Thread(
            target=self._work,
            args=(work, on_end),
            name=f"stagewright-{self.id}",
            daemon=False,  # not inherited: a GUI's worker thread is a daemon
        ).start()

    def _work(self, work: Callable[[], R], on_end: Callable[[R | None], object]) -> None:
        result: R | None = None
        failure: BaseException | None = None
        try:
            result = work()
        except StagewrightError as error:
            failure = error
        except BaseException as error:  # noqa: BLE001 - ``wait`` raises it
            text = f"the {self.noun}'s end is not known: {error}"
            failure = LogWriteError(text, path=self.folder)
            failure.__cause__ = error
        try:
            on_end(result)
        finally:
            self.end(result, failure)

    def end(self, result: R | None, error: BaseException | None = None) -> None:
        """Note the end; only the controller does."""
        self._result = result
        self._error = error
        self._ended.set()


class RunHandle(Handle[PipelineRunResult]):
    """A run that was started."""

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.id


class GroupHandle(Handle[GroupResult]):
    """A group of runs that was started."""

    noun = "group"

    @property
    def group_id(self) -> str:
        """The group's id."""
        return self.id
