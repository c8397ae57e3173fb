"""The rate of a run on several servers that take 50 ms for an image, beside that on one.

``python -m benchmarks.several_servers``
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from stagewright.adapters import open_controller
from stagewright.events import RunState

from .configuration import configuration
from .instant_webui import instant_webui

SERVERS = (1, 2, 4, 8)
IMAGE_S = 0.05
_IMAGES_OF_EACH = 200
_SIZE = 64


def rate(servers: list[str], folder: Path) -> float:
    """Images in a second, from the start of a run to its end."""
    images = _IMAGES_OF_EACH * len(servers)
    began = time.perf_counter()
    config = configuration(images, _SIZE, run={"preflight": False})
    result = open_controller(folder, servers).start(config).wait()
    assert result.state is RunState.COMPLETED, result.error
    return images / (time.perf_counter() - began)


def main() -> None:
    """Print a line for each number of servers."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = [
            stack.enter_context(instant_webui(_SIZE, delay_s=IMAGE_S)) for _ in range(max(SERVERS))
        ]
        rate(servers[:1], folder / "warm-up")
        alone = 0.0
        for count in SERVERS:
            found = rate(servers[:count], folder / str(count))
            alone = alone or found
            print(
                f"{count} servers of {IMAGE_S * 1e3:g} ms an image: {found:.1f} images/s, "
                f"{found / alone:.2f} times one server (at least {0.9 * count:g})"
            )


if __name__ == "__main__":
    main()
