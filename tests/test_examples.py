"""The examples that are shipped make plans and run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .command_line import run_json, stagewright

EXAMPLES = Path(__file__).parent.parent / "examples"
SUMMARIES = {
    "enlarge.toml": "upscale",
    "portrait.toml": "txt2img -> img2img -> upscale -> adetailer",
    "restyle.toml": "img2img",
}


def test_every_example_stands_in_this_table() -> None:
    """An example that is added is tried too."""
    assert {path.name for path in EXAMPLES.glob("*.toml")} == SUMMARIES.keys()


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
