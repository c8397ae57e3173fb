"""The Python, system and libraries that a bundle was made with: ``environment.json``."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from ....events.version import VERSION

ENVIRONMENT_NAME = "environment.json"
_DISTRIBUTION = "stagewright"
_REQUIREMENT = re.compile(r"[\w.-]+")


def environment(redact: Callable[[str], str]) -> dict[str, Any]:
    """Describe the machine that makes the bundle, which need not be the one of the run.

    ``redact`` replaces private text.
    """
    return {
        "stagewright": VERSION,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": redact(platform.platform()),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "dependencies": _dependencies(),
    }


def _dependencies() -> dict[str, str | None]:
    """The version of each dependency of stagewright; None if it is not installed."""
    try:
        needed = requires(_DISTRIBUTION) or []
    except PackageNotFoundError:
        return {}
    names = [found[0] for one in needed if "extra ==" not in one and (found := _name(one))]
    return {name: _version(name) for name in sorted(names)}


def _name(requirement: str) -> re.Match[str] | None:
    return _REQUIREMENT.match(requirement)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
