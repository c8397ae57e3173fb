"""``follow GROUP``: all runs of a group of another process, one after the other."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from stagewright.events import LogCorruptError, RunNotFoundError
from stagewright.events.groups.log import read_group
from stagewright.events.groups.model import GroupSealed, VariantBegun
from stagewright.statemachine.groups.folder import find_group

from .command_line import SCRIPT, Start, stagewright, until
from .following import HERE
from .group_lives import GROUP
from .group_runs import GroupLog, GroupRuns


@pytest.fixture
def group(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that runs a group of three variants; it waits before the second one."""
    runs = str(tmp_path / "runs")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.group_runs", runs, "0.03", "6", "7", "8"],
        cwd=HERE, stdin=subprocess.PIPE, text=True,
    )  # fmt: skip
    until(lambda: len(list(tmp_path.glob("runs/*/events.jsonl"))) == 1, "the first variant")
    yield process
    process.kill()
    process.communicate()


def go_on(group: subprocess.Popen[str]) -> None:
    """Let the group begin its second variant."""
    assert group.stdin is not None
    group.stdin.write("\n")
    group.stdin.flush()


def test_each_variant_is_shown_to_its_end(
    tmp_path: Path, group: subprocess.Popen[str], start: Start
) -> None:
    """Where it begins, its images, how it ended; and how the group ended."""
    follower = start("follow", "last-group", folder=tmp_path)
    assert follower.stdout is not None
    assert follower.stdout.readline() == "variant 1 of 3: steps 6\n"
    go_on(group)
    output, complaint = follower.communicate(timeout=20)
    assert (follower.returncode, complaint) == (0, "")
    lines = output.splitlines()
    for number, steps in ((2, 7), (3, 8)):
        first = lines.index(f"variant {number} of 3: steps {steps}")
        assert lines[first + 2].startswith("00-txt2img: 1 of 2 finished: images/")
        assert lines[first + 5].startswith(f"variant {number} of 3: completed in ")
    assert lines[-1].startswith(f"{GROUP}: COMPLETED")


@pytest.mark.posix
def test_a_terminal_shows_the_variant_and_the_whole_group(
    tmp_path: Path, group: subprocess.Popen[str]
) -> None:
    """In 80 columns: beside the line of the run, one for the group with its remaining time."""
    child = pexpect.spawn(
        str(SCRIPT), ["follow", GROUP[:10]], cwd=str(tmp_path), encoding="utf-8", timeout=20,
        dimensions=(24, 80),
    )  # fmt: skip
    child.expect("variant 1 of 3: steps 6")
    go_on(group)
    child.expect(r"variant 2 of 3: steps 7 +group \d+%, about [\d.]+ m?s left")
    child.expect(r"stage 1 of 1 00-txt2img +image 1 of 2")
    child.expect(r"variant 3 of 3: steps 8 +group \d+%")
    child.expect(f"{GROUP}: COMPLETED")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_a_dead_process_is_reported(
    tmp_path: Path, group: subprocess.Popen[str], start: Start
) -> None:
    """Following ends soon after the process was killed, and says how the group goes on."""
    follower = start("follow", "last-group", folder=tmp_path)
    assert follower.stdout is not None
    first = next(line for line in follower.stdout if line != "3 variants\n")
    assert first.startswith("variant 1 of 3")
    group.kill()
    _, complaint = follower.communicate(timeout=20)
    assert follower.returncode == 1
    assert complaint == (f"stagewright: {GROUP}: its process died; `resume` continues the group\n")


def test_an_ended_group_is_printed_as_data(tmp_path: Path) -> None:
    """As one document, or as the events of the group and of each of its runs, in order."""
    results = GroupRuns(tmp_path / "runs", [2, 3]).run()
    document = json.loads(stagewright("follow", GROUP, "--json", folder=tmp_path).stdout)
    assert (document["group_id"], document["state"]) == (GROUP, "COMPLETED")
    assert [variant["run_id"] for variant in document["variants"]] == [
        one.run_id for one in results
    ]
    assert {variant["outcome"] for variant in document["variants"]} == {"completed"}
    printed = stagewright("follow", GROUP, "--events", folder=tmp_path).stdout.splitlines()
    events = [json.loads(line) for line in printed]
    for result in results:
        seqs = [
            event["seq"]
            for event in events
            if event.get("run_id") == result.run_id and "group_id" not in event
        ]
        assert seqs[-1] == len(result.events) - 1


def test_a_log_of_a_group_is_checked(tmp_path: Path) -> None:
    """A torn tail is left out; a changed byte and a missing log are errors."""
    GroupRuns(tmp_path, [2]).run()
    path = tmp_path / "groups" / GROUP / "group.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert [type(event) for event in read_group(path.parent)][1:] == [VariantBegun]
    path.write_bytes(whole)
    assert isinstance(read_group(path.parent)[-1], GroupSealed)
    second = whole.index(b"\n") + 1
    path.write_bytes(whole[: second + 80] + b"x" + whole[second + 81 :])
    with pytest.raises(LogCorruptError, match=f"corrupt at byte {second} \\(record 1\\)"):
        read_group(path.parent)
    with pytest.raises(RunNotFoundError, match="no group is here"):
        read_group(tmp_path)


def test_a_group_is_found_by_its_id_a_prefix_or_as_the_last_one(tmp_path: Path) -> None:
    """A prefix of several is an error that names them."""
    first, second = (GroupLog(tmp_path, name) for name in ("2026-a", "2026-b"))
    for log in (first, second):
        log.path.write_bytes(b"")
    assert find_group(tmp_path, "2026-a") == first.folder
    assert find_group(tmp_path, "last-group") == second.folder
    with pytest.raises(RunNotFoundError, match="there is no group 'last'"):
        find_group(tmp_path, "last")
    with pytest.raises(RunNotFoundError, match=r"'2026' fits 2 groups in .*: 2026-a, 2026-b"):
        find_group(tmp_path, "2026")
