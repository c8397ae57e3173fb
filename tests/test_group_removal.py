"""``rm`` and ``archive`` of groups and of their runs, with a kill at each of their steps."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from stagewright.events.groups.log import GROUP_LOCK_NAME, GROUP_LOG_NAME, read_group_log
from stagewright.events.groups.model import GroupEvent, VariantRemoved
from stagewright.events.log.kind import LOG_NAME
from stagewright.events.log.lock import FileLock
from stagewright.statemachine.files.run_folder import run_folders
from stagewright.statemachine.groups.folder import group_folders
from stagewright.statemachine.groups.result import GroupResult, replay_group
from stagewright.statemachine.resume.verify import verify_run

from .command_line import stagewright
from .crashing import KILLED
from .forking import ForkServer
from .support import ScriptedBackend, controller, document
from .sweeping import group_opened, refusing, swept, variant, write_group_log

Swept = tuple[Path, GroupResult]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """A group of two variants."""
    folder = tmp_path_factory.mktemp("made")
    return folder, swept(folder / "runs", vary=["txt2img.steps=1,2"])


@pytest.fixture
def own(made: Swept, tmp_path: Path) -> Swept:
    """A copy of it that a test may change."""
    shutil.copytree(made[0] / "runs", tmp_path / "runs")
    return tmp_path, made[1]


def states(folder: Path) -> list[str]:
    """The states of the group's variants."""
    (group,) = group_folders(folder / "runs")
    return [one.state for one in replay_group(group, folder / "runs").variants]


def resumed(folder: Path) -> int:
    """Resume the group; the number of requests that it sent."""
    backend = ScriptedBackend()
    controller(folder / "runs", backend).resume_group("last-group").wait(30)
    return len(backend.requests)


def removals(folder: Path) -> list[int]:
    """The variants whose removal the group's log records."""
    events: list[GroupEvent] = []
    (group,) = group_folders(folder / "runs")
    read_group_log(group, events.extend)
    return [one.variant_index for one in events if isinstance(one, VariantRemoved)]


def test_a_removed_variant_is_never_made_again(own: Swept) -> None:
    """The group's log records its removal; the group stays COMPLETED; a resume sends nothing."""
    folder, result = own
    done = stagewright("rm", str(result.variants[0].run_id), "--yes", folder=folder)
    assert (done.returncode, "it belongs to group" in done.stdout) == (0, True), done.stderr
    assert (states(folder), removals(folder)) == (["REMOVED", "COMPLETED"], [0])
    assert resumed(folder) == 0
    assert (
        "2 variants: 1 REMOVED, 1 COMPLETED; 1 of 1 image"
        in stagewright("show", "last-group", folder=folder).stdout
    )


def test_a_variant_of_an_unfinished_group_is_removed_with_a_warning(tmp_path: Path) -> None:
    """What the group still needs is said before; without confirmation nothing changes."""
    vary = ["txt2img.cfg_scale=5.0,7.0"]
    result = swept(tmp_path / "runs", vary=vary, backend=refusing(), server={"retries": 0})
    for name in (str(result.variants[1].run_id), "last-group"):
        asked = stagewright("rm", name, folder=tmp_path)
        assert (asked.returncode, states(tmp_path)) == (2, ["COMPLETED", "ERROR"])
        words = "the group is ERROR: 1 of 2 variants not COMPLETED; resume never makes a removed"
        assert words in asked.stdout
    archived = stagewright("archive", "last-group", folder=tmp_path)
    assert "resume of the group still finishes them" in archived.stdout
    assert (
        stagewright("rm", str(result.variants[1].run_id), "--yes", folder=tmp_path).returncode == 0
    )
    assert states(tmp_path) == ["COMPLETED", "REMOVED"]
    assert resumed(tmp_path) == 0


def test_a_group_is_removed_with_all_its_runs(own: Swept) -> None:
    """In one confirmation; other runs stay."""
    folder, result = own
    single = controller(folder / "runs").start(document(name="alone"))
    single.wait(30)
    asked = stagewright("rm", "last-group", folder=folder)
    assert (asked.returncode, "1 group with 2 runs" in asked.stderr) == (2, True)
    done = stagewright("rm", "last-group", "--yes", folder=folder)
    assert (done.returncode, "removed, with its runs" in done.stdout) == (0, True), done.stderr
    assert [one.name for one in run_folders(folder / "runs")] == [single.run_id]
    assert group_folders(folder / "runs") == []
    assert result.group_id in done.stdout


