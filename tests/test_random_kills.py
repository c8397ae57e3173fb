"""kill -9 of runs on a server that counts: at random moments, at failpoints, while it works."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from stagewright.adapters.webui_server import EmbeddedServer
from stagewright.events import CancelMode
from stagewright.statemachine.files.run_folder import CancelOrder, RunFolder

from .command_line import Start, until
from .crashing import (
    KILLED,
    LOG,
    Counts,
    check_history,
    only_run,
    voyage,
)
from .forking import Ended, ForkServer, Json
from .support import TXT2IMG
from .webui_recorder import Recorder

TITLE = "kills on a counting server"
pytestmark = pytest.mark.posix

STAGES = ("txt2img", "img2img", "upscale", "adetailer")


@contextmanager
def counting_server(step_delay_s: float = 0.0) -> Iterator[Recorder]:
    """A WebUI behind a proxy that keeps count of what it is asked."""
    with ExitStack() as stack:
        server = EmbeddedServer([TXT2IMG["model"]], step_delay_s=step_delay_s)
        yield stack.enter_context(Recorder(stack.enter_context(server).url))


@pytest.fixture
def server() -> Iterator[Recorder]:
    """A server that answers at once."""
    with counting_server() as recorder:
        yield recorder


def sent_to(server: Recorder, run: Path) -> int:
    """The generating requests that a server got; none of the run's came twice."""
    asked = [one for one in list(server.requests) if one.stage is not None]
    bodies = [one.body["force_task_id"] for one in asked if "force_task_id" in (one.body or {})]
    assert max(Counter(bodies).values(), default=1) == 1, run
    return len(asked)


class LongRun:
    """A run of many images, which is killed so often, at random moments."""

    def __init__(
        self, forks: ForkServer, folder: Path, server: Recorder, *, kills: int, images: int
    ) -> None:
        self.folder = folder
        self.kills = 0
        self._images_for_each = 2 * images / kills
        self._forks = forks
        self._server = server
        self._config = voyage(folder, "txt2img", "img2img", images=images)
        self._moments = random.Random(20261120)
        self._window_s = 0.2
        self._force: list[str] = []

    def go_on(self, kill_after_s: float | None = None) -> int:
        """Begin the run, or resume it; how the process ended."""
        command: list[str | Path] = ["resume", "last", *self._force]
        if not list(self.folder.glob(f"runs/*/{LOG}")):
            command = ["run", self._config, "--server", self._server.url]
        ended = self._forks.command(
            *command, "--no-preflight", folder=self.folder, kill_after_s=kill_after_s
        )
        # The only thing that may hold a resume up, and what it says helps.
        self._force = ["--force"] if ended.status == 1 else []
        assert ended.status != 1 or "--force tries again" in ended.stderr, ended.stderr
        return ended.status

    def kill(self) -> None:
        """Kill it once, at a moment such that its images last for all kills."""
        status = self.go_on(self._moment())
        if status == 1:
            status = self.go_on(self._moment())
        assert status == KILLED, f"it ended ({status}) after {self.kills} kills"
        self.kills += 1
        finished = len(list(self.folder.glob("runs/*/images/*/*.png")))
        ahead = finished > 0.6 * self.kills * self._images_for_each
        self._window_s *= 0.9 if ahead else 1.1

    def _moment(self) -> float:
        """Early ones are more likely: a resume is short, and asks the server for a while."""
        return self._window_s * self._moments.random() ** 2

    def finish(self) -> None:
        """Let it come to its end."""
        status = self.go_on()
        assert (self.go_on() if status == 1 else status) == 0


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("kills", "images"), [(30, 130), (200, 200)])
def test_a_long_run_killed_at_many_random_moments_ends_as_if_it_had_not_been(
    kills: int, images: int, forks: ForkServer, tmp_path: Path, counts: Counts
) -> None:
    """It ends, and ends the same, and no kill cost more than one request."""
    with counting_server(step_delay_s=0.005) as server:
        run = LongRun(forks, tmp_path, server, kills=kills, images=images)
        for kill in range(kills):
            run.kill()
            if kill % 20 == 19:
                verified = forks.command("verify", "last", folder=tmp_path)
                assert verified.status == 1, verified.stdout
        run.finish()
        folder = only_run(tmp_path)
        counts.kills, counts.resumed = run.kills, kills
        counts.take_requests(sent_to(server, folder), 2 * images)
    check_history(folder)
    assert forks.command("verify", "last", folder=tmp_path).status == 0
    counts.compare(result_of(forks, folder), uninterrupted(forks, tmp_path, 2 * images))


def result_of(forks: ForkServer, folder: Path) -> Json:
    """The result of a run that has ended."""
    return forks.command("replay", str(folder), "--json", folder=folder).result()


def uninterrupted(forks: ForkServer, folder: Path, planned: int) -> Json:
    """What the configuration in a folder comes to if nobody interrupts it."""
    config = folder / "voyage.json"
    with counting_server() as server:
        ended = forks.command(
            "run", config, "--runs", "whole", "--json", "--server", server.url, folder=folder
        )
        assert ended.status == 0, ended.stderr
        assert sent_to(server, folder) == planned
    return ended.result()


