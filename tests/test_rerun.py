"""Reruns: what they reuse, what they make, and that it is what a whole new run would make."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET
from stagewright.events import CallCompleted, RunState, replay
from stagewright.statemachine import CancelToken, ConfigurationError, GenerateRequest
from stagewright.statemachine.errors import BackendError
from stagewright.statemachine.ports import SystemClock
from stagewright.statemachine.resume.removal import archive_run, remove_earlier_images, remove_run
from stagewright.statemachine.resume.verify import verify_run

from .rerunning import check_as_new, opened, repeated, sources
from .resuming import FOUR, asked, controller, copied, cut, cut_before, painter, ran, resumed, small
from .reusing import ran_group, resumed_with_reuse, reused, reusing
from .salvaging import salvage, spoil
from .support import png

TWO = ("txt2img", "upscale")
FIVE = small(*FOUR, images=5, run={"durability": "process"})
FACTOR = "upscale.factor=1.5"
STAGES = ("00-txt2img", "01-img2img", "02-upscale", "03-adetailer")


def sent_for(first: int, images: int) -> list[tuple[str, int]]:
    """Every request from one of the four stages on."""
    return [(stage, index) for stage in STAGES[first:] for index in range(images)]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """An empty folder of runs."""
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of five images through four stages."""
    return ran(tmp_path_factory.mktemp("five"), FIVE)


@pytest.mark.parametrize(
    ("override", "first", "images"),
    [
        ("txt2img.cfg_scale=5", 0, [0, 1, 2, 3, 4]), ("prompt=a ship", 0, [3]),
        ("negative_prompt=fog", 0, [0, 2, 4]), ("seed=500", 0, [1, 2]), ("seed=500", 0, [1, 4]),
        ("steps=9", 0, [3]), ("img2img.denoise=0.2", 1, [0, 2, 4]), ("img2img.seed=7", 1, [3]),
        (FACTOR, 2, [0, 1, 2, 3, 4]), ("adetailer.passes.0.denoise=0.2", 3, [0, 2, 4]),
        ("name=another", 4, [1, 2]),
    ],
)  # fmt: skip
def test_a_changed_stage_and_those_after_it_are_made_as_a_new_run_makes_them(
    override: str, first: int, images: list[int], runs: Path, five: Path
) -> None:
    """All images, one, some in a row, some that are not; the stages before are reused."""
    found = check_as_new(copied(five, runs), FIVE, override, images=images)
    assert found.result.state is RunState.COMPLETED
    assert found.sent == sent_for(first, len(images))
    assert verify_run(found.folder).finished


@pytest.mark.parametrize("images", [[1, 2], [1, 3]], ids=["in a row", "not in a row"])
@pytest.mark.parametrize("override", [FACTOR, "img2img.seed=80", "img2img.denoise=0.3"])
def test_a_stage_with_a_seed_of_its_own_gives_each_image_the_seed_that_it_has_there(
    override: str, images: list[int], runs: Path
) -> None:
    """Whether the seed is of the parent or set anew; it is recorded where it counts from."""
    config = small(*FOUR, images=5)
    config["img2img"] |= {"seed": 70}
    found = check_as_new(ran(runs, config), config, override, images=images)
    indexes = found.opened.seed_indexes
    assert indexes == (UNSET if images == [1, 2] else tuple(images))


def test_seeds_that_were_drawn_are_those_of_the_parent(runs: Path) -> None:
    """The run's own, and those of a stage and its subseed."""
    config = small("txt2img", "img2img", "upscale", images=4, seed=-1)
    config["img2img"] |= {"seed": -1, "subseed": -1, "subseed_strength": 0.3}
    parent = ran(runs, config)
    found = repeated(parent, FACTOR, images=[1, 3])
    assert {stage for stage, _ in found.sent} == {"02-upscale"}
    assert found.opened.seeds == tuple(opened(parent).seeds[index] for index in (1, 3))


@pytest.mark.parametrize("images", [[1, 2], [1, 3]], ids=["in a row", "not in a row"])
def test_a_seed_of_minus_one_is_drawn_anew(images: list[int], runs: Path, five: Path) -> None:
    """Every stage uses what is drawn."""
    backend = painter()
    handle = reusing(runs, backend).start_rerun(
        copied(five, runs).name, images=images, overrides=["seed=-1"]
    )
    handle.wait(30)
    seeds = opened(handle.folder).seeds
    assert len(set(seeds)) == 2
    assert 100 not in seeds
    for stage in STAGES:
        used = [one.seed for one in backend.requests if one.stage_id == stage]
        assert used == list(seeds)


