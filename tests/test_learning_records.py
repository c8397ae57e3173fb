"""What a learning record says of a run, however the run ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from stagewright.adapters import LearningRecord, LearningRecordWriter, open_controller
from stagewright.adapters.projections.learning.asked import AskedSettings
from stagewright.adapters.projections.learning.projection import learning_record
from stagewright.adapters.projections.learning.used_values import (
    MAX_NAMES,
    MAX_VALUE_BYTES,
    UsedValues,
)
from stagewright.events import (
    CallCompleted,
    LifecycleChanged,
    RunResumed,
    StageEnd,
    StageStart,
    iterate,
    replay,
)
from stagewright.events.codec import CODEC
from stagewright.statemachine import BackendError, ConfigurationError
from stagewright.statemachine.stages import (
    AdetailerConfig,
    Img2ImgConfig,
    Txt2ImgConfig,
    UpscaleConfig,
)

from .learning import NAME, bytes_of, cancelled, record_of, updated
from .log_format import make_log
from .resuming import (
    FOUR,
    LOG,
    STAGE_IDS,
    cut_before,
    dies_at,
    image_file,
    painted,
    painter,
    ran,
    resumed,
    small,
)
from .stories import Story, error
from .support import ScriptedBackend, document


def test_a_finished_run_is_told_whole(tmp_path: Path) -> None:
    """Settings asked and used, seeds, times and images stand in its record, as in its result."""
    handle = open_controller(tmp_path).start(document(*FOUR, images=2, negative_prompt="blurry"))
    result = handle.wait(30)
    record = record_of(handle.folder)
    assert (record["run_id"], record["folder"]) == (handle.run_id, handle.folder.name)
    assert (record["state"], record["outcome"]) == ("COMPLETED", "completed")
    assert (record["prompt"], record["negative_prompt"]) == ("a lighthouse", "blurry")
    assert (record["seeds"], record["missing"], record["resumes"]) == ([100, 101], [], 0)
    assert set(record["error"].values()) == {None}
    assert record["backend"]["kind"] == "embedded"
    assert [stage["stage_id"] for stage in record["stages"]] == list(STAGE_IDS)
    for told, stage in zip(record["stages"], result.stages, strict=True):
        assert told["duration_ms"] == stage.duration_ms
        assert (told["image_count"], told["attempts"], told["failed_attempts"]) == (2, 2, 0)
    assert record["duration_ms"] == sum(stage.duration_ms for stage in result.stages)
    first, _, upscale, last = record["stages"]
    assert (first["asked"]["steps"], first["asked"]["cfg_scale"]) == (3, 7.0)
    assert json.loads(first["used"])["sampler_name"] == "Euler a"
    assert "infotexts" in first["used_varies"]
    assert upscale["asked"]["factor"] == 2.0
    assert last["asked"]["passes"][0]["model"] == "face_yolov8n.pt"
    for image, made in zip(record["images"], result.images, strict=True):
        same = ("image_index", "path", "sha256", "source_sha256", "seed", "width", "bytes")
        assert {key: image[key] for key in same} == {key: getattr(made, key) for key in same}
    sources = [image.source_sha256 for image in result.stages[2].images]
    assert [image["input_sha256"] for image in record["images"]] == sources


def test_a_record_says_nothing_of_where_and_when_it_was_made(tmp_path: Path) -> None:
    """The same log in another place gives the same bytes."""
    folder = ran(tmp_path / "here", small(*FOUR))
    updated(tmp_path / "here")
    folder.parent.rename(tmp_path / "there")
    before = bytes_of(tmp_path / "there")
    (tmp_path / "there" / NAME).unlink()
    updated(tmp_path / "there")
    assert bytes_of(tmp_path / "there") == before
    assert str(tmp_path).encode() not in before


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    """Kind, words, stage and image of the error; what is missing, and what there is."""
    folder = ran(tmp_path, small("txt2img", "upscale"), painter(dies_at(("01-upscale", 1))))
    record = record_of(folder)
    assert (record["state"], record["outcome"]) == ("ERROR", "failed")
    assert record["error"] == {
        "kind": "BackendError",
        "message": "the GPU fell off",
        "stage_id": "01-upscale",
        "image_index": 1,
    }
    assert record["missing"] == [
        {"image_index": 1, "stage_id": "01-upscale", "error_kind": "BackendError"}
    ]
    assert [image["stage_id"] for image in record["images"]] == ["01-upscale", "00-txt2img"]
    assert [one["failed_attempts"] for one in record["stages"]] == [0, 1]


def test_a_partial_run_says_so(tmp_path: Path) -> None:
    """Outcome partial, and what is missing with the kind of its error."""
    config = small(images=3, run={"on_image_error": "continue"})
    record = record_of(ran(tmp_path, config, painter(dies_at(("00-txt2img", 1)))))
    assert (record["state"], record["outcome"]) == ("ERROR", "partial")
    assert record["error"]["kind"] == "MissingImagesError"
    assert [gap["image_index"] for gap in record["missing"]] == [1]


def test_a_cancelled_run_says_so(tmp_path: Path) -> None:
    """Its images are there, the others are missing without an error, a stage never began."""
    record = record_of(cancelled(tmp_path, small("txt2img", "upscale", images=3)))
    assert (record["state"], record["outcome"]) == ("CANCELLED", "cancelled")
    assert [image["image_index"] for image in record["images"]] == [0]
    assert {gap["error_kind"] for gap in record["missing"]} == {None}
    assert [stage["outcome"] for stage in record["stages"]] == ["cancelled", None]
    assert record["stages"][1]["asked"]["upscaler"] == "Lanczos"


def test_a_resume_replaces_the_record(tmp_path: Path) -> None:
    """One run, one record: of how it ended last, with the work of all its processes."""
    folder = cancelled(tmp_path, small(images=3))
    first = record_of(folder)
    assert resumed(folder).state == "COMPLETED"
    second = record_of(folder)
    assert (second["outcome"], second["resumes"]) == ("completed", 1)
    assert second["stages"][0]["attempts"] == 3
    assert second["duration_ms"] > first["duration_ms"]
    assert second["ended_at"] > first["ended_at"]
    assert second["opened_at"] == first["opened_at"]


def test_a_run_whose_process_died_has_no_record(tmp_path: Path) -> None:
    """Nobody knows how it ended, wherever its log breaks off before its end."""
    folder = ran(tmp_path, small("txt2img", "upscale"))
    whole = (folder / LOG).read_bytes()
    for kind in (CallCompleted, StageStart, LifecycleChanged):
        cut_before(folder, kind, 1)
        assert updated(tmp_path) == []
        (folder / LOG).write_bytes(whole)


def test_the_earlier_record_stands_while_a_resume_goes_on_or_has_died(tmp_path: Path) -> None:
    """What a resume has written before its end changes nothing, torn tail included."""
    folder = cancelled(tmp_path, small(images=3))
    updated(tmp_path)
    before = bytes_of(tmp_path)
    resumed(folder)
    whole = (folder / LOG).read_bytes()
    resume = next(one.seq for one in iterate(folder) if isinstance(one, RunResumed))
    lines = whole.splitlines(keepends=True)
    ended = next(
        one.seq
        for one in iterate(folder)
        if isinstance(one, LifecycleChanged) and one.trigger == "finish"
    )
    for records in range(resume - 1, ended + 1):
        (folder / LOG).write_bytes(b"".join(lines[:records]) + b'{"h":"00')
        updated(tmp_path)
        assert bytes_of(tmp_path) == before, records
    (folder / LOG).write_bytes(b"".join(lines[: ended + 1]))
    assert record_of(folder)["outcome"] == "completed"


def test_the_failure_that_a_resume_records_for_a_dead_process_is_no_end(tmp_path: Path) -> None:
    """Between its "process died" and its own end there is no record; then there is one."""
    folder = ran(tmp_path, small(images=3))
    cut_before(folder, CallCompleted, 1)
    seen = []

    def look(*_: object) -> None:
        seen.append(updated(tmp_path))

    assert resumed(folder, painter(look)).state == "COMPLETED"
    assert seen == [[], []]
    assert (record_of(folder)["outcome"], record_of(folder)["resumes"]) == ("completed", 1)


def test_an_epoch_that_died_counts_with_the_requests_that_it_finished(tmp_path: Path) -> None:
    """It could not say how long it had worked on its stage."""
    folder = ran(tmp_path, small(images=2))
    answered = next(one for one in iterate(folder) if isinstance(one, CallCompleted))
    cut_before(folder, CallCompleted, 1)
    result = resumed(folder)
    (stage,) = record_of(folder)["stages"]
    ended = next(one for one in iterate(folder) if isinstance(one, StageEnd))
    assert stage["duration_ms"] == answered.duration_ms + ended.duration_ms
    assert stage["duration_ms"] == result.stages[0].duration_ms
    assert (stage["attempts"], stage["failed_attempts"]) == (3, 0)


def test_what_never_started_has_no_record(tmp_path: Path) -> None:
    """A configuration error makes no run, so no record, and no file either."""
    with LearningRecordWriter(tmp_path), pytest.raises(ConfigurationError):
        open_controller(tmp_path).start({"prompt": "nothing to do"})
    assert updated(tmp_path) == []
    assert not (tmp_path / NAME).exists()


def test_a_run_can_opt_out(tmp_path: Path) -> None:
    """``[run] learning = false`` is in the log, so that a rebuild honours it too."""
    handle = open_controller(tmp_path).start(small(run={"learning": False}))
    assert handle.wait(30).state == "COMPLETED"
    assert updated(tmp_path) == []
    other = ran(tmp_path, small(run={"learning": True}))
    assert [one["folder"] for one in updated(tmp_path)] == [other.name]


def test_the_second_answer_for_an_image_is_the_one_that_counts(tmp_path: Path) -> None:
    """What the server said of an image that was made again replaces what it said at first."""
    said: list[dict[str, Any]] = [
        {"steps": 1, "model": "x"}, {"steps": 2, "model": "x"}, {"steps": 2}
    ]  # fmt: skip
    infos = iter(said)
    folder = ran(tmp_path, small(images=2), ScriptedBackend(info=next(infos), images=painted))
    image_file(folder, "00-txt2img", 0).unlink()
    resumed(folder, ScriptedBackend(info=next(infos), images=painted))
    (stage,) = record_of(folder)["stages"]
    assert (json.loads(stage["used"]), stage["used_varies"]) == ({"model": "x"}, ["steps"])
    image_file(folder, "00-txt2img", 1).unlink()
    resumed(folder, ScriptedBackend(info=next(infos), images=painted))
    (stage,) = record_of(folder)["stages"]
    assert (json.loads(stage["used"]), stage["used_varies"]) == ({"steps": 2}, ["model"])


def test_tables_of_what_was_used_are_compared_value_by_value() -> None:
    """One level deep; a value that some calls do not tell is not common."""
    used = UsedValues()
    used.take({"steps": 20, "seed": 1, "extra": {"Hires steps": 5, "Refiner": "a"}, "vae": None})
    used.take({"steps": 20, "seed": 2, "extra": {"Hires steps": 5, "Refiner": "b"}})
    assert json.loads(used.as_json()) == {"steps": 20, "extra": {"Hires steps": 5}}
    assert used.varying() == ("extra.Refiner", "seed", "vae")


def test_what_a_server_says_is_bounded() -> None:
    """Long values, very many of them and very long names fill no record."""
    used = UsedValues()
    used.take({"long": "x" * MAX_VALUE_BYTES, "n" * 1000: 1, "kept": True})
    assert (json.loads(used.as_json()), used.varying()) == ({"kept": True}, ("long",))
    many = UsedValues()
    for call in range(20):
        many.take({f"key {place}": call for place in range(call, call + MAX_NAMES)})
    assert len(many.varying()) == MAX_NAMES


def test_inputs_and_what_each_image_was_made_from(tmp_path: Path) -> None:
    """The inputs with their parent, and of each image the source that its request named."""
    parent = ran(tmp_path, small(images=2))
    config = small("img2img", images=1, input_image=f"run:{parent.name}")
    record = record_of(ran(tmp_path, config))
    assert {one["parent_run_id"] for one in record["inputs"]} == {parent.name}
    sources = [image.source_sha256 for image in replay(parent).images]
    assert [one["source_sha256"] for one in record["inputs"]] == sources
    assert [image["input_sha256"] for image in record["images"]] == sources
    assert {image["input_sha256"] for image in record_of(parent)["images"]} == {None}


def test_what_was_varied_is_told_as_it_was_given(tmp_path: Path) -> None:
    """``metadata.varied``, where it is a table; its keys are somebody else's."""
    varied = {"txt2img.cfg_scale": 7, "prompt": "x"}
    folder = ran(tmp_path, small(metadata={"varied": varied}))
    assert json.loads(record_of(folder)["varied"]) == varied
    folder = ran(tmp_path, small(metadata={"varied": [1]}))
    assert record_of(folder)["varied"] == "{}"


