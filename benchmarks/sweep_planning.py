"""How long it takes to plan the variants of a sweep, beside building as many plans."""

from __future__ import annotations

import tempfile
from pathlib import Path

from stagewright.adapters import open_controller
from stagewright.statemachine.config.inputs import load_document
from stagewright.statemachine.plan.builder import build_stage_execution_plan

from .measuring import Ratio, alternately

EXAMPLE = Path(__file__).parent.parent / "examples" / "portrait.toml"
VARY = ("txt2img.cfg_scale=1..100", "seed=1..50", "txt2img.sampler=Euler a,Euler")


def planning_ratio() -> Ratio:
    """The plan of 10,000 variants, ready to be started, beside 10,000 plans."""
    base = load_document(EXAMPLE)
    config = base.parse()
    count = 10_000

    def ours() -> None:
        with tempfile.TemporaryDirectory() as runs:
            plan = open_controller(runs).plan_group(base, vary=VARY)
        assert len(plan.variants) == count

    def rival() -> None:
        for _ in range(count):
            build_stage_execution_plan(config)

    what = f"planning {count:,} variants of portrait.toml"
    return Ratio(what, f"{count:,} plans", *alternately(ours, rival, rounds=2), limit="at most 3")


def main() -> None:
    """Print the table's row."""
    print(planning_ratio().line())


if __name__ == "__main__":
    main()