PROMPTS: list[Any] = [
    "one",
    {"prompt": "two", "negative_prompt": "fog"},
    {"prompt": "three", "seed": 9},
]


def rows(**top: Any) -> dict[str, Any]:
    """A configuration of two images for each of three prompts."""
    config = small(*TWO, prompts=PROMPTS, **top)
    del config["prompt"]
    return config


@pytest.mark.parametrize("override", [FACTOR, "txt2img.steps=9", "negative_prompt=rain"])
def test_each_image_keeps_its_prompts_and_its_seed(override: str, runs: Path) -> None:
    """Of rows, of which one has a seed of its own; a negative prompt that is set is that of all."""
    parent = ran(runs, rows())
    found = repeated(parent, override, images=[1, 3, 4])
    assert found.opened.seeds == tuple(opened(parent).seeds[index] for index in (1, 3, 4))
    prompts = found.opened.prompts
    assert isinstance(prompts, tuple)
    assert [one.prompt for one in prompts] == ["one", "two", "three"]
    if override == "negative_prompt=rain":
        assert {one.negative_prompt for one in prompts} == {"rain"}
    else:
        assert [one.negative_prompt for one in prompts] == [None, "fog", None]
    if override == FACTOR:
        assert found.sent == [("01-upscale", index) for index in range(3)]


def test_a_prompt_or_a_seed_that_is_set_is_that_of_all_images(runs: Path) -> None:
    """In place of those of the rows; a seed counts from the place of the image in the parent."""
    parent = ran(runs, rows())
    found = repeated(parent, "prompt=a ship", "seed=50", images=[1, 3, 4])
    assert found.opened.seeds == (51, 53, 54)
    assert {one.prompt for one in found.opened.prompts or ()} == {"a ship"}
    again = repeated(parent, "prompt=a ship", images=[0, 4])
    assert again.opened.seeds == (100, 9)


def test_rows_whose_seeds_follow_each_other_by_chance_keep_their_seeds(runs: Path) -> None:
    """Chosen images are not in a row, and the seed of a stage counts by their places there."""
    config = small("txt2img", "img2img", "upscale", images=1)
    config["prompts"] = [{"seed": 5}, {"seed": 9}, {"seed": 6}]
    config["img2img"] |= {"seed": 70}
    found = check_as_new(ran(runs, config), config, FACTOR, images=[0, 2])
    assert found.opened.seeds == (5, 6)
    assert found.sent == [("02-upscale", 0), ("02-upscale", 1)]


def test_prompts_that_were_drawn_are_not_drawn_again(runs: Path) -> None:
    """Templates are no templates any more, also with another seed."""
    prompt = "a {red|blue|green} {house|ship|tree}"
    config = small(*TWO, images=4, prompt=prompt, dynamic_prompts=True)
    parent = ran(runs, config)
    drawn = opened(parent).prompts
    assert isinstance(drawn, tuple)
    kept = repeated(parent, FACTOR, images=[1, 3])
    assert kept.sent == [("01-upscale", 0), ("01-upscale", 1)]
    other = repeated(parent, "seed=7", images=[1, 3])
    for found in (kept, other):
        assert found.opened.prompts == (drawn[1], drawn[3])


def test_a_batch_is_reused_where_all_its_images_are_chosen(runs: Path) -> None:
    """Else its images are made anew, and the plan says why."""
    parent = ran(runs, small(*TWO, images=5, batch=2))
    upscaled = [("01-upscale", index) for index in range(3)]
    assert repeated(parent, FACTOR, images=[2, 3, 4]).sent == upscaled
    (txt2img, _) = reusing(runs).plan_rerun(parent.name, images=[1, 2], overrides=[FACTOR])
    assert (txt2img.to_make, txt2img.requests) == (2, 1)
    assert txt2img.reasons == {"made there in a batch of other images": 2}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with three images, of which the last one is none."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, name in enumerate(["beach", "castle"]):
        (folder / f"{name}.png").write_bytes(png(number))
    (folder / "damaged.png").write_bytes(b"no image")
    return folder


def from_files(pictures: Path, *stages: str, **top: Any) -> dict[str, Any]:
    """A configuration that makes images from files."""
    continues = {"on_image_error": "continue"}
    table = {"input_image": str(pictures), "images": 1, "run": continues, **top}
    return small(*(stages or ("img2img", "upscale")), **table)


