"""What differs between two runs, from their logs alone."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from PIL import Image, PngImagePlugin
from stagewright.adapters.pixel_comparison import same_pixels
from stagewright.adapters.projections.diff import RunComparison, compare_runs
from stagewright.adapters.projections.diff.values import Difference, differences
from stagewright.events import CallRequested
from stagewright.events.codec import CODEC
from stagewright.statemachine import BackendError, GenerateRequest

from .resuming import copied, cut, cut_before, painter, ran, resumed, small
from .stories import Story, save_log
from .support import ScriptedBackend, png

SCALAR: st.SearchStrategy[Any] = st.sampled_from([None, True, False, 0, 1, 7, "", "a", [], {}])
TABLE = st.dictionaries(st.sampled_from("ab"), SCALAR)
JSON = st.dictionaries(st.sampled_from("ab"), SCALAR | TABLE | st.lists(SCALAR | TABLE, max_size=2))


def keys(found: tuple[Difference, ...]) -> dict[str, tuple[Any, Any]]:
    """Each difference by its key; a side on which it is not there is UNSET."""
    return {one.key: (one.left, one.right) for one in found}


def rows(found: RunComparison, what: str) -> list[list[tuple[int, int]]]:
    """One list of image indexes of every stage, as rows."""
    return [list(getattr(one.answers.images, what)) for one in found.stages]


# --- Values


@given(left=JSON, right=JSON)
def test_values_differ_where_differences_say_so(left: Any, right: Any) -> None:
    """Equal values have none, others have some; the other way round they are the same, turned."""
    found = list(differences(left, right, "x"))
    assert not list(differences(left, left))
    assert bool(found) == (json.dumps(left, sort_keys=True) != json.dumps(right, sort_keys=True))
    turned = [(one.key, one.right, one.left) for one in differences(right, left, "x")]
    assert sorted(one.key for one in found) == sorted(key for key, _, _ in turned)


def test_differences_are_named_by_dotted_keys() -> None:
    """Tables are gone into, lists of tables place by place, other lists are one value."""
    left = {
        "a": {"b": 1, "c": [1, 2], "d": [[True], {"x": 0}]},
        "passes": [{"model": "face"}],
        "gone": {"x": 1},
    }
    right = {
        "a": {"b": True, "c": [1, 3], "d": [[1], {"x": False}]},
        "passes": [{"model": "hand"}, {"model": "eye"}],
    }
    assert keys(tuple(differences(left, right))) == {
        "a.b": (1, True),
        "a.c": ([1, 2], [1, 3]),
        "a.d": ([[True], {"x": 0}], [[1], {"x": False}]),
        "passes.0.model": ("face", "hand"),
        "passes.1": (UNSET, {"model": "eye"}),
        "gone": ({"x": 1}, UNSET),
    }


# --- Runs


def test_a_run_does_not_differ_from_itself_nor_from_its_like(tmp_path: Path) -> None:
    """Ids, times and files of another run are no difference."""
    config = small("txt2img", "img2img", "adetailer")
    first, second = (ran(tmp_path / "runs", config, painter()) for _ in range(2))
    assert compare_runs(first, first).same
    found = compare_runs(first, second)
    assert found.same
    assert found.left.run_id != found.right.run_id
    assert rows(found, "equal") == [[(0, 1)]] * 3


def test_a_setting_is_found_where_it_was_given_planned_and_used(tmp_path: Path) -> None:
    """And the images that came out otherwise for it."""
    left = ran(tmp_path / "runs", small(), ScriptedBackend(info={"steps": 3, "seed": 1}))
    config = small()
    config["txt2img"] = {**config["txt2img"], "steps": 5}
    right = ran(tmp_path / "runs", config, ScriptedBackend(info={"steps": 5, "seed": 1}))
    found = compare_runs(left, right)
    assert keys(found.configuration) == {"txt2img.steps": (3, 5)}
    assert keys(found.plan) == {"txt2img.steps": (3, 5), "total_steps": (6, 10)}
    (stage,) = found.stages
    (used,) = stage.answers.used
    assert (used.key, used.left, used.right, used.images) == ("steps", 3, 5, ((0, 1),))
    assert rows(found, "other_request") == [[(0, 1)]]
    assert not found.same


def test_the_same_request_with_another_image_is_told(tmp_path: Path) -> None:
    """What follows from it in later stages is another request, and so no second finding."""

    def images(request: Any) -> list[bytes]:
        odd = request.stage_type == "txt2img" and request.image_index == 1
        return [png(request.seed + 50 * odd)]

    config = small("txt2img", "upscale", images=3)
    left = ran(tmp_path / "runs", config, ScriptedBackend())
    right = ran(tmp_path / "runs", config, ScriptedBackend(images=images))
    found = compare_runs(left, right)
    assert rows(found, "different") == [[(1, 1)], []]
    assert rows(found, "same_request") == [[(1, 1)], []]
    assert rows(found, "other_request") == [[], [(1, 1)]]
    assert not found.same


def said_by(version: str, *, deep: bool = False) -> ScriptedBackend:
    """A server that writes its version into its images, and shows the same in every one."""

    def images(request: Any) -> list[bytes]:
        stream, info = io.BytesIO(), PngImagePlugin.PngInfo()
        info.add_text("parameters", f"Steps: 3, Version: {version}")
        seed = request.seed % 200
        # Another version packs the very same pixels otherwise.
        level = len(version)
        picture = Image.new("I;16", (64, 64), seed) if deep else Image.new("RGB", (64, 64), "teal")
        picture.save(stream, "PNG", pnginfo=info, compress_level=level)
        return [stream.getvalue()] * request.count

    return ScriptedBackend(images=images)


@pytest.mark.parametrize(
    ("version", "harm", "found_in"),
    [
        ("v1.10.1", "", "same_pixels"),  # a newer server writes other words into its images
        ("v2", "", "same_pixels"),  # or packs them differently
        ("v2", "missing", "not_looked_at"),
        ("v2", "altered", "not_looked_at"),
        ("v2", "deep", "not_looked_at"),  # 16 bits of a sample are not compared
    ],
)
def test_equal_requests_with_different_files_are_compared_by_pixels(
    tmp_path: Path, version: str, harm: str, found_in: str
) -> None:
    """The same pixels are no other image; images that cannot be opened are listed as such."""
    deep = harm == "deep"
    left = ran(tmp_path / "runs", small(), said_by("v1.10.0", deep=deep))
    right = ran(tmp_path / "runs", small(), said_by(version, deep=deep))
    for image in right.rglob("*.png") if harm in ("missing", "altered") else ():
        image.write_bytes(b"another") if harm == "altered" else image.unlink()
    found = compare_runs(left, right)
    assert rows(found, "different") == rows(found, found_in) == [[(0, 1)]]
    others = {"same_request", "same_pixels", "not_looked_at"} - {found_in}
    assert all(rows(found, what) == [[]] for what in others)
    assert not found.same


def test_images_that_move_are_not_the_same_for_their_first_picture() -> None:
    """Nobody looks at the others, so that cannot be told; without any it can."""

    def moving(*colours: str) -> bytes:
        first, *others = (Image.new("RGB", (8, 8), colour) for colour in colours)
        stream = io.BytesIO()
        first.save(stream, "PNG", save_all=bool(others), append_images=others)
        return stream.getvalue()

    assert same_pixels(moving("teal", "red"), moving("teal", "blue")) is None
    assert same_pixels(moving("teal"), moving("teal")) is True
    assert same_pixels(moving("teal"), moving("red")) is False


def test_stages_are_matched_by_their_type(tmp_path: Path) -> None:
    """Whatever their place; a stage of one run alone is named, and not compared."""
    picture = tmp_path / "face.png"
    picture.write_bytes(png(3))
    left = ran(tmp_path / "runs", small("txt2img", "upscale"), painter())
    alone = small("upscale", images=1, input_image=str(picture))
    right = ran(tmp_path / "runs", alone, painter())
    found = compare_runs(left, right)
    assert keys(found.plan)["stages"] == (["txt2img", "upscale"], ["upscale"])
    assert keys(found.plan)["upscale.input_source"] == ("txt2img", "file")
    (stage,) = found.stages
    assert (stage.stage, stage.left_stage_id, stage.right_stage_id) == (
        "upscale", "01-upscale", "00-upscale",
    )  # fmt: skip
    assert rows(found, "only_left") == [[(1, 1)]]
    assert keys(found.inputs)["inputs"][0] == []


def test_drawn_seeds_differ_where_the_configuration_does_not(tmp_path: Path) -> None:
    """They are drawn once for a run, and stand in its log."""
    first, second = (ran(tmp_path / "runs", small(seed=-1), painter()) for _ in range(2))
    found = compare_runs(first, second)
    assert not found.configuration
    assert set(keys(found.plan)) == {"seeds", "txt2img.seed"}


def test_a_run_and_its_resumed_copy(tmp_path: Path) -> None:
    """The outcome differs, and the images that only the copy has; what both have is equal."""
    whole = ran(tmp_path / "runs", small("txt2img", "img2img"), painter())
    cut_before(whole, CallRequested, 3)
    (tmp_path / "others").mkdir()
    copy = copied(whole, tmp_path / "others")
    assert resumed(copy).state == "COMPLETED"
    found = compare_runs(whole, copy)
    outcome = keys(found.outcome)
    assert outcome["state"] == ("RUNNING", "COMPLETED")
    assert outcome["resumes"] == (0, 1)
    assert outcome["missing.img2img"] == ({"images": "1", "errors": {}}, UNSET)
    assert rows(found, "equal") == [[(0, 1)], [(0, 0)]]
    assert rows(found, "only_right") == [[], [(1, 1)]]
    assert not found.configuration
    assert not found.plan


@pytest.mark.parametrize("transient", [False, True])
def test_failures_and_missing_images_are_compared(tmp_path: Path, *, transient: bool) -> None:
    """By kind and place; an attempt that was repeated is a difference as well."""
    config = small(
        "txt2img", "upscale", run={"on_image_error": "continue"}, server={"backoff_s": 0.001}
    )
    failing = iter([True])

    def fails(request: GenerateRequest, _cancel: object) -> None:
        if request.image_index == 1 and next(failing, not transient):
            raise BackendError("busy", transient=transient, settled=True)

    left = ran(tmp_path / "runs", config, painter())
    right = ran(tmp_path / "runs", config, painter(fails))
    found = compare_runs(left, right)
    outcome = keys(found.outcome)
    assert outcome.pop("failed_attempts.BackendError") == (UNSET, 1)
    if transient:
        assert not outcome
        return
    assert outcome["outcome"] == ("completed", "partial")
    missing = {"images": "1", "errors": {"BackendError": 1}}
    assert outcome["missing.txt2img"] == (UNSET, missing)
    assert outcome["error"][1]["kind"] == "MissingImagesError"


# --- What was really used


def with_answers(folder: Path, *infos: dict[str, Any], count: int = 1) -> Path:
    """A run of one stage whose answers say this; each makes ``count`` images."""
    story = Story("txt2img", images=len(infos) * count).move("start").begin("txt2img")
    for number, info in enumerate(infos):
        story.make("txt2img", number * count, count, **info)
    return save_log(folder, story.end("txt2img", "completed").move("finish").events)


def used(left: Path, right: Path) -> dict[str, list[tuple[Any, Any, Any]]]:
    """What was used differently, by key."""
    found: dict[str, list[tuple[Any, Any, Any]]] = {}
    (stage,) = compare_runs(left, right).stages
    for one in stage.answers.used:
        found.setdefault(one.key, []).append((one.left, one.right, one.images))
    return found


def test_values_that_differ_by_image_are_told_by_image(tmp_path: Path) -> None:
    """Equal pairs are one finding, with the rows of images that they stand for."""
    left = with_answers(tmp_path / "a", *[{"seed": n, "sampler": "Euler"} for n in (1, 2, 3)])
    right = with_answers(tmp_path / "b", *[{"seed": n, "sampler": "Heun"} for n in (1, 5, 6)])
    assert used(left, right) == {
        "sampler": [("Euler", "Heun", ((0, 2),))],
        "seed": [(2, 5, ((1, 1),)), (3, 6, ((2, 2),))],
    }


def test_an_image_of_a_batch_is_compared_by_what_is_said_of_it(tmp_path: Path) -> None:
    """One run made two images in one request, the other in two."""
    batch = {"seed": 1, "all_seeds": [1, 2], "infotexts": ["one", "two"], "batch_size": 2}
    single = [{"seed": n, "all_seeds": [n], "infotexts": [t], "batch_size": 1}
              for n, t in ((1, "one"), (2, "other"))]  # fmt: skip
    left = with_answers(tmp_path / "a", batch, count=2)
    right = with_answers(tmp_path / "b", *single)
    assert used(left, right) == {"batch_size": [(2, 1, ((0, 1),))]}


def test_noise_is_left_out_with_its_reason(tmp_path: Path) -> None:
    """When a server worked is no setting; its words count only where no value tells."""
    left = with_answers(tmp_path / "a", {"job_timestamp": "1", "steps": 3, "infotexts": ["3"]})
    right = with_answers(tmp_path / "b", {"job_timestamp": "2", "steps": 5, "infotexts": ["5"]})
    (stage,) = compare_runs(left, right).stages
    assert set(stage.answers.left_out) == {"job_timestamp", "infotext"}
    assert used(left, right) == {"steps": [(3, 5, ((0, 0),))]}
    words = with_answers(tmp_path / "c", {"job_timestamp": "2", "steps": 3, "infotexts": ["5"]})
    assert used(left, words) == {"infotext": [("3", "5", ((0, 0),))]}
    later = with_answers(tmp_path / "d", {"job_timestamp": "2", "steps": 3, "infotexts": ["3"]})
    assert used(left, later) == {}


def test_infotexts_are_compared_by_their_keys(tmp_path: Path) -> None:
    """A key that no field repeats is named; a subseed without strength is noise."""
    text = "a cat\nSteps: {}, Seed: 1, ENSD: {}, Version: v1.10.1"
    left = with_answers(tmp_path / "a", {
        "steps": 3, "infotexts": [text.format(3, 0)], "subseed": 8, "subseed_strength": 0,
    })  # fmt: skip
    right = with_answers(tmp_path / "b", {
        "steps": 5, "infotexts": [text.format(5, 31337)], "subseed": 9, "subseed_strength": 0,
    })  # fmt: skip
    assert used(left, right) == {
        "steps": [(3, 5, ((0, 0),))],
        "infotext: ENSD": [("0", "31337", ((0, 0),))],
    }


# --- Logs of strangers, long logs


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"stages": 5},
        {"stages": [1, {"stage_id": 3}, {"stage_id": "00-txt2img", "stage_type": [], "config": 7}]},
        {"stages": [{"stage_id": "00-txt2img"}, {"stage_id": "00-txt2img"}], "seeds": {"a": 1}},
    ],
)
def test_plans_of_any_shape_are_compared(tmp_path: Path, plan: dict[str, Any]) -> None:
    """A foreign log may hold anything in its plan."""
    whole = Story("txt2img").move("start").stage("txt2img").events
    left = save_log(tmp_path / "a", whole)
    events = [CODEC.decode(body) for body in map(CODEC.encode, whole)]
    document = json.loads(CODEC.encode(events[0])) | {"plan": plan}
    events[0] = CODEC.decode(json.dumps(document).encode())
    right = save_log(tmp_path / "b", events)
    assert compare_runs(right, right).same
    assert compare_runs(left, right).right.events == len(events)


def test_a_torn_tail_is_left_alone(tmp_path: Path) -> None:
    """What is whole before it is compared."""
    events = Story("txt2img").move("start").stage("txt2img").events
    left, right = (save_log(tmp_path / name, events) for name in ("left", "right"))
    cut(right, len(events), torn=b'{"h":"0000')
    assert compare_runs(left, right).same
