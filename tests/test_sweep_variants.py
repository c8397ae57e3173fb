"""What the runs of a sweep are: any key may vary, and what was read at the start is kept."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from stagewright.events import RunOpened
from stagewright.statemachine import GenerateRequest, build_stage_execution_plan
from stagewright.statemachine.groups.result import GroupResult
from stagewright.statemachine.groups.variant_config import mark_varied

from .command_line import SCRIPT, write_config
from .real_disks import assert_one_clear_line
from .resuming import controller, painter
from .support import ScriptedBackend, document, png
from .test_prompts import opened
from .test_templates import wildcards


class Swept(NamedTuple):
    """A group that ended COMPLETED, in the order of its variants."""

    result: GroupResult
    backend: ScriptedBackend
    runs: Path

    @property
    def opened(self) -> list[RunOpened]:
        """The first event of each run."""
        return [opened(self.runs / str(one.run_id)) for one in self.result.variants]

    @property
    def requests(self) -> list[GenerateRequest]:
        """What the backend was asked for."""
        return self.backend.requests

    def learning_stages(self) -> set[tuple[str, ...]]:
        """For each run, the types of the stages in learning mode."""
        return {
            tuple(stage["stage_type"] for stage in one.plan["stages"] if stage["learning_mode"])
            for one in self.opened
        }


def sweep(folder: Path, config: Any, *vary: str) -> Swept:
    """Run a sweep to its end."""
    backend = painter()
    result = controller(folder / "runs", backend).start_group(config, vary=vary).wait(30)
    assert result.state == "COMPLETED", result
    return Swept(result, backend, folder / "runs")


def folder_of(folder: Path, count: int) -> str:
    """A new folder of so many photos; all are different, in all folders."""
    folder.mkdir()
    first = int.from_bytes(folder.name.encode())
    for number in range(count):
        (folder / f"{number}.png").write_bytes(png(first + number))
    return str(folder)


FOUR = ("txt2img", "img2img", "upscale", "adetailer")


@pytest.mark.parametrize(
    ("vary", "stages"),
    [
        ("txt2img.cfg_scale=5,6", ["txt2img"]),
        ("cfg_scale=5,6", ["txt2img"]),
        ("prompt=a,b", ["txt2img"]),
        ("seed=5,6", ["txt2img"]),
        ("txt2img.refiner.switch_at=0.5,0.8", ["txt2img"]),
        ("refiner_switch_at=0.5,0.8", ["txt2img"]),
        ("txt2img.hires.steps=2,3", ["txt2img"]),
        ("hires_denoise=0.2,0.3", ["txt2img"]),
        ("img2img.denoise=0.2,0.3", ["img2img"]),
        ("img2img_denoise=0.2,0.3", ["img2img"]),
        ("upscale.factor=1.5,3", ["upscale"]),
        ("upscale_factor=1.5,3", ["upscale"]),
        ("adetailer.passes.0.denoise=0.2,0.3", ["adetailer"]),
        ("adetailer_strength=0.2,0.3", ["adetailer"]),
        ("metadata.note=a,b", []),
    ],
)
def test_learning_mode_is_true_in_the_stages_whose_keys_vary(vary: str, stages: list[str]) -> None:
    """A flat key belongs to the stage that it is for, one of the top level to the first."""
    config = document(*FOUR)
    config["txt2img"] |= {
        "refiner": {"model": "refiner", "switch_at": 0.9},
        "hires": {"upscaler": "Latent", "scale": 2.0, "denoise": 0.5},
    }
    key = vary.partition("=")[0]
    plan = mark_varied(build_stage_execution_plan(config), 1, {key: 0}, config)
    assert [stage.stage_type for stage in plan.stages if stage.learning_mode] == stages
    assert {stage.variant_index for stage in plan.stages} == {1}


def test_axes_of_two_stages_make_both_learn(tmp_path: Path) -> None:
    """And each run records its values, its place and its group."""
    keys = ["steps", "adetailer.passes.0.denoise"]
    found = sweep(tmp_path, document(*FOUR), f"{keys[0]}=2,3", f"{keys[1]}=0.2")
    assert found.learning_stages() == {("txt2img", "adetailer")}
    assert [one.varied for one in found.opened] == [one.values for one in found.result.variants]
    assert [set(one.values) for one in found.result.variants] == [set(keys)] * 2
    assert [one.variant_index for one in found.opened] == [0, 1]
    assert {one.group_id for one in found.opened} == {found.result.group_id}
    assert all(
        {stage["variant_index"] for stage in one.plan["stages"]} == {place}
        for place, one in enumerate(found.opened)
    )


@pytest.mark.parametrize(
    ("vary", "sent"),
    [
        ("txt2img.refiner.switch_at=0.5,0.8", lambda one: one.config.refiner.switch_at),
        ("txt2img.hires.scale=1.5,2.0", lambda one: one.config.hires.scale),
        ("hires_steps=2,3", lambda one: one.config.hires.steps),
        ("sampler=Euler,DDIM", lambda one: one.config.sampler),
        ("seed=5,8", lambda one: one.seed),
        ("txt2img.width=64,128", lambda one: one.config.width),
    ],
)
def test_what_varies_is_what_is_requested(tmp_path: Path, vary: str, sent: Any) -> None:
    """A key of the refiner, of hires, a flat key, the seed: each variant sends its own value."""
    config = document()
    config["txt2img"] |= {
        "refiner": {"model": "refiner", "switch_at": 0.9},
        "hires": {"upscaler": "Latent", "scale": 3.0, "denoise": 0.5},
    }
    found = sweep(tmp_path, config, vary)
    values = [next(iter(one.values.values())) for one in found.result.variants]
    assert [sent(one) for one in found.requests] == values


def test_a_stage_may_be_on_in_some_variants(tmp_path: Path) -> None:
    """Its runs have the stage, the others do not."""
    found = sweep(tmp_path, document("txt2img", "upscale"), "upscale.enabled=true,false")
    assert [one.stage_type for one in found.requests] == ["txt2img", "upscale", "txt2img"]
    assert found.learning_stages() == {("upscale",), ()}


def test_prompt_files_may_vary(tmp_path: Path) -> None:
    """Each variant has the rows of its file; batches of 4 end with a file of odd length."""
    (tmp_path / "five.txt").write_text("a\na\na\na\na\n", encoding="utf-8")
    (tmp_path / "seven.csv").write_text("prompt,seed\n" + "b,\n" * 7, encoding="utf-8")
    config = document(prompts="five.txt", images=1)
    del config["prompt"]
    config["txt2img"]["batch_size"] = 4
    config["sweep"] = {"axes": [{"key": "prompts", "values": ["five.txt", "seven.csv"]}]}
    found = sweep(tmp_path, write_config(tmp_path, json.dumps(config), "rows.json"))
    assert [(one.image_index, one.count) for one in found.requests] == [
        (0, 4),
        (4, 1),
        (0, 4),
        (4, 3),
    ]
    assert [one.config.prompt for one in found.requests] == ["a", "a", "b", "b"]  # type: ignore[attr-defined]  # they have one
    assert [[Path(one.path).name for one in each.sources] for each in found.opened] == [  # type: ignore[union-attr]  # they are set
        ["five.txt"], ["seven.csv"],
    ]  # fmt: skip


def test_photos_with_a_prompt_each_in_a_sweep(tmp_path: Path) -> None:
    """img2img over a folder: in every variant, row i belongs to photo i."""
    photos = folder_of(tmp_path / "photos", 3)
    config = document("img2img", input_image=photos, prompts=["a", "b", "c"])
    del config["prompt"]
    found = sweep(tmp_path, config, "img2img.denoise=0.2,0.4")
    sent = [(one.config.prompt, one.config.denoise, one.inputs[0].data) for one in found.requests]  # type: ignore[attr-defined]  # they have them
    data = [(Path(photos) / f"{number}.png").read_bytes() for number in range(3)]
    assert sent == [
        (prompt, denoise, photo)
        for denoise in (0.2, 0.4)
        for prompt, photo in zip("abc", data, strict=True)
    ]


def test_input_images_and_masks_may_vary(tmp_path: Path) -> None:
    """Each variant's run has copies of its own inputs, made when the group was."""
    one, two = (folder_of(tmp_path / name, 1 + place) for place, name in enumerate(("a", "b")))
    (tmp_path / "mask.png").write_bytes(png(1))
    (tmp_path / "other.png").write_bytes(png(2))
    masks = f"img2img.mask={tmp_path / 'mask.png'},{tmp_path / 'other.png'}"
    config = document("img2img", input_image=one)
    found = sweep(tmp_path, config, f"input_image={one},{two}", masks)
    sent = [(request.inputs[0].data, request.mask.data) for request in found.requests]  # type: ignore[union-attr]  # it is set
    assert len(set(sent)) == len(sent) == 6
    assert {mask for _, mask in sent} == {png(1), png(2)}


