"""What a learning record says of a run, however the run ended."""

from __future__ import annotations

import json
import re
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
import pytest
from stagewright.adapters import LearningRecord, LearningRecordWriter, open_controller
from stagewright.adapters.projections.learning.asked import AskedSettings
from stagewright.adapters.projections.learning.projection import read_learning_record
from stagewright.adapters.projections.learning.used_values import (
    MAX_NAMES,
    MAX_VALUE_BYTES,
    used_values,
)
from stagewright.events import (
    CallCompleted,
    StageEnd,
    iterate,
    replay,
)
from stagewright.events.codec import CODEC
from stagewright.events.ratings.log import Ratings
from stagewright.statemachine import BackendError, ConfigurationError
from stagewright.statemachine.stages import (
    AdetailerConfig,
    Img2ImgConfig,
    Txt2ImgConfig,
    UpscaleConfig,
)

from .learning import NAME, bytes_of, cancelled, record_of, remade
from .log_format import make_log, split_lines
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
    assert str(tmp_path).encode() not in bytes_of(tmp_path)


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    """Kind, message, stage and image of the error; what is missing, and what there is."""
    place = ("01-upscale", 1)
    record = record_of(ran(tmp_path, small("txt2img", "upscale"), painter(dies_at(place))))
    assert (record["state"], record["outcome"]) == ("ERROR", "failed")
    assert list(record["error"].values()) == ["BackendError", "the GPU fell off", *place]
    assert [list(gap.values()) for gap in record["missing"]] == [[1, "01-upscale", "BackendError"]]
    assert [image["stage_id"] for image in record["images"]] == ["01-upscale", "00-txt2img"]
    assert [one["failed_attempts"] for one in record["stages"]] == [0, 1]


def test_a_partial_and_a_cancelled_run_say_so(tmp_path: Path) -> None:
    """What is missing, with the kind of its error or without; a stage that never began."""
    config = small(images=3, run={"on_image_error": "continue"})
    record = record_of(ran(tmp_path, config, painter(dies_at(("00-txt2img", 1)))))
    assert (record["state"], record["outcome"]) == ("ERROR", "partial")
    assert record["error"]["kind"] == "MissingImagesError"
    assert [gap["image_index"] for gap in record["missing"]] == [1]
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


def outcomes_while_it_grows(folder: Path) -> list[str | None]:
    """What the record says after each record of the log, each time that it changes."""
    lines = split_lines((folder / LOG).read_bytes())
    found: list[bytes | None] = []
    for count in range(1, len(lines) + 1):
        (folder / LOG).write_bytes(b"".join(lines[:count]) + b'{"h":"00')
        record = read_learning_record(folder, Ratings(folder))
        found.append(None if record is None else msgspec.json.encode(record))
    return [json.loads(line)["outcome"] if line else None for line, _ in groupby(found)]


def test_only_an_end_that_its_own_process_wrote_makes_or_replaces_a_record(tmp_path: Path) -> None:
    """Wherever a log breaks off; the failure that a resume records for a dead process is none."""
    folder = cancelled(tmp_path, small(images=3))
    resumed(folder)
    assert outcomes_while_it_grows(folder) == [None, "cancelled", "completed"]
    folder = ran(tmp_path, small("txt2img", "upscale"))
    cut_before(folder, CallCompleted, 1)
    resumed(folder)
    assert outcomes_while_it_grows(folder) == [None, "completed"]


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
    assert remade(tmp_path) == []
    assert not (tmp_path / NAME).exists()


def test_a_run_can_opt_out(tmp_path: Path) -> None:
    """``[run] learning = false`` is in the log, so that a rebuild honours it too."""
    handle = open_controller(tmp_path).start(small(run={"learning": False}))
    assert handle.wait(30).state == "COMPLETED"
    assert remade(tmp_path) == []
    other = ran(tmp_path, small(run={"learning": True}))
    assert [one["folder"] for one in remade(tmp_path)] == [other.name]


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
    used, varies = used_values(
        [
            {"steps": 20, "seed": 1, "extra": {"Hires steps": 5, "Refiner": "a"}, "vae": None},
            {"steps": 20, "seed": 2, "extra": {"Hires steps": 5, "Refiner": "b"}},
        ]
    )
    assert json.loads(used) == {"steps": 20, "extra": {"Hires steps": 5}}
    assert varies == ("extra.Refiner", "seed", "vae")


def test_what_a_server_says_is_bounded() -> None:
    """Long values, very many of them and very long names do not fill a record."""
    used, varies = used_values([{"long": "x" * MAX_VALUE_BYTES, "n" * 1000: 1, "kept": True}])
    assert (json.loads(used), varies) == ({"kept": True}, ("long",))
    _, varies = used_values(
        {f"key {place}": call for place in range(call, call + MAX_NAMES)} for call in range(20)
    )
    assert len(varies) == MAX_NAMES


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


