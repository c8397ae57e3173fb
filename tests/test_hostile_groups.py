"""Group logs that no stagewright wrote: one clear line, or what is there as plain text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from stagewright.events.groups.log import GROUP_LOG_NAME
from stagewright.statemachine.files.run_folder import run_folders

from .command_line import stagewright
from .posix import make_pipe
from .support import controller, document
from .sweeping import OPENED, group_opened, variant, write_group_log

COMMANDS = (
    ("replay", "last-group"),
    ("show", "last-group"),
    ("list",),
    ("report", "last-group"),
    ("diff", "last-group", "last-group"),
    ("learning", "last-group"),
    ("config", "last-group"),
    ("verify", "last-group"),
    ("rm", "last-group", "--yes"),
)
SOME_COMMANDS = (
    ("show", "last-group"),
    ("list",),
    ("verify", "last-group"),
    ("rm", "last-group", "--yes"),
)
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")
EVIL = "evil\x1b]0;title\x07\r\u202e\x00</script><b>"
KEYS = [f"a.{number}" for number in range(3000)]


def begun(index: Any, run_id: Any) -> dict[str, Any]:
    """A VariantBegun."""
    return {"type": "VariantBegun", "variant_index": index, "run_id": run_id}


def nested(depth: int) -> Any:
    """A list in a list, and so on."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


Written = Callable[[Path], object]
ODD: Mapping[str, Written] = {
    "control characters": lambda runs: write_group_log(
        runs,
        group_opened(
            name=EVIL,
            software=EVIL,
            backend={"kind": EVIL, "url": EVIL},
            options={EVIL: EVIL},
            config={"name": EVIL, EVIL: EVIL, "seed": EVIL},
            axes=[{"key": EVIL, "values": [EVIL]}],
            variants=[variant(0, **{EVIL: EVIL})],
        ),
        begun(0, EVIL),
        {"type": "GroupSealed", "outcome": "failed",
         "error": {"kind": EVIL, "message": EVIL},
         "failures": [{"variant_index": 0, "error": {"kind": EVIL, "message": EVIL}}]},
    ),
    "paths outside": lambda runs: write_group_log(
        runs,
        group_opened(variants=[variant(index) for index in range(4)], found=[{"../..": "/"}]),
        begun(0, "../../outside"),
        begun(1, "/etc"),
        begun(2, "20261120T225226.123456Z-../../../outside-7f3a9c"),
        begun(3, "x" * 5000),
        {"type": "LogRepaired", "offset": 0, "bytes": 1, "sha256": "", "copied_to": "torn"},
    ),
    "odd indexes": lambda runs: write_group_log(
        runs,
        group_opened(variants=[variant(2**40), variant(0), variant(0)], seed=-(2**62)),
        begun(5, "a"),
        {"type": "VariantRemoved", "variant_index": 0, "run_id": "", "reason": EVIL},
        {"type": "VariantRemoved", "variant_index": 2**50, "run_id": "", "reason": ""},
    ),
    "thousands of keys": lambda runs: write_group_log(
        runs,
        group_opened(
            axes=[{"keys": KEYS, "values": [KEYS]}, *({"key": k, "values": []} for k in KEYS)],
            variants=[variant(0, **dict.fromkeys(KEYS, 1))],
        ),
    ),
    "thousands of variants": lambda runs: write_group_log(
        runs, group_opened(variants=[variant(index, a=index) for index in range(5000)])
    ),
    "deep and long values": lambda runs: write_group_log(
        runs,
        group_opened(
            axes=[{"values": [nested(400)]}, {"key": "b", "values": ["y" * 1_000_000]}],
            variants=[variant(0, **{"": nested(400), "b": "y" * 1_000_000}), variant(1, b=1e308)],
        ),
    ),
    "nothing at all": lambda runs: write_group_log(
        runs, group_opened(axes=[], variants=[], config={}, backend={"kind": ""}, software="")
    ),
    "newer events": lambda runs: write_group_log(
        runs, group_opened(), {"type": "VariantDreamt", "v": 9, "dream": EVIL}
    ),
}  # fmt: skip
DAMAGED: Mapping[str, Written] = {
    "wrong types": lambda runs: write_group_log(runs, group_opened(variants="all", axes=7)),
    "a path out of the group": lambda runs: write_group_log(
        runs,
        group_opened(),
        {"type": "LogRepaired", "offset": 0, "bytes": 1, "sha256": "", "copied_to": "../x"},
    ),
    "no first event": lambda runs: write_group_log(runs, begun(0, "a")),
    "another group's event": lambda runs: write_group_log(
        runs, group_opened(), {**begun(0, "a"), "group_id": "other"}
    ),
    "a long line": lambda runs: _write(runs, b'{"h":"' + b"x" * 3_000_000),
    "noise": lambda runs: _write(runs, bytes(range(256)) * 100),
}


