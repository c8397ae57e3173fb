"""kill -9 at every failpoint of a group: of its log, its runs' making, a resume and a cancel."""

from __future__ import annotations

import json
from collections import Counter
from hashlib import sha256
from pathlib import Path

import pytest
from stagewright.events import RunState, replay
from stagewright.events.groups.fold import GroupFold
from stagewright.events.groups.log import GROUP_LOG_NAME, read_group_log
from stagewright.events.groups.model import (
    GroupCancelled,
    GroupEvent,
    GroupRepaired,
    GroupSealed,
    VariantBegun,
)
from stagewright.statemachine import GroupResult
from stagewright.statemachine.groups.result import replay_group

from .command_line import write_config
from .crashing import KILLED, LOG, Counts, check_history, sent_calls
from .forking import Ended, ForkServer
from .group_process import MOMENTS
from .support import document, png
from .test_kill_matrix import BARRIER, FILE, at_each

TITLE = "kills of groups"
pytestmark = pytest.mark.posix

VARIANTS = 3
AXIS = "txt2img.steps=1,2,3"


def of_variant(index: int) -> list[str]:
    """Where a group can die while it begins a variant, and once its run has ended."""
    nth = f"#{index + 1}"
    return [
        *at_each(BARRIER, f'VariantBegun "variant_index":{index}'),
        f"folder-made runs/2 #{2 * index + 1}",
        *at_each(FILE, f"{LOG} {nth}"),
        *at_each(BARRIER, f'LifecycleChanged "trigger":"start" {nth}'),
        f"record-synced CallRequested {nth}",
        f"record-synced CallCompleted {nth}",
        *at_each(BARRIER, f"RunSealed {nth}"),
    ]


OPENING = ["folder-made runs/groups", "folder-made runs/groups/2", "folder-made inputs"]
OPENING += at_each(FILE, "inputs/00000.png")
OPENING += at_each(FILE[:3], GROUP_LOG_NAME)
RUNNING = [
    *at_each(FILE[3:], GROUP_LOG_NAME),
    *(one for index in range(VARIANTS) for one in of_variant(index)),
    *at_each(BARRIER, "GroupSealed"),
]
TORN = 'record-half VariantBegun "variant_index":1'
RESUMING = [
    *at_each(FILE, f"{GROUP_LOG_NAME}.torn-1"),
    "tail-cut",
    *at_each(BARRIER, "LogRepaired"),
    *at_each(BARRIER, "GroupResumed"),
    *at_each(BARRIER, 'VariantBegun "variant_index":1'),
    "folder-made runs/2",
    *at_each(BARRIER, "GroupSealed"),
]
REMOVING = ["file-removed run.lock", "folder-made runs/2", *at_each(FILE, LOG)]
CANCELLING = [
    (moment, at)
    for moment in MOMENTS
    for at in (*at_each(BARRIER, "GroupCancelled"), *at_each(BARRIER, "GroupSealed"))
]
CANCELLING += [
    ("ordered", f"{place} .cancel.request") for place in ("file-renamed", "file-removed")
]


class Wreck:
    """A group in a folder of its own that is killed, and resumed to its end."""

    def __init__(self, forks: ForkServer, folder: Path, counts: Counts) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        self._forks = forks
        self._counts = counts
        content = document("txt2img", name="voyage", images=1)
        self.config = write_config(folder, json.dumps(content), "voyage.json")
        self.start = ("run", self.config, "--vary", AXIS)

    def command(self, *arguments: str | Path, at: str | None = None) -> Ended:
        """One command, which may be killed at a failpoint."""
        return self._forks.command(*arguments, "--json", folder=self.folder, failpoint=at)

    def kill(self, *arguments: str | Path, at: str) -> None:
        """Kill a command at a failpoint, and see that it died there."""
        self._counts.note_kill(self.command(*arguments, at=at), at)

    def kill_cancelled(self, moment: str, *, at: str) -> None:
        """Kill a process that cancels the group that it has started."""
        ended = self._forks.command(
            self.config,
            AXIS,
            moment,
            folder=self.folder,
            failpoint=at,
            program="tests.group_process",
        )
        self._counts.note_kill(ended, at)

    def resume(self) -> None:
        """Resume the group to its end."""
        ended = self.command("resume", "last-group")
        assert ended.status == 0, ended.stderr
        self._counts.resumed += 1

    @property
    def group(self) -> Path:
        """The folder of the one group."""
        (log,) = self.runs.glob(f"groups/*/{GROUP_LOG_NAME}")
        return log.parent

    def result(self) -> GroupResult:
        """The group as its logs describe it."""
        return replay_group(self.group, self.runs)

    def events(self) -> list[GroupEvent]:
        """What the group's log holds."""
        events: list[GroupEvent] = []
        read_group_log(self.group, events.extend)
        return events

    def check(self, reference: list[str]) -> None:
        """See that nothing shows of the kills in what the group has come to."""
        result = self.result()
        assert result.state == RunState.COMPLETED
        assert self.pictures() == reference
        sent = sent_calls(self.folder)
        assert len(set(sent)) == len(sent)
        self._counts.take_requests(len(sent), VARIANTS)
        self.check_folders()
        self._check_log()

    def pictures(self) -> list[str]:
        """The digests of the images as the backend gave them, by variant."""
        runs = [replay(self.runs / (one.run_id or "")) for one in self.result().variants]
        return [image.source_sha256 for run in runs for image in run.images]

    def check_folders(self) -> None:
        """Each folder is that of a variant's run, which has a sound log."""
        begun = [one.run_id for one in self.result().variants if one.run_id is not None]
        folders = {path.name for path in self.runs.iterdir() if path.is_dir()}
        assert folders == {"groups", *begun}
        for run_id in begun:
            check_history(self.runs / run_id)

    def _check_log(self) -> None:
        """Each variant began once, with the run that it has; what was cut is kept."""
        events = self.events()
        begun = {one.variant_index: one.run_id for one in events if isinstance(one, VariantBegun)}
        assert sum(isinstance(one, VariantBegun) for one in events) == VARIANTS
        assert begun == {one.variant_index: one.run_id for one in self.result().variants}
        assert isinstance(events[-1], GroupSealed)
        repairs = [one for one in events if isinstance(one, GroupRepaired)]
        copies = Counter(path.name for path in self.group.glob("*.torn-*"))
        assert copies == Counter(one.copied_to for one in repairs)
        for one in repairs:
            cut = (self.group / one.copied_to).read_bytes()
            assert (len(cut), sha256(cut).hexdigest()) == (one.bytes, one.sha256)


