"""Bundles of runs: what is in the zip, that it replays, and that nothing private is in it."""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stagewright.adapters.export.bundle import BundleRefusedError
from stagewright.adapters.export.bundle.manifest import manifest_in
from stagewright.adapters.export.bundle.private_words import credential_forms
from stagewright.events import CallRequested, LogCorruptError, iterate, replay
from stagewright.events.codec import CODEC, EventDecodeError
from stagewright.events.log.lock import RunLock
from stagewright.statemachine.resume.verify import verify_run

from .bundling import (
    ENVELOPE,
    LOG,
    bundled,
    changed_at,
    counts,
    documents,
    members,
    places,
    private,
    sealed,
    told_in,
    unpacked,
    written,
)
from .log_format import chain_value, make_log, split_bodies
from .resuming import cut, cut_before, painter, ran, resumed, small
from .support import memory_log

HOME = "/home/bob"


def what_it_came_to(folder: Path) -> tuple[Any, ...]:
    """A replay but for its words."""
    result = replay(folder)
    return (
        result.state,
        result.outcome,
        result.resumes,
        [(one.image_count, one.outcome) for one in result.stages],
        [one.image_index for one in result.missing],
        len(result.images),
        len(result.events),
    )


# --- The law

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
PASSWORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
HOMES = (HOME, f"{HOME}/pictures", "/data/people/alice", r"C:\Users\bob\x")


def private_forms(user: str, password: str) -> list[str]:
    """What of a password, and which home folders, may come to stand in a log."""
    both = f"{user}:{password}"
    return [
        password,
        both,
        f"Basic {base64.b64encode(both.encode()).decode()}",
        quote(password, safe=""),
        json.dumps(password),
        f"http://{both}@gpu:7860/",
        *HOMES,
    ]


PRIVATE = ("/home/bob", "/data/people/alice", "Users\\bob")


Choice = tuple[int, int, str, str, bool]


