"""A run's timeline as text: the same whenever, and wherever, the same thing happens."""

from __future__ import annotations

import re
import tempfile
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stagewright.adapters import open_controller
from stagewright.adapters.webui_server import EmbeddedServer
from stagewright.events import (
    Artifact,
    BackendDescription,
    CallFailed,
    EventRecorder,
    LogRepaired,
    RecordedEvents,
    RunResumed,
    StageEvent,
    UnknownEvent,
)
from stagewright.statemachine import PipelineController

from .resuming import FOUR
from .stories import Story, error
from .support import document, run_opened

TIMES = st.integers(min_value=0, max_value=10**9).map(lambda ms: timedelta(milliseconds=ms))


def whole_story(run_id: str = "story") -> list[StageEvent]:
    """A run with a batch, a failure, a cancel and a resume."""
    story = Story("txt2img", "upscale", run_id=run_id).move("start").begin("txt2img")
    story.make("txt2img", 0, 2).miss("txt2img", 0, error()).ask_to_cancel().move("cancel")
    story.seal("cancelled").resume("cleanup").stage("upscale").move("finish")
    return story.seal("completed").events


def timeline(events: list[StageEvent]) -> str:
    return RecordedEvents(events).timeline()


def test_a_run_through_all_stages_has_the_timeline_that_is_kept(
    recorded_events: EventRecorder, stagewright_controller: PipelineController
) -> None:
    """The embedded backend's run reads as the file beside this test, on this machine too."""
    config = document(*FOUR, images=2, seed=7)
    stagewright_controller.start(config).wait(60)
    recorded_events.assert_timeline(Path("timelines/all_stages.txt"))


def test_the_same_run_on_a_server_differs_only_in_what_made_it(tmp_path: Path) -> None:
    """Ports and versions are not in the text, so a server's run reads the same every time."""
    texts = []
    for _ in range(2):
        with EmbeddedServer(["base.safetensors"]) as server:
            result = open_controller(tmp_path, server.url).start(document()).wait(60)
            texts.append(RecordedEvents(result.events).timeline())
    assert texts[0] == texts[1]
    assert 'url="http://127.0.0.1:<port>"' in texts[0]


def renamed(events: list[StageEvent], salt: str, shift: timedelta) -> list[StageEvent]:
    """The same run elsewhere: other ids, digests, host, process, versions, times and sizes."""

    def digest(old: str) -> str:
        return sha256((salt + old).encode()).hexdigest()

    def rename(name: str, value: Any) -> Any:
        if isinstance(value, Artifact):
            return again(value)
        if name in ("run_id", "call_id", "host", "boot_id", "software"):
            return salt + value
        if name in ("sha256", "source_sha256", "request_sha256", "head"):
            return digest(value)
        if name == "inputs" or name == "artifacts":
            return tuple(rename("sha256", one) for one in value)
        moved = {"ts": shift, "pid": 7, "bytes": 13, "duration_ms": 0.5}
        return value + moved[name] if name in moved else value

    def again(part: Any) -> Any:
        fields = {name: rename(name, getattr(part, name)) for name in part.__struct_fields__}
        return msgspec.structs.replace(part, **fields)

    return [again(event) for event in events]


@given(salt=st.text("abcdef", min_size=1, max_size=8), shift=TIMES)
def test_names_and_times_never_show(salt: str, shift: timedelta) -> None:
    """Whatever a run, its calls, images, host and process are called, the text is one."""
    events = whole_story()
    assert timeline(renamed(events, salt, shift)) == timeline(events)


@given(st.data())
def test_order_and_loss_always_show(data: st.DataObject) -> None:
    """Two events that change places, or one that is missing, make another text."""
    events = whole_story()
    text = timeline(events)
    place = data.draw(st.integers(min_value=0, max_value=len(events) - 2))
    swapped = [*events[:place], events[place + 1], events[place], *events[place + 2 :]]
    assert timeline(swapped) != text
    assert timeline([*events[:place], *events[place + 1 :]]) != text


@pytest.mark.parametrize("change", [{"seed": 5}, {"width": 72}, {"path": "images/x/00000-1.png"}])
def test_seeds_sizes_and_paths_show(change: dict[str, Any]) -> None:
    """What an image is stays in the text."""
    story, other = Story(), Story()
    image = story.image("txt2img", 0)
    story.announce("txt2img", 0, image)
    other.announce("txt2img", 0, msgspec.structs.replace(image, **change))
    assert timeline(story.events) != timeline(other.events)


def test_what_belongs_together_is_still_seen() -> None:
    """A call and its answer have one name, a later process another, on the same host."""
    events = whole_story()
    lines = timeline(events).splitlines()
    assert len([line for line in lines if not line.startswith(" ")]) == len(events)
    assert sum("call-1" in line for line in lines) == 2
    resumed_at = next(line for line in lines if "RunResumed" in line)
    assert "epoch=1" in resumed_at
    assert "pid=pid-2" in resumed_at
    assert "host=host-1" in resumed_at


def test_the_next_stage_is_seen_to_take_what_the_one_before_gave(
    recorded_events: EventRecorder, stagewright_controller: PipelineController
) -> None:
    """A source has one stand-in, wherever it appears."""
    stagewright_controller.start(document("txt2img", "upscale")).wait(60)
    text = recorded_events.timeline()
    (given_source,) = set(re.findall(r"txt2img/00000-100\.png\(.* (source-\d+)\)", text))
    assert f"inputs=[{given_source}]" in text


