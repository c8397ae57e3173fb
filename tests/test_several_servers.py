"""Several servers make the images of one run, and the result does not show which made what."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from stagewright.adapters import open_controller
from stagewright.events import (
    CallCompleted,
    CallFailed,
    CallRequested,
    PipelineRunResult,
    RunOpened,
    RunState,
    replay,
)
from stagewright.events.folds import ABANDONED
from stagewright.statemachine.errors import PreflightError

from . import webui_faults as faults
from .command_line import Start, stagewright, until
from .posix import suspend, wake
from .resuming import check_story, comparable, only, small
from .serving import url_of
from .webui_names import Names
from .webui_resuming import configured, expected_of, kill, only_run
from .webui_server import ScriptedWebUI

BOTH = ("txt2img", "img2img")
QUICK: dict[str, Any] = {"backoff_s": 0.01, "stall_timeout_s": 1.0, "retries": 1}


@contextmanager
def scripted(count: int = 2, **settings: Any) -> Iterator[list[ScriptedWebUI]]:
    """So many servers that make the same pictures."""
    with ExitStack() as stack:
        yield [stack.enter_context(ScriptedWebUI(**settings)) for _ in range(count)]


def ran(
    folder: Path, servers: list[ScriptedWebUI], *stages: str, images: int = 6, **server: Any
) -> PipelineRunResult:
    """The result of a run on these servers."""
    config = small(*(stages or BOTH), images=images, server={**QUICK, **server})
    urls = [one.url for one in servers]
    return open_controller(folder / "runs", urls).start(config).wait(30)


def pictures(result: PipelineRunResult) -> list[tuple[int, int, str]]:
    """Index, seed and source of each image of all stages."""
    return [
        (one.image_index, one.seed, one.source_sha256)
        for stage in result.stages
        for one in stage.images
    ]


def made_by(result: PipelineRunResult) -> Counter[str]:
    """How many answers each server gave."""
    server_of = {one.call_id: one.server for one in only(result.events, CallRequested)}
    return Counter(str(server_of[one.call_id]) for one in only(result.events, CallCompleted))


def alone(folder: Path, **settings: Any) -> list[tuple[int, int, str]]:
    """The images that one server makes of the same configuration."""
    with scripted(1, **settings) as servers:
        return pictures(ran(folder / "alone", servers))


def test_images_seeds_and_order_do_not_depend_on_the_servers(tmp_path: Path) -> None:
    """Two servers give what one does, each makes one image at a time, and the log names both."""
    with scripted(steps_per_second=60) as servers:
        result = ran(tmp_path, servers)
        assert result.state is RunState.COMPLETED
        assert pictures(result) == alone(tmp_path)
        assert set(made_by(result)) == {one.url for one in servers}
        assert sum(len(one.generating()) for one in servers) == 12
    (opened,) = only(result.events, RunOpened)
    assert opened.backend.url == servers[0].url
    assert opened.backend.urls == tuple(one.url for one in servers)
    check_story(result.events)


def test_what_fails_on_one_server_is_made_by_another_without_a_retry(tmp_path: Path) -> None:
    """The server that fails is set aside, and its image is not one try poorer."""
    with scripted(steps_per_second=60) as servers:
        servers[0].on(range(1, 1000), faults.server_error("Error", "broken"))
        result = ran(tmp_path, servers, retries=0)
        assert pictures(result) == alone(tmp_path)
    failed = only(result.events, CallFailed)
    assert failed
    assert all(one.will_retry for one in failed)
    assert made_by(result)[servers[1].url] >= 11


def test_an_image_that_fails_everywhere_counts_one_try_for_all_servers(tmp_path: Path) -> None:
    """With one retry, each of two servers is asked at least once and the run fails."""
    with scripted() as servers:
        for server in servers:
            server.on(range(1000), faults.server_error("Error", "broken"))
        result = ran(tmp_path, servers, "txt2img", images=1)
    assert result.state is RunState.ERROR
    failed = only(result.events, CallFailed)
    assert [one.will_retry for one in failed][-1] is False
    assert len(failed) == 4
    assert len({one.server for one in only(result.events, CallRequested)}) == 2


def test_a_server_that_goes_away_and_comes_back_takes_part_again(tmp_path: Path) -> None:
    """Its image is made by the other one meanwhile."""
    with scripted(steps_per_second=60) as servers:
        config = small(*BOTH, images=8, server=QUICK)
        urls = [one.url for one in servers]
        handle = open_controller(tmp_path / "runs", urls).start(config)
        until(lambda: len(servers[0].generating()) >= 2, "two requests of the first")
        servers[0].refuse()
        until(lambda: len(servers[1].generating()) >= 5, "five requests of the second")
        before = len(servers[0].generating())
        servers[0].listen()
        result = handle.wait(30)
        assert len(servers[0].generating()) > before
    assert result.state is RunState.COMPLETED


def test_the_images_of_a_server_that_hangs_are_made_by_another(tmp_path: Path) -> None:
    """The request that it keeps is left to it, and the run ends without it."""
    with scripted(steps_per_second=60) as servers:
        with servers[0].hold(deaf=True):
            result = ran(tmp_path, servers, stall_timeout_s=0.3)
        assert pictures(result) == alone(tmp_path)
    assert made_by(result)[servers[1].url] == 12


def test_a_server_that_lacks_a_name_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The run goes on with the others, and says so."""
    with scripted(1) as servers, ScriptedWebUI(names=Names(samplers=("DDIM",))) as other:
        result = ran(tmp_path, [other, *servers])
        assert not other.generating()
    assert result.state is RunState.COMPLETED
    assert f"{other.url} is not used" in caplog.text
    (opened,) = only(result.events, RunOpened)
    assert opened.backend.url == servers[0].url


