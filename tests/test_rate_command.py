"""``rate``: what a person thinks of images, and where it is shown."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stagewright.adapters.projections.learning.writer import LearningRecordWriter
from stagewright.events import replay
from stagewright.events.log.shared_events import UnknownSharedEvent
from stagewright.events.ratings.log import RATINGS_LOG, RatingFold, Ratings
from stagewright.events.ratings.model import NOT_RATED, ImageRated, Rating

from .command_line import ROOT, SMALL, run_json, stagewright, write_config
from .crashing import KILLED
from .forking import ForkServer
from .log_format import make_log, split_bodies
from .support import START, png

LOG = "ratings.jsonl"
AT: dict[str, Any] = {"ts": START, "host": "h", "boot_id": "b", "pid": 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of two images."""
    folder = tmp_path_factory.mktemp("made")
    run_json(write_config(folder))
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """The same, for one test."""
    shutil.copytree(made, tmp_path / "here")
    return tmp_path / "here"


def rated(folder: Path, *arguments: str | Path) -> list[dict[str, Any]]:
    """The ratings that a ``rate`` reports."""
    done = stagewright("rate", *arguments, "--json", folder=folder)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def refused(folder: Path, *arguments: str | Path, status: int = 2) -> str:
    """What a ``rate`` says that is refused; nothing was recorded."""
    done = stagewright("rate", *arguments, folder=folder)
    assert done.returncode == status, done
    assert not (folder / "runs" / LOG).exists()
    return done.stderr


def image_files(folder: Path) -> list[Path]:
    """The images of the run, in order."""
    return sorted(folder.glob("runs/*/images/*/*.png"))


def records(folder: Path) -> list[dict[str, Any]]:
    """The images of the learning record."""
    (line,) = (folder / "runs" / "learning.jsonl").read_text().splitlines()
    images: list[dict[str, Any]] = json.loads(line)["images"]
    return images


def test_images_are_rated_by_path_by_number_and_by_run(folder: Path) -> None:
    """A score is added to what was said before; every rating stays in the log."""
    first, second = image_files(folder)
    assert rated(folder, first, "4")[0]["image_index"] == 0
    assert rated(folder, "last#1", "--pick", "--tag", "sky", "--tag", "sea", "--note", "good")
    (one,) = rated(folder, first, "--tag", "sky", "--tag", "new", "5")
    assert one["rating"] == {
        "score": 5, "verdict": "picked", "tags": ["sky", "sea", "new"], "note": "good",
    }  # fmt: skip
    assert [one["rating"]["score"] for one in rated(folder, "last", "2")] == [2, 2]
    (other,) = rated(folder, second, "--reject", "--note", "")
    assert other["rating"] == {"score": 2, "verdict": "rejected", "tags": [], "note": ""}
    bodies = map(json.loads, split_bodies((folder / "runs" / LOG).read_bytes()))
    assert [event["type"] for event in bodies] == ["RatingsOpened", *["ImageRated"] * 6]


def test_a_rating_is_taken_back_and_set_anew(folder: Path) -> None:
    """``--clear`` forgets everything; what is given with it counts."""
    rated(folder, "last#1", "4", "--tag", "sky", "--pick")
    assert rated(folder, "last#1", "3", "--clear")[0]["rating"]["tags"] == []
    assert rated(folder, "last#1", "--clear")[0]["rating"]["score"] is None
    assert "not rated" in stagewright("rate", "last#1", "--clear", folder=folder).stdout


@pytest.mark.parametrize(
    "options", [("--pick", "--reject"), ("--clear", "--pick"), ("--reject", "--clear", "5")]
)
def test_verdicts_that_exclude_each_other_are_refused(
    folder: Path, options: tuple[str, ...]
) -> None:
    """Neither the first nor the last of them counts."""
    assert "--pick, --reject and --clear exclude each other" in refused(folder, "last#1", *options)


def test_a_rated_image_is_found_after_it_was_moved_renamed_and_archived(folder: Path) -> None:
    """Its source's digest decides, also where the chunk that names the run is gone."""
    first, second = image_files(folder)
    rated(folder, first, "4")
    moved = folder / "elsewhere" / "beach.png"
    moved.parent.mkdir()
    shutil.copy(first, moved)
    assert rated(folder, moved, "--tag", "sea")[0]["rating"]["score"] == 4
    stagewright("archive", "last", "--yes", folder=folder)
    (one,) = rated(folder, moved, "5")
    assert one["rating"] == {"score": 5, "verdict": None, "tags": ["sea"], "note": ""}
    shown = json.loads(stagewright("show", "last#1", "--json", folder=folder).stdout)
    assert shown["rating"]["score"] == 5
    assert not second.exists()


