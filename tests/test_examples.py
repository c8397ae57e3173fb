"""The examples that are shipped make plans."""

from __future__ import annotations

from pathlib import Path

import pytest
from stagewright.adapters import PillowInputReader
from stagewright.statemachine import build_stage_execution_plan, load_config

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
    """Its input image is there, its stages are right, and nothing is warned of."""
    config = load_config(EXAMPLES / name, inputs=PillowInputReader(), runs=tmp_path)
    plan = build_stage_execution_plan(config)
    assert plan.summary == SUMMARIES[name]
    assert plan.conflicts == ()
    assert plan.warnings == ()
    assert config.name == Path(name).stem