def test_no_credentials_and_no_home_folders_leave_with_an_error(tmp_path: Path) -> None:
    """Records are handed on: what an error says of its place is left out, and it is bounded."""

    def script(*_: object) -> None:
        words = "http://me:hunter2@host/x failed, see /home/alice/webui/log.txt "
        raise BackendError(words + "x" * 5000)

    message = record_of(ran(tmp_path, small(), painter(script)))["error"]["message"]
    assert "alice" not in message
    assert "hunter2" not in message
    assert message.startswith("http://host/x failed, see ~/webui/log.txt x")
    assert len(message) < 2100


def hostile(**opened: Any) -> LearningRecord | None:
    """The record of a run whose first record holds these."""
    story = Story("txt2img").move("start").stage("txt2img").move("finish")
    story.events[0] = msgspec.structs.replace(story.events[0], **opened)
    return learning_record(story.events)


@pytest.mark.parametrize(
    "opened",
    [
        {"plan": {"stages": 7, "summary": []}},
        {"plan": {}, "seeds": ()},
        {"plan": {"stages": [None, {"stage_id": 3}, {"stage_id": "00-txt2img", "config": [1]}]}},
        {"plan": {"stages": [{"stage_id": "00-txt2img", "stage_type": {}, "learning_mode": 1}]}},
        {"plan": {"stages": [{"stage_id": "a"}, {"stage_id": "a"}]}},
        {"plan": {"stages": [{"stage_id": str(place)} for place in range(20_000)]}},
        {"config": {"name": [], "prompt": 3, "negative_prompt": {}, "metadata": 1, "run": []}},
        {"config": {"run": {"learning": 0}, "metadata": {"varied": None}}},
    ],
)
def test_a_foreign_log_may_hold_anything(opened: dict[str, Any]) -> None:
    """Whatever stands in plan and configuration, the record has its shape."""
    record = hostile(**opened)
    assert record is not None
    encoded = msgspec.json.encode(record)
    assert msgspec.json.decode(encoded, type=LearningRecord) == record
    assert isinstance(record.duration_ms, float)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"steps": 20, "cfg_scale": 7, "Steps": 3, "passes": []}, {"steps": 20, "cfg_scale": 7.0}),
        ({"steps": "20", "model": "m"}, {"model": "m"}),
        ({"steps": 2**64, "cfg_scale": 1e308, "seed": -(2**70)}, {"cfg_scale": 1e308}),
        ({"passes": [{"model": "f"}, 3], "hires": [], "styles": ["a"]}, {"styles": ("a",)}),
    ],
)
def test_settings_asked_keep_their_types(config: dict[str, Any], expected: dict[str, Any]) -> None:
    """What is no setting of ours, or not of its type, is left out; numbers stay numbers."""
    plan = {"stages": [{"stage_id": "00-txt2img", "config": config}]}
    record = hostile(plan=plan)
    assert record is not None
    assert record.stages[0].asked == AskedSettings(**expected)
    assert isinstance(record.stages[0].asked.cfg_scale, float | None)