def test_what_is_no_image_of_a_run_is_refused(folder: Path) -> None:
    """The error names it, and nothing is recorded, also of the images beside it."""
    (folder / "foreign.png").write_bytes(png(1))
    assert "no log in runs records it" in refused(folder, "last#1", "foreign.png", "4")
    assert "no such image" in refused(folder, "missing.png", "4")
    assert "no image 3 of 2" in refused(folder, "last#3", "4")
    assert "no run 'nothing'" in refused(folder, "nothing", "4")
    assert "no image is named" in refused(folder, "4")
    assert "say how" in refused(folder, "last#1")
    assert "no run '6' in runs, and 6 is not a score: scores are 1 to 5" in refused(
        folder, "last#1", "6", "--pick"
    )
    assert "stagewright: 6 is not a score: scores are 1 to 5" in refused(folder, "last", "6")
    assert "no comma" in refused(folder, "last#1", "--tag", "a,b")
    assert "10000 characters" in refused(folder, "last#1", "--note", "x" * 10_001)
    first, _ = image_files(folder)
    first.write_bytes(first.read_bytes().replace(b"IDAT", b"IDAS"))
    refused(folder, first, "4", status=4)


def test_a_file_named_like_a_score_is_an_image(folder: Path) -> None:
    """The last argument is a score only where no file has that name."""
    shutil.copy(image_files(folder)[0], folder / "4")
    assert "say how" in stagewright("rate", "4", folder=folder).stderr
    assert rated(folder, "4", "3")[0]["rating"]["score"] == 3


def test_ratings_are_shown_wherever_images_are(folder: Path) -> None:
    """In ``show``, ``list``, its ``--where``, and the report."""
    rated(folder, "last#2", "4", "--pick", "--tag", "<b>", "--note", "nice\nbut \x1b[31mred")
    for name in ("last#2", "last"):
        shown = stagewright("show", name, folder=folder).stdout
        assert "4 of 5, picked, tags: <b>; nice" in shown
        assert "\x1b" not in shown
    listed = stagewright("list", "--columns", "run,rating", folder=folder).stdout
    assert listed.split()[-1] == "4"
    for terms, lines in (("rating>=4", 1), ("rating<4", 0), ("rating=4", 1)):
        found = stagewright("list", "--where", terms, "--json", folder=folder).stdout
        assert [one["scores"] for one in json.loads(found)] == [[4]] * lines
    stagewright("report", "last", "--output", "page.html", folder=folder)
    page = (folder / "page.html").read_text()
    assert page.count('class="rating"') == 1
    assert "rated 4 of 5, picked, tags: &lt;b&gt;; nice" in page


def test_learning_records_carry_the_last_rating_of_each_image(folder: Path) -> None:
    """The line of the run is replaced, and a rebuild gives the same bytes."""
    assert [one["score"] for one in records(folder)] == [None, None]
    rated(folder, "last#1", "4", "--note", "good")
    rated(folder, "last#2", "--reject", "--tag", "sky")
    first, second = records(folder)
    assert (first["score"], first["verdict"], first["note"]) == (4, None, "good")
    assert (second["score"], second["verdict"], second["tags"]) == (None, "rejected", ["sky"])
    before = (folder / "runs" / "learning.jsonl").read_bytes()
    LearningRecordWriter(folder / "runs").rebuild()
    assert (folder / "runs" / "learning.jsonl").read_bytes() == before


@given(
    events=st.lists(
        st.builds(
            ImageRated,
            **{name: st.just(value) for name, value in AT.items()},
            seq=st.integers(0, 100),
            source_sha256=st.sampled_from(["a", "b", "c"]),
            run_id=st.sampled_from(["one", "two"]),
            stage_id=st.just("00-txt2img"),
            image_index=st.integers(0, 3),
            score=st.none() | st.integers(1, 5),
            note=st.text(max_size=3),
        )
    ),
    cut=st.integers(0, 20),
)
def test_the_last_rating_of_a_source_counts_however_the_log_is_read(
    events: list[ImageRated], cut: int
) -> None:
    """Reading in two parts gives what reading at once gives, and other events change nothing."""
    whole, parts = RatingFold(), RatingFold()
    whole.apply_all(events)
    newer = UnknownSharedEvent(**AT, seq=0, type="Newer", raw=b"{}")
    parts.apply_all([*events[:cut], newer])
    parts.apply_all(events[cut:])
    for source in "abc":
        said = [event.rating for event in events if event.source_sha256 == source]
        assert whole.rating_of(source) == (said[-1] if said else NOT_RATED)
        assert parts.rating_of(source) == whole.rating_of(source)


def foreign_log(runs: Path, *bodies: bytes) -> bytes:
    """Put a log of ratings in place whose framing is sound; its bytes."""
    opened = (
        b'{"type":"RatingsOpened","v":1,"seq":0,"ts":"2026-11-20T22:52:26.000001Z",'
        b'"host":"h","boot_id":"b","pid":1,"software":"s"}'
    )
    data = make_log([opened, *bodies])
    (runs / LOG).write_bytes(data)
    return data


def event_of(kind: str, fields: str, seq: int = 1, v: int = 1) -> bytes:
    """The body of an event."""
    head = f'{{"type":"{kind}","v":{v},"seq":{seq},"ts":"2026-11-20T22:52:26.000001Z","host":"h",'
    return f'{head}"boot_id":"b","pid":1{fields}}}'.encode()