@pytest.mark.parametrize(
    ("varied", "text"), [({"txt2img.cfg_scale": 7}, '{"txt2img.cfg_scale":7}'), ([1], "{}")]
)
def test_what_was_varied_is_kept_as_text(tmp_path: Path, varied: object, text: str) -> None:
    """``metadata.varied``, if it is a table; a user chooses its keys."""
    assert record_of(ran(tmp_path, small(metadata={"varied": varied})))["varied"] == text


def test_no_credentials_and_no_home_folders_leave_with_an_error(tmp_path: Path) -> None:
    """Records are handed on: what an error says of its place is left out, and it is bounded."""

    def script(*_: object) -> None:
        words = "http://me:hunter2@host/x failed, see /home/alice/webui/log.txt "
        raise BackendError(words + "x" * 5000)

    message = record_of(ran(tmp_path, small(), painter(script)))["error"]["message"]
    assert "alice" not in message
    assert "hunter2" not in message
    assert message.startswith("http://***@host/x failed, see ~/webui/log.txt x")
    assert len(message) < 2100


def recorded(folder: Path, story: Story) -> LearningRecord:
    """The record that is made of the log of a story."""
    (folder / LOG).write_bytes(make_log(map(CODEC.encode, story.events)))
    record = read_learning_record(folder, Ratings(folder))
    assert record is not None
    return record


def hostile(folder: Path, **opened: Any) -> LearningRecord:
    """The record of a run whose first log record holds these."""
    story = Story("txt2img").move("start").stage("txt2img").move("finish")
    story.events[0] = msgspec.structs.replace(story.events[0], **opened)
    return recorded(folder, story)


@pytest.mark.parametrize(
    "opened",
    [
        {"plan": {"stages": 7, "summary": []}},
        {"plan": {}, "seeds": ()},
        {"plan": {"stages": [None, {"stage_id": 3}, {"stage_id": "00-txt2img", "config": [1]}]}},
        {"plan": {"stages": [{"stage_id": "00-txt2img", "stage_type": {}, "learning_mode": 1}]}},
        {"plan": {"stages": [{"stage_id": "a"}, {"stage_id": "a"}]}},
        {"plan": {"stages": [{"stage_id": str(place)} for place in range(2_000)]}},
        {"config": {"name": [], "prompt": 3, "negative_prompt": {}, "metadata": 1, "run": []}},
        {"config": {"run": {"learning": 0}, "metadata": {"varied": None}}},
    ],
)
def test_a_foreign_log_may_hold_anything(tmp_path: Path, opened: dict[str, Any]) -> None:
    """With any plan and configuration, the record has its shape."""
    record = hostile(tmp_path, **opened)
    encoded = msgspec.json.encode(record)
    assert msgspec.json.decode(encoded, type=LearningRecord) == record
    assert isinstance(record.duration_ms, float)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"steps": 20, "cfg_scale": 7, "Steps": 3, "passes": []}, {"steps": 20, "cfg_scale": 7.0}),
        ({"steps": "20", "model": "m"}, {"model": "m"}),
        ({"passes": [{"model": "f"}, 3], "hires": [], "styles": ["a"]}, {"styles": ("a",)}),
    ],
)
def test_settings_asked_keep_their_types(
    tmp_path: Path, config: dict[str, Any], expected: dict[str, Any]
) -> None:
    """What is no setting of ours, or not of its type, is left out; numbers stay numbers."""
    plan = {"stages": [{"stage_id": "00-txt2img", "config": config}]}
    record = hostile(tmp_path, plan=plan)
    assert record.stages[0].asked == AskedSettings(**expected)
    assert isinstance(record.stages[0].asked.cfg_scale, float | None)


@pytest.mark.parametrize("table", [Txt2ImgConfig, Img2ImgConfig, UpscaleConfig, AdetailerConfig])
def test_every_setting_of_a_stage_is_one_of_a_record(table: type[msgspec.Struct]) -> None:
    """A key that changes images must be added to the record, with a new version."""
    others = {"enabled", "farm_hint"}  # neither changes an image
    missing = set(table.__struct_fields__) - others - set(AskedSettings.__struct_fields__)
    assert missing == set()


def test_a_run_that_failed_before_its_first_stage_has_a_record_like_others(tmp_path: Path) -> None:
    """Its duration is a fraction as in any other record, its lists are empty."""
    story = Story("txt2img").move("start").move("fail", error())
    story.events[0] = msgspec.structs.replace(story.events[0], plan={})
    record = recorded(tmp_path, story)
    assert msgspec.json.encode(record.duration_ms) == b"0.0"
    assert (record.stages, record.images, record.outcome) == ((), (), "failed")


def test_a_time_that_utc_does_not_have_makes_no_record(tmp_path: Path) -> None:
    """The run of such a foreign log is named, and the others have their records."""
    story = Story("txt2img").move("start").move("fail", error())
    opened, *others = map(CODEC.encode, story.events)
    opened = re.sub(rb'"ts":"[^"]*"', b'"ts":"0001-01-01T00:00:00+14:00"', opened)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / LOG).write_bytes(make_log([opened, *others]))
    ran(tmp_path, small(images=1))
    update = LearningRecordWriter(tmp_path).rebuild()
    assert (update.records, update.unreadable) == (1, ("foreign",))