def test_a_rerun_takes_the_inputs_that_the_parent_has_copies_of(pictures: Path, runs: Path) -> None:
    """The files may be gone; their names and the prompt are those that they were."""
    parent = ran(runs, from_files(pictures, images=2))
    shutil.rmtree(pictures)
    found = repeated(parent, FACTOR, images=[1, 2])
    assert found.sent == [("01-upscale", 0), ("01-upscale", 1)]
    inputs = found.opened.inputs
    assert [one.original.name for one in inputs if one.original] == ["beach.png", "castle.png"]
    changed = repeated(parent, "img2img.denoise=0.3", images=[1, 2])
    assert changed.sent[:2] == [("00-img2img", 0), ("00-img2img", 1)]


def test_a_rerun_from_files_can_be_repeated(pictures: Path, runs: Path) -> None:
    """Its configuration names no files; it has copies of them all the same."""
    parent = ran(runs, from_files(pictures, images=2))
    again = repeated(parent, FACTOR, images=[1, 2])
    found = repeated(again.folder, "upscale.factor=3", images=[1])
    assert found.sent == [("01-upscale", 0)]
    assert found.opened.parent_run_id == again.folder.name
    assert [one.original.name for one in found.opened.inputs if one.original] == ["castle.png"]


def test_inputs_that_could_not_be_used_stay_missing(pictures: Path, runs: Path) -> None:
    """They hinder no reuse, and nothing is sent for them."""
    parent = ran(runs, from_files(pictures, images=2))
    found = repeated(parent, FACTOR, from_stage="upscale")
    assert found.sent == [("01-upscale", index) for index in range(4)]
    assert [one.refusal is None for one in found.opened.inputs] == ([True] * 4 + [False] * 2)


def test_stages_without_a_prompt_can_be_repeated(pictures: Path, runs: Path) -> None:
    """An upscale of files has no prompts, and its images have seeds all the same."""
    parent = ran(runs, from_files(pictures, "upscale"))
    found = repeated(parent, FACTOR, images=[1])
    assert found.opened.seeds == (101,)
    assert resumed(found.folder).state is RunState.COMPLETED


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """A folder with a mask for each of the images."""
    folder = tmp_path / "masks"
    folder.mkdir()
    for number, name in enumerate(["beach", "castle", "damaged"]):
        (folder / f"{name}.png").write_bytes(png(number + 20, mode="L"))
    return folder


@pytest.mark.parametrize("one_each", [True, False], ids=["one each", "one"])
def test_masks_are_those_of_the_images(
    one_each: bool, masks: Path, pictures: Path, runs: Path
) -> None:
    """A mask for each input, or one for all; another one can be set."""
    config = from_files(pictures, images=2)
    config["img2img"] |= {"mask": str(masks if one_each else masks / "beach.png")}
    parent = ran(runs, config)
    assert {stage for stage, _ in repeated(parent, FACTOR, images=[1, 2]).sent} == {"01-upscale"}
    override = f"img2img.mask={masks / 'castle.png'}"
    (img2img, _) = reusing(runs).plan_rerun(parent.name, images=[1, 2], overrides=[override])
    there = 1 if one_each else 0
    assert img2img.reused == there
    assert img2img.reasons == {"another mask": 2 - there}
    check = repeated(parent, override, images=[1, 2])
    assert sources(check.result) == sources(replay(check.folder))


def test_a_mask_that_is_not_there_is_an_error(masks: Path, pictures: Path, runs: Path) -> None:
    """It is never left out silently."""
    parent = ran(runs, from_files(pictures))
    with pytest.raises(ConfigurationError, match="there is no such file"):
        reusing(runs).plan_rerun(parent.name, overrides=[f"img2img.mask={masks}/none.png"])


def test_images_of_scripts_are_the_copies_of_the_parent(pictures: Path, runs: Path) -> None:
    """Another one can be set, and is read from the file that is named."""
    config = small(*TWO, images=3)
    unit = {"image": str(pictures / "beach.png"), "module": "canny"}
    config["txt2img"]["alwayson_scripts"] = {"ControlNet": {"args": [unit]}}
    parent = ran(runs, config)
    (pictures / "beach.png").unlink()
    assert {one for one, _ in repeated(parent, FACTOR, images=[0, 2]).sent} == {"01-upscale"}
    key = "txt2img.alwayson_scripts.ControlNet.args.0.image"
    other = repeated(parent, f"{key}={pictures / 'castle.png'}", images=[0, 2])
    assert [stage for stage, _ in other.sent] == ["00-txt2img"] * 2 + ["01-upscale"] * 2
    copies = [one.sha256 for one in other.opened.inputs]
    assert copies
    with pytest.raises(ConfigurationError, match="there is no such file"):
        reusing(runs).plan_rerun(parent.name, overrides=[f"{key}=none.png"])


