"""``rerun`` and ``plan --against`` as commands, and what reaches the server."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stagewright.events import replay
from stagewright.statemachine.files.run_folder import run_folders

from .command_line import ROOT, Start, stagewright, write_config
from .crashing import only_run
from .rerunning import opened
from .resuming import small
from .served_sweeps import MODELS
from .serving import url_of
from .support import TXT2IMG, document
from .webui_recorder import Recorder

Json = dict[str, Any]
FAST: Json = {"name": "night", "run": {"durability": "process"}}


def run(config: Json, folder: Path, *arguments: str | Path) -> Path:
    """The folder of the first run of a configuration."""
    written = write_config(folder, json.dumps(config), "night.json")
    done = stagewright("run", written, "--json", *arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / str(json.loads(done.stdout)["run_id"])


def rerun(folder: Path, *arguments: str, status: int = 0) -> Json:
    """What ``rerun --json`` prints."""
    done = stagewright("rerun", "last", "--json", *arguments, folder=folder)
    assert done.returncode == status, done.stderr
    printed: Json = json.loads(done.stdout)
    return printed


@pytest.fixture
def server(start: Start, tmp_path: Path) -> str:
    """The address of a ``serve-embedded``."""
    return url_of(start("serve-embedded", "--port=0", folder=tmp_path))


@pytest.fixture
def recorder(server: str) -> Iterator[Recorder]:
    """Counts the requests to it."""
    with Recorder(server) as one:
        yield one


def counted(recorder: Recorder) -> Counter[str | None]:
    """How many requests of each stage came, and none is counted twice."""
    found = Counter(one.request.stage for one in recorder.generating())
    recorder.exchanges.clear()
    return found


def served(*stages: str, images: int, **top: Any) -> Json:
    """A configuration for the server."""
    config = document(*stages, images=images, **FAST, **top)
    config["txt2img"] = {**TXT2IMG, "model": MODELS[0], "steps": 1, "batch_size": 8}
    return config


def test_a_changed_adetailer_sends_a_request_for_each_image_and_says_so_before(
    recorder: Recorder, tmp_path: Path
) -> None:
    """Nothing else is sent; the dry run sends nothing at all."""
    run(served("txt2img", "adetailer", images=24), tmp_path, "--server", recorder.url)
    assert counted(recorder) == {"txt2img": 3, "adetailer": 24}
    changed = ("--from", "adetailer", "--set", "adetailer.passes.0.denoise=0.3")
    shown = stagewright("rerun", "last", "--dry-run", *changed, folder=tmp_path).stdout
    assert "00-txt2img        24 reused       0 to make" in shown
    assert "24 images: adetailer.passes.0.denoise null -> 0.3" in shown
    assert shown.endswith("24 requests to send\n")
    assert counted(recorder) == {}
    done = stagewright("rerun", "last", *changed, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "24 requests to send" in done.stderr
    assert counted(recorder) == {"adetailer": 24}


@pytest.mark.parametrize(
    ("stage", "route", "vary"),
    [
        ("upscale", "extra-single-image", "upscale.factor=1.5,2,3"),
        ("adetailer", "adetailer", "adetailer.passes.0.denoise=0.2,0.4,0.6"),
    ],
)
def test_a_sweep_over_the_last_stage_makes_the_first_images_once(
    stage: str, route: str, vary: str, recorder: Recorder, tmp_path: Path
) -> None:
    """Counted on the server."""
    config = served("txt2img", stage, images=8)
    written = write_config(tmp_path, json.dumps(config), "night.json")
    done = stagewright("run", written, "--vary", vary, "--server", recorder.url, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert counted(recorder) == {"txt2img": 1, route: 3 * 8}


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one run of the embedded backend."""
    folder = tmp_path_factory.mktemp("night")
    run(small("txt2img", "upscale", images=4, **FAST), folder)
    return folder


