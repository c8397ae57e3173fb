"""What the operating system is really asked: syncs before renames, renames before records."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from .command_line import SCRIPT, SMALL, write_config
from .tools import needs_strace

pytestmark = [pytest.mark.linux, needs_strace]

_CALLS = "fsync,fdatasync,write,rename,renameat,renameat2,mkdir,mkdirat,unlink,unlinkat"
_LINE = re.compile(r"^\d+ +(\w+)\((.*)")
_PATHS = re.compile(r'<([^>]+)>|"((?:[^"\\]|\\.)*)"')


class Call(NamedTuple):
    """One call: its name, the paths and texts that it was given, in order."""

    name: str
    given: tuple[str, ...]


TracedRun = tuple[list[Call], Path]
"""The calls of a run in order, and the run's folder."""


def traced_run(folder: Path, *overrides: str) -> TracedRun:
    """The calls of `stagewright run` in order, and the run's folder."""
    calls = traced(folder, *(part for override in overrides for part in ("--set", override)))
    (run,) = [log.parent for log in (folder / "runs").glob("*/events.jsonl")]
    return calls, run


def traced(folder: Path, *options: str) -> list[Call]:
    """The calls of `stagewright run` with these options, in order."""
    config = write_config(folder, SMALL)
    trace = folder / "trace"
    command = ["strace", "-f", "-y", "-qq", "-s", "4096", "-e", f"trace={_CALLS}", "-o", trace]
    run = [str(SCRIPT), "run", str(config), "--runs", str(folder / "runs"), *options]
    subprocess.run(
        [*map(str, command), *run], cwd=folder, check=True, capture_output=True, timeout=60
    )
    calls = []
    for line in trace.read_text(encoding="utf-8", errors="replace").splitlines():
        if (match := _LINE.match(line)) is not None:
            found = tuple(path or text for path, text in _PATHS.findall(match[2]))
            calls.append(Call(match[1], found))
    return calls


def place(calls: list[Call], name: str, *words: str, after: int = -1) -> int:
    """Where the first such call stands behind ``after``; each word ends one of its arguments."""
    for index, call in enumerate(calls):
        if index > after and call.name.startswith(name) and _fits(call, words):
            return index
    raise AssertionError(f"no {name} with {words} behind call {after}")


def _fits(call: Call, words: tuple[str, ...]) -> bool:
    return all(any(given.endswith(word) for given in call.given) for word in words)


def record(
    calls: list[Call], folder: Path, *words: str, after: int = -1, log: str = "events.jsonl"
) -> int:
    """Where a record that holds all ``words`` is written to the log."""
    for index, call in enumerate(calls):
        if index > after and call.name == "write" and call.given[:1] == (str(folder / log),):
            text = " ".join(call.given)
            if all(word in text for word in words):
                return index
    raise AssertionError(f"no record with {words} behind call {after}")


LOG = "events.jsonl"


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> TracedRun:
    """The calls of a run with the default durability, and its folder."""
    return traced_run(tmp_path_factory.mktemp("plain"))


def test_an_image_is_durable_before_it_is_recorded_and_recorded_before_it_is_announced(
    plain_run: TracedRun,
) -> None:
    """Sync, rename, sync of the folder, CallCompleted, sync of the log, StageImageProgress."""
    calls, run = plain_run
    for name in ("00000-42.png", "00001-43.png"):
        stage = run / "images" / "00-txt2img"
        renamed = place(calls, "rename", str(stage / name))
        temporary = calls[renamed].given[0]
        assert place(calls, "fsync", temporary) < renamed
        folder_synced = place(calls, "fsync", str(stage), after=renamed)
        completed = record(calls, run, "CallCompleted", name, after=folder_synced)
        synced = place(calls, "fdatasync", LOG, after=completed)
        announced = record(calls, run, "StageImageProgress", name)
        assert completed < synced < announced


def test_nothing_is_written_behind_a_barrier_before_its_sync(plain_run: TracedRun) -> None:
    """Between a barrier's write and the log's next write stands the log's sync."""
    calls, run = plain_run
    log = str(run / LOG)
    mine = [call for call in calls if call.given[:1] == (log,)]
    barriers = ("LifecycleChanged", "CallRequested", "CallCompleted", "RunSealed")
    seen = 0
    for call, following in zip(mine, [*mine[1:], Call("", ())], strict=True):
        is_barrier = call.name == "write" and any(
            f'"{tag}' in "".join(call.given).replace("\\", "") for tag in barriers
        )
        if is_barrier:
            seen += 1
            assert following.name == "fdatasync"
    assert seen == 2 + 2 * 2 + 1


def test_the_log_appears_by_rename_in_a_folder_that_is_durable(plain_run: TracedRun) -> None:
    """New folders are synced into their parents, the first record before its rename."""
    calls, run = plain_run
    made = place(calls, "mkdir", str(run))
    assert made < place(calls, "fsync", str(run.parent), after=made)
    renamed = place(calls, "rename", str(run / LOG))
    assert place(calls, "fsync", calls[renamed].given[0]) < renamed
    synced = place(calls, "fsync", str(run), after=renamed)
    assert synced < record(calls, run, "LifecycleChanged")
    images = place(calls, "mkdir", "images/00-txt2img")
    place(calls, "fsync", "images", after=images)


def test_the_durability_process_syncs_nothing(tmp_path: Path) -> None:
    """It survives the death of the process only, and costs no sync of any file or folder."""
    calls, run = traced_run(tmp_path, "run.durability=process")
    assert not [call.given for call in calls if call.name in ("fsync", "fdatasync")]
    assert (run / LOG).is_file()


def test_a_group_is_durable_before_its_runs_and_each_variant_before_its_folder(
    tmp_path: Path,
) -> None:
    """The folder, the first record, its name; then each record before what it announces."""
    calls = traced(tmp_path, "--vary", "txt2img.steps=1,2")
    (log,) = (tmp_path / "runs").glob("groups/*/group.jsonl")
    made = place(calls, "mkdir", str(log.parent))
    place(calls, "fsync", str(log.parent.parent), after=made)
    renamed = place(calls, "rename", str(log))
    assert place(calls, "fsync", calls[renamed].given[0]) < renamed
    durable = place(calls, "fsync", str(log.parent), after=renamed)
    for run in sorted((tmp_path / "runs").glob("2*")):
        begun = record(calls, log.parent, "VariantBegun", run.name, log=log.name)
        synced = place(calls, "fdatasync", log.name, after=begun)
        assert durable < begun < synced < place(calls, "mkdir", str(run))
        durable = synced
    sealed = record(calls, log.parent, "GroupSealed", log=log.name)
    place(calls, "fdatasync", log.name, after=sealed)
