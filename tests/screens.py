"""A real display without a screen, and windows on it that are processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, ImageGrab

HERE = Path(__file__).resolve().parent.parent


@contextmanager
def virtual_display(width: int = 700, height: int = 620) -> Iterator[str]:
    """A display of its own, such as ``:5``, while it is open. It needs Xvfb (Debian's xvfb)."""
    inner, outer = os.pipe()
    screen = f"{width}x{height}x24"
    try:
        server = subprocess.Popen(
            ["Xvfb", "-displayfd", str(outer), "-screen", "0", screen, "-nolisten", "tcp"],
            pass_fds=[outer], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    except FileNotFoundError as error:
        os.close(inner)
        os.close(outer)
        raise AssertionError("Xvfb is not installed (Debian's xvfb); windows need it") from error
    os.close(outer)
    try:
        with open(inner, encoding="ascii") as told:
            number = told.readline().strip()
        assert number, "Xvfb ended at once"
        yield f":{number}"
    finally:
        server.terminate()
        server.wait(10)


class WindowProcess:
    """A ``status_window`` on a display, worked by commands."""

    def __init__(self, display: str, runs: Path, *arguments: str | Path) -> None:
        self.display = display
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.status_window", str(runs), *map(str, arguments or [""])],
            cwd=HERE, env={**os.environ, "DISPLAY": display},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def do(self, what: str, **arguments: Any) -> Any:
        """One command and its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, self._process.communicate()[1]
        answer = json.loads(line)
        assert not (isinstance(answer, dict) and "failed" in answer), (what, arguments, answer)
        return answer

    def look(self, bar: int = 0) -> dict[str, Any]:
        """What can be seen of a bar."""
        seen: dict[str, Any] = self.do("look", bar=bar)
        return seen

    def picture(self) -> Image.Image:
        """What is on the display."""
        return ImageGrab.grab(xdisplay=self.display)

    def close(self) -> str:
        """Close the window; what its process said on standard error."""
        try:
            last, complaints = self._process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        assert self._process.returncode == 0, complaints
        assert json.loads(last.splitlines()[-1]) == {"errors": []}
        return complaints


@contextmanager
def status_window(display: str, runs: Path, *arguments: str | Path) -> Iterator[WindowProcess]:
    """A window while it is open; when it is left nothing may have gone wrong in it.

    ``arguments`` are a server, and a program and its configuration, if any.
    """
    window = WindowProcess(display, runs, *arguments)
    try:
        yield window
        complaints = window.close()
        assert complaints == "", complaints
    finally:
        if window._process.poll() is None:
            window._process.kill()
            window._process.communicate()