@pytest.mark.parametrize("table", [Txt2ImgConfig, Img2ImgConfig, UpscaleConfig, AdetailerConfig])
def test_every_setting_of_a_stage_is_one_of_a_record(table: type[msgspec.Struct]) -> None:
    """A key that is added to a stage must be added to the record, with a new version."""
    missing = set(table.__struct_fields__) - {"enabled"} - set(AskedSettings.__struct_fields__)
    assert missing == set()


@pytest.mark.parametrize("field", ["seed", "width", "bytes"])
def test_numbers_beyond_all_bounds_make_no_record(tmp_path: Path, field: str) -> None:
    """They would make another type of a whole column; the run is named as one without."""
    story = Story("txt2img").move("start").begin("txt2img").make("txt2img", 0)
    made = story.events[-1]
    assert isinstance(made, CallCompleted)
    artifact = msgspec.structs.replace(made.artifacts[0], **{field: 2**64})
    story.events[-1] = msgspec.structs.replace(made, artifacts=(artifact,))
    story.end("txt2img", "completed").move("finish")
    with pytest.raises(ValueError, match="beyond 64 bits"):
        learning_record(story.events)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / LOG).write_bytes(make_log(map(CODEC.encode, story.events)))
    update = LearningRecordWriter(tmp_path).update()
    assert (update.records, update.unreadable) == (0, ("foreign",))


