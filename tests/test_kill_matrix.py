"""kill -9 at every failpoint of every stage and image, and of the resume after it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from stagewright.events import CallRequested
from stagewright.statemachine.files.run_folder import CancelOrder, RunFolder

from .command_line import installed
from .crashing import (
    KILLED,
    LOG,
    Counts,
    check_history,
    kept_aside,
    only_run,
    sent_calls,
    torn_tail,
    voyage,
)
from .forking import Ended, ForkServer, Json
from .support import TXT2IMG, png

TITLE = "kill matrix"
pytestmark = pytest.mark.posix

STAGES = ("txt2img", "img2img", "upscale", "adetailer")
STAGE_IDS = tuple(f"{place:02d}-{stage}" for place, stage in enumerate(STAGES))
PLANNED = 12
BATCHES: Json = {"txt2img": {**TXT2IMG, "batch_size": 2}}
RECORD = ("record-before", "record-half", "record-written")
BARRIER = (*RECORD, "record-synced")
FILE = ("file-half", "file-written", "file-synced", "file-renamed", "file-in-place")


def at_each(places: tuple[str, ...], words: str) -> list[str]:
    """The failpoints of one record or file."""
    return [f"{place} {words}" for place in places]


def of_image(stage_id: str, index: int) -> list[str]:
    """Everywhere that an image which has a request of its own can die."""
    call = f"{stage_id}.{index:05d}"
    told = f'StageImageProgress "stage_id":"{stage_id}" "image_index":{index},'
    return [
        *at_each(BARRIER, f"CallRequested {call}"),
        *at_each(FILE, f"images/{stage_id}/{index:05d}-"),
        *at_each(BARRIER, f"CallCompleted {call}"),
        *at_each(RECORD, told),
    ]


def of_stage(stage_id: str) -> list[str]:
    """Where a stage can die before its first image and after its last."""
    return [
        f"folder-made images/{stage_id}",
        *at_each(RECORD, f'StageStart "stage_id":"{stage_id}"'),
        *at_each(RECORD, f'StageEnd "stage_id":"{stage_id}"'),
    ]


def of_batches() -> list[str]:
    """Where a run of three images in batches of two, then upscaled, can die."""
    stage_id = STAGE_IDS[0]
    calls = [f"{stage_id}.{first:05d}" for first in (0, 2)]
    images = [f"images/{stage_id}/{index:05d}-" for index in range(3)]
    told = f'StageImageProgress "stage_id":"{stage_id}" "image_index"'
    return [
        *(one for call in calls for one in at_each(BARRIER, f"CallRequested {call}")),
        *(one for image in images for one in at_each(FILE[:-1], image)),
        *(f"file-in-place {last}" for last in images[1:]),
        *(one for call in calls for one in at_each(BARRIER, f"CallCompleted {call}")),
        *(one for index in range(3) for one in at_each(RECORD, f"{told}:{index},")),
    ]


def of_resume() -> list[str]:
    """Where a resume can die that finds a torn tail."""
    records = (
        "LogRepaired",
        'LifecycleChanged "trigger":"fail"',
        'LifecycleChanged "trigger":"recover"',
        "RunResumed",
        'LifecycleChanged "trigger":"start"',
    )
    return [
        *at_each(FILE, f"{LOG}.torn-1"),
        "tail-cut",
        "record-synced #1",  # the sync after the cut
        *(one for words in records for one in at_each(BARRIER, words)),
        *at_each(RECORD, "StageStart"),
    ]


IN_IMAGES = [one for stage in STAGE_IDS for index in range(3) for one in of_image(stage, index)]
IN_STAGES = [one for stage in STAGE_IDS for one in of_stage(stage)]
AT_THE_ENDS = [
    *at_each(("file-renamed", "file-in-place"), LOG),
    *at_each(BARRIER, 'LifecycleChanged "trigger":"start"'),
    *at_each(BARRIER, 'LifecycleChanged "trigger":"finish"'),
    *at_each(BARRIER, "RunSealed"),
]
BEFORE_THE_RUN = [
    "folder-made runs",
    "folder-made -voyage-",
    "folder-made /inputs",
    *at_each(FILE, "inputs/00000."),
    *at_each(("file-half", "file-written", "file-synced"), LOG),
]
TORN = "record-half CallCompleted 01-img2img.00001"
REMADE = f"{STAGE_IDS[1]}.00001.1"
SET_ASIDE = [
    *at_each(("file-renamed", "file-in-place"), ".altered-1"),
    *at_each(BARRIER, f"CallRequested {REMADE}"),
    *at_each(FILE, f"images/{STAGE_IDS[1]}/00001-101.png"),
    *at_each(BARRIER, f"CallCompleted {REMADE}"),
    *at_each(RECORD, "StageImageProgress"),
]


@pytest.fixture(scope="module")
def reference(forks: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Json:
    """The result of the run of all stages that nobody interrupted."""
    return uninterrupted(forks, tmp_path_factory, *STAGES)


@pytest.fixture(scope="module")
def batched(forks: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Json:
    """The result of the run in batches that nobody interrupted."""
    return uninterrupted(forks, tmp_path_factory, "txt2img", "upscale", **BATCHES)


def uninterrupted(
    forks: ForkServer, folders: pytest.TempPathFactory, *stages: str, **top: object
) -> Json:
    """The result of a run of these stages."""
    folder = folders.mktemp("uninterrupted")
    ended = forks.command("run", voyage(folder, *stages, **top), "--json", folder=folder)
    assert ended.status == 0, ended.stderr
    assert ended.result()["missing"] == []
    return ended.result()


class Wreck:
    """A run in a folder of its own that is killed, again and again, and resumed to its end."""

    def __init__(self, forks: ForkServer, folder: Path, counts: Counts) -> None:
        self.folder = folder
        self._forks = forks
        self._counts = counts
        self._torn: list[bytes] = []

    def kill(self, *arguments: str | Path, at: str) -> None:
        """Kill a command at a failpoint, and see that it died there."""
        ended = self._forks.command(*arguments, "--json", folder=self.folder, failpoint=at)
        assert ended.status == KILLED, f"{at} was not passed: {ended}"
        self._counts.kills += 1
        self._counts.places.append(at.split()[0])
        if list(self.folder.glob(f"runs/*/{LOG}")):
            self._torn += filter(None, [torn_tail(only_run(self.folder))])

    def resume(self) -> Ended:
        """Resume the run to its end."""
        ended = self._forks.command("resume", "last", "--json", folder=self.folder)
        assert ended.status == 0, ended.stderr
        self._counts.resumed += 1
        return ended

    def check(self, result: Json, reference: Json, planned: int, remade: int = 0) -> None:
        """See that nothing shows of the kills in what the run has come to."""
        self._counts.compare(result, reference)
        sent = sent_calls(self.folder)
        assert len(set(sent)) == len(sent)
        self._counts.take_requests(len(sent), planned + remade)
        run = only_run(self.folder)
        check_history(run, remade=remade)
        verified = self._forks.command("verify", run.name, folder=self.folder)
        assert verified.status == 0, verified.stdout
        for cut in self._torn:
            assert kept_aside(run, cut)


@pytest.fixture
def wreck(forks: ForkServer, tmp_path: Path, counts: Counts) -> Wreck:
    """A folder in which a run can be killed."""
    return Wreck(forks, tmp_path, counts)


@pytest.mark.sampled(11)
@pytest.mark.parametrize("at", [*IN_IMAGES, *IN_STAGES, *AT_THE_ENDS])
def test_a_run_killed_anywhere_ends_as_if_it_had_not_been(
    at: str, wreck: Wreck, reference: Json
) -> None:
    """Each failpoint of each stage, image and end: after the resume nothing differs."""
    wreck.kill("run", voyage(wreck.folder, *STAGES), at=at)
    result = wreck.resume().result()
    wreck.check(result, reference, PLANNED)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("at", of_batches())
def test_a_run_in_batches_killed_anywhere_ends_as_if_it_had_not_been(
    at: str, wreck: Wreck, batched: Json
) -> None:
    """A batch is recorded whole or not at all, and its images announced once each."""
    wreck.kill("run", voyage(wreck.folder, "txt2img", "upscale", **BATCHES), at=at)
    result = wreck.resume().result()
    wreck.check(result, batched, planned=2 + 3)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("at", BEFORE_THE_RUN)
def test_a_run_killed_before_its_log_is_there_is_no_run(
    at: str, wreck: Wreck, forks: ForkServer
) -> None:
    """Nothing was sent, nothing is listed, and the next run takes no harm."""
    folder = wreck.folder
    (folder / "input.png").write_bytes(png(1))
    config = voyage(folder, "img2img", images=1, input_image="input.png")
    wreck.kill("run", config, at=at)
    assert sent_calls(folder) == []
    assert json.loads(forks.command("list", "--json", folder=folder).stdout) == []
    assert forks.command("resume", "last", folder=folder).status == 2
    assert forks.command("resume", "--all", folder=folder).status == 0
    assert forks.command("verify", "--all", folder=folder).status == 0
    result = forks.command("run", config, "--json", folder=folder).result()
    elsewhere = forks.command("run", config, "--json", "--runs", "others", folder=folder).result()
    wreck.check(result, elsewhere, planned=2)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("at", of_resume())
def test_a_resume_killed_while_it_repairs_and_takes_up_the_run_is_resumed(
    at: str, wreck: Wreck, reference: Json
) -> None:
    """Whatever of the new epoch is there, the next resume goes on from it."""
    wreck.kill("run", voyage(wreck.folder, *STAGES), at=TORN)
    wreck.kill("resume", "last", at=at)
    result = wreck.resume().result()
    wreck.check(result, reference, PLANNED)


def test_a_resume_killed_again_and_again_in_the_middle_of_its_records_ends_well(
    wreck: Wreck, reference: Json
) -> None:
    """Each epoch leaves a torn tail to the next, and none of them is lost."""
    wreck.kill("run", voyage(wreck.folder, *STAGES), at=TORN)
    for words in ("LogRepaired", '"fail"', '"recover"', "RunResumed", '"start"', "StageStart"):
        wreck.kill("resume", "last", at=f"record-half {words}")
    for words in ("CallRequested", "CallCompleted", "StageImageProgress", "StageEnd"):
        wreck.kill("resume", "last", at=f"record-half {words}")
    result = wreck.resume().result()
    wreck.check(result, reference, PLANNED)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("place", BARRIER)
def test_a_resume_killed_over_the_record_of_two_repairs_is_resumed(
    place: str, wreck: Wreck, reference: Json
) -> None:
    """A process died over its repair; both cuts are in one copy and recorded, by whoever can."""
    wreck.kill("run", voyage(wreck.folder, *STAGES), at=TORN)
    wreck.kill("resume", "last", at="record-half LogRepaired")
    wreck.kill("resume", "last", at=f"{place} LogRepaired")
    result = wreck.resume().result()
    wreck.check(result, reference, PLANNED)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("at", SET_ASIDE)
def test_a_resume_killed_while_it_replaces_an_altered_image_is_resumed(
    at: str, wreck: Wreck, reference: Json
) -> None:
    """What somebody made of the file stays beside it, and the image is as it was."""
    wreck.kill("run", voyage(wreck.folder, *STAGES), at=f"record-before StageStart {STAGE_IDS[2]}")
    image = only_run(wreck.folder) / f"images/{STAGE_IDS[1]}/00001-101.png"
    image.write_bytes(image.read_bytes() + b"somebody's work")
    altered = image.read_bytes()
    wreck.kill("resume", "last", at=at)
    result = wreck.resume().result()
    wreck.check(result, reference, PLANNED, remade=1)
    aside = [path.read_bytes() for path in image.parent.glob("*.altered-*")]
    assert altered in aside


@pytest.mark.parametrize("name", [".png", "cancel.request"])
def test_a_resume_killed_while_it_removes_what_a_crash_left_is_resumed(
    name: str, wreck: Wreck, reference: Json
) -> None:
    """A half-written image and an order to stop that nobody took are gone in the end."""
    wreck.kill("run", voyage(wreck.folder, *STAGES), at="file-half images/02-upscale/00001-")
    run = only_run(wreck.folder)
    RunFolder(run).order_cancel(CancelOrder())
    wreck.kill("resume", "last", at=f"file-removed {name}")
    result = wreck.resume().result()
    wreck.check(result, reference, PLANNED)
    assert not (run / "cancel.request").exists()
    assert not list(run.glob("images/*/.*"))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("at", at_each(BARRIER, "RunSealed"))
def test_a_resume_killed_while_it_only_seals_the_run_is_resumed(
    at: str, wreck: Wreck, reference: Json
) -> None:
    """All images were there at the first kill, so that none is asked for again."""
    wreck.kill("run", voyage(wreck.folder, *STAGES), at='record-synced "trigger":"finish"')
    wreck.kill("resume", "last", at=at)
    result = wreck.resume().result()
    wreck.check(result, reference, PLANNED)
    assert len(sent_calls(wreck.folder)) == PLANNED


@pytest.mark.sampled(2)
@pytest.mark.parametrize("at", at_each(BARRIER, 'LifecycleChanged "trigger":"reset"'))
def test_a_resume_killed_while_it_takes_up_a_completed_run_is_resumed(
    at: str, wreck: Wreck, reference: Json
) -> None:
    """A run that lost an image after its end gets it back."""
    wreck.kill("run", voyage(wreck.folder, *STAGES), at="record-synced RunSealed")
    (only_run(wreck.folder) / f"images/{STAGE_IDS[1]}/00001-101.png").unlink()
    wreck.kill("resume", "last", at=at)
    result = wreck.resume().result()
    wreck.check(result, reference, PLANNED, remade=1)


@pytest.mark.parametrize(
    "at",
    [
        f"file-half {LOG}",
        "record-half CallCompleted 02-upscale.00002",
    ],
)
def test_the_installed_command_dies_and_resumes_as_the_forked_one_does(
    at: str, wreck: Wreck, counts: Counts, reference: Json
) -> None:
    """The program that users start, killed and resumed as they would do it."""
    folder, environment = wreck.folder, {**os.environ, "STAGEWRIGHT_FAILPOINT": at}
    config = voyage(folder, *STAGES)
    assert installed("run", config, folder=folder, env=environment).returncode == KILLED
    counts.kills += 1
    if LOG in at:
        assert installed("resume", "last", folder=folder).returncode == 2
        return
    resumed = installed("resume", "last", "--json", folder=folder)
    assert resumed.returncode == 0
    counts.resumed += 1
    counts.compare(json.loads(resumed.stdout), reference)
    events = check_history(only_run(folder))
    counts.take_requests(sum(isinstance(one, CallRequested) for one in events), PLANNED)
    assert installed("verify", "last", folder=folder).returncode == 0
