"""The status of a run, folded from its events, for status bars of any toolkit."""

from .bar import StatusBar
from .group_status import GroupStatus
from .history import group_history_in, history_in
from .status import RunStatus

__all__ = ["GroupStatus", "RunStatus", "StatusBar", "group_history_in", "history_in"]