@pytest.fixture(scope="module")
def reference(forks: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Json:
    """The result of a run of all stages on a server that nobody interrupted."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    voyage(folder, *STAGES)
    return uninterrupted(forks, folder, 12)


def resume_and_check(
    forks: ForkServer, folder: Path, server: Recorder, counts: Counts, reference: Json
) -> None:
    """See that nothing shows of one kill."""
    counts.kills += 1
    ended = forks.command("resume", "last", "--json", folder=folder)
    assert ended.status == 0, ended.stderr
    counts.resumed += 1
    run = only_run(folder)
    counts.compare(ended.result(), reference)
    counts.take_requests(sent_to(server, run), 12)
    check_history(run)
    assert forks.command("verify", "last", folder=folder).status == 0


@pytest.mark.sampled(3)
@pytest.mark.parametrize("stage_id", [f"{place:02d}-{one}" for place, one in enumerate(STAGES)])
@pytest.mark.parametrize(
    "at",
    [
        "record-half CallRequested {}.00001",
        "record-synced CallRequested {}.00001",
        "file-half images/{}/00001-",
        "file-renamed images/{}/00001-",
        "record-half CallCompleted {}.00001",
        "record-synced CallCompleted {}.00001",
    ],
)
def test_a_run_on_a_server_killed_around_a_request_ends_as_if_it_had_not_been(
    at: str, stage_id: str, forks: ForkServer, tmp_path: Path, counts: Counts,
    server: Recorder, reference: Json,
) -> None:  # fmt: skip
    """Before the request leaves, and after its answer has come, in every stage."""
    place = at.format(stage_id)
    config = voyage(tmp_path, *STAGES)
    ended = run_on(server, config, forks, place)
    assert ended.status == KILLED, ended
    counts.places.append(place.split()[0])
    resume_and_check(forks, tmp_path, server, counts, reference)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("request_number", [2, 5, 8, 11])
def test_a_run_killed_while_the_server_works_for_it_ends_as_if_it_had_not_been(
    request_number: int, start: Start, forks: ForkServer, tmp_path: Path, counts: Counts,
    reference: Json,
) -> None:  # fmt: skip
    """In every stage: whatever becomes of the answer that nobody waits for."""
    with counting_server(step_delay_s=0.05) as server:
        config = voyage(tmp_path, *STAGES)
        process = start("run", config, "--server", server.url, folder=tmp_path)

        def under_way() -> int:
            asked = sum(one.stage is not None for one in list(server.requests))
            return asked if asked > len(server.generating()) else 0

        until(lambda: under_way() >= request_number, "the request")
        process.kill()
        assert process.wait() == KILLED
        counts.places.append("server at work")
        resume_and_check(forks, tmp_path, server, counts, reference)


def run_on(server: Recorder, config: Path, forks: ForkServer, at: str | None = None) -> Ended:
    """Run a configuration in its folder, killed at a failpoint or not."""
    return forks.command("run", config, "--server", server.url, folder=config.parent, failpoint=at)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("mode", list(CancelMode))
@pytest.mark.parametrize(
    "at",
    [
        "record-half CancelRequested",
        "record-synced CancelRequested",
        "file-removed cancel.request",
        "record-before StageEnd",
        'record-half "trigger":"cancel"',
        'record-synced "trigger":"cancel"',
        "record-synced RunSealed",
    ],
)
def test_a_run_killed_while_it_is_being_cancelled_ends_as_if_it_had_been_neither(
    at: str, mode: CancelMode, forks: ForkServer, tmp_path: Path, counts: Counts,
    reference: Json,
) -> None:  # fmt: skip
    """The order to stop does not outlive the kill, and the interrupted image is made again."""
    with counting_server(step_delay_s=0.05) as server, ThreadPoolExecutor(1) as pool:
        config = voyage(tmp_path, *STAGES)
        running = pool.submit(run_on, server, config, forks, at)
        until(lambda: len(server.generating()) == 1, "the first image")
        RunFolder(only_run(tmp_path)).order_cancel(CancelOrder(mode=mode))
        assert running.result().status == KILLED
        counts.places.append(at.split()[0])
        resume_and_check(forks, tmp_path, server, counts, reference)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "place", ["record-before", "record-half", "record-written", "record-synced"]
)
def test_a_resume_killed_while_it_takes_up_a_cancelled_run_is_resumed(
    place: str, forks: ForkServer, tmp_path: Path, counts: Counts, reference: Json
) -> None:
    """The lifecycle goes on from where the log ends, whichever side of the clean-up that is."""
    with counting_server(step_delay_s=0.05) as server, ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_on, server, voyage(tmp_path, *STAGES), forks)
        until(lambda: len(server.generating()) == 1, "the first image")
        RunFolder(only_run(tmp_path)).order_cancel(CancelOrder(mode=CancelMode.AFTER_IMAGE))
        assert running.result().status == 3
        at = f'{place} LifecycleChanged "trigger":"cleanup"'
        assert forks.command("resume", "last", folder=tmp_path, failpoint=at).status == KILLED
        counts.places.append(place)
        resume_and_check(forks, tmp_path, server, counts, reference)