def test_words_of_this_machine_are_replaced() -> None:
    """Folders, ports, processes, versions, run ids and digests in free text have stand-ins."""
    run_id = "20261120T225226.123456Z-test-7f3a9c"
    home = Path.home()
    message = (
        f"{tempfile.gettempdir()}//a/b/in.png: not a picture; {home} is full; pid 4711 of "
        f"{run_id} at http://127.0.0.1:40123/sdapi/v1/txt2img; stagewright 0.1.0 said {'ab' * 32}"
    )
    events = Story(run_id=run_id).miss("txt2img", 0, error(message=message)).events
    assert (
        'message="<folder>/in.png: not a picture; <folder> is full; pid-2 of run-1 at '
        "http://127.0.0.1:<port>/sdapi/v1/txt2img; stagewright <version> said digest-1"
    ) in timeline(events)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (f"pid {'9' * 5000}", "9" * 5000),
        (f"{tempfile.gettempdir()}-of-somebody/in.png", "-of-somebody/in.png"),
        (f"{tempfile.gettempdir() * 5_000}/last/", 'message="<folder>/last/"'),
    ],
    ids=["no number of a process", "no folder of ours", "long path"],
)
def test_words_that_only_look_like_this_machine_s_are_left(message: str, shown: str) -> None:
    """What only begins like a name of ours is left, and a path of any length is replaced."""
    events = Story().miss("txt2img", 0, error(message=message)).events
    assert shown in timeline(events)


def test_text_that_looks_like_something_else_is_in_quotes() -> None:
    """The seed 42 and the prompt "42" are told apart."""
    stage = {"stage_id": "00-txt2img", "config": {"prompt": "42", "seed": 42, "tiling": None}}
    opened = msgspec.structs.replace(run_opened("story"), plan={"stages": [stage]})
    assert '{prompt="42" seed=42 tiling=null}' in timeline([opened])


nested: Any = "deep"
for _ in range(400):
    nested = {"again": [nested]}


@pytest.mark.parametrize(
    "plan",
    [
        {"stages": "none"},
        {"stages": [{"stage_id": "\x1b[2Jgone\u202e\ud800", "config": nested, "input_source": 3}]},
        {"stages": [{"stage_id": "x", "config": {"\x07": float("nan"), 'a"b': "c\\d"}}, 17, None]},
    ],
)
def test_a_stranger_s_log_harms_no_terminal_and_no_test(plan: dict[str, Any]) -> None:
    """Any plan is told in printable characters, one line a stage."""
    foreign = msgspec.structs.replace(run_opened("story"), plan=plan, host="\x1b]0;title\x07")
    unknown = UnknownEvent(run_id="story", seq=1, ts=foreign.ts, type="\x1bNew", raw=b"{}")
    text = timeline([foreign, unknown])
    assert all(line.isprintable() for line in text.splitlines())
    assert len(text.splitlines()) <= 4


def test_no_other_field_is_left_out() -> None:
    """But for the envelope, what is measured and the free tables, every field has its name there.

    A field that an event type gains is in the text as soon as it says something.
    """
    story = Story()
    at: dict[str, Any] = {"run_id": "story", "seq": 1, "ts": story.events[0].ts}
    failed = CallFailed(
        **at, call_id="c", endpoint="/x", error=error(), will_retry=True, settled=True,
        interrupted=True,
    )  # fmt: skip
    resumed_run = RunResumed(
        **at, completed_images=1, backend=BackendDescription(kind="x"), software="s", host="h",
        boot_id="b", pid=1, lost={"00-txt2img": ((0, 1),)},
    )  # fmt: skip
    repaired = LogRepaired(**at, offset=1, bytes=2, sha256="0" * 64, copied_to="x.torn-1")
    left_out = {"config", "plan", "offset", "bytes", *StageEvent.__struct_fields__}
    for event in (story.events[0], failed, resumed_run, repaired):
        line = timeline([event]).splitlines()[0]
        for field in msgspec.structs.fields(event):
            if field.name not in left_out:
                at_default = getattr(event, field.name) == field.default
                assert (f" {field.name}=" in line) is not at_default, (line, field.name)


def test_a_timeline_in_the_test_s_own_text_may_be_indented() -> None:
    """A block of text in a test is compared without its indentation."""
    recorded = RecordedEvents(Story().move("start").events[1:])
    recorded.assert_timeline(
        """
        run-1 #1   LifecycleChanged trigger=start source=IDLE dest=RUNNING
        """
    )


def test_a_timeline_that_differs_is_shown_as_a_diff(tmp_path: Path) -> None:
    """Lines that are missing have a minus, new ones a plus, and the file is named."""
    path = tmp_path / "kept.txt"
    path.write_text(timeline(Story().move("start").events), encoding="utf-8")
    with pytest.raises(AssertionError) as assertion:
        RecordedEvents(Story().move("start").move("cancel").events).assert_timeline(path)
    lines = str(assertion.value).splitlines()
    assert lines[:3] == ["the timeline is another one:", f"--- {path}", "+++ recorded"]
    assert lines[-1] == "+run-1 #2   LifecycleChanged trigger=cancel source=RUNNING dest=CANCELLED"
