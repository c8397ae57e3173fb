"""kill -9 wherever an image of an earlier run is copied and recorded: no image is made twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from stagewright.events import CallReused, replay

from .crashing import KILLED, LOG, Counts, check_history, sent_calls, voyage
from .forking import ForkServer, Json
from .reusing import FACTORS
from .support import TXT2IMG
from .test_kill_matrix import BARRIER, FILE, RECORD, at_each

TITLE = "kill matrix of reused images"
pytestmark = pytest.mark.posix

STAGE = "00-txt2img"
UPSCALED = 2 * 3
"""Requests of the last stage in both runs of the group."""
BATCHES: Json = {"txt2img": {**TXT2IMG, "batch_size": 2}}


def second(places: tuple[str, ...], words: str) -> list[str]:
    """Failpoints that the first run of the group passes, in the second one."""
    return [f"{one} #2" for one in at_each(places, words)]


def of_copy(index: int) -> list[str]:
    """Everywhere that the copy of an image can die."""
    return [
        *second(FILE, f"images/{STAGE}/{index:05d}-"),
        *at_each(BARRIER, f'CallReused "image_index":{index},"request_sha256"'),
        *second(RECORD, f'StageImageProgress "stage_id":"{STAGE}" "image_index":{index},'),
    ]


def of_batch() -> list[str]:
    """Where the copies of a batch of two can die."""
    files = [f"images/{STAGE}/{index:05d}-" for index in range(2)]
    return [
        *(one for file in files for one in second(FILE[:-1], file)),
        *second(FILE[-1:], files[1]),
        *at_each(BARRIER, 'CallReused "image_index":0,"request_sha256"'),
    ]


class Sweep:
    """A group of two runs, of which the second one uses the images of the first one again."""

    def __init__(self, forks: ForkServer, folder: Path, **top: object) -> None:
        self.folder = folder
        self._forks = forks
        self._config = voyage(folder, "txt2img", "upscale", **top)

    def run(self, at: str | None = None) -> int:
        """Run it, killed at a failpoint; its exit status."""
        ended = self._forks.command(
            "run", self._config, "--vary", FACTORS, "--json",
            folder=self.folder, failpoint=at,
        )  # fmt: skip
        return ended.status

    def resume(self) -> None:
        """Finish the group."""
        ended = self._forks.command("resume", "last-group", "--json", folder=self.folder)
        assert ended.status == 0, ended.stderr

    def runs(self) -> list[Path]:
        """The folders of its runs, in order."""
        return sorted(log.parent for log in self.folder.glob(f"runs/*/{LOG}"))

    def result(self) -> Json:
        """The result of the second run."""
        result: Json = json.loads(b"".join(replay(self.runs()[1]).json_parts()))
        return result


def reference_of(forks: ForkServer, folder: Path, **top: object) -> Json:
    """The second run's result where nobody interrupted the group."""
    sweep = Sweep(forks, folder, **top)
    assert sweep.run() == 0
    return sweep.result()


