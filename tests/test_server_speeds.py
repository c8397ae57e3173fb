"""Several servers at once: what is shown, and how long they will still need together."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from stagewright.adapters.projections.durations import RecordedDurations
from stagewright.events import CallRequested
from stagewright.statemachine import build_stage_execution_plan

from .command_line import stagewright
from .shared_runs import FAST, SLOW, SharedRun
from .status_stories import Shown
from .support import document

UNUSED = "http://127.0.0.1:7862"


def test_what_remains_is_the_work_by_the_summed_speed_of_the_servers() -> None:
    """Servers of 2 s and 8 s: from the first answer of each on, it is right within an image."""
    run = SharedRun({FAST: 2.0, SLOW: 8.0}, "txt2img", images=20)
    run.move("start")
    run.share_stage("txt2img")
    whole_s = run.now_s
    shown = Shown(SharedRun({FAST: 2.0, SLOW: 8.0}, "txt2img", images=20))
    shown.story.events[:] = run.events
    told: list[tuple[float, float]] = []
    for event in run.events:
        shown.bar.take_event(event)
        now = shown.bar.snapshot()
        if now.remaining_s is not None:
            told.append((now.elapsed_s, now.remaining_s))
    late = [(at_s, left_s) for at_s, left_s in told if at_s >= 8.0]
    assert len(late) > 40
    for at_s, left_s in late:
        assert left_s == pytest.approx(whole_s - at_s, abs=4.0), at_s
    assert late[-1][1] == pytest.approx(0.0, abs=0.1)


def test_what_remains_never_is_less_than_the_slowest_request_needs() -> None:
    """The last image is made by the slow server, whatever the fast one could do."""
    run = SharedRun({FAST: 2.0, SLOW: 8.0}, "txt2img", images=6)
    run.move("start").begin("txt2img")
    run.send("txt2img", 0, SLOW)
    for index in range(1, 5):
        run.send("txt2img", index, FAST)
        run.answer_next("txt2img")
    run.answer_next("txt2img")
    run.send("txt2img", 5, SLOW)
    shown = Shown(run)
    assert shown.now().remaining_s == pytest.approx(8.0, abs=0.1)
    shown.clock.now_s += 3
    assert shown.now().remaining_s == pytest.approx(5.0, abs=0.1)


def test_a_server_that_was_set_aside_does_not_count_until_it_works_again() -> None:
    """What remains is then for the other one alone."""
    run = SharedRun({FAST: 2.0, SLOW: 2.0}, "txt2img", images=40)
    run.move("start").begin("txt2img")
    for index, server in enumerate((FAST, SLOW)):
        run.send("txt2img", index, server)
    for _ in range(2):
        run.answer_next("txt2img")
    for index, server in ((2, FAST), (3, SLOW)):
        run.send("txt2img", index, server)
    shown = Shown(run)
    assert shown.now().remaining_s == pytest.approx(38.0, abs=1.0)
    lost = run.fail(SLOW)
    assert shown.now().remaining_s == pytest.approx(76.0, abs=1.0)
    run.answer_next("txt2img")
    run.send("txt2img", lost, SLOW)
    assert shown.now().remaining_s == pytest.approx(37.0, abs=1.0)


def test_live_steps_tell_the_speed_of_a_server_before_its_first_answer() -> None:
    """Half of an image in 5 s on one, a quarter on the other: 10 s and 20 s for each."""
    run = SharedRun({FAST: 10.0, SLOW: 20.0}, "txt2img", images=12)
    run.move("start").begin("txt2img")
    run.send("txt2img", 0, FAST)
    run.send("txt2img", 1, SLOW)
    shown = Shown(run)
    shown.now()
    shown.clock.now_s += 5
    shown.step("txt2img", 0, 18, 37, 0.5)
    now = shown.step("txt2img", 1, 9, 37, 0.25)
    assert now.remaining_s == pytest.approx((12 - 0.75) / (1 / 10 + 1 / 20), abs=0.5)


def test_with_several_requests_at_once_the_texts_do_not_change_with_each_step() -> None:
    """They show the finished images, and the percentage all steps; one request shows its own."""
    run = SharedRun({FAST: 2.0, SLOW: 8.0}, "txt2img", "upscale", images=4)
    run.move("start").begin("txt2img")
    run.send("txt2img", 0, FAST)
    shown = Shown(run)
    assert "image 1 of 4" in shown.step("txt2img", 0, 1, 37, 0.01).headline
    run.send("txt2img", 1, SLOW)
    texts, percentages = set(), []
    for step in range(1, 9):
        for index in (0, 1):
            now = shown.step("txt2img", index, step, 37, step / 37)
            texts.add((now.headline, now.activity))
            percentages.append(now.percentage or 0.0)
    assert texts == {("Running: stage 1 of 2 00-txt2img  0 of 4 images finished, 2 at once", "")}
    assert percentages == sorted(set(percentages))
    run.answer_next("txt2img")
    assert "1 of 4 images finished, 2 at once" in shown.now().headline
    run.pass_to(run.now_s).begin("upscale")
    run.send("upscale", 0, FAST)
    assert "02-upscale  image 1 of 4" in shown.now().headline


def test_a_server_that_gives_steps_is_not_waited_for() -> None:
    """Waiting is shown while no request under way has told a step."""
    run = SharedRun({FAST: 2.0, SLOW: 8.0}, "txt2img", images=4)
    run.move("start").begin("txt2img")
    run.send("txt2img", 0, FAST)
    run.send("txt2img", 1, SLOW)
    shown = Shown(run, expects_steps=True)
    shown.now()
    shown.clock.now_s += 12
    assert shown.now().activity == "waiting for the server for 12.0 s"
    assert shown.step("txt2img", 0, 1, 37, 0.1).activity == ""


def test_the_records_of_a_shared_run_tell_the_speed_of_each_server(tmp_path: Path) -> None:
    """Alone each takes its own time for all images; together they share them as they are free."""
    plan = build_stage_execution_plan(document(images=10))
    builtin = msgspec.to_builtins(plan)
    run = SharedRun({FAST: 2.0, SLOW: 8.0}, "txt2img", images=10, plan=builtin)
    run.move("start")
    run.share_stage("txt2img").move("finish")
    run.save(tmp_path)
    took_s = run.now_s

    def estimate(*urls: str | None) -> float | None:
        return RecordedDurations(tmp_path, *urls).estimate_s(plan)

    assert estimate(FAST) == pytest.approx(20.0, rel=0.02)
    assert estimate(SLOW) == pytest.approx(80.0, rel=0.02)
    assert estimate(FAST, SLOW) == pytest.approx(took_s, rel=0.02)
    assert estimate(FAST, UNUSED) == pytest.approx(10.0, rel=0.02)
    assert estimate(UNUSED) is None


@pytest.mark.parametrize("sweep", [(), ("--vary", "txt2img.cfg_scale=5,6")])
def test_plan_estimates_with_all_servers(tmp_path: Path, sweep: tuple[str, ...]) -> None:
    """Those of a list in the configuration and those of repeated options, also of a sweep."""
    config = document(images=10)
    plan = build_stage_execution_plan(config)
    run = SharedRun({FAST: 2.0, SLOW: 8.0}, "txt2img", images=10, plan=msgspec.to_builtins(plan))
    run.move("start")
    run.share_stage("txt2img").move("finish")
    run.save(tmp_path / "runs")
    (tmp_path / "one.json").write_text(json.dumps(config))
    listed = {**config, "server": {"url": [FAST, SLOW]}}
    (tmp_path / "listed.json").write_text(json.dumps(listed))
    servers = ("--server", FAST, "--server", SLOW)
    for arguments in (("one.json", *servers), ("listed.json",)):
        done = stagewright("plan", *arguments, *sweep, folder=tmp_path)
        assert f"about {32 if sweep else 16} s on {FAST} and {SLOW} (from 1 recorded run)" in (
            done.stdout
        )


def test_a_server_that_made_no_image_of_a_shared_run_has_no_record(tmp_path: Path) -> None:
    """Its time is not that of the others."""
    plan = build_stage_execution_plan(document(images=4))
    builtin = msgspec.to_builtins(plan)
    run = SharedRun({FAST: 2.0, SLOW: 8.0}, "txt2img", images=4, plan=builtin)
    run.move("start").begin("txt2img")
    for index in range(4):
        run.send("txt2img", index, FAST)
        run.answer_next("txt2img")
    run.pass_to(run.now_s).end("txt2img", "completed")
    run.save(tmp_path)
    assert [one.server for one in run.events if isinstance(one, CallRequested)] == [FAST] * 4
    assert RecordedDurations(tmp_path, SLOW).estimate_s(plan) is None
    assert RecordedDurations(tmp_path, FAST).estimate_s(plan) == pytest.approx(8.0, rel=0.02)
