"""Several servers make the images of one run, and the result does not show which made what."""

from __future__ import annotations

import json
import logging
import sys
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
    CallReused,
    PipelineRunResult,
    RunOpened,
    RunState,
    iterate,
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
from .webui_server import Handler, ScriptedWebUI

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
    # The one that is set aside when the retry fails is not asked again.
    assert 3 <= len(failed) <= 4
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


def test_nothing_is_tried_again_once_another_server_has_ended_the_stage(tmp_path: Path) -> None:
    """The request that is under way fails too: it is the last one."""
    refusal = faults.server_error("ValueError", "no such thing", status=422)
    with scripted() as (one, other):

        def refuse(exchange: Handler) -> None:
            other.until_running()
            refusal(exchange)

        one.on(0, refuse)
        other.on(0, faults.BreaksOff())
        config = small("txt2img", images=4, server={**QUICK, "retries": 3})
        with other.hold():
            handle = open_controller(tmp_path / "runs", [one.url, other.url]).start(config)
            until(lambda: bool(only([*iterate(handle.folder)], CallFailed)), "a failure")
        result = handle.wait(30)
        assert len(other.generating()) == 1
    assert result.state is RunState.ERROR
    failed = [error.error.kind for error in only(result.events, CallFailed)]
    assert failed == ["RequestRefusedError", "AnswerLostError"]
    assert result.error is not None
    assert result.error.kind == "RequestRefusedError"


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
    """A server that is stopped by SIGSTOP answers nothing, and the other one makes the rest."""
    if sys.platform == "win32":
        raise OSError("not on Windows")
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


@pytest.mark.parametrize("is_listed", [True, False])
def test_a_server_with_another_model_file_is_not_used(
    is_listed: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By the list, or else by its first answer, whose image is made elsewhere."""
    with scripted(steps_per_second=60) as servers:
        servers[1].painter.contents = {"base": "another file"}
        if not is_listed:
            for server in servers:
                server.painter.hashed.clear()
            # The first is to answer first: its hash is the one that counts then.
            servers[1].painter.options["sd_model_checkpoint"] = "other.safetensors"
            servers[1].queue.steps_per_second = 10
        result = ran(tmp_path, servers)
        assert pictures(result) == alone(tmp_path)
        # Which servers take part is looked at every moment, so it may get a second request.
        assert bool(servers[1].generating()) is not is_listed
    assert f"{servers[1].url} is not used: it has other files than " in caplog.text
    assert set(made_by(result)) == {servers[0].url}


def test_a_server_that_lacks_an_option_of_the_first_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its images could differ; the line names the option."""
    with scripted() as servers:
        del servers[1].painter.options["eta_noise_seed_delta"]
        result = ran(tmp_path, servers)
        assert not servers[1].generating()
    assert result.state is RunState.COMPLETED
    assert "it lacks options of" in caplog.text
    assert "eta_noise_seed_delta" in caplog.text


def test_the_options_of_the_first_server_are_sent_to_all(tmp_path: Path) -> None:
    """A server of other settings makes the same images, and keeps its own."""
    with scripted(steps_per_second=60) as servers:
        servers[1].painter.options["CLIP_stop_at_last_layers"] = 2
        result = ran(tmp_path, servers)
        assert pictures(result) == alone(tmp_path)
        assert servers[1].generating()
        assert servers[1].painter.options["CLIP_stop_at_last_layers"] == 2


def test_a_server_that_could_not_be_reached_takes_part_once_it_can(tmp_path: Path) -> None:
    """The run has begun without it."""
    with scripted(steps_per_second=40) as servers:
        servers[1].refuse()
        config = small(*BOTH, images=40, server=QUICK)
        urls = [one.url for one in servers]
        handle = open_controller(tmp_path / "runs", urls).start(config)
        servers[1].listen()
        until(lambda: bool(servers[1].generating()), "a request of the late server")
        result = handle.wait(60)
    assert result.state is RunState.COMPLETED
    assert len(made_by(result)) == 2


def test_a_sweep_runs_on_several_servers(tmp_path: Path) -> None:
    """Each variant uses both, with the options of the first that the group has recorded."""
    with scripted(steps_per_second=60) as servers:
        urls = [one.url for one in servers]
        servers[1].painter.options["CLIP_stop_at_last_layers"] = 2
        config = small("txt2img", images=4, server=QUICK)
        controller = open_controller(tmp_path / "runs", urls)
        group = controller.start_group(config, vary=["txt2img.cfg_scale=5,7"]).wait(60)
        assert group.state is RunState.COMPLETED
        runs = [replay(tmp_path / "runs" / str(one.run_id)) for one in group.variants]
    for run in runs:
        assert set(made_by(run)) == set(urls)
        (opened,) = only(run.events, RunOpened)
        assert opened.backend.options
        assert opened.backend.options["CLIP_stop_at_last_layers"] == 1


def test_a_rerun_uses_images_that_any_of_the_servers_has_made(tmp_path: Path) -> None:
    """It goes to the recorded servers, and makes only what changes."""
    with scripted(steps_per_second=60) as servers:
        first = ran(tmp_path, servers)
        controller = open_controller(tmp_path / "runs")
        again = controller.start_rerun(str(first.run_id), overrides=["img2img.denoise=0.7"]).wait(
            30
        )
        assert len(only(again.events, CallReused)) == 6
        assert sum(made_by(again).values()) == 6
        assert set(made_by(again)) <= {one.url for one in servers}


def test_a_password_goes_to_every_server_of_the_command_line_and_to_none_of_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list in a configuration is as foreign as one address."""
    monkeypatch.setenv("STAGEWRIGHT_AUTH", "me:hush")
    with scripted(auth=("me", "hush"), steps_per_second=60) as servers:
        result = ran(tmp_path, servers)
        assert result.state is RunState.COMPLETED
        assert len(made_by(result)) == 2
        config = small(*BOTH, server={**QUICK, "url": [one.url for one in servers]})
        controller = open_controller(tmp_path / "others")
        with pytest.raises(PreflightError):
            controller.start(config)


def test_doctor_reports_on_each_server(tmp_path: Path) -> None:
    """Status 2 if one of them is not ready; with --json there is a document for each."""
    with scripted() as servers:
        options = [part for one in servers for part in ("--server", one.url)]
        assert stagewright("doctor", *options, folder=tmp_path).returncode == 0
        servers[1].refuse()
        done = stagewright("doctor", *options, "--json", folder=tmp_path)
    assert done.returncode == 2
    assert [one["reachable"] for one in json.loads(done.stdout)] == [True, False]