@pytest.fixture
def wreck(forks: ForkServer, tmp_path: Path, counts: Counts) -> Wreck:
    """A folder in which a group can be killed."""
    return Wreck(forks, tmp_path, counts)


@pytest.fixture(scope="module")
def reference(forks: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The images of the group that nobody interrupted."""
    whole = Wreck(forks, tmp_path_factory.mktemp("uninterrupted"), Counts())
    ended = whole.command(*whole.start)
    assert ended.status == 0, ended.stderr
    made = whole.pictures()
    whole.check(made)
    assert len(set(made)) == VARIANTS
    return made


@pytest.mark.sampled(5)
@pytest.mark.parametrize("at", RUNNING)
def test_a_group_killed_anywhere_ends_as_if_it_had_not_been(
    at: str, wreck: Wreck, reference: list[str]
) -> None:
    """Each step of the group's log and of the making of its runs: no variant runs twice."""
    wreck.kill(*wreck.start, at=at)
    wreck.resume()
    wreck.check(reference)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("at", OPENING)
def test_a_group_killed_before_its_log_is_there_is_no_group(
    at: str, wreck: Wreck, reference: list[str]
) -> None:
    """Nothing was sent, no run was made, and the next group is not affected."""
    (wreck.folder / "input.png").write_bytes(png(1))
    content = document("img2img", name="voyage", images=1, input_image="input.png")
    config = write_config(wreck.folder, json.dumps(content), "input.json")
    ended = wreck.command("run", config, "--vary", "img2img.steps=1,2,3", at=at)
    assert ended.status == KILLED, ended
    assert sent_calls(wreck.folder) == []
    assert not list(wreck.runs.glob(f"groups/*/{GROUP_LOG_NAME}"))
    assert not list(wreck.runs.glob("2*"))
    assert wreck.command("resume", "last-group").status == 2
    assert wreck.command(*wreck.start).status == 0
    wreck.check(reference)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("at", RESUMING)
def test_a_resume_of_a_group_killed_anywhere_is_resumed(
    at: str, wreck: Wreck, reference: list[str]
) -> None:
    """Whatever of the new epoch is there, the next resume goes on from it."""
    wreck.kill(*wreck.start, at=TORN)
    wreck.kill("resume", "last-group", at=at)
    wreck.resume()
    wreck.check(reference)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("at", REMOVING)
def test_a_resume_killed_while_it_makes_the_folder_of_a_begun_variant_again_is_resumed(
    at: str, wreck: Wreck, reference: list[str]
) -> None:
    """The folder without a log is removed and made again under the recorded id."""
    wreck.kill(*wreck.start, at=f"file-half {LOG} #2")
    begun = GroupFold()
    begun.apply_all(wreck.events())
    wreck.kill("resume", "last-group", at=at)
    wreck.resume()
    wreck.check(reference)
    assert wreck.result().variants[1].run_id == begun.run_ids[1]


def test_a_group_killed_again_and_again_in_the_middle_of_its_records_ends_well(
    wreck: Wreck, reference: list[str]
) -> None:
    """Each epoch leaves a torn tail to the next, and none of them is lost."""
    wreck.kill(*wreck.start, at="record-half VariantBegun")
    for words in ("LogRepaired", "GroupResumed", "VariantBegun"):
        wreck.kill("resume", "last-group", at=f"record-half {words}")
    wreck.kill("resume", "last-group", at='record-half VariantBegun "variant_index":2')
    wreck.kill("resume", "last-group", at="record-half GroupSealed")
    wreck.resume()
    wreck.check(reference)


@pytest.mark.sampled(5)
@pytest.mark.parametrize(("moment", "at"), CANCELLING)
def test_a_cancelled_group_killed_anywhere_stays_cancelled_until_it_is_resumed(
    moment: str, at: str, wreck: Wreck, reference: list[str]
) -> None:
    """Once GroupCancelled is there the group is CANCELLED; a resume finishes it all the same."""
    wreck.kill_cancelled(moment, at=at)
    events = wreck.events()
    recorded = any(isinstance(one, GroupCancelled) for one in events)
    assert recorded == (at not in at_each(BARRIER[:2], "GroupCancelled"))
    assert wreck.result().state == (RunState.CANCELLED if recorded else RunState.RUNNING)
    begun = sum(isinstance(one, VariantBegun) for one in events)
    assert begun == {"opening": 0, "ordered": 0, "between": 1, "second": 2}[moment]
    if recorded:
        every = wreck.command("resume", "--all")
        assert (every.status, every.stdout) == (0, "[]\n")
        assert "cancelled left out" in every.stderr
        assert wreck.result().state == RunState.CANCELLED
    wreck.resume()
    wreck.check(reference)
