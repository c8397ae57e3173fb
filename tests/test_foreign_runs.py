"""Logs and run folders of strangers: nothing outside is touched, nothing hangs, all is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stagewright.adapters.backends.webui import WebUIBackend
from stagewright.adapters.bootstrap import ConfiguredBackend
from stagewright.events import BackendDescription, RunState, replay
from stagewright.events.log.lock import FileLock
from stagewright.statemachine.config.schema import ServerTable

from .command_line import SMALL, stagewright
from .foreign_runs import Change, foreign, opened, refused
from .log_format import make_log, split_bodies
from .posix import make_pipe
from .resuming import LOG, ran, small


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ran(tmp_path_factory.mktemp("whole"), small("txt2img", "img2img", images=3))


@pytest.mark.parametrize("where", ["../../../evil", "{tmp}/evil"])
def test_a_foreign_plan_makes_and_removes_nothing_outside_the_run(
    whole: Path, tmp_path: Path, where: str
) -> None:
    """A stage id is a folder's name: one that leads elsewhere is refused."""
    outside = tmp_path / "evil"
    outside.mkdir()
    (outside / ".precious.part").write_bytes(b"mine")
    stage_id = where.format(tmp=tmp_path)
    folder = foreign(
        whole, tmp_path / "runs",
        opened(lambda event: event["plan"]["stages"][1].update(stage_id=stage_id)),
    )  # fmt: skip
    stagewright("resume", folder.name, "--runs", folder.parent, folder=tmp_path)
    assert [one.name for one in outside.iterdir()] == [".precious.part"]


@pytest.mark.parametrize("name", [LOG, "run.lock", "images", "images/00-txt2img"])
def test_a_record_cannot_have_the_log_or_the_lock_renamed(
    whole: Path, tmp_path: Path, name: str
) -> None:
    """An artifact that names something else than an image of its stage is no reason to move it."""

    def change(event: dict[str, Any]) -> None:
        if event["type"] == "CallCompleted" and event["artifacts"][0]["image_index"] == 0:
            event["artifacts"][0]["path"] = name

    folder = foreign(whole, tmp_path / "runs", change)
    stagewright("resume", folder.name, "--runs", folder.parent, folder=tmp_path)
    assert not list(folder.rglob("*.altered-*"))
    assert (folder / name).exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda event: event["plan"].update(total_images=2**60),
        lambda event: event["plan"].update(total_images=5),
        lambda event: event["plan"].update(total_images=-1),
        lambda event: event["plan"].update(stages=None),
        lambda event: event["plan"].update(stages=[]),
        lambda event: event.update(plan={}),
        lambda event: event.update(seeds=[]),
        lambda event: event["plan"]["stages"][1].update(input_source="file"),
        lambda event: event["plan"]["stages"][1].update(input_source="99-x"),
        lambda event: event["plan"]["stages"][1].update(stage_id="00-txt2img"),
        lambda event: event["plan"]["stages"][1].update(stage_id="a\x00b"),
        lambda event: event["plan"]["stages"][1].update(stage_id="\x1b[2J"),
        lambda event: event["plan"]["stages"][1]["config"].update(steps=10**15),
        lambda event: event["plan"]["stages"][0]["config"].update(batch_size=-1),
        lambda event: event["config"].update(server={"retries": -5}),
    ],
    ids=["total-huge", "total-more", "total-negative", "stages-null", "stages-none", "plan-empty",
         "no-seeds", "no-inputs", "source-unknown", "id-twice", "id-nul", "id-control",
         "steps-huge", "batch-negative", "retries-negative"],
)  # fmt: skip
def test_an_absurd_plan_is_refused(whole: Path, tmp_path: Path, change: Change) -> None:
    """In one line, at once, before a byte is written."""
    refused(foreign(whole, tmp_path / "runs", opened(change)))


def misplaced(event: dict[str, Any]) -> None:
    if event["type"] == "CallCompleted" and event["artifacts"][0]["image_index"] == 0:
        event["artifacts"][0]["path"] = LOG


@pytest.mark.parametrize(
    "change",
    [
        opened(lambda event: event["plan"].update(total_images=5)),
        opened(lambda event: event["config"].update(server={"retries": -5})),
        lambda event: event.update(epoch=2**53 - 1),
        misplaced,
    ],
    ids=["plan", "table", "epoch", "place"],
)
def test_verify_foretells_what_a_resume_refuses(
    whole: Path, tmp_path: Path, change: Change
) -> None:
    """Whatever a foreign log holds, no resume is promised that then does not begin."""
    folder = foreign(whole, tmp_path / "runs", change)
    assert "resume would refuse: " in stagewright("verify", folder.name, folder=tmp_path).stdout
    refused(folder)


