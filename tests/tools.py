"""Tools beside Python that some tests need; where one is missing its tests are skipped."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

import pytest


def _needs(*missing: str) -> pytest.MarkDecorator:
    """Skip where anything is ``missing``; the reason names the Debian packages to install."""
    reason = f"needs Debian's {', '.join(missing)} (apt-get install {' '.join(missing)})"
    return pytest.mark.skipif(bool(missing), reason=reason)


def _absent(**programs: str) -> list[str]:
    """The Debian packages whose program is not installed, given as program=package."""
    return [package for program, package in programs.items() if shutil.which(program) is None]


_no_tkinter = [] if find_spec("_tkinter") else ["python3-tk"]

needs_compiler = _needs(*_absent(gcc="gcc"))
needs_strace = _needs(*_absent(strace="strace"))
needs_browser = _needs(*_absent(chromium="chromium", chromedriver="chromium-driver"))
needs_tkinter = _needs(*_no_tkinter)
needs_display = _needs(*_absent(Xvfb="xvfb"), *_no_tkinter)
