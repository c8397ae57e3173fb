"""The page about unattended runs: its settings and commands, with a server that dies."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from . import webui_faults as faults
from .command_line import ROOT, stagewright
from .receiving import WebHook
from .test_restart import Restarts
from .webui_server import ScriptedWebUI

PAGE = ROOT / "docs" / "overnight.md"
SMALL = {
    "images = 400": "images = 2", "steps = 25": "steps = 4", "832": "64", "1216": "64",
    "sd_xl_base_1.0.safetensors": "base.safetensors",
}  # fmt: skip
"""What the test makes of the page's configuration, to be quick."""


def blocks(kind: str) -> list[str]:
    """The fenced blocks of one kind, in order."""
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def replaced(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def test_a_night_goes_as_its_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test message arrives, the server is restarted once, and the end is told."""
    restarts = Restarts(tmp_path)
    settings, config = blocks("toml")
    with ScriptedWebUI() as server, WebHook() as hook:
        hook.listen()
        server.on(1, faults.Refuses(3600))
        here = {"http://127.0.0.1:7860": server.url}
        command = json.dumps([sys.executable, "-c", restarts.script])
        mine = {**here, '["systemctl", "--user", "restart", "webui"]': command}
        (tmp_path / "settings.toml").write_text(replaced(settings, mine), encoding="utf-8")
        (tmp_path / "night.toml").write_text(replaced(config, {**here, **SMALL}), encoding="utf-8")
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        monkeypatch.setenv("STAGEWRIGHT_CONFIG_FILE", str(tmp_path / "settings.toml"))
        monkeypatch.setenv("NIGHT_URL", hook.url)
        back = restarts.then(server.listen)
        for line in "".join(blocks("console")).splitlines():
            done = stagewright(*shlex.split(line)[2:], folder=tmp_path)
            assert done.returncode == 0, (line, done.stderr)
        back.join()
    assert hook.titles == ["stagewright: test completed", "stagewright: night completed"]
    assert len(restarts.facts) == 1
    assert len(list(tmp_path.glob("runs/*/images/*/*.png"))) == 2
