"""Text with line separators: every line of JSON that is written is one for every program."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from stagewright.adapters import open_controller
from stagewright.events import (
    CallRequested,
    CancelMode,
    CancelRequested,
    MemoryEventLog,
    RunOpened,
    UnknownEvent,
    iterate,
    replay,
)
from stagewright.events.codec import CODEC
from stagewright.statemachine.files.run_folder import CancelOrder, RunFolder

from .command_line import stagewright
from .log_format import make_log, split_bodies
from .support import START

SEPARATORS = "\u0085\u2028\u2029"
TEXT = f"one{SEPARATORS}two {SEPARATORS}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose name, prompt and metadata hold every separator."""
    folder = tmp_path_factory.mktemp("separators") / "runs"
    document = {
        "name": TEXT,
        "prompt": TEXT,
        "negative_prompt": TEXT,
        "seed": 1,
        "metadata": {TEXT: [TEXT, {"deep": TEXT}]},
        "txt2img": {
            "model": TEXT, "sampler": "Euler", "steps": 1, "cfg_scale": 7,
            "width": 64, "height": 64,
        },
    }  # fmt: skip
    assert open_controller(folder).start(document).wait(60).state == "COMPLETED"
    return folder


def test_every_line_of_json_in_a_folder_of_runs_is_one_line(runs: Path) -> None:
    """Logs, learning records and bundles: splitting at any separator gives the same lines."""
    assert stagewright("bundle", "last", folder=runs.parent).returncode == 0
    RunFolder(next(runs.glob("*/events.jsonl")).parent).order_cancel(CancelOrder(reason=TEXT))
    written = [*runs.rglob("*.jsonl"), *runs.rglob("cancel.request"), *runs.rglob("run.lock")]
    assert len(written) == 4
    for path in written:
        text = path.read_text(encoding="utf-8")
        assert text.splitlines() == text.removesuffix("\n").split("\n"), path.name
        assert [json.loads(line) for line in text.splitlines()] != []


@pytest.mark.parametrize("command", ["replay", "show", "list", "follow"])
def test_documents_on_standard_output_are_one_line(runs: Path, command: str) -> None:
    """People redirect them into files."""
    named = [] if command == "list" else ["last"]
    done = stagewright(command, *named, "--json", folder=runs.parent)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert "\\u2028" in done.stdout


def test_the_text_is_read_back_unchanged(runs: Path) -> None:
    """Escaped or not, it is the same text, and the file is sound."""
    (run,) = runs.glob("*-one*")
    opened = next(iterate(run))
    assert getattr(opened, "config")["prompt"] == TEXT  # noqa: B009 - the type is not narrowed
    assert stagewright("verify", run, folder=runs.parent).returncode == 0


def test_a_log_with_bare_separators_is_still_read(runs: Path) -> None:
    """Earlier versions wrote them so; what is appended to such a log is escaped."""
    (run,) = runs.glob("*-one*")
    bodies = split_bodies((run / "events.jsonl").read_bytes())
    bare = [json.dumps(json.loads(body), ensure_ascii=False).encode() for body in bodies[:-1]]
    log = MemoryEventLog.from_bytes(make_log(bare))
    assert getattr(log.event_at(0), "config")["prompt"] == TEXT  # noqa: B009 - the same
    log.append(
        CancelRequested(
            run_id=log.run_id, seq=log.next_seq, ts=START, reason=TEXT, mode=CancelMode.NOW
        )
    )
    last = split_bodies(log.to_bytes())[-1].decode()
    assert len(last.splitlines()) == 1
    assert replay(run).state == "COMPLETED"


def test_an_event_of_a_newer_version_is_written_escaped() -> None:
    """Its bytes are known to be JSON, and nothing else of them changes."""
    fields: dict[str, Any] = {"run_id": "run", "seq": 3, "ts": START, "epoch": 0}
    raw = f'{{"type":"Later","text":"{TEXT}"}}'.encode()
    encoded = CODEC.encode(UnknownEvent(**fields, type="Later", raw=raw))
    assert json.loads(encoded) == json.loads(raw)
    assert len(encoded.decode().splitlines()) == 1


def test_the_request_digest_is_that_of_bare_separators(runs: Path) -> None:
    """It stays equal to the digests of earlier versions."""
    events = list(iterate(next(runs.glob("*-one*"))))
    plan = next(event.plan for event in events if isinstance(event, RunOpened))
    content = {
        "stage_type": "txt2img",
        "settings": {key: value for key, value in plan["stages"][0]["config"].items()
                     if key not in ("seed", "batch_size", "mask", "enabled")},
        "seed": 1, "count": 1, "inputs": [], "mask": None,
    }  # fmt: skip
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    (request,) = [event for event in events if isinstance(event, CallRequested)]
    assert request.request_sha256 == sha256(canonical.encode()).hexdigest()
