"""``salvage`` of logs that somebody forged, or that hold what no version of ours writes."""

from __future__ import annotations

import io
import json
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from stagewright.events.log.intact_records import SoundRecords
from stagewright.events.log.storage import Storage
from stagewright.statemachine.errors import ResumeRefusedError

from .log_format import body_of, make_line, make_log
from .resuming import copied
from .salvaging import LOG, check_salvaged, lines_of, made, rewrite, salvage
from .support import png


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two stages and two images; nobody may change it."""
    return made(tmp_path_factory.mktemp("finished"), "txt2img", "img2img")


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return copied(finished, tmp_path / "runs")


@pytest.mark.parametrize(
    "path",
    [
        *("../../stolen.png", "/etc/passwd", "run.lock", "cancel.request", "events.jsonl"),
        *("a/b.png", "a/00-txt2img/b.png"),
    ],
)
def test_a_hostile_path_writes_nothing_where_it_does_not_belong(run: Path, path: str) -> None:
    """Only images and inputs are copied, and only below their own folders."""
    (run / "a" / "00-txt2img").mkdir(parents=True)
    for place in ("a/b.png", "a/00-txt2img/b.png"):
        (run / place).write_bytes(png(1))
    (run / "cancel.request").write_bytes(b"{}")

    def hostile(events: list[dict[str, Any]]) -> None:
        place = run / path
        digest = sha256(place.read_bytes() if place.is_file() else b"").hexdigest()
        for event in (events[4]["artifacts"][0], events[5]["artifact"]):
            event.update(path=path, sha256=digest)

    rewrite(run, hostile)
    found = check_salvaged(run)
    assert found.images == 3
    assert sorted(path.name for path in Path(found.folder).iterdir()) == [
        LOG, f"{LOG}.corrupt", "images", "run.lock",
    ]  # fmt: skip


@pytest.mark.parametrize("path", ["run.lock", "cancel.request", "events.jsonl", "a/b.png"])
def test_an_input_is_copied_from_its_folder_only(run: Path, path: str) -> None:
    """A forged RunOpened may name any file of the run as an input."""
    (run / "a").mkdir()
    for place in ("a/b.png", "cancel.request"):
        (run / place).write_bytes(png(1))
    digest = sha256((run / path).read_bytes()).hexdigest()
    record = {"path": path, "sha256": digest, "source_sha256": digest}
    rewrite(run, lambda events: events[0].update(inputs=[record]))
    new = Path(salvage(run).folder)
    assert sorted(file.name for file in new.iterdir()) == [
        LOG, f"{LOG}.corrupt", "images", "run.lock",
    ]  # fmt: skip


def test_a_record_of_another_run_does_not_count(run: Path) -> None:
    """It is sound, and its number is lost all the same."""
    rewrite(run, lambda events: events[4].update(run_id="another"))
    found = check_salvaged(run)
    assert (found.images, found.lost_records) == (4, 1)


def test_durations_that_no_log_can_hold_are_cut(run: Path) -> None:
    """Each of two forged ones is a number; their sum is none."""

    def forged(events: list[dict[str, Any]]) -> None:
        for event in events:
            if event["type"] == "CallCompleted":
                event.update(duration_ms=1.7e308)

    rewrite(run, forged)
    assert check_salvaged(run).images == 4


@pytest.mark.parametrize("index", [2, 2**53 - 1])
def test_an_image_that_the_plan_does_not_have_is_left_out(run: Path, index: int) -> None:
    """Only a forged record has one; the others are kept."""

    def forged(events: list[dict[str, Any]]) -> None:
        for artifact in (events[4]["artifacts"][0], events[5]["artifact"]):
            artifact.update(image_index=index)

    rewrite(run, forged)
    assert check_salvaged(run).images == 3


@pytest.mark.parametrize(
    ("seq", "fields"),
    [
        (8, {"epoch": 2**53 - 1}),
        (8, {"seq": 2**53 - 1}),
        (4, {"call_id": "x"}),
        (4, {"duration_ms": 1.7e308, "info": {"seed": 10**30}}),
        (6, {"image_index": 2**53 - 1, "count": -1}),
        (0, {"config": {"name": 5}}),
        (1, {"source": "RUNNING", "dest": "COMPLETED"}),
    ],
)
def test_odd_values_give_a_sound_log(run: Path, seq: int, fields: dict[str, Any]) -> None:
    """Whatever a sound record says, the new log can be read, and its sequence has no gap."""

    def odd(events: list[dict[str, Any]]) -> None:
        events[seq] |= fields
        del events[3]

    rewrite(run, odd)
    check_salvaged(run)


@pytest.mark.parametrize("plan", [{"stages": 5}, {"stages": [{"stage_id": "00-txt2img"}]}])
def test_a_plan_that_is_not_understood_is_refused(run: Path, plan: dict[str, Any]) -> None:
    """What it asked for is unknown to this version, so nothing is made."""
    rewrite(run, lambda events: events[0].update(plan=plan))
    with pytest.raises(ResumeRefusedError, match="cannot carry out the recorded plan"):
        salvage(run)
    assert list(run.parent.iterdir()) == [run]


def test_an_event_over_several_lines_is_no_record(run: Path) -> None:
    """A line break, which JSON allows and a log does not, makes a record unsound."""
    bodies = [body_of(line) for line in lines_of(run)]
    bodies[4] = json.dumps(json.loads(bodies[4]), indent=1).encode()
    bodies[7] += b"\n"
    (run / LOG).write_bytes(make_log(bodies))
    found = check_salvaged(run)
    assert (found.images, found.lost_records) == (4, 2)


class CountedStream(io.BytesIO):
    """Counts the bytes that are read by line: those that are tried as a record's body."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.tried = 0

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        self.tried += len(line)
        return line


def test_forged_headers_do_not_hold_a_salvage_up(run: Path) -> None:
    """A line full of them, each of a body of 16 MiB: the file is not read for each."""
    lines = lines_of(run)
    header = make_line(b"x" * 2**24, "0" * 16)[:48]
    stream = CountedStream(b"".join([lines[0], header * 20_000, b"\n", *lines[1:]]))

    class InMemory(Storage):
        def open_read(self, path: Path) -> BinaryIO:
            assert path == run / LOG
            stream.seek(0)
            return stream

    stream.close = lambda: None  # type: ignore[method-assign]  # it is read more than once
    assert len(SoundRecords(run / LOG, storage=InMemory())) == len(lines)
    assert stream.tried < 40 * len(stream.getvalue())
