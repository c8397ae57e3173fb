"""The status of a run, folded from its events, for status bars of any toolkit."""

from .bar import StatusBar
from .status import RunStatus

__all__ = ["RunStatus", "StatusBar"]