@pytest.fixture(scope="module")
def reference(forks: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Json:
    """Of images that have a request each."""
    return reference_of(forks, tmp_path_factory.mktemp("uninterrupted"))


@pytest.fixture(scope="module")
def batched(forks: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Json:
    """Of images in batches."""
    return reference_of(forks, tmp_path_factory.mktemp("batched"), **BATCHES)


def kill_and_check(sweep: Sweep, at: str, reference: Json, counts: Counts, planned: int) -> None:
    """Kill the group, resume it, and see that its second run is as if nothing had happened."""
    assert sweep.run(at) == KILLED, f"{at} was not passed"
    counts.kills += 1
    counts.places.append(at.split()[0])
    sweep.resume()
    counts.resumed += 1
    counts.compare(sweep.result(), reference)
    first, run = sweep.runs()
    sent = sent_calls(sweep.folder)
    assert len(set(sent)) == len(sent)
    assert [call for call in sent if STAGE in call and run.name in call] == []
    counts.take_requests(len(sent), planned)
    events = check_history(run)
    reused = [one for one in events if isinstance(one, CallReused)]
    assert {one.origin.run_id for one in reused} == {first.name}
    assert sum(len(one.artifacts) for one in reused) == 3


@pytest.mark.sampled(3)
@pytest.mark.parametrize("at", of_copy(1))
def test_a_run_killed_while_it_copies_an_image_ends_as_if_it_had_not_been(
    at: str, forks: ForkServer, tmp_path: Path, counts: Counts, reference: Json
) -> None:
    """The image is copied again, or was recorded; it is never requested."""
    kill_and_check(Sweep(forks, tmp_path), at, reference, counts, planned=3 + UPSCALED)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("at", of_batch())
def test_a_run_killed_while_it_copies_a_batch_ends_as_if_it_had_not_been(
    at: str, forks: ForkServer, tmp_path: Path, counts: Counts, batched: Json
) -> None:
    """The batch is copied whole, whatever of it was in place."""
    kill_and_check(Sweep(forks, tmp_path, **BATCHES), at, batched, counts, planned=2 + UPSCALED)


class Repetition:
    """A run, and a rerun of it with another last stage."""

    def __init__(self, forks: ForkServer, folder: Path) -> None:
        self.folder = folder
        self._forks = forks
        config = voyage(folder, "txt2img", "upscale")
        assert forks.command("run", config, folder=folder).status == 0
        (self.parent,) = self.runs()

    def begin(self, at: str | None = None) -> int:
        """Begin the rerun, killed at a failpoint; its exit status."""
        changed = ("--from", "upscale", "--set", "upscale.factor=1.5")
        ended = self._forks.command(
            "rerun", self.parent.name, *changed, folder=self.folder, failpoint=at
        )
        return ended.status

    def resume(self, at: str | None = None) -> int:
        """Resume it, killed or not."""
        run = self.runs()[-1].name
        return self._forks.command("resume", run, folder=self.folder, failpoint=at).status

    def runs(self) -> list[Path]:
        """The folders of both runs, in order."""
        return sorted(log.parent for log in self.folder.glob(f"runs/*/{LOG}"))

    def result(self) -> Json:
        """The result of the rerun."""
        result: Json = json.loads(b"".join(replay(self.runs()[1]).json_parts()))
        return result


@pytest.fixture(scope="module")
def repetition(forks: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Json:
    """The result of a rerun that nobody interrupted."""
    whole = Repetition(forks, tmp_path_factory.mktemp("repetition"))
    assert whole.begin() == 0
    return whole.result()


AGAIN = 'record-written CallReused "image_index":2,'


@pytest.mark.sampled(3)
@pytest.mark.parametrize("at_resume", [None, AGAIN], ids=["", "and its resume"])
@pytest.mark.parametrize("at", [*at_each(FILE, LOG), *of_copy(1)])
def test_a_rerun_that_was_killed_ends_as_if_it_had_not_been(
    at: str, at_resume: str | None, forks: ForkServer, tmp_path: Path, counts: Counts,
    repetition: Json,
) -> None:  # fmt: skip
    """Also if its resume is killed; no image of the stages before is requested."""
    rerun = Repetition(forks, tmp_path)
    at = at.replace(" #2", "")
    assert rerun.begin(at) == KILLED, f"{at} was not passed"
    counts.kills += 1
    counts.places.append(at.split()[0])
    if len(rerun.runs()) == 1:  # killed before its first event was in place
        assert rerun.begin() == 0
    else:
        if at_resume is not None:
            assert rerun.resume(at_resume) == KILLED
            counts.kills += 1
        assert rerun.resume() == 0
    counts.resumed += 1
    counts.compare(rerun.result(), repetition)
    sent = [call for call in sent_calls(tmp_path) if rerun.runs()[1].name in call]
    assert all(STAGE not in call for call in sent)
    counts.take_requests(len(sent), 3)
    check_history(rerun.runs()[1])
