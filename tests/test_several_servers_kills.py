"""kill -9 at the failpoints of a run that two servers share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from stagewright.adapters.webui_server import EmbeddedServer
from stagewright.events import CallRequested

from .crashing import KILLED, Counts, check_history, only_run, voyage
from .forking import ForkServer, Json
from .resuming import only
from .support import TXT2IMG
from .test_kill_matrix import AT_THE_ENDS, IN_IMAGES, IN_STAGES, STAGE_IDS

TITLE = "kill matrix of two servers"
pytestmark = pytest.mark.posix

STAGES = ("txt2img", "img2img")
PLANNED = 6
PLACES = [
    place
    for place in (*IN_IMAGES, *IN_STAGES, *AT_THE_ENDS)
    if not any(stage in place for stage in STAGE_IDS[2:])
]


@pytest.fixture(scope="module")
def servers() -> Iterator[list[str]]:
    """The options that name two servers."""
    with ExitStack() as stack:
        urls = [
            stack.enter_context(EmbeddedServer([str(TXT2IMG["model"])], step_delay_s=0.005)).url
            for _ in range(2)
        ]
        yield [part for url in urls for part in ("--server", url)]


@pytest.fixture(scope="module")
def reference(
    forks: ForkServer, servers: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Json:
    """The result of the run of one of the servers that nobody interrupted."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    config = voyage(folder, *STAGES)
    ended = forks.command("run", config, "--json", *servers[:2], folder=folder)
    assert ended.status == 0, ended.stderr
    return ended.result()


@pytest.mark.sampled(21)
@pytest.mark.parametrize("at", PLACES)
def test_a_run_on_two_servers_killed_anywhere_ends_as_on_one(
    at: str,
    forks: ForkServer,
    servers: list[str],
    reference: Json,
    tmp_path: Path,
    counts: Counts,
) -> None:
    """A kill costs at most the request of each server, and the images are those of one server."""
    config = voyage(tmp_path, *STAGES)
    ended = forks.command("run", config, "--json", *servers, folder=tmp_path, failpoint=at)
    assert ended.status == KILLED, f"{at} was not passed: {ended}"
    counts.kills += 2  # of requests: one at each server
    counts.places.append(at.split()[0])
    if not list(tmp_path.glob("runs/*/events.jsonl")):
        return
    resumed = forks.command("resume", "last", "--json", folder=tmp_path)
    assert resumed.status == 0, resumed.stderr
    counts.resumed += 1
    counts.compare(resumed.result(), reference)
    run = only_run(tmp_path)
    requests = only(check_history(run), CallRequested)
    counts.take_requests(len(requests), PLANNED)
    assert all(request.server in servers for request in requests)
    assert forks.command("verify", run.name, folder=tmp_path).status == 0
