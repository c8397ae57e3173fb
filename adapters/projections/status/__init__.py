"""How far a run is, for anything that shows it: folded from events, and bound to no toolkit."""

from .bar import StatusBar
from .status import RunStatus

__all__ = ["RunStatus", "StatusBar"]