@pytest.mark.parametrize(
    "override",
    ["images=3", 'prompts=["a"]', "input_image=x.png", "input_image_path=x.png",
     "dynamic_prompts=true", "wildcards=x", "sweep.random=3", "extends=x.toml"],
)  # fmt: skip
def test_what_a_rerun_takes_from_its_parent_cannot_be_set(override: str, runs: Path) -> None:
    """Nothing is made."""
    parent = ran(runs, small(*TWO))
    backend = painter()
    with pytest.raises(ConfigurationError, match=override.partition("=")[0]):
        reusing(runs, backend).start_rerun(parent.name, overrides=[override])
    assert (len(list(runs.iterdir())), backend.requests) == (1, [])


def test_a_stage_can_be_added_and_another_left_out(runs: Path) -> None:
    """An added one is made; what comes after one that is left out is made from another image."""
    parent = ran(runs, small(*TWO, images=3))
    added = repeated(parent, 'adetailer.passes=[{model="face_yolov8n.pt"}]', images=[0, 2])
    assert added.sent == [("02-adetailer", 0), ("02-adetailer", 1)]
    grown = repeated(added.folder, "upscale.enabled=false")
    assert grown.sent == [("01-adetailer", 0), ("01-adetailer", 1)]
    (txt2img, _) = reusing(runs).plan_rerun(parent.name, overrides=["upscale.enabled=false",
        'adetailer.passes=[{model="face_yolov8n.pt"}]'])  # fmt: skip
    assert txt2img.to_make == 0


def test_from_is_refused_where_an_earlier_stage_would_be_made_anew(runs: Path, five: Path) -> None:
    """With the reasons, and before anything is made."""
    parent = copied(five, runs)
    backend = painter()
    start = reusing(runs, backend).start_rerun
    with pytest.raises(ConfigurationError) as caught:
        start(parent.name, overrides=["txt2img.steps=9"], from_stage="adetailer")
    assert "--from adetailer: 5 images of 00-txt2img cannot be reused" in str(caught.value)
    assert "txt2img.steps 3 -> 9 (5)" in str(caught.value)
    with pytest.raises(ConfigurationError, match="the plan has no such stage"):
        start(parent.name, overrides=["adetailer.enabled=false"], from_stage="adetailer")
    assert (len(list(runs.iterdir())), backend.requests) == (1, [])
    begun = start(parent.name, overrides=["img2img.denoise=0.1"], from_stage="img2img").wait(30)
    assert begun.state is RunState.COMPLETED


def test_a_variant_of_a_group_is_repeated_alone(runs: Path) -> None:
    """With its values; its images are those that another variant made."""
    first, second = ran_group(runs)
    found = repeated(second, "upscale.factor=3")
    assert {stage for stage, _ in found.sent} == {"01-upscale"}
    assert found.opened.group_id is None
    assert {one.origin.run_id for one in reused(found.folder)} == {first.name}


def test_a_rerun_of_a_rerun_keeps_the_seeds_of_the_first_run(runs: Path) -> None:
    """Its images count from where they were in the first run."""
    config = small(*FOUR, images=5)
    config["img2img"] |= {"seed": 70}
    first = repeated(ran(runs, config), FACTOR, images=[0, 2, 4])
    second = repeated(first.folder, "adetailer.passes.0.denoise=0.2", images=[1, 2])
    assert {stage for stage, _ in second.sent} == {"03-adetailer"}
    assert second.opened.seed_indexes == (2, 4)
    assert second.opened.parent_images == (1, 2)
    assert second.opened.parent_run_id == first.folder.name
    third = repeated(second.folder, "img2img.seed=90")
    assert third.opened.seed_indexes == (2, 4)
    anew = ran(runs, {**config, "img2img": {**config["img2img"], "seed": 90}})
    made = sources(replay(anew))["01-img2img"]
    assert sources(third.result)["01-img2img"] == {0: made[2], 1: made[4]}


def fail_third(request: GenerateRequest, _cancel: CancelToken) -> None:
    """The third image of the upscale fails."""
    if (request.stage_id, request.image_index) == ("01-upscale", 2):
        raise BackendError("the third one")


def test_a_run_that_failed_in_the_middle_can_be_repeated(runs: Path) -> None:
    """What it has not finished is made."""
    handle = controller(runs, painter(fail_third)).start(small(*TWO, images=5))
    assert handle.wait(30).state is RunState.ERROR
    found = repeated(handle.folder)
    assert found.sent == [("01-upscale", 2), ("01-upscale", 3), ("01-upscale", 4)]
    assert found.result.state is RunState.COMPLETED
    (_, upscale) = reusing(runs).plan_rerun(handle.folder.name)
    assert upscale.reasons == {"not finished there, or made from another image": 3}