def test_a_server_with_other_files_is_found_at_its_first_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where all begin at once and no list has a hash; one of them makes all images."""
    with scripted() as servers:
        for number, one in enumerate(servers):
            one.painter.hashed.clear()
            one.painter.contents["base"] = f"of server {number}"
        config = small("txt2img", images=4, server=QUICK)
        with servers[0].hold(), servers[1].hold():
            urls = [one.url for one in servers]
            handle = open_controller(tmp_path / "runs", urls).start(config)
            for one in servers:
                one.until_running()
        result = handle.wait(30)
    assert result.state is RunState.COMPLETED
    assert list(made_by(result).values()) == [4]
    assert "it has other files than another server of the run: model base is" in caplog.text
    kinds = {one.error.kind for one in only(result.events, CallFailed)}
    assert kinds == {"DifferentFilesError"}


def test_without_any_server_nothing_is_started(tmp_path: Path) -> None:
    """The error names each server and its reason."""
    with scripted(names=Names(samplers=("DDIM",))) as servers:
        with pytest.raises(PreflightError) as error:
            ran(tmp_path, servers)
        assert all(one.url in str(error.value) for one in servers)
    assert not (tmp_path / "runs").exists()


def test_calls_to_servers_that_are_not_given_are_abandoned(tmp_path: Path, start: Start) -> None:
    """A resume on another server waits for none of them, and records that."""
    with scripted() as servers, ScriptedWebUI() as third:
        config = configured(tmp_path, *BOTH, images=4)
        expected = expected_of(tmp_path, config, third.url)
        third.requests.clear()
        options = [part for one in servers for part in ("--server", one.url)]
        with servers[0].hold(deaf=True), servers[1].hold(deaf=True):
            process = start("run", config, *options, folder=tmp_path)
            for server in servers:
                server.until_running()
            kill(process)
            done = stagewright("resume", "last", "--server", third.url, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        result = replay(only_run(tmp_path))
    assert comparable(result) == expected
    failed = only(result.events, CallFailed)
    assert [one.error.kind for one in failed] == [ABANDONED, ABANDONED]
    check_story(result.events)


def test_a_call_left_on_a_server_is_settled_by_it_alone_at_the_next_resume(
    tmp_path: Path, start: Start
) -> None:
    """The image was finished elsewhere; still the server gets no other work before."""
    with scripted(steps_per_second=30) as servers:
        config = configured(tmp_path, *BOTH, images=6, server={"stall_timeout_s": 0.3})
        options = [part for one in servers for part in ("--server", one.url)]
        with servers[0].hold(deaf=True):
            process = start("run", config, *options, folder=tmp_path)
            until(lambda: len(servers[1].generating()) >= 3, "three requests of the second")
            kill(process)
            (left,) = [one.body["force_task_id"] for one in servers[0].generating()]
        done = stagewright("resume", "last", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        paths = [(one.path, one.body and one.body.get("id_task")) for one in servers[0].requests]
        asked = paths.index(("/internal/progress", left))
        assert asked < len(paths)
    result = replay(only_run(tmp_path))
    assert result.state is RunState.COMPLETED
    assert len(set(made_by(result))) == 2


@pytest.mark.posix
def test_a_frozen_process_holds_up_no_image(tmp_path: Path, start: Start) -> None:
    """A server that is stopped by SIGSTOP answers nothing; after SIGCONT it is used again."""
    processes = [start("serve-embedded", "--port", "0", "--step-delay", "0.01", folder=tmp_path)
                 for _ in range(2)]  # fmt: skip
    urls = [url_of(one) for one in processes]
    config = small(*BOTH, images=6, server={**QUICK, "stall_timeout_s": 0.5})
    config["txt2img"]["model"] = "sd_xl_base_1.0.safetensors"
    handle = open_controller(tmp_path / "runs", urls).start(config)
    until(lambda: len(only(replay(handle.folder).events, CallCompleted)) >= 2, "two images")
    suspend(processes[0].pid)
    try:
        result = handle.wait(60)
    finally:
        wake(processes[0].pid)
    assert result.state is RunState.COMPLETED
    again = open_controller(tmp_path / "alone", urls[0]).start(config).wait(30)
    assert pictures(result) == pictures(again)


def test_one_image_goes_to_the_server_that_has_its_checkpoint(tmp_path: Path) -> None:
    """With fewer images than servers, no other one loads it."""
    logging.getLogger("stagewright").setLevel(logging.WARNING)
    with scripted() as servers:
        servers[0].painter.options["sd_model_checkpoint"] = "other.safetensors"
        servers[1].painter.options["sd_model_checkpoint"] = "base.safetensors"
        result = ran(tmp_path, servers, "txt2img", images=1)
    assert made_by(result) == {servers[1].url: 1}
