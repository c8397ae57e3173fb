"""``init``: a first configuration with the names of a server, and the examples."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from stagewright.adapters.cli.commands.init import make_configuration
from stagewright.adapters.webui_server import EmbeddedServer

from .command_line import stagewright

EXAMPLES = {"enlarge.toml", "portrait.toml", "restyle.toml", "portrait.png", "tk_app.py"}


def with_every_stage(text: str) -> str:
    """The configuration with all its tables switched on."""
    return re.sub(r"^# (?=\[|\w+ = )", "", text, flags=re.MULTILINE)


def test_what_is_written_is_a_configuration_that_runs(tmp_path: Path) -> None:
    """As it is, and with every stage switched on; a file that is there is kept."""
    assert stagewright("init", folder=tmp_path).returncode == 0
    text = (tmp_path / "run.toml").read_text("utf-8")
    small = ["--set", "txt2img.width=64", "--set", "txt2img.height=64", "--set", "images=1"]
    assert stagewright("run", "run.toml", *small, folder=tmp_path).returncode == 0
    (tmp_path / "all.toml").write_text(with_every_stage(text), encoding="utf-8")
    plan = stagewright("plan", "all.toml", "--json", folder=tmp_path)
    assert json.loads(plan.stdout)["summary"] == "txt2img -> img2img -> upscale -> adetailer"
    again = stagewright("init", "all.toml", folder=tmp_path)
    assert (again.returncode, "it is there already" in again.stderr) == (2, True)
    assert (tmp_path / "all.toml").read_text("utf-8") == with_every_stage(text)


def test_the_names_are_those_of_the_server(tmp_path: Path) -> None:
    """The server accepts the configuration with every stage on, and a comment lists more names."""
    with EmbeddedServer(["my model.safetensors"]) as server:
        done = stagewright("init", "first.toml", "--server", server.url, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        text = with_every_stage((tmp_path / "first.toml").read_text("utf-8"))
        (tmp_path / "all.toml").write_text(text, encoding="utf-8")
        checked = stagewright("doctor", "all.toml", folder=tmp_path)
    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.endswith("ready\n")
    assert '"my model.safetensors"' in text
    assert tomllib.loads(text)["server"]["url"] == server.url


ODD = [
    *('a "quoted" name', "back\\slash", "new\nline = 1", "del\x7f"),
    *("sep\u2028\u0085", "模型", "'''"),
]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_of_a_server_stay_names(name: str) -> None:
    """They cannot add keys, and are read back as they are."""
    names = {"checkpoints": (name, *ODD), "samplers": ODD, "upscalers": (name,)}
    document: dict[str, Any] = tomllib.loads(make_configuration("x.toml", None, names))
    assert document["txt2img"]["model"] == name
    assert document.keys() == {"prompt", "negative_prompt", "seed", "images", "txt2img"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["x.json"], "name a .toml file"),
        (["missing/x.toml"], "cannot be written"),
        (["x.toml", "--server", "http://127.0.0.1:9"], "127.0.0.1:9"),
        (["x.toml", "--server", "http://me:secret@h"], "STAGEWRIGHT_AUTH"),
    ],
)
def test_what_cannot_be_written_is_named(tmp_path: Path, arguments: list[str], words: str) -> None:
    """Exit 2 with one line, and no file."""
    done = stagewright("init", *arguments, folder=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert words in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_examples_can_be_copied(tmp_path: Path) -> None:
    """They are installed with the package, and run where they are copied to."""
    assert stagewright("init", "--examples", "here", folder=tmp_path).returncode == 0
    assert {path.name for path in (tmp_path / "here").iterdir()} >= EXAMPLES
    assert stagewright("plan", "here/restyle.toml", folder=tmp_path).returncode == 0
    again = stagewright("init", "--examples", "here", folder=tmp_path)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
