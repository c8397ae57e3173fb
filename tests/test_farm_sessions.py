"""What a worker of a farm does with requests, without a farm around it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from stagewright.adapters.backends.farm.messages import (
    Answer,
    Comparison,
    Failure,
    Preparation,
    Step,
    decode_outcome,
    decode_prepared,
    decode_recovery,
    decode_status,
    decode_task,
    encode,
    encode_task,
)
from stagewright.adapters.backends.farm.server_sessions import ServerSessions
from stagewright.adapters.backends.registry import ServerChoice, kind_of_server
from stagewright.events.codec import json_values
from stagewright.statemachine import GenerateRequest, build_stage_execution_plan
from stagewright.statemachine.config.schema import ServerTable
from stagewright.statemachine.ports import SourceImage

from .serving import DELAY_S, Client, serving
from .support import document, png

PLAN = build_stage_execution_plan(
    document("txt2img", "upscale", txt2img={"steps": 3, **document()["txt2img"]})
)


def request(**changes: Any) -> GenerateRequest:
    """A request of the plan's first stage, for a model that the server has."""
    config = msgspec.structs.replace(PLAN.stages[0].config, model="sd_xl_base_1.0.safetensors")
    fields: dict[str, Any] = {
        "call_id": "run.00-txt2img.00000.0",
        "run_id": "run",
        "stage_id": "00-txt2img",
        "stage_type": "txt2img",
        "image_index": 0,
        "count": 1,
        "total_images": 1,
        "attempt": 0,
        "seed": 5,
        "config": config,
    }
    return GenerateRequest(**(fields | changes))


def sessions_at(client: Client) -> ServerSessions:
    """The sessions of a worker beside a server."""
    kind = kind_of_server(client.url)
    return ServerSessions(kind, ServerChoice(url=client.url, named_by_user=True))


def prepare(sessions: ServerSessions, session: str, **changes: Any) -> Any:
    """What a worker answers that is to prepare for a run."""
    asked = Preparation(
        session=session, plan=json_values(PLAN), settings=ServerTable(), preflight=False
    )
    return decode_prepared(sessions.prepare(encode(msgspec.structs.replace(asked, **changes))))


@pytest.fixture
def client() -> Iterator[Client]:
    """A client of a server on which each step takes a while."""
    with serving(step_delay_s=DELAY_S) as found:
        yield found


def test_a_request_is_the_same_on_the_other_side() -> None:
    """Every field of a request, its images among them, survives the way to a worker."""
    image = SourceImage(
        media_type="image/png", width=64, height=64, data=png(1), source_sha256="0" * 64
    )
    sent = request(
        inputs=(image,),
        mask=image,
        script_images={"a": image},
        unanswered=("x",),
        first_answer=(0, {"seed": 5}),
        other_answer={"seed": 6},
        interrupted=True,
        request_sha256="1" * 64,
    )
    assert decode_task(encode_task("s", sent)) == ("s", sent)


def test_a_request_of_a_run_that_is_not_known_is_refused(client: Client) -> None:
    """The controller then prepares the worker again; nothing has been sent to the server."""
    outcome = decode_outcome(sessions_at(client).make_images(encode_task("other", request())))
    assert isinstance(outcome, Failure)
    error = outcome.error("gpu1")
    assert (outcome.kind, error.transient, error.settled) == ("SessionUnknownError", True, True)


def test_only_the_latest_runs_are_kept(client: Client) -> None:
    """Runs whose controllers were killed do not gather on a worker."""
    sessions = sessions_at(client)
    for number in range(6):
        assert prepare(sessions, str(number)).refusal == ""
    outcomes = [decode_outcome(sessions.make_images(encode_task(it, request()))) for it in "05"]
    assert isinstance(outcomes[0], Failure)
    assert isinstance(outcomes[1], Answer)
    assert len(outcomes[1].images) == 1


def test_a_request_that_was_cancelled_before_it_came_is_not_sent(client: Client) -> None:
    """A cancel may overtake its request."""
    sessions = sessions_at(client)
    prepare(sessions, "s")
    sessions.cancel(request().call_id)
    outcome = decode_outcome(sessions.make_images(encode_task("s", request())))
    assert isinstance(outcome, Failure)
    assert (outcome.kind, outcome.error("gpu1").settled) == ("GenerationCancelled", True)