def test_a_group_is_removed_with_a_run_whose_log_has_lost_its_beginning(own: Swept) -> None:
    """Only the group's log still names it; nothing is left to look at by hand."""
    folder, result = own
    log = folder / "runs" / str(result.variants[1].run_id) / LOG_NAME
    log.write_bytes(b"damaged\n" + log.read_bytes().partition(b"\n")[2])
    asked = stagewright("rm", "last-group", folder=folder)
    assert "1 group with 2 runs" in asked.stderr, asked
    assert stagewright("rm", "last-group", "--yes", folder=folder).returncode == 0
    assert list(run_folders(folder / "runs")) == []


def test_an_archived_group_is_still_shown_and_found(own: Swept) -> None:
    """Its runs are in the archive, its folder stays; then it can be removed from there."""
    folder, _ = own
    assert stagewright("archive", "last-group", "--yes", folder=folder).returncode == 0
    assert {one.parent.name for one in run_folders(folder / "runs")} == {"archive"}
    assert states(folder) == ["COMPLETED", "COMPLETED"]
    assert (resumed(folder), removals(folder)) == (0, [])
    assert stagewright("show", "last-group", folder=folder).returncode == 0
    assert stagewright("rm", "last-group", "--yes", folder=folder).returncode == 0
    assert list(run_folders(folder / "runs")) == []


@pytest.mark.posix
def test_what_is_removed_from_within_is_named_by_its_id(own: Swept) -> None:
    """Runs and groups; their folders cannot be named by ``.`` any more once they are gone."""
    folder, result = own
    (group,) = group_folders(folder / "runs")
    run_id = str(result.variants[0].run_id)
    place = folder / "runs" / run_id
    archived = stagewright("archive", ".", "--yes", "--runs", folder / "runs", folder=place)
    assert f"{run_id}: archived in ../archive/{run_id}" in archived.stdout, archived.stderr
    place = folder / "runs" / "archive" / run_id
    removed = stagewright("rm", ".", "--yes", "--runs", folder / "runs", folder=place)
    assert f"{run_id}: removed" in removed.stdout, removed.stderr
    removed = stagewright("rm", ".", "--yes", folder=group)
    assert f"{result.group_id}  a group, COMPLETED: 1 run" in removed.stdout, removed.stderr
    assert f"{result.group_id}: removed, with its runs" in removed.stdout
    assert list(run_folders(folder / "runs")) == []


def test_earlier_stages_of_a_group_are_removed(tmp_path: Path) -> None:
    """With --keep-last-stage, of all its runs; the group stays whole."""
    swept(tmp_path / "runs", "txt2img", "upscale", vary=["txt2img.steps=1,2"])
    done = stagewright("rm", "last-group", "--keep-last-stage", "--yes", folder=tmp_path)
    assert (done.returncode, "2 images of earlier stages" in done.stdout) == (0, True), done.stderr
    assert (states(tmp_path), removals(tmp_path)) == (["COMPLETED", "COMPLETED"], [])
    assert stagewright("verify", "last-group", folder=tmp_path).returncode == 0


@pytest.mark.parametrize("command", ["rm", "archive"])
def test_a_group_that_a_process_works_on_is_refused(own: Swept, command: str) -> None:
    """As are its runs, although no process works on these."""
    folder, result = own
    (group,) = group_folders(folder / "runs")
    lock = FileLock(group, GROUP_LOCK_NAME, noun="group")
    try:
        for name in ("last-group", str(result.variants[0].run_id)):
            done = stagewright(command, name, "--yes", folder=folder)
            assert done.returncode == 2
            assert "another process works on this group" in done.stderr
    finally:
        lock.release()
    assert states(folder) == ["COMPLETED", "COMPLETED"]


def test_a_group_with_a_damaged_log_can_be_removed(own: Swept) -> None:
    """Without its runs, which nothing names any more; without confirmation nothing changes."""
    folder, _ = own
    (group,) = group_folders(folder / "runs")
    (group / GROUP_LOG_NAME).write_bytes(b"damaged\n" * 40)
    asked = stagewright("rm", "last-group", folder=folder)
    assert (asked.returncode, "its runs stay" in asked.stdout, group.exists()) == (2, True, True)
    for command in (("archive",), ("rm", "--keep-last-stage")):
        refused = stagewright(*command, "last-group", "--yes", folder=folder)
        assert refused.returncode == 4
    done = stagewright("rm", "last-group", "--yes", folder=folder)
    assert (done.returncode, "removed; its runs stay" in done.stdout) == (0, True), done.stderr
    assert (group.exists(), len(list(run_folders(folder / "runs")))) == (False, 2)