def _write(runs: Path, data: bytes) -> None:
    folder = runs / "groups" / OPENED
    folder.mkdir(parents=True)
    (folder / GROUP_LOG_NAME).write_bytes(data)


def check(folder: Path, *commands: tuple[str, ...], most_errors: int | None = None) -> list[int]:
    """Run these commands, or all; the exit statuses. What they print is plain text."""
    statuses = []
    for command in commands or COMMANDS:
        done = stagewright(*command, folder=folder)
        for text in (done.stdout, done.stderr):
            # A configuration has to say what was recorded; TOML escapes what controls a terminal.
            plain = text.replace("\u202e", "") if command[0] == "config" else text
            assert not _CONTROL.search(plain), (command, text)
        assert "internal error" not in done.stderr, (command, done.stderr)
        assert len(done.stderr.splitlines()) <= (most_errors or 2), (command, done.stderr)
        statuses.append(done.returncode)
    return statuses


@pytest.mark.parametrize("name", ODD)
def test_an_odd_log_is_shown_as_plain_text(tmp_path: Path, name: str) -> None:
    """Whatever the log holds, nothing outside the folder of runs is touched, and no run is lost."""
    single = controller(tmp_path / "runs").start(document())
    single.wait(30)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "events.jsonl").write_bytes(b"precious")
    ODD[name](tmp_path / "runs")
    assert set(check(tmp_path)) <= {0, 1, 2, 4}
    assert (tmp_path / "outside" / "events.jsonl").read_bytes() == b"precious"
    assert [one.name for one in run_folders(tmp_path / "runs")] == [single.run_id]


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_log_is_one_clear_line(tmp_path: Path, name: str) -> None:
    """With exit status 4; ``list`` shows it as corrupt, and ``rm``, at the end, removes it."""
    (tmp_path / "runs").mkdir()
    DAMAGED[name](tmp_path / "runs")
    log = tmp_path / "runs" / "groups" / OPENED / GROUP_LOG_NAME
    before = log.read_bytes()
    *commands, removal = COMMANDS if name == "noise" else SOME_COMMANDS
    statuses = dict(zip(commands, check(tmp_path, *commands, most_errors=1), strict=True))
    assert statuses == {one: 0 if one[0] == "list" else 4 for one in commands}
    assert "CORRUPT" in stagewright("list", folder=tmp_path).stdout
    assert log.read_bytes() == before
    assert check(tmp_path, removal) == [0]
    assert not log.parent.exists()


@pytest.mark.posix
def test_a_log_that_is_no_file_is_no_group(tmp_path: Path) -> None:
    """A pipe, a link that leads nowhere and a folder are not opened."""
    groups = tmp_path / "runs" / "groups"
    for number in range(3):
        (groups / f"2026112{number}T225226.123456Z-odd-7f3a9c").mkdir(parents=True)
    first, second, third = sorted(groups.iterdir())
    make_pipe(first / GROUP_LOG_NAME)
    (second / GROUP_LOG_NAME).symlink_to("nowhere")
    (third / GROUP_LOG_NAME).mkdir()
    for command in COMMANDS:
        done = stagewright(*command, folder=tmp_path)
        assert done.returncode == (0 if "last-group" not in command else 2), done.stderr


def test_a_follower_reads_no_run_outside_the_folder_of_runs(tmp_path: Path) -> None:
    """A log that names a path as a run is followed without that run."""
    private = controller(tmp_path / "private").start(document())
    private.wait(30)
    write_group_log(tmp_path / "runs", group_opened(), begun(0, f"../private/{private.run_id}"))
    done = stagewright("follow", "last-group", "--events", folder=tmp_path)
    assert "its process died" in done.stderr
    assert [line.split('"')[3] for line in done.stdout.splitlines()] == [
        "GroupOpened",
        "VariantBegun",
    ]