RATED = ',"source_sha256":"{}","run_id":"r","stage_id":"s","image_index":0'


@pytest.mark.parametrize(
    "body",
    [
        event_of("ImageRated", RATED + ',"score":9'),
        event_of("ImageRated", RATED + ',"verdict":"maybe"'),
        event_of("ImageRated", RATED, seq=7),
        event_of("ImageRated", ',"run_id":"r"'),
        b"[" * 100_000,
        b"null",
    ],
)
def test_a_hostile_log_of_ratings_is_refused_and_left_alone(folder: Path, body: bytes) -> None:
    """``rate`` names the record and exits with 4; whatever only shows ratings goes on without."""
    data = foreign_log(folder / "runs", body)
    done = stagewright("rate", "last#1", "4", folder=folder)
    assert (done.returncode, "record 1" in done.stderr) == (4, True), done
    assert (folder / "runs" / LOG).read_bytes() == data
    for command in (("list",), ("show", "last"), ("report", "last"), ("learning",)):
        done = stagewright(*command, folder=folder)
        assert done.returncode == 0, done
        assert "some ratings are not shown" in done.stderr


def test_a_newer_log_of_ratings_is_read_and_continued(folder: Path) -> None:
    """Events and fields of a newer version are kept, and do not disturb."""
    source = replay(next((folder / "runs").glob("2*"))).images[0].source_sha256
    known = event_of("ImageRated", RATED.replace("{}", source) + ',"score":2,"mood":[1]', seq=2)
    data = foreign_log(folder / "runs", event_of("ImageLoved", ',"x":1'), known)
    (one,) = rated(folder, "last#1", "--tag", "sky")
    assert (one["rating"]["score"], one["rating"]["tags"]) == (2, ["sky"])
    assert (folder / "runs" / LOG).read_bytes().startswith(data)
    newer = event_of("ImageRated", ',"how":"well"', v=2)
    assert isinstance(RATINGS_LOG.codec.decode(newer), UnknownSharedEvent)


RECORD = ("record-before", "record-half", "record-written", "record-synced")
FILE = ("file-half", "file-written", "file-synced", "file-linked", "file-in-place")


@pytest.mark.posix
@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "at", [f"{place} {LOG}" for place in FILE] + [f"{one} sky" for one in RECORD]
)
def test_a_rating_that_is_killed_is_recorded_whole_or_not_at_all(
    folder: Path, forks: ForkServer, at: str
) -> None:
    """The next writer goes on, and leaves nothing torn."""
    killed = forks.command("rate", "last#1", "--tag", "sky", folder=folder, failpoint=at)
    assert killed.status == KILLED, killed
    done = forks.command("rate", "last#2", "4", folder=folder)
    assert done.status == 0, done
    ratings = Ratings.read_from(folder / "runs")
    images = replay(next((folder / "runs").glob("2*"))).images
    assert ratings.of(images[1].source_sha256) == Rating(score=4)
    was_synced = at.startswith("record-synced")
    assert ratings.of(images[0].source_sha256).tags == ("sky",) or not was_synced
    data = (folder / "runs" / LOG).read_bytes()
    assert make_log(split_bodies(data)) == data


@pytest.mark.posix
@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "at", [*(f"{place} {LOG}.torn-1" for place in FILE if place != "file-linked"), "tail-cut",
           *(f"{place} LogRepaired" for place in RECORD)]
)  # fmt: skip
def test_a_repair_that_is_killed_is_finished_by_the_next_writer(
    folder: Path, forks: ForkServer, at: str
) -> None:
    """The torn bytes are kept once, and their repair is recorded."""
    torn = forks.command("rate", "last#1", "1", folder=folder, failpoint="record-half ImageRated")
    assert torn.status == KILLED
    assert forks.command("rate", "last#1", "2", folder=folder, failpoint=at).status == KILLED
    assert forks.command("rate", "last#1", "3", folder=folder).status == 0
    events = [json.loads(body) for body in split_bodies((folder / "runs" / LOG).read_bytes())]
    repairs = [event for event in events if event["type"] == "LogRepaired"]
    kept = sorted((folder / "runs").glob(f"{LOG}.torn-*"))
    assert [event["copied_to"] for event in repairs] == [path.name for path in kept]
    assert sum(path.stat().st_size for path in kept) == sum(event["bytes"] for event in repairs)
    assert events[-1]["score"] == 3


def test_the_commands_of_the_page_about_choosing_work(tmp_path: Path) -> None:
    """They run one after the other, as a reader would enter them."""
    run_json(write_config(tmp_path, SMALL.replace("images = 2", "images = 3")))
    page = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
    commands = re.findall(r"^\$ stagewright (.*)$", page, re.MULTILINE)
    assert len(commands) == 7
    for command in commands:
        done = stagewright(*shlex.split(command), folder=tmp_path)
        assert done.returncode == 0, (command, done.stderr)
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["small-002-43.png"]
    assert len(list((tmp_path / "web").iterdir())) == 2