def test_a_dry_run_shows_each_stage_with_reasons_and_makes_nothing(night: Path) -> None:
    """As text and as JSON."""
    parent = only_run(night)
    arguments = ("--dry-run", "--only", "2-3", "--set", "upscale.factor=3")
    assert rerun(night, *arguments) == {
        "run_id": opened(parent).run_id,
        "stages": [
            {"stage_id": "00-txt2img", "stage_type": "txt2img", "reused": 2, "to_make": 0,
             "requests": 0, "reasons": {}, "not_checked": []},
            {"stage_id": "01-upscale", "stage_type": "upscale", "reused": 0, "to_make": 2,
             "requests": 2, "reasons": {"upscale.factor 2.0 -> 3.0": 2}, "not_checked": []},
        ],
        "requests": 2,
    }  # fmt: skip
    shown = stagewright("rerun", "last", *arguments, folder=night).stdout
    assert shown.splitlines() == [
        "00-txt2img       2 reused       0 to make",
        "01-upscale       0 reused       2 to make",
        "            2 images: upscale.factor 2.0 -> 3.0",
        "2 requests to send",
    ]
    assert only_run(night) == parent


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--from", "upscale", "--set", "txt2img.steps=9"), "txt2img.steps 3 -> 9 (4)"),
        (("--from", "adetailer"), "the plan has no such stage; it has txt2img, upscale"),
        (("--set", "images=3"), "a rerun takes it from the run that it repeats"),
        (("--set", "input_image_path=a.png"), "a rerun takes it from the run that it repeats"),
        (("--set", "upscale.factor=no"), "upscale.factor"),
        (("--only", "9"), "has no image 9: it has 4"),
        (("--only", "picked"), "has no finished image that 'picked' fits"),
        (("--dry-run", "--from", "upscale", "--set", "txt2img.steps=9"), "txt2img.steps 3 -> 9"),
        (("--dry-run", "--only", "9"), "has no image 9: it has 4"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_made(
    arguments: tuple[str, ...], words: str, night: Path
) -> None:
    """With exit status 2."""
    parent = only_run(night)
    done = stagewright("rerun", "last", *arguments, folder=night)
    assert (done.returncode, words in done.stderr) == (2, True), done.stderr
    assert only_run(night) == parent


def test_an_image_in_place_of_a_run_is_refused_with_the_option_for_it(night: Path) -> None:
    """``rerun last#2`` names ``--only 2``."""
    parent = only_run(night)
    done = stagewright("rerun", "last#2", folder=night)
    assert done.returncode == 2
    assert "last#2 is an image, and rerun takes a run: `rerun last --only 2`" in done.stderr
    assert only_run(night) == parent


def test_chosen_images_are_those_that_people_chose(tmp_path: Path) -> None:
    """By verdict and by score; the new run is named as the first one."""
    config = small("txt2img", "upscale", images=4, **FAST)
    del config["name"]
    parent = run(config, tmp_path)
    for number, score in ((1, "5"), (3, "4"), (4, "2")):
        stagewright("rate", f"last#{number}", score, folder=tmp_path)
    stagewright("rate", "last#2", "--pick", folder=tmp_path)
    name = parent.name
    for only, images in (("rating>=4", (0, 2)), ("picked", (1,))):
        done = stagewright(
            "rerun", name, "--only", only, "--set", "upscale.factor=3", "--json", folder=tmp_path
        )
        assert done.returncode == 0, done.stderr
        new = tmp_path / "runs" / json.loads(done.stdout)["run_id"]
        assert opened(new).parent_images == images
        assert "-night-" in new.name
        assert len(replay(new).images) == len(images)


def test_plan_compares_a_configuration_with_a_run(night: Path) -> None:
    """It asks no server, and says when a run would use the images."""
    config = night / "night.json"
    arguments = ("plan", config, "--against", "last", "--set", "upscale.factor=3")
    shown = stagewright(*arguments, folder=night).stdout
    assert "4 images: upscale.factor 2.0 -> 3.0" in shown
    assert '`run` does so only with run.reuse = "all"' in shown
    printed = json.loads(stagewright(*arguments, "--json", folder=night).stdout)
    assert (printed["run_id"], printed["requests"]) == (opened(only_run(night)).run_id, 4)
    more = stagewright(*arguments, "--set", "images=5", "--json", folder=night)
    assert json.loads(more.stdout)["stages"][0]["reasons"] == {"that run has 4 images": 1}


def test_plan_compares_one_configuration_with_one_run(tmp_path: Path) -> None:
    """Neither a sweep nor a group."""
    config = write_config(tmp_path, json.dumps(small("txt2img", **FAST)), "night.json")
    assert stagewright("run", config, "--vary", "seed=1,2", folder=tmp_path).returncode == 0
    swept = stagewright("plan", config, "--vary", "seed=1,2", "--against", "last", folder=tmp_path)
    assert (swept.returncode, "--against compares one run" in swept.stderr) == (2, True)
    (group,) = tmp_path.glob("runs/groups/*/group.jsonl")
    name = group.parent.name
    for arguments in (("plan", config, "--against", name), ("rerun", name)):
        done = stagewright(*arguments, folder=tmp_path)
        assert (done.returncode, f"{name} is a group" in done.stderr) == (2, True), done.stderr


def test_a_rerun_on_another_server_trusts_only_what_is_known_to_be_the_same(
    server: str, recorder: Recorder, tmp_path: Path
) -> None:
    """The models have hashes; the detector has none, so its images are made anew."""
    run(served("txt2img", "adetailer", images=2), tmp_path, "--server", server)
    for address in (("--server", recorder.url), ("--set", f"server.url={recorder.url}")):
        stages = rerun(tmp_path, "--dry-run", *address)["stages"]
        assert stages[1]["reused"] == 0
        assert "no hash is reported of" in next(iter(stages[1]["reasons"] or stages[0]["reasons"]))
    same = rerun(tmp_path, "--dry-run")["stages"]
    assert [one["reused"] for one in same] == [2, 2]
    assert any("detector" in one for one in same[1]["not_checked"])


@pytest.mark.parametrize(
    ("command", "is_named"),
    [(("rm",), True), (("rm", "--keep-last-stage"), True), (("archive",), False),
     (("archive", "--keep-last-stage"), True)],
)  # fmt: skip
def test_what_a_rerun_still_needs_is_named_before_it_is_removed(
    command: tuple[str, ...], is_named: bool, tmp_path: Path
) -> None:
    """As long as the rerun is not finished; an archived run is found as before."""
    parent = run(small("txt2img", "upscale", images=2, **FAST), tmp_path)
    stopped = stagewright(
        "rerun", "last", "--set", "upscale.factor=3", folder=tmp_path,
        env={**os.environ, "STAGEWRIGHT_FAILPOINT": "record-written CallReused"},
    )  # fmt: skip
    assert stopped.returncode < 0, stopped.stderr
    (rerun_folder,) = [one for one in run_folders(tmp_path / "runs") if one != parent]
    asked = stagewright(*command, parent.name, folder=tmp_path)
    assert asked.returncode == 2
    words = f"{rerun_folder.name} is a rerun of {parent.name} and DIED"
    assert (words in asked.stdout) is is_named
    both = stagewright(*command[:1], parent.name, rerun_folder.name, folder=tmp_path)
    assert words not in both.stdout
    assert stagewright("resume", rerun_folder.name, folder=tmp_path).returncode == 0
    assert words[:40] not in stagewright(*command, parent.name, folder=tmp_path).stdout


def test_the_commands_of_the_page_about_reuse_work(tmp_path: Path) -> None:
    """They run one after the other, as a reader would enter them."""
    config = """
name = "night"
prompt = "a lighthouse"
images = 4
[txt2img]
model = "base.safetensors"
sampler = "Euler a"
steps = 3
cfg_scale = 7.0
width = 64
height = 64
[[adetailer.passes]]
model = "face_yolov8n.pt"
"""
    written = write_config(tmp_path, config, "night.toml")
    assert stagewright("run", written, folder=tmp_path).returncode == 0
    page = (ROOT / "docs" / "reuse.md").read_text(encoding="utf-8")
    commands = re.findall(r"^\$ stagewright (.*)$", page, re.MULTILINE)
    assert len(commands) == 6
    for command in commands:
        done = stagewright(*shlex.split(command), folder=tmp_path)
        assert done.returncode == 0, (command, done.stderr)
    assert [len(replay(one).images) for one in sorted(run_folders(tmp_path / "runs"))] == [4, 4, 1]
