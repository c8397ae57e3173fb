"""What shows runs says which images were reused, and counts them as finished, but not as made."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from stagewright.adapters import StatusBar
from stagewright.adapters.cli.display import PlainLines
from stagewright.adapters.event_text import summarize_event
from stagewright.adapters.export.report.group_report import write_group_report
from stagewright.adapters.export.report.run_content import RunContent
from stagewright.adapters.projections.diff import compare_runs
from stagewright.adapters.projections.provenance import provenance_of
from stagewright.events import (
    CallCompleted,
    ImageAlteredError,
    RecordedEvents,
    ReuseOrigin,
    RunNotFoundError,
    iterate,
    replay,
)
from stagewright.statemachine.resume.removal import remove_run

from .bundling import bundled, events_in
from .command_line import stagewright
from .learning import record_of
from .reports import Page, reported
from .resuming import copied, image_file, small
from .reusing import TWO, ran_group, reused
from .test_diff import rows

STAGE = "00-txt2img"


class Group:
    """A run, and another one that used its images again."""

    def __init__(self, first: Path, second: Path) -> None:
        self.first = first
        self.second = second
        self.runs = second.parent

    @property
    def image(self) -> Path:
        """An image that was reused."""
        return image_file(self.second, STAGE, 1)


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Group:
    """A group of two variants with three images, in batches of two."""
    runs = tmp_path_factory.mktemp("shown") / "runs"
    first, second = ran_group(runs, config=small(*TWO, images=3, batch=2))
    return Group(first, second)


def origins(group: Group) -> list[ReuseOrigin]:
    """The calls of the first run, in order."""
    return [
        ReuseOrigin(run_id=event.run_id, call_id=event.call_id)
        for event in iterate(group.first)
        if isinstance(event, CallCompleted)
    ]


def test_a_line_of_the_timeline_names_the_images_and_the_run_that_made_them(group: Group) -> None:
    """A batch has the numbers of all its images."""
    assert [summarize_event(event) for event in reused(group.second)] == [
        f"CallReused 00-txt2img images 1-2: made by {group.first.name}",
        f"CallReused 00-txt2img image 3: made by {group.first.name}",
    ]


def test_show_names_the_run_and_the_call_that_made_a_reused_image(group: Group) -> None:
    """And the files whose hashes nobody reported; the place is the one in this run."""
    found = provenance_of(group.image, group.runs)
    assert (found.run_id, found.stage_id, found.image_index) == (group.second.name, STAGE, 1)
    assert (found.made_by, found.not_checked) == (origins(group)[0], ("options", "everything"))
    assert found.exact
    assert found.request_sha256 == reused(group.second)[0].request_sha256
    done = stagewright("show", group.image, "--runs", group.runs, folder=group.runs)
    call_id = origins(group)[0].call_id
    line = f"made by         run {group.first.name} (call {call_id}), reused here"
    assert line in done.stdout.splitlines()
    assert "not checked     options, everything" in done.stdout.splitlines()
    as_json = stagewright("show", group.image, "--runs", group.runs, "--json", folder=group.runs)
    assert json.loads(as_json.stdout)["made_by"] == {
        "run_id": group.first.name,
        "call_id": call_id,
    }


def test_a_copy_elsewhere_is_found_in_the_run_that_made_it_and_else_where_it_was_reused(
    group: Group, tmp_path: Path
) -> None:
    """The file names its maker; once that run is gone, the log that reused it still knows."""
    runs = tmp_path / "runs"
    first, second = (copied(run, runs) for run in (group.first, group.second))
    loose = tmp_path / "loose.png"
    loose.write_bytes(group.image.read_bytes())
    found = provenance_of(loose, runs)
    assert (found.run_id, found.made_by) == (first.name, None)
    remove_run(first)
    found = provenance_of(loose, runs)
    assert (found.run_id, found.made_by) == (second.name, origins(group)[0])
    remove_run(second)
    with pytest.raises(RunNotFoundError):
        provenance_of(loose, runs)


def test_a_reused_image_that_was_altered_is_told_as_altered(group: Group, tmp_path: Path) -> None:
    """It is at the place of a recorded image, with other pixels."""
    runs = tmp_path / "runs"
    second = copied(group.second, runs)
    image_file(second, STAGE, 1).write_bytes(image_file(second, "01-upscale", 0).read_bytes()[:-20])
    with pytest.raises(ImageAlteredError):
        provenance_of(image_file(second, STAGE, 1), runs)


def test_replay_counts_reused_images_by_stage(group: Group) -> None:
    """A stage without any has no such line; in JSON they are in the stage's metadata."""
    done = stagewright("replay", group.second, "--runs", group.runs, folder=group.runs)
    reported_lines = [line for line in done.stdout.splitlines() if "reused from" in line]
    assert reported_lines == ["    3 images reused from earlier runs"]
    counts = [stage.metadata.get("reused_images") for stage in replay(group.second).stages]
    assert counts == [3, None]
    assert "reused_images" not in replay(group.first).stages[0].metadata