def poisoned(choices: list[Choice], forms: list[str]) -> list[dict[str, Any]]:
    """Events with private things in some of their texts and keys, where they stay events."""
    told = documents()
    for number, form, before, after, as_key in choices:
        place, words = number % len(told), before + forms[form % len(forms)] + after
        tried = json.loads(json.dumps(told[place]))
        if as_key:
            tried.setdefault("config" if "config" in tried else "later", {})[words] = 1
        else:
            kept = ("run_id", "type") if place == 0 else ("run_id",)
            ways = [way for way in places(tried) if way[0] not in kept]
            changed_at(tried, ways[number // len(told) % len(ways)], words)
        try:
            CODEC.decode(json.dumps(tried).encode())
        except EventDecodeError:
            continue
        told[place] = tried
    return told


CHOICES = st.lists(
    st.tuples(st.integers(0, 10_000), st.integers(0, 9), TEXTS, TEXTS, st.booleans()),
    min_size=1,
    max_size=8,
)


@settings(max_examples=100, deadline=None)
@given(user=PASSWORDS.filter(lambda one: ":" not in one), password=PASSWORDS, choices=CHOICES)
def test_no_password_and_no_home_folder_is_in_a_bundle(
    user: str, password: str, choices: list[Choice]
) -> None:
    """Whatever they are and wherever in a log they stand; the bundle replays to the same result.

    Only a password that the bundle of the same run would hold by chance is refused.
    """
    auth = f"{user}:{password}"
    forms = [form.encode() for form in credential_forms(auth)]
    with tempfile.TemporaryDirectory() as scratch:
        top = Path(scratch)
        folder = written(top / "runs" / "run", poisoned(choices, private_forms(user, password)))
        words = private(auth, homes=("/data/people/alice",))
        try:
            made = bundled(folder, words)
        except BundleRefusedError:
            clean = members(bundled(written(top / "clean" / "run", documents())).file)
            short = min(map(len, forms)) < 6  # digits of a checksum may be anything
            assert short or any(form in data for form in forms for data in clean.values())
            assert not (top / "run.bundle.zip").exists() or clean
            return
        for name, data in members(made.file).items():
            text = data.decode() + name
            assert not any(form in data for form in forms)
            assert not any(one in text or one.replace("\\", "\\\\") in text for one in PRIVATE)
        unpacked_run = unpacked(made.file, top / "there")
        assert what_it_came_to(unpacked_run) == what_it_came_to(folder)
        assert [(one.seq, one.ts, one.epoch, type(one)) for one in iterate(unpacked_run)] == [
            (one.seq, one.ts, one.epoch, type(one)) for one in iterate(folder)
        ]


# --- The log


def test_the_log_is_told_anew_and_sound(tmp_path: Path) -> None:
    """Chain and seal fit what is in it, times and numbers are what they were."""
    told = documents()
    told[0]["config"] = {"name": "test", "input_image": f"{HOME}/x.png", "api_key": "abc"}
    told[0]["host"] = told[9]["host"] = "gpu-box"
    told[9]["boot_id"] = "other"
    told[5]["error"]["detail"] = f"on gpu-box: {HOME}/webui/x.py"
    folder = written(tmp_path / "runs" / "run", told)
    made = bundled(folder, private(homes=()))
    new = told_in(made)
    assert new[0]["config"] == {"name": "test", "input_image": "~/x.png", "api_key": "***"}
    assert (new[0]["host"], new[9]["host"]) == ("host-2", "host-2")
    assert (new[0]["boot_id"], new[9]["boot_id"]) == ("boot-1", "boot-2")
    assert new[5]["error"]["detail"] == "on host-2: ~/webui/x.py"
    assert [one["ts"] for one in new] == [one["ts"] for one in told]
    found = verify_run(unpacked(made.file, tmp_path / "there"))
    assert (found.corrupt, found.events, found.sealed) == (False, 12, True)
    assert counts(made) == {
        "boot ids": 2, "credentials": 1, "home folders": 2, "names of machines": 3,
    }  # fmt: skip


def test_the_manifest_says_what_the_log_was(tmp_path: Path) -> None:
    """Its chain value, unless that would let guesses of a password be tried."""
    told = documents()
    folder = written(tmp_path / "runs" / "run", told)
    made = bundled(folder)
    data = (folder / LOG).read_bytes()
    log = made.manifest.log
    assert log is not None
    assert (log.records, log.renumbered) == (12, False)
    assert log.head == chain_value(split_bodies(data))
    assert log.bundled_head == chain_value(split_bodies(members(made.file)[LOG]))
    told[0]["config"]["token"] = "abc"
    other = bundled(written(tmp_path / "other" / "run", told))
    assert other.manifest.log is not None
    assert other.manifest.log.head is None


DEEP = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


def test_a_manifest_is_found_where_a_bundle_was_unpacked(tmp_path: Path) -> None:
    """And nowhere else, whatever a file of that name holds."""
    made = bundled(written(tmp_path / "runs" / "run", documents()))
    assert manifest_in(unpacked(made.file, tmp_path / "there")) == made.manifest
    for number, content in enumerate((b"", b"[]", b'{"bundle":1}', b"\xff", b"[" * 10_000, DEEP)):
        folder = tmp_path / f"no-{number}"
        folder.mkdir()
        (folder / "manifest.json").write_bytes(content)
        assert manifest_in(folder) is None
    assert manifest_in(tmp_path / "nowhere") is None


def test_events_of_a_newer_version_are_told_anew_as_well(tmp_path: Path) -> None:
    """Unknown types, versions and fields keep all that is not private."""
    told = documents()
    told[2] |= {"type": "StageRated", "later": {"file": f"{HOME}/x", "stars": 5}}
    told[3] |= {"v": 9, "note": f"{HOME}/y"}
    told[4] |= {"later": [HOME, 1.5]}
    new = told_in(bundled(written(tmp_path / "runs" / "run", told)))
    assert new[2]["later"] == {"file": "~/x", "stars": 5}
    assert (new[3]["v"], new[3]["note"]) == (9, "~/y")
    assert new[4]["later"] == ["~", 1.5]


def test_what_nobody_can_look_through_is_left_out_and_counted(tmp_path: Path) -> None:
    """Half a character in a newer field is no text; all that this version knows stays."""
    told = documents()
    bodies = split_bodies(sealed(told))[:4]
    half = b',"x":"\xc3 /home/bob"}'
    bodies[2] = bodies[2][:-1] + half
    bodies[3] = bodies[3].replace(b'"CallRequested"', b'"Later"')[:-1] + half
    folder = tmp_path / "runs" / "run"
    folder.mkdir(parents=True)
    (folder / LOG).write_bytes(make_log(bodies))
    made = bundled(folder)
    assert told_in(made)[2] == told[2]
    assert told_in(made)[3].keys() == ENVELOPE
    assert counts(made)["values that cannot be searched"] == 2


def test_a_key_that_an_event_has_twice_hides_nothing(tmp_path: Path) -> None:
    """Who reads it sees the last one; the bytes of the first are not in the bundle."""
    bodies = split_bodies(sealed(documents()))[:4]
    for hidden in ('{"api_key":"HIDDEN","home":"/home/bob/x"}', '"\\u0068unter2"'):
        bodies[3] = bodies[3][:-1] + f',"note":{hidden},"note":1}}'.encode()
    folder = tmp_path / "runs" / "run"
    folder.mkdir(parents=True)
    (folder / LOG).write_bytes(make_log(bodies))
    made = bundled(folder, private("me:hunter2"))
    data = members(made.file)[LOG]
    assert not any(one in data for one in (b"HIDDEN", b"bob", b"unter2"))
    assert told_in(made)[3]["note"] == 1


def test_an_event_that_cannot_do_without_a_name_is_told_of_as_such(tmp_path: Path) -> None:
    """A machine that is called as its time; no password is set, and so none is blamed."""
    told = documents()
    told[0]["host"] = told[0]["ts"].partition(".")[0]
    with pytest.raises(BundleRefusedError, match="would no longer be a valid event") as error:
        bundled(written(tmp_path / "runs" / "run", told))
    assert "STAGEWRIGHT_AUTH" not in str(error.value)


def test_an_event_without_anything_private_keeps_its_very_bytes(tmp_path: Path) -> None:
    """Whoever studies a log sees what stood in it."""
    log = memory_log()
    folder = tmp_path / "runs" / "run"
    folder.mkdir(parents=True)
    (folder / LOG).write_bytes(log.to_bytes())
    made = bundled(folder)
    old, new = split_bodies(log.to_bytes()), split_bodies(members(made.file)[LOG])
    assert len(new) == len(old)
    assert new[1:-1] == old[1:-1]


@pytest.mark.parametrize("auth", ["me:config", "me:a", "me:123456", "me:RunOpened", "me:0000"])
def test_a_password_that_is_a_word_of_the_log_is_refused(tmp_path: Path, auth: str) -> None:
    """It could not be left out; the error says what to do, and does not say the password."""
    folder = written(tmp_path / "runs" / "run", documents())
    with pytest.raises(BundleRefusedError, match="unset STAGEWRIGHT_AUTH and bundle again") as told:
        bundled(folder, private(auth))
    assert auth.partition(":")[2] not in str(told.value).split("also occurs in")[0][-12:]
    assert [one.name for one in tmp_path.iterdir()] == ["runs"]


def test_a_run_whose_name_is_private_gets_another(tmp_path: Path) -> None:
    """The run id holds the run's name, and so do the folder and the file."""
    told = documents()
    for one in told:
        one["run_id"] = "20261120T225226.123456Z-hunter2-7f3a9c"
    folder = written(tmp_path / "runs" / told[0]["run_id"], told)
    made = bundled(folder, private("me:hunter2"))
    assert made.folder == "20261120T225226.123456Z-___-7f3a9c"
    assert made.manifest.run_id == "20261120T225226.123456Z-***-7f3a9c"
    assert what_it_came_to(unpacked(made.file, tmp_path / "there")) == what_it_came_to(folder)


def test_the_same_run_makes_the_same_bundle(tmp_path: Path) -> None:
    """Byte for byte, so that two people can tell that they speak of one thing."""
    folder = ran(tmp_path / "runs", small("txt2img", "upscale"), painter())
    first = Path(bundled(folder).file).read_bytes()
    assert Path(bundled(folder).file).read_bytes() == first


# --- Logs that are not whole


def test_a_torn_tail_is_left_out_and_named(tmp_path: Path) -> None:
    """Nobody can say what is private in half a record."""
    folder = ran(tmp_path / "runs", small(), painter())
    cut(folder, 5, torn=b'{"h":"0000')
    size = (folder / LOG).stat().st_size
    made = bundled(folder)
    (stretch,) = made.manifest.not_in_log
    assert (stretch.offset, stretch.bytes) == (size - 10, 10)
    assert made.manifest.corrupt == ""
    assert len(told_in(made)) == 5
    assert verify_run(unpacked(made.file, tmp_path / "there")).torn is None


def test_a_run_that_goes_on_is_bundled_as_far_as_it_is(tmp_path: Path) -> None:
    """What its process is about to write is no torn tail; the manifest says that it runs."""
    folder = ran(tmp_path / "runs", small(), painter())
    cut(folder, 5, torn=b'{"h":"0000')
    lock = RunLock(folder)
    try:
        manifest = bundled(folder).manifest
    finally:
        lock.release()
    assert manifest.log is not None
    assert (manifest.log.running, manifest.log.records, manifest.not_in_log) == (True, 5, ())


def test_a_corrupt_log_gives_its_intact_records(tmp_path: Path) -> None:
    """Numbered anew, as a sound log; what is damaged is named by place, length and digest."""
    folder = ran(tmp_path / "runs", small(images=3), painter())
    path = folder / LOG
    data = bytearray(path.read_bytes())
    lines = bytes(data).splitlines(keepends=True)
    at = sum(map(len, lines[:5]))
    data[at + 90] ^= 4
    path.write_bytes(data)
    made = bundled(folder)
    assert made.manifest.corrupt
    (stretch,) = made.manifest.not_in_log
    assert (stretch.offset, stretch.bytes) == (at, len(lines[5]))
    assert made.manifest.log is not None
    assert (made.manifest.log.renumbered, made.manifest.log.records) == (True, len(lines) - 1)
    new = unpacked(made.file, tmp_path / "there")
    assert [one.seq for one in iterate(new)] == list(range(len(lines) - 1))
    assert replay(new).state == "COMPLETED"
    assert made.manifest.thumbnails == len(list(new.rglob("*.webp"))) >= 2


def test_a_log_whose_beginning_is_lost_gives_a_manifest(tmp_path: Path) -> None:
    """It says how long the log is, and its digest; no record can be told without a plan."""
    folder = ran(tmp_path / "runs", small(), painter())
    path = folder / LOG
    path.write_bytes(path.read_bytes().replace(b"RunOpened", b"RunOpenXX"))
    made = bundled(folder)
    assert made.manifest.log is None
    (stretch,) = made.manifest.not_in_log
    assert (stretch.offset, stretch.bytes) == (0, path.stat().st_size)
    assert set(members(made.file)) == {"manifest.json", "environment.json"}


def test_a_run_that_was_resumed_is_bundled_with_all_its_epochs(tmp_path: Path) -> None:
    """Its seals fit, also those in the middle."""
    folder = ran(tmp_path / "runs", small("txt2img", "img2img"), painter())
    cut_before(folder, CallRequested, 3)
    assert resumed(folder).state == "COMPLETED"
    made = bundled(folder)
    new = unpacked(made.file, tmp_path / "there")
    assert what_it_came_to(new) == what_it_came_to(folder)
    assert verify_run(new).sealed


def test_a_log_that_changes_meanwhile_is_no_bundle(tmp_path: Path) -> None:
    """Half a bundle would be taken for a whole one."""
    folder = ran(tmp_path / "runs", small(), painter())
    path = folder / LOG
    data = path.read_bytes()

    def spoil(_done: int, _total: int) -> None:
        path.write_bytes(data[:200])

    with pytest.raises(LogCorruptError, match="changed while it was being read"):
        bundled(folder, images=True, on_file=spoil)
    assert [one.name for one in tmp_path.iterdir()] == ["runs"]
