"""The version of the distribution, read by the build and written into every log."""

import platform

VERSION = "0.1.0"


def software() -> str:
    """What writes a log, for the log."""
    return f"stagewright {VERSION} (Python {platform.python_version()}, {platform.system()})"
