"""``follow GROUP``: all runs of a group of another process, one after the other."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pexpect
import pytest
from stagewright.events import LogCorruptError, RunNotFoundError
from stagewright.events.groups.log import read_group
from stagewright.events.groups.model import GroupSealed, VariantBegun
from stagewright.statemachine.groups.folder import find_group

from .command_line import SCRIPT, Start, stagewright
from .group_runs import IMAGES, group_process, run_group

STEPS = (2, 3, 4)
FIRST_OF_SECOND = IMAGES
"""The number of the second variant's first request."""


def following(start: Start, folder: Path, *options: str) -> subprocess.Popen[str]:
    """A follower of the last group, once it has shown the variant in progress."""
    follower = start("follow", "last-group", *options, folder=folder)
    assert follower.stdout is not None
    assert follower.stdout.readline() == "variant 1 of 3: steps 2  group 0%\n"
    return follower


def group_in(folder: Path) -> str:
    """The id of the only group."""
    (group,) = (folder / "runs" / "groups").iterdir()
    return group.name


def test_each_variant_is_shown_to_its_end(tmp_path: Path, start: Start) -> None:
    """Where it begins, its images, how it ended; and how the group ended."""
    with group_process(tmp_path / "runs", STEPS, held=[0]) as group:
        follower = following(start, tmp_path)
        group.let_go()
        output, complaint = follower.communicate(timeout=60)
    assert (follower.returncode, complaint) == (0, "")
    lines = output.splitlines()
    assert lines[0].startswith("00-txt2img: 1 of 2 finished: images/")
    assert lines[3].startswith("variant 1 of 3: completed in ")
    for number, steps, percentage in ((2, 3, 22), (3, 4, 55)):
        begins = f"variant {number} of 3: steps {steps}  group {percentage}%, about "
        (first,) = [place for place, line in enumerate(lines) if line.startswith(begins)]
        assert lines[first + 2].startswith("00-txt2img: 1 of 2 finished: images/")
        assert lines[first + 5].startswith(f"variant {number} of 3: completed in ")
    assert f"{group_in(tmp_path)}: COMPLETED" in lines


@pytest.mark.posix
def test_a_terminal_shows_the_variant_and_the_whole_group(tmp_path: Path) -> None:
    """In 80 columns: beside the line of the run, one for the group with its remaining time."""
    with group_process(tmp_path / "runs", STEPS, held=[0, FIRST_OF_SECOND + 1]) as group:
        child = pexpect.spawn(
            str(SCRIPT), ["follow", group_in(tmp_path)[-6:]], cwd=str(tmp_path),
            encoding="utf-8", timeout=60, dimensions=(24, 80),
        )  # fmt: skip
        child.expect("variant 1 of 3: steps 2 +group 0%")
        group.let_go()
        child.expect(r"variant 2 of 3: steps 3 +group 38%, about [\d.]+ m?s left")
        child.expect(r"stage 1 of 1 00-txt2img +image 2 of 2")
        group.let_go()
        child.expect("COMPLETED")
        child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_a_dead_process_is_reported(tmp_path: Path, start: Start) -> None:
    """Following ends soon after the process was killed, and says how the group goes on."""
    with group_process(tmp_path / "runs", STEPS, held=[0]) as group:
        follower = following(start, tmp_path)
        group.kill()
        _, complaint = follower.communicate(timeout=60)
    assert follower.returncode == 1
    died = f"{group_in(tmp_path)}: its process died; `resume` continues the group"
    assert complaint == f"stagewright: {died}\n"


def test_a_follower_goes_on_with_a_resumed_group(tmp_path: Path, start: Start) -> None:
    """From what was finished before, with the percentage and the time of that."""
    with group_process(tmp_path / "runs", STEPS, held=[FIRST_OF_SECOND + 1]):
        pass  # It is killed before the second image of its second variant.
    with group_process(tmp_path / "runs", held=[0]) as group:
        follower = start("follow", "last-group", folder=tmp_path)
        assert follower.stdout is not None
        first = follower.stdout.readline()
        assert first.startswith("variant 2 of 3: steps 3  group 38%, about ")
        group.let_go()
        output, complaint = follower.communicate(timeout=60)
    assert (follower.returncode, complaint) == (0, "")
    lines = output.splitlines()
    assert lines[0].startswith("00-txt2img: 2 of 2 finished: images/")
    assert lines[2].startswith("variant 2 of 3: completed in ")
    assert any(line.startswith("variant 3 of 3: steps 4  group 55%, ") for line in lines)
    assert not any(line.startswith("variant 1") for line in lines)


