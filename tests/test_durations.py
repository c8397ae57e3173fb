"""The time that a plan will take, from what was recorded of the same server."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from stagewright.adapters.projections.durations import RecordedDurations
from stagewright.adapters.text import rough_duration
from stagewright.events import (
    Artifact,
    BackendDescription,
    CallCompleted,
    CallFailed,
    ImagesRemoved,
    StageEnd,
    StageEvent,
    StageStart,
    replay,
)
from stagewright.statemachine import StageExecutionPlan, build_stage_execution_plan

from .command_line import SMALL, run_json, stagewright, write_config
from .log_format import flip
from .stories import Story, error, save_log, stage_id
from .support import START, TXT2IMG, artifact, controller, document

URL = "http://127.0.0.1:7860"
OTHER = "http://127.0.0.1:7861"


def plan_of(*stages: str, images: int = 2, **settings: Any) -> StageExecutionPlan:
    """A plan of small images; ``settings`` are those of txt2img."""
    given = document(*stages, images=images)
    given["txt2img"] = {**TXT2IMG, **settings}
    return build_stage_execution_plan(given)


class Recording(Story):
    """A run event by event, at times that the test chooses."""

    def __init__(
        self,
        runs: Path,
        plan: StageExecutionPlan,
        url: str | None = URL,
        group_id: str | None = None,
    ) -> None:
        earlier = len(list(runs.iterdir())) if runs.is_dir() else 0
        run_id = f"20261120T225226.{earlier:06d}Z-test-7f3a9c"
        super().__init__(images=plan.total_images, run_id=run_id)
        self._folder = runs / run_id
        self._now_s = 1.0 * earlier
        self._finished: Counter[str] = Counter()
        self.plan = plan
        document = msgspec.to_builtins(plan)
        for stage in document["stages"]:
            stage["stage_id"] = stage_id(stage["stage_type"])
        self.replace_last(
            plan=document, group_id=group_id, backend=backend_at(url),
            ts=START + timedelta(seconds=earlier),
        )  # fmt: skip
        self.move("start")

    def replace_last(self, **fields: Any) -> None:
        """Other fields of the last event."""
        self.events[-1] = msgspec.structs.replace(self.events[-1], **fields)

    def add(self, kind: type[StageEvent], **fields: Any) -> Recording:
        self.late_s = self._now_s - len(self.events) / 1000
        super().add(kind, **fields)
        return self

    def wait(self, seconds: float) -> Recording:
        """The next event happens so long after the last one."""
        self._now_s += seconds
        return self

    def image(self, kind: str, index: int) -> Artifact:
        size = next((one.output_size for one in self.plan.stages if one.stage_type == kind), None)
        width, height = size or (64, 64)
        return msgspec.structs.replace(super().image(kind, index), width=width, height=height)

    def call(self, took_s: float, kind: str = "txt2img", *, fails: bool = False) -> None:
        """Make one image, or fail to."""
        call_id = self.ask(kind, self._finished[kind])
        self.wait(took_s)
        if fails:
            self.add(CallFailed, call_id=call_id, endpoint="", error=error(), will_retry=True)
        else:
            self.answer(call_id, kind, self._finished[kind])
            self._finished[kind] += 1

    def copy(self, took_s: float, kind: str = "txt2img") -> None:
        """Copy one image of an earlier run, and announce it."""
        index = self._finished[kind]
        self._finished[kind] += 1
        self.wait(took_s).reuse(kind, index)
        self.wait(took_s).announce(kind, index, self.image(kind, index))

    def move_to(self, url: str) -> None:
        """Another process goes on, on a server."""
        self.epoch += 1
        self.resumed()
        self.replace_last(backend=backend_at(url))

    def save(self) -> Path:
        """Write the log; the folder of the run."""
        return save_log(self._folder, self.events)


def backend_at(url: str | None) -> BackendDescription:
    return BackendDescription(kind="embedded" if url is None else "webui", url=url)


def record(runs: Path, plan: StageExecutionPlan, image_s: float, *, url: str | None = URL) -> Path:
    """A run in which each image of each stage took so long."""
    run = Recording(runs, plan, url)
    for stage in plan.stages:
        run.begin(stage.stage_type)
        for _ in range(plan.total_images):
            run.call(image_s, stage.stage_type)
        run.end(stage.stage_type, "completed")
    return run.save()


def estimate(runs: Path, plan: StageExecutionPlan, url: str | None = URL) -> float | None:
    return RecordedDurations(runs, url).estimate_s(plan)


def test_the_estimate_of_a_recorded_plan_is_the_time_that_it_took(tmp_path: Path) -> None:
    """The mean of all runs, in all stages."""
    plan = plan_of("txt2img", "upscale", "adetailer")
    record(tmp_path, plan, 10.0)
    record(tmp_path, plan, 20.0)
    assert estimate(tmp_path, plan) == pytest.approx(3 * 2 * 15.0)


@pytest.mark.parametrize(
    ("settings", "factor"), [({"images": 10}, 5), ({"steps": 9}, 3), ({"width": 128}, 2)]
)
def test_time_is_proportional_to_images_steps_and_pixels(
    tmp_path: Path, settings: Mapping[str, Any], factor: float
) -> None:
    """Where one size was recorded."""
    record(tmp_path, plan_of(), 10.0)
    assert estimate(tmp_path, plan_of(**settings)) == pytest.approx(20.0 * factor)


def test_two_recorded_sizes_tell_what_a_step_takes_at_any_size(tmp_path: Path) -> None:
    """At each of them, between and beyond: 4 s, and 1 s for each 4,096 pixels."""
    record(tmp_path, plan_of(width=64), 5.0)
    record(tmp_path, plan_of(width=192), 7.0)
    for width, seconds in ((64, 5.0), (128, 6.0), (192, 7.0), (320, 9.0)):
        assert estimate(tmp_path, plan_of(width=width)) == pytest.approx(2 * seconds)


def test_more_pixels_never_take_less_time(tmp_path: Path) -> None:
    """Even where small images took longer than large ones."""
    record(tmp_path, plan_of(width=64), 9.0)
    record(tmp_path, plan_of(width=128), 3.0)
    assert estimate(tmp_path, plan_of(width=64)) == pytest.approx(12.0)
    assert estimate(tmp_path, plan_of(width=640)) == pytest.approx(12.0)


def test_failed_attempts_and_pauses_of_a_run_count(tmp_path: Path) -> None:
    """A checkpoint is loaded, files are written, an attempt fails: the next run will see it too."""
    run = Recording(tmp_path, plan_of())
    run.begin("txt2img")
    run.wait(30.0).call(10.0)
    run.call(5.0, fails=True)
    run.wait(1.0).call(10.0)
    run.end("txt2img", "completed")
    run.save()
    assert estimate(tmp_path, plan_of()) == pytest.approx(56.0)


def test_time_in_which_nothing_worked_does_not_count(tmp_path: Path) -> None:
    """Of a sleeping machine, between two processes, and before images are removed."""
    run = Recording(tmp_path, plan_of())
    run.begin("txt2img")
    run.call(10.0)
    run.call(8 * 3600.0, fails=True)
    run.wait(86_400.0).move_to(URL)
    run.begin("txt2img")
    run.call(10.0)
    run.end("txt2img", "completed")
    run.wait(3600.0).add(ImagesRemoved, artifacts=(artifact(0),), reason="rm")
    run.save()
    assert estimate(tmp_path, plan_of()) == pytest.approx(20.0)


def test_only_the_server_that_is_asked_for_counts(tmp_path: Path) -> None:
    """Also where a run was resumed on another one, or died: its stage never ended."""
    run = Recording(tmp_path, plan_of())
    run.begin("txt2img")
    run.call(10.0)
    run.move_to(OTHER)
    run.begin("txt2img")
    run.call(500.0)
    run.save()
    record(tmp_path, plan_of(), 2.0, url=None)
    assert estimate(tmp_path, plan_of()) == pytest.approx(20.0)
    assert estimate(tmp_path, plan_of(), None) == pytest.approx(4.0)
    assert estimate(tmp_path, plan_of(), OTHER) is None


def test_a_stage_that_was_never_recorded_leaves_the_time_unknown(tmp_path: Path) -> None:
    """Nor is it known without any run, or without a folder of runs."""
    assert estimate(tmp_path / "nowhere", plan_of()) is None
    assert not (tmp_path / "nowhere").exists()
    record(tmp_path, plan_of(), 10.0)
    assert estimate(tmp_path, plan_of("txt2img", "upscale")) is None


def test_runs_with_the_same_model_are_preferred(tmp_path: Path) -> None:
    """Others count where there is none of that model."""
    record(tmp_path, plan_of(model="quick"), 1.0)
    record(tmp_path, plan_of(model="slow"), 9.0)
    durations = RecordedDurations(tmp_path, URL)
    for model, seconds, runs in (("quick", 2.0, 1), ("slow", 18.0, 1), ("new", 10.0, 2)):
        found = durations.estimate(plan_of(model=model))
        assert found is not None
        assert found.seconds == pytest.approx(seconds)
        assert len(found.runs) == runs


def test_many_runs_of_one_plan_do_not_hide_an_older_one_of_another(tmp_path: Path) -> None:
    """Of runs with the same stages and models the newest four are read."""
    record(tmp_path, plan_of("txt2img", "upscale"), 10.0)
    for image_s in (50.0, *(1.0, 2.0, 3.0, 4.0) * 5, 1.0, 2.0, 3.0, 6.0):
        record(tmp_path, plan_of(), image_s)
    durations = RecordedDurations(tmp_path, URL)
    found = durations.estimate(plan_of())
    assert found is not None
    assert found.seconds == pytest.approx(2 * (12 + 10) / 5)
    assert len(found.runs) == 5
    assert durations.estimate_s(plan_of("txt2img", "upscale")) is not None


def test_reused_images_and_the_time_of_copying_them_do_not_count(tmp_path: Path) -> None:
    """A run that made one image and reused three tells the pace of that one."""
    run = Recording(tmp_path, plan_of(images=4))
    run.begin("txt2img")
    for _ in range(3):
        run.copy(50.0)
    run.call(10.0)
    run.end("txt2img", "completed")
    run.save()
    assert estimate(tmp_path, run.plan) == pytest.approx(40.0)


def test_variants_that_reused_all_images_do_not_hide_the_first_one(tmp_path: Path) -> None:
    """A sweep over the last stage: the time of the first stage is that of the first variant."""
    plan = plan_of("txt2img", "upscale")
    for place in range(8):
        run = Recording(tmp_path, plan, group_id="group")
        run.begin("txt2img")
        for _ in range(2):
            run.call(30.0) if place == 0 else run.copy(1.0)
        run.end("txt2img", "completed")
        run.begin("upscale")
        for _ in range(2):
            run.call(5.0, "upscale")
        run.end("upscale", "completed")
        run.save()
    assert estimate(tmp_path, plan) == pytest.approx(2 * (30.0 + 5.0))


def test_a_long_log_is_read_in_part(tmp_path: Path) -> None:
    """After the short ones; the pace of its beginning counts."""
    run = Recording(tmp_path, plan_of(images=4000))
    run.begin("txt2img")
    for number in range(4000):
        run.call(3.0 if number < 3000 else 300.0)
    run.save()
    record(tmp_path, plan_of("txt2img", "upscale"), 3.0)
    found = RecordedDurations(tmp_path, URL).estimate(run.plan)
    assert found is not None
    assert found.seconds == pytest.approx(12_000.0)
    assert len(found.runs) == 2


def test_corrupt_and_unreadable_logs_are_left_out(tmp_path: Path) -> None:
    """Also one that became corrupt while its size and time stayed as they were."""
    record(tmp_path, plan_of(), 10.0)
    broken = record(tmp_path, plan_of(), 70.0) / "events.jsonl"
    assert estimate(tmp_path, plan_of()) == pytest.approx(80.0)
    status = broken.stat()
    flip(broken, status.st_size // 2)
    os.utime(broken, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert estimate(tmp_path, plan_of()) == pytest.approx(20.0)
    (record(tmp_path, plan_of(), 70.0) / "events.jsonl").write_bytes(b"\xff\x00 no log")
    folder = record(tmp_path, plan_of(), 70.0)
    (folder / "events.jsonl").unlink()
    (folder / "events.jsonl").mkdir()
    assert estimate(tmp_path, plan_of()) == pytest.approx(20.0)
    (tmp_path / "catalogue.sqlite").write_bytes(b"no database")
    assert estimate(tmp_path, plan_of()) == pytest.approx(20.0)


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"stages": 7},
        {"stages": [{"stage_id": "00-txt2img", "stage_type": [], "config": "x"}]},
        {"stages": [{"stage_id": "00-txt2img", "stage_type": "txt2img", "config": {"steps": -1}}]},
        {"stages": [{"stage_id": "00-txt2img", "stage_type": "unheard of", "config": {}}]},
    ],
)
def test_a_foreign_plan_in_a_log_tells_nothing_and_harms_nothing(
    tmp_path: Path, plan: Mapping[str, Any]
) -> None:
    """The other runs tell the time."""
    record(tmp_path, plan_of(), 10.0)
    run = Recording(tmp_path, plan_of())
    run.begin("txt2img")
    run.call(99.0)
    run.events[0] = msgspec.structs.replace(run.events[0], plan=plan)
    run.save()
    assert estimate(tmp_path, plan_of()) == pytest.approx(20.0)


def test_images_of_impossible_sizes_do_not_count(tmp_path: Path) -> None:
    """A foreign log may claim any number of pixels."""
    record(tmp_path, plan_of(), 10.0)
    for width in (0, -64, 10**400):
        run = Recording(tmp_path, plan_of())
        run.begin("txt2img")
        run.call(99.0)
        made = run.events[-1]
        assert isinstance(made, CallCompleted)
        run.replace_last(artifacts=(msgspec.structs.replace(made.artifacts[0], width=width),))
        run.save()
    assert estimate(tmp_path, plan_of()) == pytest.approx(20.0)


def test_a_real_run_is_estimated_at_the_time_of_its_stages(tmp_path: Path) -> None:
    """`plan` prints it below the totals, and --json prints the plan alone."""
    config = write_config(tmp_path, f'{SMALL}\n[upscale]\nupscaler = "Lanczos"\nfactor = 2.0\n')
    before = stagewright("plan", config, folder=tmp_path)
    assert "recorded run" not in before.stdout
    result = run_json(config)
    events = replay(tmp_path / "runs" / result["run_id"]).events
    first = next(place for place, event in enumerate(events) if isinstance(event, StageStart))
    last = max(event.ts for event in events if isinstance(event, StageEnd))
    worked_s = (last - events[first - 1].ts).total_seconds()
    document_of_plan = json.loads(stagewright("plan", config, "--json", folder=tmp_path).stdout)
    planned = StageExecutionPlan.from_document(document_of_plan)
    found = estimate(tmp_path / "runs", planned, None)
    assert found == pytest.approx(worked_s)
    shown = stagewright("plan", config, folder=tmp_path).stdout.splitlines()
    assert shown[2].endswith(" on the embedded backend (from 1 recorded run)")
    assert set(document_of_plan) == set(result["plan"])


def test_plan_takes_the_server_that_run_would_use(tmp_path: Path) -> None:
    """That of the configuration, of the settings or of the user; none of them is contacted."""
    config = write_config(tmp_path)
    runs = tmp_path / "runs"
    plan = StageExecutionPlan.from_document(
        json.loads(stagewright("plan", config, "--json", folder=tmp_path).stdout)
    )
    record(runs, plan, 360.0)
    record(runs, plan, 3600.0, url=OTHER)
    here = f"about 12 min on {URL} (from 1 recorded run)"
    there = f"about 2 h on {OTHER} (from 1 recorded run)"

    def third_line(*arguments: str) -> str:
        done = stagewright("plan", config, *arguments, folder=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()[2]

    assert third_line() == ""
    assert third_line("--set", "server.url=127.0.0.1:7860/") == here
    (tmp_path / "stagewright.toml").write_text(f'server = "{URL}"\n', encoding="utf-8")
    assert third_line() == here
    assert third_line("--server", OTHER) == there
    assert third_line("--server", "ftp://host") == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "less than 1 s"),
        (1.0, "1 s"),
        (99.4, "99 s"),
        (99.5, "2 min"),
        (720.0, "12 min"),
        (3599.0, "1 h"),
        (4320.0, "1 h 12 min"),
        (172_000.0, "47 h 47 min"),
        (172_800.0, "2 d"),
        (1e6, "11 d 14 h"),
    ],
)
def test_rough_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    """Nobody knows a night to the second."""
    assert rough_duration(seconds) == text


def test_an_estimate_writes_nothing(tmp_path: Path) -> None:
    """Also where there is no catalogue yet."""
    runs = tmp_path / "runs"
    controller(runs).start(document()).wait(30)
    before = sorted(path.name for path in runs.iterdir())
    RecordedDurations(runs, None).estimate_s(build_stage_execution_plan(document()))
    assert sorted(path.name for path in runs.iterdir()) == before
