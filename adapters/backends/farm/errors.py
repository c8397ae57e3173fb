"""What goes wrong between a controller and a farm."""

from __future__ import annotations

from ....statemachine.errors import BackendError


class FarmError(BackendError):
    """A farm gave no answer."""


class SchedulerLostError(FarmError):
    """The scheduler is gone, and with it what the workers were working on; the run can resume."""


class WorkerLostError(FarmError):
    """The worker is gone; what it was sent can be made by another one."""

    @property
    def is_out_of_reach(self) -> bool:
        """Whether it is worth waiting: a worker may join again."""
        return True
