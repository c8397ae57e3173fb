"""Bundles of runs: the log in the zip replays elsewhere, and holds nothing private."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stagewright.adapters.export.bundle import BundleRefusedError
from stagewright.adapters.export.bundle.manifest import ByteRange, manifest_in
from stagewright.adapters.export.bundle.private_names import PrivateNames
from stagewright.events import CallRequested, iterate, replay
from stagewright.events.codec import CODEC, EventDecodeError
from stagewright.events.log.lock import FileLock
from stagewright.statemachine.resume.verify import verify_run

from .bundling import (
    LOG,
    append_at,
    bundled,
    documents,
    events_in,
    members,
    places,
    sealed,
    unpacked,
    written,
)
from .credential_samples import CREDENTIALS
from .log_format import make_log, split_bodies
from .resuming import cut, cut_before, painter, ran, resumed, small

HOME = "/home/bob"
PASSWORD = "open-s3same"
NAMES = PrivateNames(homes=("/data/people/alice",), user="alice", host="gpu-box", password=PASSWORD)


def outcome(folder: Path) -> tuple[Any, ...]:
    """A replay without its texts."""
    result = replay(folder)
    return (
        result.state,
        result.outcome,
        result.resumes,
        [(one.image_count, one.outcome) for one in result.stages],
        [one.image_index for one in result.missing],
        [(one.image_index, one.seed) for one in result.images],
        len(result.events),
    )


# --- The law

SECRETS = {
    **{secret: secret for secret in CREDENTIALS.values()},
    f"{HOME}/x": "/home/bob",
    r"C:\Users\bob\x": r"Users\bob",
    "/data/people/alice/x": "people/alice",
    "/media/bob/x": "media/bob",
    "/mnt/nas/Acme/x.png": "Acme",
    "me@acme.example.com": "acme",
    "on gpu-box": "gpu-box",
    f"http://me:{PASSWORD}@gpu:7860/": PASSWORD,
    f"curl -u me:{PASSWORD}": PASSWORD,
    f"Authorization: Digest {PASSWORD}": PASSWORD,
    f'{{"api_key": "{PASSWORD}"}}': PASSWORD,
    "password=qwertz-uiop": "qwertz-uiop",
    "--api-auth me:qwertz": "me:qwertz",
}
"""Texts to plant, and the part of each that must not be in a bundle."""
FIXED = ("run_id", "type", "call_id", "prompt", "all_prompts")


def planted(secret: str) -> list[dict[str, Any]]:
    """Events with a secret in each text, and as a key, where they stay events; and in prompts."""
    events = documents()
    events[0]["config"] |= {"metadata": {"notes": ["", {"more": ""}]}}
    events[4]["info"] |= {"infotexts": [""], f"x {secret}": 1}
    for place, event in enumerate(events):
        for path in [path for path in places(event) if not set(FIXED) & set(path)]:
            tried = json.loads(json.dumps(events[place]))
            append_at(tried, path, f' File "x.py"\n  {secret}\nsteps: 3')
            try:
                CODEC.decode(json.dumps(tried).encode())
            except EventDecodeError:
                continue
            events[place] = tried
    events[0]["config"]["prompt"] = f"a (token:1.2), {secret}"
    events[4]["info"]["all_prompts"] = [f"a (token:1.2), {secret}"]
    return events


@pytest.mark.parametrize("secret", SECRETS)
def test_no_byte_of_a_bundle_holds_a_secret_and_it_replays(tmp_path: Path, secret: str) -> None:
    """In errors, tracebacks, infos, metadata and keys of all events; prompts stay as they are."""
    folder = written(tmp_path / "runs" / "run", planted(secret))
    made = bundled(folder, NAMES)
    new = events_in(made)
    assert new[0]["config"].pop("prompt") == f"a (token:1.2), {secret}"
    assert new[4]["info"].pop("all_prompts") == [f"a (token:1.2), {secret}"]
    texts = [json.dumps(new, ensure_ascii=False)]
    texts += [data.decode() for name, data in members(made.file).items() if name != LOG]
    part = json.dumps(SECRETS[secret], ensure_ascii=False)[1:-1]
    assert not any(part in text for text in texts)
    assert texts[0].count("steps: 3") > 40
    there = unpacked(made.file, tmp_path / "there")
    assert outcome(there) == outcome(folder)
    assert [(one.seq, one.ts, one.epoch, type(one)) for one in iterate(there)] == [
        (one.seq, one.ts, one.epoch, type(one)) for one in iterate(folder)
    ]


# --- The log


def test_the_log_is_rewritten_and_sound(tmp_path: Path) -> None:
    """Chain and seal fit the new records; times, numbers and epochs stay."""
    events = documents()
    events[0]["config"] = {"name": "test", "input_image": f"{HOME}/x.png", "api_key": "abc"}
    events[0]["host"] = events[10]["host"] = "gpu-box.lan"
    events[10]["boot_id"] = "other"
    events[6]["error"]["detail"] = f"on gpu-box: {HOME}/webui/x.py"
    made = bundled(written(tmp_path / "runs" / "run", events), PrivateNames(host="elsewhere"))
    new = events_in(made)
    assert new[0]["config"] == {"name": "test", "input_image": "~/x.png", "api_key": "***"}
    assert (new[0]["host"], new[10]["host"]) == ("host-2", "host-2")
    assert (new[0]["boot_id"], new[10]["boot_id"]) == ("boot-1", "boot-2")
    assert new[6]["error"]["detail"] == "on host-2: ~/webui/x.py"
    assert [(one["seq"], one["ts"], one["epoch"]) for one in new] == [
        (one["seq"], one["ts"], one["epoch"]) for one in events
    ]
    found = verify_run(unpacked(made.file, tmp_path / "there"))
    assert (found.corrupt, found.events, found.sealed) == (False, 15, True)
    assert made.manifest.replaced == {
        "boot ids": 2, "credentials": 1, "home folders": 2, "machine names": 3,
    }  # fmt: skip


def test_values_are_replaced_by_the_names_of_their_keys(tmp_path: Path) -> None:
    """At any depth, in pairs and in command lines; empty and small values stay."""
    events = documents()
    events[0]["config"]["metadata"] = {
        "webhook": {"api_key": "abc", "port": 7860, "tokens": ["a"]},
        "list": [{"password": 1234}, {"password": None}, {"auth": True}, {"secret": ""}],
        "credentials": {"user": "x", "more": ["y"]},
        "pass": 2,
        "headers": [["X-Api-Key", "abc"], ["Accept", "*/*"]],
        "arguments": ["--api-auth", "admin:hunter2", "--password", "--listen"],
        "words": ["token", "cookie", "password"],
    }
    made = bundled(written(tmp_path / "runs" / "run", events))
    assert events_in(made)[0]["config"]["metadata"] == {
        "webhook": {"api_key": "***", "port": 7860, "tokens": ["a"]},
        "list": [{"password": "***"}, {"password": None}, {"auth": True}, {"secret": ""}],
        "credentials": "***",
        "pass": 2,
        "headers": [["X-Api-Key", "***"], ["Accept", "*/*"]],
        "arguments": ["--api-auth", "***", "--password", "--listen"],
        "words": ["token", "cookie", "password"],
    }
    assert made.manifest.replaced["credentials"] == 5


@pytest.mark.parametrize("name", ["txt2img", "RunOpened", "config", "COMPLETED", "e", "0000"])
def test_a_machine_or_password_named_like_a_word_of_the_log_breaks_nothing(
    tmp_path: Path, name: str
) -> None:
    """Types, states and stages keep their words."""
    folder = written(tmp_path / "runs" / "run", documents())
    made = bundled(folder, PrivateNames(host=name))
    assert outcome(unpacked(made.file, tmp_path / "there")) == outcome(folder)
    assert events_in(made)[0]["config"] == documents()[0]["config"]


def test_events_of_a_newer_version_are_redacted_as_well(tmp_path: Path) -> None:
    """Unknown types, versions and fields keep everything that is not private."""
    events = documents()
    events[2] |= {"type": "StageRated", "later": {"file": f"{HOME}/x", "stars": 5}}
    events[3] |= {"v": 9, "note": f"{HOME}/y", "source": f"{HOME}/z"}
    events[4] |= {"later": [HOME, 1.5]}
    new = events_in(bundled(written(tmp_path / "runs" / "run", events)))
    assert new[2]["later"] == {"file": "~/x", "stars": 5}
    assert (new[3]["v"], new[3]["note"], new[3]["source"]) == (9, "~/y", "~/z")
    assert new[4]["later"] == ["~", 1.5]


def with_bytes(folder: Path, later: bytes) -> Path:
    """A run folder with a log whose third event has these bytes as a further field."""
    bodies = split_bodies(sealed(documents()))[:4]
    bodies[2] = bodies[2][:-1] + b"," + later + b"}"
    folder.mkdir(parents=True)
    (folder / LOG).write_bytes(make_log(bodies))
    return folder


@pytest.mark.parametrize("value", [b'"\xc3 /home/bob"', b"[" * 700 + b"]" * 700])
def test_an_event_that_cannot_be_searched_is_refused(tmp_path: Path, value: bytes) -> None:
    """Neither invalid UTF-8 nor lists nested by the hundred come from stagewright."""
    folder = with_bytes(tmp_path / "runs" / "run", b'"later":' + value)
    with pytest.raises(BundleRefusedError, match="record 2 of the log cannot be searched"):
        bundled(folder)
    assert [one.name for one in tmp_path.iterdir()] == ["runs"]


def test_a_key_that_an_event_has_twice_hides_nothing(tmp_path: Path) -> None:
    """Readers see the last one; the first is not in the bundle, which is always the same."""
    later = b'"note":{"api_key":"HIDDEN"},"note":1'
    made = bundled(with_bytes(tmp_path / "runs" / "run", later))
    assert b"HIDDEN" not in members(made.file)[LOG]
    assert events_in(made)[2]["note"] == 1
    first = Path(made.file).read_bytes()
    assert Path(bundled(tmp_path / "runs" / "run").file).read_bytes() == first


def test_a_manifest_is_found_in_an_unpacked_bundle_only(tmp_path: Path) -> None:
    """Whatever another file of that name holds."""
    made = bundled(written(tmp_path / "runs" / "run", documents()))
    assert manifest_in(unpacked(made.file, tmp_path / "there")) == made.manifest
    for number, content in enumerate((b"", b"[]", b'{"bundle":1}', b"\xff", b"[" * 100_000)):
        folder = tmp_path / f"no-{number}"
        folder.mkdir()
        (folder / "manifest.json").write_bytes(content)
        assert manifest_in(folder) is None
    assert manifest_in(tmp_path / "nowhere") is None


# --- Incomplete and damaged logs


@pytest.mark.parametrize("running", [False, True])
def test_a_torn_tail_is_left_out_and_named(tmp_path: Path, *, running: bool) -> None:
    """Half a record cannot be searched; in a run that is under way it is no torn tail."""
    folder = ran(tmp_path / "runs", small(), painter())
    cut(folder, 5, torn=b'{"h":"0000')
    size = (folder / LOG).stat().st_size
    lock = FileLock(folder) if running else None
    try:
        made = bundled(folder)
    finally:
        if lock is not None:
            lock.release()
    manifest = made.manifest
    assert (manifest.running, manifest.records, manifest.corrupt) == (running, 5, "")
    assert manifest.not_in_log == (None if running else ByteRange(offset=size - 10, bytes=10))
    assert verify_run(unpacked(made.file, tmp_path / "there")).torn is None


@pytest.mark.parametrize("damaged", [0, 5])
def test_of_a_corrupt_log_the_records_before_the_damage_are_in_it(
    tmp_path: Path, damaged: int
) -> None:
    """As in ``replay``; without the first record, there is a manifest only."""
    folder = ran(tmp_path / "runs", small(images=3), painter())
    path = folder / LOG
    data = bytearray(path.read_bytes())
    offset = sum(map(len, bytes(data).splitlines(keepends=True)[:damaged]))
    data[offset + 90] ^= 4
    path.write_bytes(data)
    made = bundled(folder)
    assert made.manifest.corrupt
    assert made.manifest.not_in_log == ByteRange(offset=offset, bytes=len(data) - offset)
    if damaged:
        assert [one["seq"] for one in events_in(made)] == list(range(damaged))
        assert replay(unpacked(made.file, tmp_path / "there")).state == "RUNNING"
    else:
        assert made.manifest.records == 0
        assert set(members(made.file)) == {"manifest.json", "environment.json"}


def test_a_run_that_was_resumed_is_bundled_with_all_its_epochs(tmp_path: Path) -> None:
    """Its seals fit, also those in the middle."""
    folder = ran(tmp_path / "runs", small("txt2img", "img2img"), painter())
    cut_before(folder, CallRequested, 3)
    assert resumed(folder).state == "COMPLETED"
    new = unpacked(bundled(folder).file, tmp_path / "there")
    assert outcome(new) == outcome(folder)
    assert verify_run(new).sealed
