"""What a terminal shows while a run goes on: the words of ``RunStatus``, and nothing of its own."""

from __future__ import annotations

import json
import os
import re
from contextlib import chdir, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pexpect
import pytest
from stagewright.adapters.cli.display import open_file_counter
from stagewright.adapters.cli.main import run_command_line

from .command_line import SCRIPT, kept_loggers, stagewright, until
from .posix import open_terminal
from .resuming import made, small
from .serving import SLOW, InBackground, serving
from .support import TXT2IMG

pytestmark = [pytest.mark.posix, pytest.mark.lowest]

HIRES = {"upscaler": "Latent", "scale": 2.0, "steps": 12, "denoise": 0.4}


def on_terminal(folder: Path, config: dict[str, Any], url: str, width: int) -> pexpect.spawn[str]:
    """``run`` on a terminal of so many columns."""
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return pexpect.spawn(
        str(SCRIPT), ["run", "config.json", "--server", url], cwd=str(folder), timeout=60,
        dimensions=(24, width), encoding="utf-8",
    )  # fmt: skip


@pytest.mark.parametrize("width", [60, 160])
def test_the_pass_is_told_and_the_last_line_says_how_it_ended(tmp_path: Path, width: int) -> None:
    """In one line on a wide terminal, in two on a narrow one."""
    config = small("txt2img", images=1)
    config["txt2img"] = {**TXT2IMG, "steps": 25, "hires": HIRES}
    with serving(models=[TXT2IMG["model"]], step_delay_s=0.05) as client:
        child = on_terminal(tmp_path, config, client.url, width)
        child.expect(r"stage 1 of 1 00-txt2img +image 1 of 1")
        child.expect(r"step \d+ of 25, first pass")
        child.expect(r"step \d+ of 12, hires pass")
        child.expect(r"Completed: 1 image[^s]")
        child.expect("100%")
        child.expect(pexpect.EOF)
        child.close()
    assert child.exitstatus == 0


def test_a_run_that_waits_for_somebody_else_says_so(tmp_path: Path) -> None:
    """Until its own first step, which it is told of as ever."""
    config = {**small("txt2img", images=1), "server": {"shared": True}}
    config["txt2img"] = {**TXT2IMG, "steps": 400}
    with serving(models=[TXT2IMG["model"]], step_delay_s=0.005) as client:
        job = InBackground(client, "txt2img", SLOW)
        until(lambda: client.get("progress")["state"]["job_count"] > 0, "the job has begun")
        child = on_terminal(tmp_path, config, client.url, 120)
        child.expect(r"waiting for the server for \d+\.\d s")
        client.post("interrupt")
        child.expect(r"step \d+ of 400")
        child.expect("COMPLETED")
        child.expect(pexpect.EOF)
        job.answer()


def test_a_counter_of_files_disappears_at_the_end() -> None:
    """It shows the number of files; then its line is cleared, and nothing more is written."""
    reader, writer = open_terminal()
    with open(writer, "w", encoding="utf-8") as terminal:
        with open_file_counter(terminal) as counter:
            counter.take(3, 12)
            counter.pause()
            counter.take(4, 12)
        terminal.write("end")
    shown = ""
    while not shown.endswith("end"):
        shown += os.read(reader, 10_000).decode(errors="replace")
    assert "3 of 12 files" in shown
    assert "4 of 12 files" in shown
    assert shown.endswith("\x1b[2Kend")
    os.close(reader)


def test_a_terminal_that_moves_nothing_gets_plain_lines(tmp_path: Path) -> None:
    """One for each image, as a file does."""
    config = tmp_path / "small.json"
    config.write_text(json.dumps(small("txt2img", images=2)))
    child = pexpect.spawn(
        str(SCRIPT), ["run", str(config)], cwd=tmp_path, encoding="utf-8", timeout=30,
        env={**os.environ, "TERM": "dumb"},
    )  # fmt: skip
    child.expect("00-txt2img: 1 of 2 finished: images/")
    child.expect("00-txt2img: 2 of 2 finished: images/")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


COLOURS = re.compile(r"\x1b\[\d*m")
LINKS = re.compile(r"\x1b\]8;;(.*?)\x07")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    made(folder / "runs", small("txt2img", name="a ERROR in a name"))
    return folder


LAST, UNKNOWN = ["show", "last"], ["show", "no"]
NO_COLOUR, NO_LINKS, DUMB = {"NO_COLOR": "1"}, {"TERM": "linux"}, {"TERM": "dumb"}


@pytest.mark.parametrize(
    ("command", "settings", "coloured", "linked"),
    [
        *((one, {}, True, True) for one in (["list"], ["show", "last#1"], ["verify", "last"])),
        *((one, {}, True, True) for one in (LAST, UNKNOWN)),
        *((one, NO_COLOUR, False, True) for one in (LAST, UNKNOWN)),
        (LAST, NO_LINKS, True, False),
        (LAST, DUMB, False, False),
    ],
)
def test_colours_and_links_are_for_terminals_that_have_them(
    monkeypatch: pytest.MonkeyPatch,
    finished: Path,
    command: list[str],
    settings: dict[str, str],
    coloured: bool,
    linked: bool,
) -> None:
    """A pipe gets the same text without a mark; NO_COLOR takes the colours away."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "80", **settings}.items():
        monkeypatch.setenv(name, value)
    done = stagewright(*command, folder=finished)
    plain = (done.stdout + done.stderr).replace("\n", "\r\n")
    shown = shown_on_terminal(command, finished)
    assert "\x1b" not in plain
    if command[0] != "verify":  # it also shows its progress
        assert LINKS.sub("", COLOURS.sub("", shown)) == plain
    names_a_state = command[-1] != "last#1"
    assert bool(COLOURS.search(shown.rpartition("\x1b[2K")[2])) == (coloured and names_a_state)
    links = [link for link in LINKS.findall(shown) if link]
    assert bool(links) == (linked and command[0] == "show" and command[-1] != "no")
    assert all(Path(unquote(urlsplit(link).path)).exists() for link in links)


def shown_on_terminal(command: list[str], folder: Path) -> str:
    """What a terminal is sent by a command."""
    reader, writer = open_terminal()
    pieces: list[bytes] = []

    def read() -> None:
        with suppress(OSError):  # so a terminal ends that is closed
            while data := os.read(reader, 65536):
                pieces.append(data)

    thread = Thread(target=read)
    thread.start()
    with (
        open(writer, "w", encoding="utf-8") as terminal,
        chdir(folder),
        redirect_stdout(terminal),
        redirect_stderr(terminal),
        kept_loggers(),
    ):
        run_command_line(command)
    thread.join()
    os.close(reader)
    return b"".join(pieces).decode()