def test_a_group_that_reused_images_has_nothing_left_to_resume(group: Group) -> None:
    """The reused images count as finished."""
    done = stagewright("resume", "last-group", folder=group.runs.parent)
    assert (done.returncode, "nothing to do" in done.stderr) == (0, True), done.stderr


def test_plain_lines_say_which_images_were_reused(group: Group) -> None:
    """Each with the run that made it; images that were made have no such note."""
    bar, stream = StatusBar(), io.StringIO()
    lines = PlainLines(bar, stream)
    for event in iterate(group.second):
        bar.take_event(event)
        lines.take_event(event)
    shown = [line for line in stream.getvalue().splitlines() if " finished: " in line]
    note = f" (reused from run {group.first.name})"
    assert shown[0] == f"00-txt2img: 2 of 3 finished: images/{STAGE}/00000-100.png{note}"
    assert [line.endswith(note) for line in shown] == [True] * 3 + [False] * 3


def test_the_report_counts_and_marks_reused_images(group: Group) -> None:
    """They are no calls, so they have no bar and no duration."""
    page, _ = reported(group.second)
    assert f"reused from run {group.first.name}" in page.text
    assert "6 of 6 in all stages; 3 reused from earlier runs" in page.text
    assert "3 images (3 reused)" in page.text
    content = RunContent(group.second)
    assert {call.stage_id for call in content.log.calls} == {"01-upscale"}
    assert len(content.log.calls) == 3
    reused_events = [columns for columns, _ in page.events() if columns[0] == "CallReused"]
    assert [columns[1] for columns in reused_events] == [STAGE, STAGE]
    assert reused_events[1][4] == f"image 3: made by {group.first.name}"
    other, _ = reported(group.first)
    assert "reused" not in other.text


def test_a_learning_record_has_reused_images_as_finished_and_no_attempt_at_them(
    group: Group,
) -> None:
    """What they were made from and with is that of their answer then."""
    first, second = record_of(group.first), record_of(group.second)
    counts = [
        [
            (stage["image_count"], stage["reused_images"], stage["attempts"])
            for stage in one["stages"]
        ]
        for one in (first, second)
    ]
    assert counts == [[(3, 0, 2), (3, 0, 3)], [(3, 3, 0), (3, 0, 3)]]
    assert second["stages"][0]["used"] == first["stages"][0]["used"]
    sources = [[image["input_sha256"] for image in one["images"]] for one in (first, second)]
    assert sources[0] == sources[1]


def test_a_comparison_sees_equal_images_of_equal_requests(group: Group) -> None:
    """Only the setting of the last stage differs between the two runs."""
    found = compare_runs(group.first, group.second)
    assert rows(found, "equal")[0] == [(0, 2)]
    assert rows(found, "different") == [[], [(0, 2)]]


def test_a_bundle_keeps_the_ids_of_the_run_that_made_an_image(group: Group) -> None:
    """As it keeps the run's own id."""
    found = [event["from"] for event in events_in(bundled(group.second)) if "from" in event]
    assert found == [
        {"run_id": one.origin.run_id, "call_id": one.origin.call_id} for one in reused(group.second)
    ]


def test_a_timeline_as_text_tells_the_run_that_made_an_image_from_its_own(group: Group) -> None:
    """With stand-ins for both, so that the text can be kept."""
    text = RecordedEvents(replay(group.second).events).timeline()
    (line,) = [line for line in text.splitlines() if "CallReused" in line and "index=2" in line]
    assert re.search(r"from=\{run_id=run-[2-9] call_id=call-2\}", line), line
    assert "not_checked=[options, everything]" in line
    assert line.startswith("run-1 #")
    recorded = RecordedEvents(replay(group.second).events)
    recorded.assert_images_per_stage({"txt2img": 3, "upscale": 3})


def test_the_page_of_the_group_marks_the_stages_that_were_reused(group: Group) -> None:
    """With each image that came from them."""
    (folder,) = (group.runs / "groups").iterdir()
    write_group_report(folder, group.runs, folder / "report.html")
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert page.text.count("reused: 00-txt2img") == 3
