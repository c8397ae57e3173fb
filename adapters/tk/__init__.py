"""A status bar for Tk programs, and the way onto Tk's thread from any other.

Needs tkinter, which some installations of Python lack: importing this raises
MissingToolkitError there.
"""

from ..errors import MissingToolkitError

try:
    import tkinter as _tkinter  # noqa: F401 - only to see whether it is there
except ImportError as error:
    raise MissingToolkitError(
        "tkinter is not installed for this Python: install your system's package for it "
        "(python3-tk on Debian and Ubuntu, python3-tkinter on Fedora, python-tk with Homebrew)"
    ) from error

from .bar import TkStatusBar
from .loop import TkLoop

__all__ = ["TkLoop", "TkStatusBar"]
