"""The page about two GPUs: a reader's commands, in their order, on two servers."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from stagewright.events import CallRequested, RunState, replay

from .command_line import ROOT, stagewright
from .resuming import cut_before, only
from .serving import serving

PAGE = ROOT / "docs" / "several-servers.md"
SMALL = {"steps = 25": "steps = 4", "steps = 20": "steps = 4", "width = 832": "width = 64",
         "height = 1216": "height = 64"}  # fmt: skip
"""What a test makes of the page's configuration, to be quick."""


def test_the_page_about_two_gpus_is_true(tmp_path: Path) -> None:
    """Both servers are checked and used, and a run that died goes on with one of them."""
    text = PAGE.read_text(encoding="utf-8")
    with serving(step_delay_s=0.01) as one, serving(step_delay_s=0.01) as other:
        for port, server in ((7860, one), (7861, other)):
            assert f"--port {port}" in text
            text = text.replace(f"http://127.0.0.1:{port}", server.url)
        (config,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
        for large, small in SMALL.items():
            assert large in config
            config = config.replace(large, small)
        (tmp_path / "gpus.toml").write_text(config, encoding="utf-8")
        lines = "".join(re.findall(r"```console\n(.*?)```", text, re.DOTALL)).splitlines()
        doctor, run, resume = (shlex.split(line.removeprefix("$ stagewright ")) for line in lines)
        said = stagewright(*doctor, folder=tmp_path).stdout
        assert all(f"{server.url}: reachable" in said for server in (one, other))
        done = stagewright(*run, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        (folder,) = (path.parent for path in (tmp_path / "runs").glob("*/events.jsonl"))
        requests = only(replay(folder).events, CallRequested)
        assert {request.server for request in requests} == {one.url, other.url}
        cut_before(folder, CallRequested, 12)
        done = stagewright(*resume, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        assert replay(folder).state is RunState.COMPLETED
