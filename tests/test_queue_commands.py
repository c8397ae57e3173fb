"""The commands of the queue, as a user types them."""

from __future__ import annotations

import json
import signal
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from stagewright.adapters.cli.queues import parse_moment
from stagewright.events.queue.jobs import JobState

from .command_line import SMALL, Start, stagewright, until, write_config
from .queueing import LOG, names, sqlite_queue
from .serving import serving
from .support import png


def ok(*arguments: str | Path, folder: Path) -> str:
    """The output of a command that succeeds."""
    done = stagewright(*arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def listed(folder: Path) -> list[dict[str, Any]]:
    """What `queue list --json` prints."""
    found: list[dict[str, Any]] = json.loads(ok("queue", "list", "--json", folder=folder))
    return found


def test_jobs_are_added_listed_moved_worked_on_and_shown_as_history(tmp_path: Path) -> None:
    """The order of the queue, then the outcomes."""
    for name in ("one", "two"):
        write_config(tmp_path, f'name = "{name}"\n{SMALL}', f"{name}.toml")
    assert "no job" not in ok("queue", "list", folder=tmp_path)
    added = ok("queue", "add", "one.toml", "two.toml", folder=tmp_path)
    assert "(one): 2 images; it is the next one" in added
    assert "(two): 2 images; 1 job before it" in added
    moved = ok("queue", "move", "two", "top", folder=tmp_path)
    assert moved.endswith("(two): 0 jobs before it\n")
    assert [(job["name"], job["state"]) for job in listed(tmp_path)] == [
        ("two", "waiting"),
        ("one", "waiting"),
    ]
    done = ok("queue", "work", "--exit-when-empty", folder=tmp_path)
    assert done == "2 jobs ended; the queue is empty\n"
    jobs = listed(tmp_path)
    assert [(job["name"], job["state"], job["outcome"]) for job in jobs] == [
        ("two", "ended", "completed"),
        ("one", "ended", "completed"),
    ]
    run = json.loads(ok("replay", jobs[0]["run_id"], "--json", folder=tmp_path))
    assert (run["state"], run["seeds"]) == ("COMPLETED", [42, 43])
    assert "2 ended" in ok("queue", "status", folder=tmp_path)


def test_every_error_of_every_configuration_is_reported_and_nothing_is_added(
    tmp_path: Path,
) -> None:
    """With exit 2; a good configuration among them is not added either."""
    write_config(tmp_path)
    write_config(tmp_path, "promt = 'a'", "bad.toml")
    write_config(tmp_path, SMALL.replace("steps = 4", "steps = 0"), "worse.toml")
    done = stagewright("queue", "add", "small.toml", "bad.toml", "worse.toml", folder=tmp_path)
    assert done.returncode == 2
    assert "promt" in done.stderr
    assert "steps" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["add"], "needs CONFIG"),
        (["add", "--rerun", "last", "--vary", "a=1"], "belong to CONFIG"),
        (["add", "--resume", "last", "--set", "images=1"], "keeps its settings"),
        (["add", "small.toml", "--only", "1"], "belong to --rerun"),
        (["add", "small.toml", "--not-before", "late"], "not a time"),
        (["move", "nothing", "top"], "no job 'nothing'"),
        (["remove", "nothing"], "no job 'nothing'"),
        (["servers", "add"], "servers add URL"),
        (["servers", "remove", "http://a"], "no server http://a"),
        (["salvage"], "no queue"),
        (["wrok"], "did you mean work?"),
        (["work", "--until", "25:00"], "not a time"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(
    arguments: list[str], words: str, tmp_path: Path
) -> None:
    """Exit 2, and one line that says what is wrong."""
    write_config(tmp_path)
    done = stagewright("queue", *arguments, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


def test_a_sweep_a_rerun_and_a_resume_are_jobs(tmp_path: Path) -> None:
    """They are planned when they are added, and take their settings with them."""
    config = write_config(tmp_path)
    ok("queue", "add", "small.toml", "--vary", "txt2img.steps=2,3", folder=tmp_path)
    ok("queue", "work", "--exit-when-empty", folder=tmp_path)
    config.unlink()
    ok(
        "queue",
        "add",
        "--rerun",
        "last",
        "--only",
        "2",
        "--set",
        "txt2img.steps=5",
        folder=tmp_path,
    )
    ok("queue", "add", "--resume", "last-group", folder=tmp_path)
    ok("queue", "work", "--exit-when-empty", folder=tmp_path)
    jobs = listed(tmp_path)
    assert [(job["job"], job["outcome"]) for job in jobs] == [
        ("sweep", "completed"),
        ("rerun", "completed"),
        ("resume", "completed"),
    ]
    assert jobs[0]["group_id"] == jobs[2]["group_id"]
    rerun = json.loads(ok("replay", jobs[1]["run_id"], "--json", folder=tmp_path))
    assert rerun["seeds"] == [43]


def test_a_job_that_fails_makes_the_worker_end_with_1(tmp_path: Path) -> None:
    """Only where it ends by itself; the list says why."""
    write_config(tmp_path)
    ok("run", "small.toml", folder=tmp_path)
    ok("queue", "add", "--rerun", "last", folder=tmp_path)
    for log in tmp_path.glob("runs/*/events.jsonl"):
        log.unlink()
    done = stagewright("queue", "work", "--exit-when-empty", folder=tmp_path)
    assert done.returncode == 1
    assert "1 job ended, 1 of them not complete" in done.stdout
    assert "no run" in ok("queue", "list", folder=tmp_path)


def test_the_servers_of_a_queue_share_the_images_of_its_jobs(tmp_path: Path) -> None:
    """A worker that is given none uses all of them; the run records both."""
    write_config(tmp_path, SMALL.replace("base.safetensors", "sd_xl_base_1.0.safetensors"))
    with serving() as one, serving() as other:
        first, second = one.url, other.url
        for url in (first, second):
            ok("queue", "servers", "add", url, folder=tmp_path)
        ok("queue", "add", "small.toml", folder=tmp_path)
        ok("queue", "work", "--exit-when-empty", folder=tmp_path)
        assert json.loads(ok("queue", "servers", "--json", folder=tmp_path)) == [first, second]
    opened = json.loads(ok("replay", "last", "--json", folder=tmp_path))["events"][0]
    assert [one["url"] for one in opened["backend"]["servers"]] == [first, second]


def test_the_lines_of_a_sweep_stand_before_the_end_of_its_job(tmp_path: Path) -> None:
    """What a worker prints is in the order in which it happened."""
    write_config(tmp_path)
    ok("queue", "add", "small.toml", "--vary", "txt2img.steps=3,4", folder=tmp_path)
    done = stagewright("queue", "work", "--exit-when-empty", folder=tmp_path)
    lines = done.stderr.splitlines()
    assert lines[-1] == "the queue is empty"
    assert lines[-2].endswith("(small): completed")
    assert lines[-3].startswith("variant 2 of 2: completed")


def test_a_server_whose_address_is_none_is_refused(tmp_path: Path) -> None:
    """The queue is not changed; an address is kept as runs record it."""
    done = stagewright("queue", "servers", "add", "ftp://host", folder=tmp_path)
    assert done.returncode == 2
    assert "ftp://host" in done.stderr
    assert json.loads(ok("queue", "servers", "--json", folder=tmp_path)) == []
    ok("queue", "servers", "add", "127.0.0.1:7860/", folder=tmp_path)
    assert json.loads(ok("queue", "servers", "--json", folder=tmp_path)) == [
        "http://127.0.0.1:7860"
    ]
    ok("queue", "servers", "remove", "127.0.0.1:7860", folder=tmp_path)
    assert json.loads(ok("queue", "servers", "--json", folder=tmp_path)) == []


def test_jobs_on_other_servers_do_not_wait_for_one_that_is_switched_off(tmp_path: Path) -> None:
    """All jobs that name it wait together; it is tried again after the others."""
    write_config(tmp_path)
    url = "server.url=http://127.0.0.1:1"
    for name in ("first", "second"):
        ok("queue", "add", "small.toml", "--set", url, "--set", f"name={name}", folder=tmp_path)
    ok("queue", "add", "small.toml", folder=tmp_path)
    done = stagewright("queue", "work", "--exit-when-empty", folder=tmp_path)
    assert done.returncode == 1
    assert "1 job ended; the server cannot be reached" in done.stdout
    assert "the server cannot be reached; its jobs wait" in done.stderr
    jobs = json.loads(ok("queue", "list", "--json", folder=tmp_path))
    assert [(job["name"], job["state"]) for job in jobs] == [
        ("small", "ended"),
        ("first", "waiting"),
        ("second", "waiting"),
    ]
    assert not jobs[2]["run_id"]


def test_a_paused_queue_says_so(tmp_path: Path) -> None:
    """When jobs are added, listed, and worked on."""
    write_config(tmp_path)
    assert ok("queue", "pause", "--now", folder=tmp_path).startswith("the queue is paused")
    added = stagewright("queue", "add", "small.toml", folder=tmp_path)
    assert "the queue is paused" in added.stderr
    assert "the queue is paused" in ok("queue", "list", folder=tmp_path)
    assert json.loads(ok("queue", "status", "--json", folder=tmp_path))["paused"] == "now"
    done = ok("queue", "work", "--exit-when-empty", folder=tmp_path)
    assert done == "0 jobs ended; the queue is paused\n"
    ok("queue", "resume", folder=tmp_path)
    assert ok("queue", "work", "--exit-when-empty", folder=tmp_path).startswith("1 job ended")


@pytest.mark.posix
def test_sigterm_stops_a_worker_cleanly_and_the_next_one_goes_on(
    start: Start, tmp_path: Path
) -> None:
    """Exit 3; Ctrl-C ends it by SIGINT. No image is lost or made twice."""
    with serving(step_delay_s=0.02) as server:
        small = SMALL.replace("base.safetensors", "sd_xl_base_1.0.safetensors")
        write_config(tmp_path, small.replace("images = 2", "images = 12"))
        ok("queue", "servers", "add", server.url, folder=tmp_path)
        ok("queue", "add", "small.toml", folder=tmp_path)
        for number, status in ((signal.SIGTERM, 3), (signal.SIGINT, -signal.SIGINT)):
            worker = start("queue", "work", folder=tmp_path)
            before = len(list(tmp_path.glob("runs/*/images/*/*.png")))
            until(
                lambda before=before: len(list(tmp_path.glob("runs/*/images/*/*.png"))) > before,  # type: ignore[misc]  # a lambda with a default
                "an image",
            )
            worker.send_signal(number)
            output, errors = worker.communicate(timeout=30)
            assert worker.returncode == status, errors
            assert output == "0 jobs ended; the worker was stopped\n"
            assert "waits to be continued" in errors
        assert names(sqlite_queue(tmp_path / "runs")) == ["small"]
        ok("queue", "work", "--exit-when-empty", folder=tmp_path)
    (job,) = listed(tmp_path)
    result = json.loads(ok("replay", job["run_id"], "--json", folder=tmp_path))
    assert (len(result["images"]), result["resumes"]) == (12, 2)
    types = [event["type"] for event in result["events"]]
    assert types.count("CallCompleted") == 12


def test_a_worker_waits_for_jobs_that_are_added_later(start: Start, tmp_path: Path) -> None:
    """And says when the queue has become empty."""
    write_config(tmp_path)
    worker = start("queue", "work", folder=tmp_path)
    ok("queue", "add", "small.toml", folder=tmp_path)
    assert worker.stderr is not None
    assert any("the queue is empty" in line for line in worker.stderr)
    assert [job["state"] for job in listed(tmp_path)] == ["ended"]
    worker.terminate()
    assert worker.wait(timeout=30) == 3


def test_the_list_shows_estimates_once_a_run_was_recorded(tmp_path: Path) -> None:
    """For each job and for all that is left, also as JSON."""
    write_config(tmp_path, SMALL.replace("images = 2", "images = 1"))
    ok("run", "small.toml", folder=tmp_path)
    ok("queue", "add", "small.toml", "--set", "images=100000", folder=tmp_path)
    assert "about" in ok("queue", "list", folder=tmp_path)
    (job,) = listed(tmp_path)
    assert job["estimate_s"] > 10
    status = json.loads(ok("queue", "status", "--json", folder=tmp_path))
    assert status["estimate_s"] == pytest.approx(job["estimate_s"])
    assert status["counts"]["waiting"] == 1


def test_verify_names_a_corrupt_record_and_salvage_keeps_all_others(tmp_path: Path) -> None:
    """A corrupt queue is refused by the other commands with exit 4."""
    write_config(tmp_path)
    ok("queue", "add", "small.toml", "small.toml", "small.toml", folder=tmp_path)
    ok("queue", "pause", folder=tmp_path)
    log = tmp_path / "runs" / LOG
    assert ok("queue", "verify", folder=tmp_path) == "queue: sound: 5 events\n"
    data = bytearray(log.read_bytes())
    second = data.index(b'"seq":2')
    data[second + 40] ^= 1
    log.write_bytes(data)
    done = stagewright("queue", "verify", folder=tmp_path)
    assert done.returncode == 4
    assert "(record 2)" in done.stdout
    # What was read before is not read again, but for its last record.
    (tmp_path / "runs" / "queue.sqlite").unlink(missing_ok=True)
    for command in (["list"], ["add", "small.toml"], ["work", "--exit-when-empty"]):
        refused = stagewright("queue", *command, folder=tmp_path)
        assert refused.returncode == 4
        assert "stagewright queue salvage" in refused.stderr
    salvaged = json.loads(ok("queue", "salvage", "--json", folder=tmp_path))
    assert (salvaged["records"], salvaged["lost_records"]) == (4, 1)
    assert (tmp_path / "runs" / salvaged["copied_to"]).read_bytes() == data
    assert ok("queue", "verify", folder=tmp_path) == "queue: sound: 4 events\n"
    assert len(listed(tmp_path)) == 2
    ok("queue", "resume", folder=tmp_path)
    assert ok("queue", "work", "--exit-when-empty", folder=tmp_path).startswith("2 jobs ended")
    again = stagewright("queue", "salvage", folder=tmp_path)
    assert (again.returncode, again.stdout) == (2, "")


def test_a_torn_tail_is_reported_and_repaired_by_the_next_change(tmp_path: Path) -> None:
    """`verify` changes nothing; the bytes are kept."""
    write_config(tmp_path)
    ok("queue", "add", "small.toml", "small.toml", folder=tmp_path)
    log = tmp_path / "runs" / LOG
    whole = log.read_bytes()
    log.write_bytes(whole[:-30])
    (tmp_path / "runs" / "queue.sqlite").unlink(missing_ok=True)
    done = stagewright("queue", "verify", folder=tmp_path)
    assert done.returncode == 1
    assert "torn bytes at the end" in done.stdout
    assert len(listed(tmp_path)) == 1
    ok("queue", "add", "small.toml", folder=tmp_path)
    assert [job["state"] for job in listed(tmp_path)] == ["waiting"] * 2
    torn = whole[whole.rindex(b'{"h"') : -30]
    assert (tmp_path / "runs" / f"{LOG}.torn-2").read_bytes() == torn
    assert ok("queue", "verify", folder=tmp_path).startswith("queue: sound")


def test_a_copy_that_was_altered_is_named(tmp_path: Path) -> None:
    """Before a job begins: the image would not be the one that was added."""
    (tmp_path / "in.png").write_bytes(png(1))
    config = SMALL.replace("[txt2img]", 'input_image = "in.png"\n[img2img]\ndenoise = 0.5')
    write_config(tmp_path, config)
    ok("queue", "add", "small.toml", folder=tmp_path)
    (copy,) = tmp_path.glob("runs/queue/*/inputs/*.png")
    copy.write_bytes(png(2))
    done = stagewright("queue", "verify", folder=tmp_path)
    assert done.returncode == 4
    assert "inputs/00000.png" in done.stdout
    assert stagewright("queue", "work", "--exit-when-empty", folder=tmp_path).returncode == 1
    assert names(sqlite_queue(tmp_path / "runs"), JobState.ENDED) == ["small"]


def test_a_time_is_the_next_one_of_the_local_day_or_a_date() -> None:
    """`23:30` may be tomorrow; without an offset it is local."""
    now = datetime(2026, 11, 20, 22, 52).astimezone()
    assert parse_moment("23:30", now) == datetime(2026, 11, 20, 23, 30).astimezone()
    assert parse_moment("07:05", now) == datetime(2026, 11, 21, 7, 5).astimezone()
    assert parse_moment("22:52", now) - now == timedelta(days=1)
    assert parse_moment("2026-12-01T01:02", now) == datetime(2026, 12, 1, 1, 2).astimezone()
    for text in ("7", "25:00", "tomorrow"):
        with pytest.raises(ValueError, match=r"."):
            parse_moment(text, now)