@pytest.mark.posix
@pytest.mark.parametrize(
    ("name", "word"),
    [
        *((name, "resume") for name in ("run.lock", "cancel.request", f"{LOG}.torn-1")),
        *(("run.lock", word) for word in ("verify", "list", "run")),
    ],
)
def test_a_pipe_in_a_run_folder_holds_nobody_up(
    whole: Path, tmp_path: Path, name: str, word: str
) -> None:
    """Whoever made the folder, no command waits for the other end of a pipe in it."""
    folder = foreign(whole, tmp_path / "runs")
    (folder / name).unlink(missing_ok=True)
    make_pipe(folder / name)
    (tmp_path / "config.toml").write_text(SMALL, encoding="utf-8")
    what = {"list": (), "run": ("config.toml",)}.get(word, (folder.name,))
    assert "internal error" not in stagewright(word, *what, folder=tmp_path).stderr


@pytest.mark.parametrize(
    "lock",
    [b'{"pid":1,"host":"\xfc","boot_id":""}', b'{"x":' + b"[" * 60_000,
     b'{"pid":' + b"9" * 5000 + b"}"],
    ids=["latin-1", "deep", "number"],
)  # fmt: skip
def test_a_lock_file_that_cannot_be_read_names_an_unknown_holder(
    whole: Path, tmp_path: Path, lock: bytes
) -> None:
    """Whatever stands in it, the lock itself is the system's: it is respected, and then taken."""
    folder = foreign(whole, tmp_path / "runs")
    held = FileLock(folder)
    (folder / "run.lock").write_bytes(lock)
    done = stagewright("resume", folder.name, folder=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "another process works on this run: unknown" in done.stderr
    held.release()
    assert stagewright("resume", folder.name, folder=tmp_path).returncode == 0
    assert replay(folder).state is RunState.COMPLETED


def test_a_first_record_that_is_nested_too_deep_does_not_hide_the_last_run(
    whole: Path, tmp_path: Path
) -> None:
    """`last` is the other run; the checksum of the nested record is right."""
    folder = foreign(whole, tmp_path / "runs")
    odd = tmp_path / "runs" / "odd"
    odd.mkdir()
    (odd / LOG).write_bytes(make_log([b'{"x":' + b"[" * 60_000]))
    done = stagewright("replay", "last", folder=tmp_path)
    assert (done.returncode, folder.name in done.stdout) == (0, True)


@pytest.mark.parametrize("word", ["list", "verify", "replay"])
def test_rows_of_lost_images_that_overlap_cost_no_more_than_their_bytes(
    whole: Path, tmp_path: Path, word: str
) -> None:
    """A log of 220 KB must not keep every reader busy for minutes."""

    def many_seeds(event: dict[str, Any]) -> None:
        event["seeds"] = [1] * 100_000

    folder = foreign(whole, tmp_path / "runs", opened(many_seeds))
    bodies = split_bodies((folder / LOG).read_bytes())
    last = json.loads(bodies[-1])
    resumed_event = {
        "type": "RunResumed", "v": 1, "run_id": last["run_id"], "seq": last["seq"] + 1,
        "ts": last["ts"], "epoch": 1, "completed_images": 0, "backend": {"kind": "embedded"},
        "software": "x", "host": "h", "boot_id": "", "pid": 1,
        "lost": {"00-txt2img": [[0, 99_999]] * 2000},
    }  # fmt: skip
    bodies.append(json.dumps(resumed_event, separators=(",", ":")).encode())
    (folder / LOG).write_bytes(make_log(bodies))
    stagewright(word, *(() if word == "list" else (folder.name,)), folder=tmp_path)


def test_a_foreign_log_cannot_switch_off_the_check_of_my_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Credentials for the server that I name do not go out on the log's ``tls_verify = false``."""
    monkeypatch.setenv("STAGEWRIGHT_AUTH", "user:secret")
    backend = ConfiguredBackend("https://mine.example")
    recorded = BackendDescription(kind="webui", url="https://theirs.example")
    backend.prepare(None, ServerTable(tls_verify=False), preflight=False, recorded=recorded)
    current = backend._pool.first.backend if backend._pool else None
    assert isinstance(current, WebUIBackend)
    assert current._client.credentials.header is None