def test_a_worker_that_leaves_interrupts_its_server(client: Client) -> None:
    """Nobody would get the image; the status names the request until then."""
    sessions, seen = sessions_at(client), threading.Event()
    prepare(sessions, "s")

    def announce(step: Step) -> None:
        assert decode_status(sessions.status()).call_id == step.call_id
        seen.set()

    sessions.announce = announce
    long = msgspec.structs.replace(request().config, steps=10_000)
    outcomes: list[Answer | Failure] = []

    def make() -> None:
        message = encode_task("s", request(config=long))
        outcomes.append(decode_outcome(sessions.make_images(message)))

    thread = threading.Thread(target=make)
    thread.start()
    assert seen.wait(30)
    sessions.cancel_present("the worker has left the farm")
    thread.join(30)
    (outcome,) = outcomes
    assert isinstance(outcome, Failure)
    assert outcome.kind == "GenerationInterrupted"
    assert client.get("progress")["state"]["job_count"] == 0
    assert decode_status(sessions.status()).call_id is None


def test_a_request_that_came_before_another_one_had_ended_can_be_cancelled(client: Client) -> None:
    """A worker that has lost its scheduler joins again while its last request is under way."""
    sessions = sessions_at(client)
    prepare(sessions, "s")
    calls = ("run.00-txt2img.00000.0", "run.00-txt2img.00001.0")
    seen = {call_id: threading.Event() for call_id in calls}
    sessions.announce = lambda step: seen[step.call_id].set()
    long = msgspec.structs.replace(request().config, steps=10_000)
    threads = []
    for call_id in calls:
        message = encode_task("s", request(config=long, call_id=call_id))
        threads.append(threading.Thread(target=sessions.make_images, args=(message,)))
        threads[-1].start()
        assert seen[calls[0]].wait(30)
    for call_id, thread in zip(calls, threads, strict=True):
        assert seen[call_id].wait(30)
        sessions.cancel(call_id)
        thread.join(20)
        assert not thread.is_alive()


def test_a_server_with_other_files_is_refused(client: Client) -> None:
    """What the first server of the run has is what the others must have."""
    sessions = sessions_at(client)
    config = document()
    config["txt2img"]["model"] = "sd_xl_base_1.0.safetensors"
    plan = json_values(build_stage_execution_plan(config))
    first = prepare(sessions, "a", plan=plan, preflight=True).description
    assert first.files
    other = msgspec.structs.replace(first, files=dict.fromkeys(first.files, "f" * 64))
    assert (
        "it has other files than"
        in prepare(sessions, "b", plan=plan, preflight=True, like=other).refusal
    )
    lacking = msgspec.structs.replace(first, options={**first.options, "unknown_option": 1})
    assert (
        "it lacks options of"
        in prepare(sessions, "c", plan=plan, preflight=True, like=lacking).refusal
    )


def test_a_server_that_answers_again_has_recovered(client: Client) -> None:
    """It is given no request before; one that cannot be reached has not."""
    sessions = sessions_at(client)
    prepare(sessions, "s")
    assert decode_recovery(sessions.recover("s")) is None
    with serving() as other:
        gone = sessions_at(other)
        prepare(gone, "s")
    failure = decode_recovery(gone.recover("s"))
    assert failure is not None
    assert failure.error("gpu1").is_out_of_reach


def test_an_answer_that_shows_another_model_file_is_found(client: Client) -> None:
    """Workers whose lists show no hash are compared by the first answers in a stage."""
    sessions = sessions_at(client)
    prepare(sessions, "s")
    answer = decode_outcome(sessions.make_images(encode_task("s", request())))
    assert isinstance(answer, Answer)
    changed = {**answer.info, "sd_model_hash": "f" * 10}
    same = Comparison(
        session="s",
        stage_type="txt2img",
        config=json_values(request().config),
        first=answer.info,
        info=answer.info,
    )
    assert sessions.compare(encode(same)) == ""
    different = msgspec.structs.replace(same, first=changed)
    assert "it has other files than another server" in sessions.compare(encode(different))
