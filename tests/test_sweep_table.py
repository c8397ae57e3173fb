"""The plan of a sweep as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pexpect
import pytest
from rich.cells import cell_len
from stagewright.adapters.cli.plan_tables import (
    SweepEstimates,
    estimate_sweep,
    show_sweep,
    sweep_document,
    sweep_lines,
)
from stagewright.adapters.projections.durations import Estimate, RecordedDurations
from stagewright.adapters.projections.varied_values import short_names
from stagewright.events.groups.model import SweepAxis
from stagewright.events.model import Durability
from stagewright.statemachine import GroupPlan, build_stage_execution_plan
from stagewright.statemachine.config.schema import ServerTable
from stagewright.statemachine.groups.planning import PlannedVariant

from .command_line import SCRIPT, run_json, stagewright, write_config
from .support import document

URL = "http://127.0.0.1:7860"
SMALL = build_stage_execution_plan(document())


def plan_of(axes: Mapping[str, Sequence[Any]], warnings: tuple[str, ...] = ()) -> GroupPlan:
    """A plan whose axes move together; each variant makes 2 images with 180 steps."""
    rows = list(zip(*axes.values(), strict=True))
    one = msgspec.structs.replace(SMALL, total_images=2, total_steps=180)
    variants = tuple(
        PlannedVariant(index, dict(zip(axes, row, strict=True)), one, 0)
        for index, row in enumerate(rows)
    )
    return GroupPlan(
        document={},
        name=None,
        axes=(SweepAxis(keys=tuple(axes), values=tuple(map(list, rows))),),
        random=None,
        random_seed=None,
        seed=1,
        variants=variants,
        found=(),
        server=ServerTable(),
        preflight=True,
        durability=Durability.CHECKPOINT,
        warnings=warnings,
    )


def estimates_of(plan: GroupPlan, seconds: float | None) -> SweepEstimates:
    whole = (
        None if seconds is None else Estimate(seconds * len(plan.variants), frozenset("1234567"))
    )
    return SweepEstimates((seconds,) * len(plan.variants), whole)


def lines_of(
    plan: GroupPlan, seconds: float | None = None, *, width: int = 80, most: int | None = None
) -> list[str]:
    found = sweep_lines(plan, estimates_of(plan, seconds), [URL], width, most)
    return [line.rstrip() for line in found]


def test_a_line_for_each_variant_has_its_number_values_totals_and_estimate() -> None:
    """And the totals stand below, with commas in large numbers."""
    plan = plan_of({"txt2img.cfg_scale": [5.0, 7.0], "txt2img.model": ["a", "b"]})
    header, *rows, empty, totals = lines_of(plan, 2160.0)
    assert header.split() == ["CFG_SCALE", "MODEL", "STEPS", "IMAGES", "ESTIMATE"]
    assert [row.split() for row in rows] == [
        ["1", "5.0", "a", "180", "2", "36", "min"],
        ["2", "7.0", "b", "180", "2", "36", "min"],
    ]
    assert not empty
    assert totals == (
        "2 variants, 4 images in each stage, 360 sampling steps, 0 checkpoint changes, "
        f"about 1 h 12 min on {URL} (from 7 recorded runs)"
    )
    many = lines_of(plan_of({"seed": list(range(18))}))[-1]
    assert many == (
        "18 variants, 36 images in each stage, 3,240 sampling steps, 0 checkpoint changes"
    )


def test_without_recorded_runs_there_is_no_column_for_estimates() -> None:
    """Nothing is shown of what is not known."""
    assert "ESTIMATE" not in lines_of(plan_of({"seed": [1, 2]}))[0]


def test_a_terminal_shows_fifty_variants_of_many_and_a_file_all() -> None:
    """The rest is counted."""
    plan = plan_of({"seed": list(range(10_000))})
    shown = lines_of(plan, most=50)
    assert (len(shown), shown[51]) == (1 + 50 + 3, "... and 9,950 more")
    assert len(lines_of(plan)) == 1 + 10_000 + 2
    assert "more" not in "".join(lines_of(plan_of({"seed": list(range(50))}), most=50))


def test_long_values_lose_their_middle_and_fit_the_terminal() -> None:
    """Prompts that differ at an end alone can still be told apart."""
    prompts = [f"{'a lighthouse in a storm, ' * 9}{light}" for light in ("dawn", "dusk")]
    narrow = lines_of(plan_of({"prompt": prompts, "txt2img.steps": [20, 30]}), width=60)
    assert max(map(len, narrow[:3])) <= 60
    assert all("…" in line for line in narrow[1:3])
    assert "dawn" in narrow[1]
    assert "dusk" in narrow[2]
    wide = lines_of(plan_of({"prompt": ["灯台" * 40 + "夜", "灯台" * 40 + "朝"]}), width=60)
    assert max(map(cell_len, wide[:3])) <= 60
    assert ("夜" in wide[1], "朝" in wide[2]) == (True, True)


def test_values_cannot_control_the_terminal() -> None:
    """Escapes and line ends are shown as text, in one line."""
    (_, row, *_) = lines_of(plan_of({"prompt": ["red\x1b[2J\nblue"]}))
    assert "red\\x1b[2J blue" in row


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (["txt2img.cfg_scale", "txt2img.model"], ["cfg_scale", "model"]),
        (["txt2img.model", "txt2img.hires.model"], ["txt2img.model", "hires.model"]),
        (
            ["adetailer.passes.0.denoise", "adetailer.passes.1.denoise"],
            ["0.denoise", "1.denoise"],
        ),
        (["model", "txt2img.model"], ["model", "txt2img.model"]),
        (["txt2img.steps", "seed"], ["txt2img.steps", "seed"]),
        (["images"], ["images"]),
    ],
)
def test_headers_are_the_last_parts_of_keys_that_tell_them_apart(
    keys: list[str], names: list[str]
) -> None:
    """Also from the columns of the totals."""
    assert short_names(keys, ("steps", "images", "estimate")) == names


def test_a_varied_key_keeps_its_name_beside_the_total_of_that_name() -> None:
    """The total is then called so."""
    header = lines_of(plan_of({"images": [1, 2]}))[0]
    assert header.split() == ["IMAGES", "STEPS", "TOTAL", "IMAGES"]


def test_the_document_has_the_axes_the_variants_and_the_totals() -> None:
    """Estimates that are not known are null."""
    plan = plan_of({"seed": [1, 2]}, warnings=("a warning",))
    shown = json.loads(msgspec.json.encode(sweep_document(plan, estimates_of(plan, 1.5))))
    assert shown == {
        "axes": [{"keys": ["seed"], "values": [[1], [2]]}],
        "variants": [
            {
                "variant_index": index,
                "values": {"seed": index + 1},
                "total_images": 2,
                "total_steps": 180,
                "estimate_s": 1.5,
            }
            for index in (0, 1)
        ],
        "checkpoint_changes": 0,
        "total_images": 4,
        "total_steps": 360,
        "estimate_s": 3.0,
        "warnings": ["a warning"],
    }
    unknown = sweep_document(plan, estimates_of(plan, None))
    assert unknown["estimate_s"] is None
    assert {variant["estimate_s"] for variant in unknown["variants"]} == {None}


def test_a_sweep_without_recorded_runs_has_no_estimate(tmp_path: Path) -> None:
    """Neither for a variant nor for the whole."""
    plan = plan_of({"seed": [1, 2]})
    found = estimate_sweep(plan, RecordedDurations(tmp_path / "runs", URL))
    assert found == SweepEstimates((None, None), None)


def test_warnings_stand_below_the_totals(capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each."""
    plan = plan_of({"seed": [1]}, warnings=("the first", "the second"))
    show_sweep(plan, estimates_of(plan, None), [URL])
    printed = capsys.readouterr().out.splitlines()
    assert printed[-2:] == ["warning: the first", "warning: the second"]