def test_durations_beyond_reason_count_for_nothing() -> None:
    """A foreign log's infinity would be a null where every other record has a number."""
    story = Story("txt2img").move("start").begin("txt2img").end("txt2img", "completed", 1e400)
    story.begin("txt2img").end("txt2img", "completed", -5.0).begin("txt2img")
    story.end("txt2img", "completed", 5.0).move("fail", error())
    record = learning_record(story.events)
    assert record is not None
    assert record.duration_ms == 5.0


def test_a_run_that_failed_before_its_first_stage_has_a_record_like_others() -> None:
    """Nothing was worked on: its duration is a fraction all the same, its lists are empty."""
    story = Story("txt2img").move("start").move("fail", error())
    story.events[0] = msgspec.structs.replace(story.events[0], plan={})
    record = learning_record(story.events)
    assert record is not None
    assert msgspec.json.encode(record.duration_ms) == b"0.0"
    assert (record.stages, record.images, record.outcome) == ((), (), "failed")


def test_a_long_log_is_read_again_rather_than_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read in pieces gives the same record as what is held in memory."""
    folder = cancelled(tmp_path, small(*FOUR, images=3), ("01-img2img", 1))
    resumed(folder, painter(dies_at(("02-upscale", 2))))
    cut_before(folder, LifecycleChanged, 4)
    held = record_of(folder)
    monkeypatch.setattr("stagewright.adapters.projections.learning.projection.HELD_BYTES", 0)
    assert record_of(folder) == held
