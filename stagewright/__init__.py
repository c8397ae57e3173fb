"""Stable Diffusion image pipelines as event-sourced runs; every public name in one place.

``stagewright.events`` holds the facts, ``stagewright.statemachine`` the decisions and
``stagewright.adapters`` the outside world. The public names of all three are found here as
well, each loaded when it is first used.
"""

from pkgutil import extend_path

# In a clone, this folder would otherwise hide the subpackages of an installed wheel.
__path__ = extend_path(__path__, __name__)

from typing import TYPE_CHECKING, Any

from . import adapters, events, statemachine
from .events.version import VERSION

if TYPE_CHECKING:
    # Each package names its own.
    from .adapters import *
    from .events import *
    from .statemachine import *

__version__ = VERSION


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return __dir__()
    for package in (adapters, statemachine, events):
        if not name.startswith("_") and name in package.__all__:
            return getattr(package, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({"__version__", *events.__all__, *statemachine.__all__, *adapters.__all__})
