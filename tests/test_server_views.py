"""Which of several servers made each image, in every view of a run."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from stagewright.adapters import LearningRecordWriter, StatusBar
from stagewright.events import (
    BackendDescription,
    CallFailed,
    CallRequested,
    RunResumed,
    StageEvent,
    iterate,
)
from stagewright.events.codec import CODEC
from stagewright.events.testing.timeline_text import timeline_lines

from .command_line import stagewright
from .learning import NAME
from .log_format import make_log
from .reports import Refusing, reported
from .resuming import image_file, painter, ran, small
from .shared_runs import FAST, SLOW, SharedRun, share, shared_backend
from .stories import error


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stages of four images; images 1 and 3 of the first come from the first server."""
    runs = tmp_path_factory.mktemp("shared") / "runs"
    server = {"url": [FAST, SLOW]}
    made = ran(runs, small("txt2img", "upscale", images=4, name="shared"))
    share(made, FAST, SLOW)
    opened, *others = iterate(made)
    config = {**opened.config, "server": server}  # type: ignore[attr-defined]  # it is RunOpened
    events = [msgspec.structs.replace(opened, config=config), *others]
    (made / "events.jsonl").write_bytes(make_log(map(CODEC.encode, events)))
    return made


def printed(folder: Path, *arguments: str | Path) -> str:
    """What a command prints beside the folder of runs."""
    done = stagewright(*arguments, folder=folder.parent.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


def line_with(text: str, lead: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(lead))


@pytest.mark.parametrize(("index", "url", "version"), [(2, FAST, "1.10"), (3, SLOW, "1.11")])
def test_an_image_names_the_server_that_made_it(
    folder: Path, index: int, url: str, version: str
) -> None:
    """With its own version, in ``show`` and ``lineage``, as text and as JSON."""
    image = image_file(folder, "00-txt2img", index)
    named = f"a1111 webui {version} {url}"
    assert line_with(printed(folder, "show", image), "backend").split(maxsplit=1)[1] == named
    shown = json.loads(printed(folder, "show", image, "--json"))
    assert shown["backend"] == named.split()
    server = line_with(printed(folder, "lineage", image), "server")
    assert server.split(maxsplit=1)[1] == f"webui {version} at {url}"
    step = json.loads(printed(folder, "lineage", image, "--json"))["steps"][0]
    assert (step["backend"]["url"], step["backend"]["version"]) == (url, version)


def test_show_of_a_run_lists_what_each_server_made(folder: Path) -> None:
    """Its images in each stage, by number, and the time for each."""
    shown = printed(folder, "show", folder.name)
    for url, numbers in ((FAST, "1, 3"), (SLOW, "2, 4")):
        line = line_with(shown, f"    {url}")
        for stage in ("00-txt2img", "01-upscale"):
            assert f"{stage} 2 images ({numbers}), " in line
        assert line.count(" each") == 2
    first, second = json.loads(printed(folder, "show", folder.name, "--json"))["servers"]
    assert (first["url"], first["version"], first["image_count"]) == (FAST, "1.10", 4)
    assert [stage["image_indexes"] for stage in second["stages"]] == [[1, 3], [1, 3]]
    assert all(stage["ms_each"] > 0 for stage in second["stages"])


def test_a_run_on_one_server_has_no_list_of_servers(tmp_path: Path) -> None:
    """Neither as text nor as JSON: what such a run shows is what it was."""
    alone = ran(tmp_path / "runs", small(images=1))
    assert "servers" not in printed(alone, "show", alone.name)
    assert "servers" not in json.loads(printed(alone, "show", alone.name, "--json"))
    page, _ = reported(alone)
    assert "Server http" not in page.text
    assert page.all("text", **{"class": "lane-label lane-server"}) == []


def test_replay_names_the_server_of_each_call(folder: Path) -> None:
    """Of requests and of answers."""
    lines = printed(folder, "replay", folder.name).splitlines()
    requests = [line for line in lines if "CallRequested 00-txt2img" in line]
    answers = [line for line in lines if "CallCompleted" in line]
    turns = [f"({FAST})", f"({SLOW})"] * 2
    assert [line.rpartition(" ")[2] for line in requests] == turns
    assert [line.rpartition(" ")[2] for line in answers] == turns * 2


def test_timelines_as_text_have_stand_ins_for_several_servers() -> None:
    """Whatever their addresses are; of a run with one server no request names it."""

    def lines(*urls: str) -> list[str]:
        run = SharedRun(dict.fromkeys(urls, 2.0), "txt2img", images=2)
        run.share_stage("txt2img")
        return list(timeline_lines(run.events))

    shared = lines(FAST, SLOW)
    assert "servers=[{url=server-1 product=webui" in shared[0]
    named = [line.rpartition(" ")[2] for line in shared if "CallRequested" in line]
    assert named == ["server=server-1", "server=server-2"]
    assert shared[2:] == lines("http://one:1", "http://two:2")[2:]
    alone = SharedRun({FAST: 2.0}, "txt2img", images=2).share_stage("txt2img")
    one = BackendDescription(kind="a1111", url=FAST)
    opened = msgspec.structs.replace(alone.events[0], backend=one)
    assert not any("server=" in line for line in timeline_lines([opened, *alone.events[1:]]))


def test_list_has_a_column_and_a_filter_of_all_servers(folder: Path) -> None:
    """A run is found by any of its servers."""
    columns = printed(folder, "list", "--columns", "name,server")
    assert FAST in columns
    assert SLOW in columns
    for url, found in ((SLOW, 1), ("http://127.0.0.1:9", 0)):
        listed = json.loads(printed(folder, "list", "--json", "--where", f"server={url}"))
        assert len(listed) == found
    assert json.loads(printed(folder, "list", "--json"))[0]["servers"] == [FAST, SLOW]


def test_diff_compares_all_servers(folder: Path) -> None:
    """Each by its place."""
    moved = folder.parent.parent / "moved" / folder.name
    other = ran(moved.parent, small("txt2img", "upscale", images=4, name="shared"))
    share(other, FAST, "http://127.0.0.1:7999")
    text = printed(folder, "diff", folder, other)
    assert f'servers.1.url: "{SLOW}" -> "http://127.0.0.1:7999"' in text
    assert "servers.0" not in text


def test_a_configuration_of_the_run_keeps_the_list_of_servers(folder: Path) -> None:
    """And its first lines name all that made it."""
    for what in (folder, image_file(folder, "00-txt2img", 1)):
        text = printed(folder, "config", what)
        assert f"webui 1.10 {FAST}; webui 1.11 {SLOW}" in text
        assert SLOW in text.partition("[server]")[2]


def test_the_report_has_a_lane_for_each_server(folder: Path) -> None:
    """In each stage, with its bars below its address; facts and events name the servers too."""
    page, _ = reported(folder)
    labels = page.all("text", **{"class": "lane-label lane-server"})
    assert page.text.count(f"Server {FAST}") == 1
    assert f"webui 1.10 {FAST}; webui 1.11 {SLOW}" in page.text
    heights = [int(label["y"]) for label in labels]
    assert len(heights) == 4
    assert heights == sorted(heights)
    bars = [one for one in page.all("rect") if one.get("class", "").startswith("bar completed")]
    tops = sorted({int(one["y"]) for one in bars if "data-seq" in one})
    assert len(tops) == 4
    assert all(label < top for label, top in zip(heights, tops, strict=True))
    assert f"00-txt2img, image 2 on {SLOW}, at" in page.text
    assert page.text.count(f"s, on {SLOW}") == 4
    calls = [columns[4] for columns, _ in page.events() if columns[0] == "CallCompleted"]
    assert [call.rpartition(" ")[2] for call in calls] == [f"({FAST})", f"({SLOW})"] * 4


def test_a_failed_attempt_is_marked_and_counted_at_its_server(tmp_path: Path) -> None:
    """The other server made the image."""
    config = small(images=2, server={"retries": 1, "backoff_s": 0.001})
    made = share(ran(tmp_path / "runs", config, painter(Refusing(0))), FAST, SLOW)
    shown = printed(made, "show", made.name)
    assert line_with(shown, f"    {FAST}").endswith(" each; 1 failed attempt")
    assert "00-txt2img 1 image (1), " in line_with(shown, f"    {SLOW}")
    page, _ = reported(made)
    cross = next(one for one in page.all("svg") if one.get("class") == "cross")
    labels = page.all("text", **{"class": "lane-label lane-server"})
    assert int(labels[0]["y"]) - 8 < int(cross["y"]) < int(labels[1]["y"])


def test_calls_of_an_epoch_with_one_server_are_in_a_lane_without_an_address(tmp_path: Path) -> None:
    """The run was begun on one server and resumed on two."""
    run = SharedRun({FAST: 1.0, SLOW: 1.0}, "txt2img", images=2).pass_to(0.0)
    backend = BackendDescription(kind="a1111", url=FAST)
    events: list[StageEvent] = [msgspec.structs.replace(run.events[0], backend=backend)]
    run.move("start").begin("txt2img")
    run.send("txt2img", 0, FAST)
    run.fail(FAST)
    run.end("txt2img", "failed").move("fail", error()).resume("recover")
    run.begin("txt2img")
    run.send("txt2img", 0, SLOW)
    run.answer_next("txt2img")
    events += [
        msgspec.structs.replace(event, backend=shared_backend(FAST, SLOW))
        if isinstance(event, RunResumed)
        else event
        for event in run.events[1:]
    ]
    run.events = events
    folder = run.save(tmp_path / "runs")
    page, _ = reported(folder)
    assert len(page.all("text", **{"class": "lane-label lane-server"})) == 1
    assert sum(isinstance(event, CallRequested | CallFailed) for event in run.events) == 3
    shown = printed(folder, "show", folder.name)
    assert "00-txt2img 1 image (1), " in line_with(shown, f"    {SLOW}")


def test_a_server_that_goes_on_alone_is_named_like_the_others(tmp_path: Path) -> None:
    """The run was begun on two servers and resumed on a third: show and report name all."""
    alone = "http://127.0.0.1:7869"
    run = SharedRun({FAST: 1.0, SLOW: 1.0, alone: 1.0}, "txt2img", images=3).pass_to(0.0)
    two = shared_backend(FAST, SLOW)
    run.events[0] = msgspec.structs.replace(run.events[0], backend=two)
    run.move("start").begin("txt2img")
    for index, server in enumerate((FAST, SLOW)):
        run.send("txt2img", index, server)
        run.answer_next("txt2img")
    run.end("txt2img", "failed").move("fail", error()).resume("recover")
    one = BackendDescription(kind="a1111", url=alone, version="1.12")
    run.events = [
        msgspec.structs.replace(event, backend=one) if isinstance(event, RunResumed) else event
        for event in run.events
    ]
    run.begin("txt2img")
    run.send("txt2img", 2, alone)
    run.answer_next("txt2img")
    folder = run.save(tmp_path / "runs")
    assert "00-txt2img 1 image (3), " in line_with(
        printed(folder, "show", folder.name), f"    {alone}"
    )
    page, _ = reported(folder)
    assert page.text.count(f"Server {alone}") == 1
    assert len(page.all("text", **{"class": "lane-label lane-server"})) == 3


def test_a_call_to_a_server_that_left_the_run_is_no_failure(tmp_path: Path) -> None:
    """Its image is made by another one, after a resume without it."""
    run = SharedRun({FAST: 1.0, SLOW: 1.0}, "txt2img", images=1).pass_to(0.0)
    run.move("start").begin("txt2img")
    run.send("txt2img", 0, SLOW)
    left = run.under_way.pop()[2]
    run.move("fail", error("ProcessDied"), "process died").resume("recover")
    run.add(CallFailed, call_id=left, endpoint="", error=error("Abandoned"), will_retry=True)
    bar = StatusBar(monotonic=lambda: 0.0)
    for event in run.events:
        bar.take_event(event)
    assert "Abandoned" not in bar.snapshot().trouble
    run.begin("txt2img")
    run.send("txt2img", 0, FAST)
    run.answer_next("txt2img")
    run.end("txt2img", "completed").move("finish")
    folder = run.save(tmp_path / "runs")
    shown = printed(folder, "show", folder.name)
    assert line_with(shown, f"    {SLOW}").split() == [SLOW, "no", "image"]
    LearningRecordWriter(folder.parent).rebuild()
    record = json.loads((folder.parent / NAME).read_text())
    assert [stage["failed_attempts"] for stage in record["stages"]] == [0]


def test_the_learning_record_names_the_server_of_each_image(folder: Path) -> None:
    """The backend is the first one, with the same keys as in a run on one server."""
    LearningRecordWriter(folder.parent).rebuild()
    record = json.loads((folder.parent / NAME).read_text().splitlines()[0])
    assert [image["server"] for image in record["images"]] == [FAST, SLOW] * 2
    assert "servers" not in record["backend"]
    assert record["backend"]["url"] == FAST
