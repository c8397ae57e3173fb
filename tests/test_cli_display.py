"""What a terminal shows while a run goes on: the words of ``RunStatus``, and nothing of its own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pexpect
import pytest
from stagewright.adapters.cli.display import open_file_counter

from .command_line import SCRIPT, until
from .posix import open_terminal
from .resuming import small
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
    with serving(models=[TXT2IMG["model"]], step_delay_s=0.08) as client:
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