def test_a_run_that_was_cancelled_or_died_can_be_repeated(runs: Path) -> None:
    """Also one that no process has ended."""
    parent = ran(runs, small(*TWO, images=3))
    cut_before(parent, CallCompleted, 4)
    assert repeated(parent).sent == [("01-upscale", 1), ("01-upscale", 2)]


@pytest.mark.parametrize("moved", ["archived", "renamed"])
def test_a_run_that_was_moved_is_found(moved: str, runs: Path) -> None:
    """Its images are reused from where they are."""
    parent = ran(runs, small(*TWO))
    if moved == "archived":
        archive_run(parent)
    else:
        parent.rename(runs / "the best one")
    backend = painter()
    reusing(runs, backend).start_rerun(parent.name, overrides=[FACTOR]).wait(30)
    assert asked(backend) == [("01-upscale", 0), ("01-upscale", 1)]


def test_images_that_were_removed_on_purpose_are_made_anew(runs: Path) -> None:
    """The plan says so; ``--from`` is refused."""
    parent = ran(runs, small(*TWO))
    remove_earlier_images(parent, reason="to save space", clock=SystemClock())
    (txt2img, upscale) = reusing(runs).plan_rerun(parent.name)
    assert txt2img.reasons == {"its image was removed on purpose": 2}
    assert upscale.reasons == {"made from images that are made anew": 2}
    with pytest.raises(ConfigurationError, match="removed on purpose"):
        reusing(runs).start_rerun(parent.name, from_stage="upscale")
    found = repeated(parent, is_foretold=False)
    # They come out as they were, so that those of the last stage are found.
    assert found.sent == [("00-txt2img", 0), ("00-txt2img", 1)]


@pytest.mark.parametrize("is_gone", [False, True], ids=["there", "gone"])
def test_a_rerun_that_died_is_finished(is_gone: bool, runs: Path) -> None:
    """Its log has all that it needs; what it had not copied is made if the parent is gone."""
    config = small(*FOUR, images=5)
    config["img2img"] |= {"seed": 70}
    parent = ran(runs, config)
    found = repeated(parent, FACTOR, images=[0, 2, 4])
    whole = sources(found.result)
    seqs = [one.seq for one in reused(found.folder)]
    cut(found.folder, seqs[1])
    shutil.rmtree(found.folder / "images/01-img2img")
    if is_gone:
        remove_run(parent)
    backend = painter()
    result = resumed_with_reuse(found.folder, backend)
    assert (result.state, sources(result)) == (RunState.COMPLETED, whole)
    earlier = [one for one in asked(backend) if one[0] in STAGES[:2]]
    remade = [("00-txt2img", 1), ("00-txt2img", 2), *(("01-img2img", one) for one in range(3))]
    assert earlier == (remade if is_gone else [])


def test_a_salvaged_rerun_is_still_one(runs: Path) -> None:
    """It keeps its parent, and where seeds count from."""
    config = small(*FOUR, images=3)
    config["img2img"] |= {"seed": 70}
    found = repeated(ran(runs, config), FACTOR, images=[0, 2])
    first = found.opened
    spoil(found.folder, len(list(replay(found.folder).events)) - 2)
    salvaged = opened(Path(salvage(found.folder).folder))
    assert salvaged.parent_run_id == first.parent_run_id
    assert (salvaged.parent_images, salvaged.seed_indexes) == ((0, 2), (0, 2))


def test_a_run_that_uses_nothing_again_says_so(runs: Path) -> None:
    """``run.reuse`` of the parent counts, and can be set."""
    parent = ran(runs, small(*TWO, run={"reuse": "none"}))
    (txt2img, _) = reusing(runs).plan_rerun(parent.name)
    assert txt2img.reasons == {'run.reuse = "none"': 2}
    assert len(repeated(parent).sent) == 4
    assert repeated(parent, "run.reuse=group").sent == []


def test_a_run_of_an_older_release_can_be_repeated(runs: Path) -> None:
    """A golden log: its plan and its configuration are understood, and its images are made."""
    golden = Path(__file__).parent / "golden" / "first-format"
    shutil.copytree(golden, runs / "old")
    found = repeated(runs / "old", "name=again")
    assert found.result.state is RunState.COMPLETED
    assert found.opened.parent_run_id == opened(runs / "old").run_id