def test_with_a_seed_of_minus_one_all_variants_have_the_same_seeds(tmp_path: Path) -> None:
    """One seed is drawn for the group, also for a stage's own seed."""
    config = document("txt2img", "img2img", seed=-1, images=2)
    config["img2img"]["seed"] = -1
    found = sweep(tmp_path, config, "txt2img.cfg_scale=5,6,7")
    seeds = [one.seed for one in found.requests]
    assert seeds == seeds[:4] * 3
    assert len(set(seeds)) == 4


LARGE_FILES: list[tuple[str, bytes | None, str]] = [
    ("p.txt", None, "is larger than"),
    ("p.txt", b"\n" * 10_000_000, "holds no prompt"),
]


@pytest.mark.linux
@pytest.mark.parametrize(
    ("name", "content", "message"), LARGE_FILES, ids=["1 GB", "10 million lines"]
)
def test_a_hostile_prompt_file_of_a_sweep_is_one_line(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    """1 GB, or 10 million lines, as the value of an axis: exit 2 in 512 MiB, nothing made."""
    path = tmp_path / name
    path.write_bytes(content or b"")
    if content is None:
        os.truncate(path, 1 << 30)
    (tmp_path / "good.txt").write_text("a cat\n", encoding="utf-8")
    table = {key: value for key, value in document().items() if key != "prompt"}
    config = write_config(tmp_path, json.dumps({**table, "prompts": "good.txt"}), "night.json")
    done = in_little_memory("run", config, f"--vary=prompts=good.txt,{name}", folder=tmp_path)
    assert_one_clear_line(done, message, name, status=2)
    assert not (tmp_path / "runs").exists()


@pytest.mark.linux
def test_a_hostile_wildcard_of_a_sweep_is_one_line(tmp_path: Path) -> None:
    """A loop, in one variant of several."""
    wildcards(tmp_path, a="__b__\n", b="x __a__\n", c="red\n")
    config = write_config(tmp_path, json.dumps(document(dynamic_prompts=True)), "night.json")
    vary = "--vary=prompt=a __c__ cat,a __a__ cat"
    done = in_little_memory("run", config, vary, folder=tmp_path)
    assert_one_clear_line(done, "__a__ names itself", status=2)
    assert not (tmp_path / "runs").exists()


def in_little_memory(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """One command that may have 512 MiB of memory."""
    limited = ("bash", "-c", 'ulimit -v 524288; exec "$@"', "bash", str(SCRIPT))
    return subprocess.run(
        [*limited, *map(str, arguments)],
        cwd=folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_what_is_no_configuration_or_list_of_axes_is_refused(tmp_path: Path) -> None:
    """The name of a file is text as well: a text could be either, and each letter an axis."""
    owner = controller(tmp_path / "runs", painter())
    with pytest.raises(TypeError, match=r"a RunConfig, a mapping or a Path, not 'night\.toml'"):
        owner.start_group("night.toml", vary=["seed=1,2"])  # type: ignore[arg-type]  # as tested
    with pytest.raises(TypeError, match="vary is a list of axes, not 'seed=1,2'"):
        owner.start_group(document("txt2img"), vary="seed=1,2")
    assert owner.start_group(document("txt2img"), vary=["seed=1,2"]).wait(30).state == "COMPLETED"