@pytest.mark.parametrize("is_archived", [False, True])
def test_a_removed_run_that_has_lost_its_log_is_never_made_again(
    own: Swept, *, is_archived: bool
) -> None:
    """The group's log, which names it, records the removal."""
    folder, result = own
    run_id = str(result.variants[1].run_id)
    if is_archived:
        assert stagewright("archive", run_id, "--yes", folder=folder).returncode == 0
    place = folder / "runs" / ("archive" if is_archived else "") / run_id
    (place / LOG_NAME).write_bytes(b"damaged\n" * 40)
    done = stagewright("rm", run_id, "--yes", folder=folder)
    assert (done.returncode, result.group_id in done.stdout) == (0, True), done.stderr
    assert (removals(folder), resumed(folder)) == ([1], 0)
    assert states(folder) == ["COMPLETED", "REMOVED"]


def test_a_run_of_a_group_with_a_damaged_log_can_be_removed(own: Swept) -> None:
    """A note says that the removal is not recorded."""
    folder, result = own
    (group,) = group_folders(folder / "runs")
    (group / GROUP_LOG_NAME).write_bytes(b"damaged\n" * 40)
    done = stagewright("rm", str(result.variants[0].run_id), "--yes", folder=folder)
    assert (done.returncode, "not recorded there" in done.stderr) == (0, True)
    assert len(list(run_folders(folder / "runs"))) == 1


def test_a_group_that_claims_the_run_of_another_does_not_remove_it(tmp_path: Path) -> None:
    """A run is of a group if its own log says so; a path out of the runs leads nowhere."""
    single = controller(tmp_path / "runs").start(document())
    single.wait(30)
    outside = tmp_path / "outside"
    shutil.copytree(tmp_path / "runs" / single.run_id, outside)
    begun = [
        {"type": "VariantBegun", "variant_index": index, "run_id": run_id}
        for index, run_id in enumerate([single.run_id, "../outside"])
    ]
    variants = [variant(index) for index in range(2)]
    write_group_log(tmp_path / "runs", group_opened(variants=variants), *begun)
    assert stagewright("rm", "last-group", "--yes", folder=tmp_path).returncode == 0
    assert verify_run(tmp_path / "runs" / single.run_id).finished
    assert verify_run(outside).finished


def test_a_torn_tail_is_repaired_before_a_removal_is_recorded(own: Swept) -> None:
    """As a resume does it: copied aside, cut, and recorded."""
    folder, result = own
    (group,) = group_folders(folder / "runs")
    with open(group / GROUP_LOG_NAME, "ab") as log:
        log.write(b'{"h":"0000')
    done = stagewright("rm", str(result.variants[0].run_id), "--yes", folder=folder)
    assert (done.returncode, removals(folder)) == (0, [0]), done.stderr
    assert len(list(group.glob("*.torn-*"))) == 1
    assert stagewright("verify", "last-group", folder=folder).returncode == 0


RECORD = [f"record-{place} VariantRemoved" for place in ("before", "half", "written", "synced")]
MOVES = ["folder-made .removed", "file-renamed .removed", "file-removed events.jsonl"]


@pytest.mark.posix
@pytest.mark.parametrize("at", [*RECORD, *MOVES])
def test_a_killed_removal_of_a_variant_leaves_a_group_that_can_go_on(
    own: Swept, forks: ForkServer, at: str
) -> None:
    """Either the run is whole, or its removal is recorded and no resume makes it again."""
    folder, result = own
    run_id = str(result.variants[1].run_id)
    killed = forks.command("rm", run_id, "--yes", folder=folder, failpoint=at)
    assert killed.status == KILLED, killed
    whole = (folder / "runs" / run_id).exists()
    assert whole or removals(folder) == [1]
    assert resumed(folder) == 0
    assert states(folder)[1] == ("COMPLETED" if whole else "REMOVED")
    if whole:
        assert forks.command("rm", run_id, "--yes", folder=folder).status == 0
    assert states(folder) == ["COMPLETED", "REMOVED"]


@pytest.mark.posix
@pytest.mark.parametrize("at", ["record-synced VariantRemoved", "file-removed group.jsonl"])
def test_a_killed_removal_of_a_group_is_completed_by_the_next(
    own: Swept, forks: ForkServer, at: str
) -> None:
    """Nothing is made meanwhile, and in the end nothing is left."""
    folder, _ = own
    killed = forks.command("rm", "last-group", "--yes", folder=folder, failpoint=at)
    assert killed.status == KILLED, killed
    if group_folders(folder / "runs"):
        assert resumed(folder) == 0
        assert forks.command("rm", "last-group", "--yes", folder=folder).status == 0
    else:
        assert forks.command("rm", "no such run", "--yes", folder=folder).status == 2
    assert list(run_folders(folder / "runs")) == []
    assert list((folder / "runs" / "groups").iterdir()) == []
