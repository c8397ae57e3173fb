"""The documentation says what the code does, and the shipped examples run."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from stagewright.adapters.backends.webui.options import PINNED
from stagewright.statemachine.config.legacy import RunDocument
from stagewright.statemachine.config.schema import AxisTable, RunTable, ServerTable, SweepTable
from stagewright.statemachine.stages import (
    AdetailerConfig,
    AdetailerPass,
    HiresConfig,
    Img2ImgConfig,
    RefinerConfig,
    Txt2ImgConfig,
    UpscaleConfig,
)

from .command_line import run_json, stagewright

ROOT = Path(__file__).parent.parent


def load(path: Path) -> Any:
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_event_reference_is_what_the_code_makes() -> None:
    """docs/events.md equals the page made from the event types."""
    made = load(ROOT / "docs" / "make_event_reference.py").reference()
    assert (ROOT / "docs" / "events.md").read_text(encoding="utf-8") == made


def test_the_man_page_is_what_the_commands_make() -> None:
    """docs/stagewright.1 equals the page made from the commands; pip installs it for `man`."""
    made = load(ROOT / "docs" / "make_man_page.py").man_page()
    assert (ROOT / "docs" / "stagewright.1").read_text(encoding="utf-8") == made
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    installed = project["tool"]["setuptools"]["data-files"]
    assert installed == {"share/man/man1": ["docs/stagewright.1"]}


@pytest.mark.parametrize(
    "table",
    [
        RunDocument,
        Txt2ImgConfig,
        RefinerConfig,
        HiresConfig,
        Img2ImgConfig,
        UpscaleConfig,
        AdetailerConfig,
        AdetailerPass,
        RunTable,
        ServerTable,
        SweepTable,
        AxisTable,
    ],
)
def test_every_key_is_documented(table: type[msgspec.Struct]) -> None:
    """Each key of each table stands in docs/configuration.md."""
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    known = set(re.findall(r"\w+", text))
    assert set(table.__struct_encode_fields__) <= known


def test_the_pinned_options_are_those_that_the_page_lists() -> None:
    """A person who changes one of the others during a run changes its images."""
    page = (ROOT / "docs" / "servers.md").read_text(encoding="utf-8")
    listed = page.partition("The options are: ")[2].partition(".\n")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == set(PINNED)


def test_every_link_between_the_pages_leads_somewhere() -> None:
    """Relative links in README, CONTRIBUTING and docs name files that exist."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    assert pages
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_holds_exactly_two_set_up_commands() -> None:
    """The gate runs them, so there must be two, each one line."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("## Set up")[1].split("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    assert [len(block.splitlines()) for block in blocks] == [1, 1]


EXAMPLES = ROOT / "examples"
SUMMARIES = {
    "enlarge.toml": "upscale",
    "portrait.toml": "txt2img -> img2img -> upscale -> adetailer",
    "restyle.toml": "img2img",
    "models/flux-dev.toml": "txt2img",
    "models/flux2-klein.toml": "txt2img",
    "models/kontext.toml": "img2img",
    "models/qwen-image.toml": "txt2img",
    "models/sd15.toml": "txt2img",
    "models/sdxl.toml": "txt2img",
    "models/z-image-turbo.toml": "txt2img",
}


def test_every_example_stands_in_this_table() -> None:
    """An example that is added is tried too."""
    found = {path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*.toml")}
    assert found == SUMMARIES.keys()


@pytest.mark.parametrize("name", SUMMARIES)
def test_an_example_makes_the_plan_that_its_comment_promises(name: str, tmp_path: Path) -> None:
    """`plan` touches nothing and warns of nothing; `run` completes its stages."""
    planned = stagewright("plan", EXAMPLES / name, "--json", folder=tmp_path)
    plan = json.loads(planned.stdout)
    assert (plan["summary"], plan["conflicts"], plan["warnings"]) == (SUMMARIES[name], [], [])
    shown = stagewright("plan", EXAMPLES / name, folder=tmp_path)
    assert shown.stdout.splitlines()[0] == plan["summary"]
    assert list(tmp_path.iterdir()) == []
    result = run_json(EXAMPLES / name, "--set", "images=1", f"--runs={tmp_path}")
    assert result["state"] == "COMPLETED"