def test_the_exit_status_of_a_cancelled_group_is_3(tmp_path: Path, start: Start) -> None:
    """The variant in progress is shown as cancelled, and no other begins."""
    with group_process(tmp_path / "runs", STEPS, held=[0]):
        follower = following(start, tmp_path)
        assert stagewright("cancel", "last-group", folder=tmp_path).returncode == 0
        output, complaint = follower.communicate(timeout=60)
    assert (follower.returncode, complaint) == (3, "")
    lines = output.splitlines()
    assert "variant 1 of 3: cancelled" in lines
    assert not any(line.startswith("variant 2") for line in lines)
    assert f"{group_in(tmp_path)}: CANCELLED" in lines


def test_the_exit_status_of_a_group_with_a_failed_variant_is_1(
    tmp_path: Path, start: Start
) -> None:
    """The failure is shown with its reason, and the other variants go on."""
    with group_process(tmp_path / "runs", STEPS, held=[0], failing=[0]) as group:
        follower = following(start, tmp_path)
        group.let_go()
        output, _ = follower.communicate(timeout=60)
    assert follower.returncode == 1
    lines = output.splitlines()
    (end,) = [line for line in lines if line.startswith("variant 1 of 3: error: ")]
    assert end.endswith("the GPU fell off")
    assert any(line.startswith("variant 3 of 3: completed in ") for line in lines)
    assert f"{group_in(tmp_path)}: ERROR" in lines


def test_an_ended_group_is_printed_as_data(tmp_path: Path) -> None:
    """As one document, or as the events of the group and of each of its runs, in order."""
    result = run_group(tmp_path / "runs", [2, 3])
    printed = stagewright("follow", result.group_id, "--json", folder=tmp_path).stdout
    document = json.loads(printed)
    assert (document["group_id"], document["state"]) == (result.group_id, "COMPLETED")
    assert [one["run_id"] for one in document["variants"]] == [
        one.run_id for one in result.variants
    ]
    assert {one["outcome"] for one in document["variants"]} == {"completed"}
    printed = stagewright("follow", result.group_id, "--events", folder=tmp_path).stdout
    events = [json.loads(line) for line in printed.splitlines()]
    for variant in result.variants:
        seqs = [
            event["seq"]
            for event in events
            if event.get("run_id") == variant.run_id and event["type"] != "VariantBegun"
        ]
        assert len(seqs) > 5
        assert seqs == list(range(len(seqs)))


def test_a_log_of_a_group_is_checked(tmp_path: Path) -> None:
    """A torn tail is left out; a changed byte and a missing log are errors."""
    folder = tmp_path / "groups" / run_group(tmp_path, [2]).group_id
    path = folder / "group.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert [type(event) for event in read_group(folder)][1:] == [VariantBegun]
    path.write_bytes(whole)
    assert isinstance(read_group(folder)[-1], GroupSealed)
    second = whole.index(b"\n") + 1
    path.write_bytes(whole[: second + 80] + b"x" + whole[second + 81 :])
    with pytest.raises(LogCorruptError, match=f"corrupt at byte {second} \\(record 1\\)"):
        read_group(folder)
    with pytest.raises(RunNotFoundError, match="no group is here"):
        read_group(tmp_path)


def test_a_group_is_found_by_its_id_a_prefix_or_as_the_last_one(tmp_path: Path) -> None:
    """A prefix of several is an error that names them."""
    folders = [tmp_path / "groups" / name for name in ("2026-a", "2026-b")]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "group.jsonl").touch()
    assert find_group(tmp_path, "2026-a") == folders[0]
    assert find_group(tmp_path, "last-group") == folders[1]
    with pytest.raises(RunNotFoundError, match="there is no group 'last'"):
        find_group(tmp_path, "last")
    with pytest.raises(RunNotFoundError, match=r"'2026' fits 2 groups in .*: 2026-a, 2026-b"):
        find_group(tmp_path, "2026")


def test_an_ended_group_of_which_a_run_was_removed_is_not_called_dead(tmp_path: Path) -> None:
    """It shows how the group ended, as does the exit status."""
    result = run_group(tmp_path / "runs", [2, 3])
    assert (removed := result.variants[0].run_id) is not None
    assert stagewright("rm", removed, "--yes", folder=tmp_path).returncode == 0
    done = stagewright("follow", result.group_id, folder=tmp_path)
    assert "its process died" not in done.stderr
    assert f"{result.group_id}: COMPLETED" in done.stdout.splitlines()
    assert done.returncode == 0


def test_a_dead_group_whose_variants_are_complete_is_reported(tmp_path: Path) -> None:
    """Its process died before it could record the end, which a resume does."""
    result = run_group(tmp_path / "runs", [2])
    log = tmp_path / "runs" / "groups" / result.group_id / "group.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))
    done = stagewright("follow", result.group_id, folder=tmp_path)
    assert done.returncode == 1
    assert "its process died; `resume` continues the group" in done.stderr
