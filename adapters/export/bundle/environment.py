"""The Python, system and libraries that a bundle was made with: ``environment.json``."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from ....events.version import VERSION

ENVIRONMENT_NAME = "environment.json"


def environment() -> dict[str, Any]:
    """Describe the machine that makes the bundle, which need not be the one of the run."""
    return {
        "stagewright": VERSION,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "dependencies": _dependencies(),
    }


def _dependencies() -> dict[str, str]:
    """The version of each dependency of stagewright; without metadata, none is known."""
    try:
        needed = [one for one in requires("stagewright") or [] if "extra ==" not in one]
        names = sorted(found[0] for one in needed if (found := re.match(r"[\w.-]+", one)))
        return {name: version(name) for name in names}
    except PackageNotFoundError:
        return {}