@pytest.mark.posix
def test_plan_of_a_sweep_shows_fifty_variants_on_a_terminal(tmp_path: Path) -> None:
    """And all of them where the output is no terminal."""
    config = write_config(tmp_path)
    arguments = ["plan", config.name, "--vary", "seed=1..60"]
    child = pexpect.spawn(
        str(SCRIPT), arguments, cwd=str(tmp_path), timeout=60, dimensions=(24, 80),
        encoding="utf-8",
    )  # fmt: skip
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert "... and 10 more" in str(child.before)
    printed = stagewright(*arguments, folder=tmp_path).stdout.splitlines()
    assert (len(printed), printed[60].split()[:2]) == (1 + 60 + 2, ["60", "60"])


def test_plan_of_a_sweep_estimates_each_variant_from_recorded_runs(tmp_path: Path) -> None:
    """Twice the steps take twice the time, and the whole is the sum."""
    config = write_config(tmp_path)
    run_json(config)
    shown = stagewright("plan", config, "--vary", "txt2img.steps=4,8", "--json", folder=tmp_path)
    plan = json.loads(shown.stdout)
    short, long = (variant["estimate_s"] for variant in plan["variants"])
    assert long == pytest.approx(2 * short)
    assert plan["estimate_s"] == pytest.approx(short + long)
