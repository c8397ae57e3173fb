"""What is read of a server's progress, and when it has stood still for too long."""

from __future__ import annotations

import json
import math
import socket
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stagewright.adapters import open_controller
from stagewright.adapters.backends.http.address import ServerAddress
from stagewright.adapters.backends.http.client import HttpClient
from stagewright.adapters.backends.http.errors import (
    AnswerLostError,
    ServerError,
    ServerUnreachableError,
)
from stagewright.adapters.backends.webui.progress import (
    MODEL_LOADING_FACTOR,
    ServerProgress,
    StallWatch,
    progress_of,
)
from stagewright.statemachine.config.schema import ServerTable

from . import webui_faults as faults
from .command_line import until
from .resuming import small
from .test_webui_client import OK, Wire, exchanged, talking
from .webui_server import ScriptedWebUI

NEVER_S = 1e9
TINY_S = 0.002
LONG_S = TINY_S * MODEL_LOADING_FACTOR
LOADING = ServerProgress(job="scripts_txt2img", job_count=1, job_timestamp="1", fraction=0.01)
SAMPLING = msgspec.structs.replace(LOADING, step=3, steps=20, fraction=0.15)
IDLE = ServerProgress()


def told(progress: object = 0.25, eta: object = 3.5, **state: Any) -> dict[str, Any]:
    return {"progress": progress, "eta_relative": eta, "state": state}


def test_everything_that_a_server_says_is_read() -> None:
    """As AUTOMATIC1111 says it."""
    look = progress_of(
        told(
            job="scripts_txt2img",
            job_count=2,
            job_no=1,
            job_timestamp="20261120225226",
            sampling_step=5,
            sampling_steps=20,
            interrupted=True,
        )
    )
    assert look == ServerProgress(
        job="scripts_txt2img",
        job_count=2,
        job_number=1,
        job_timestamp="20261120225226",
        step=5,
        steps=20,
        fraction=0.25,
        eta_s=3.5,
        interrupted=True,
    )


@pytest.mark.parametrize(
    "answer",
    [None, 5, "text", [], {}, {"state": None}, {"state": [1]}, {"state": "idle"}, {"progress": {}}],
)
def test_an_answer_of_another_shape_says_nothing(answer: object) -> None:
    """It is an idle server's."""
    assert progress_of(answer) == IDLE
    assert progress_of(answer).idle


@pytest.mark.parametrize(
    "odd", [None, "12", True, [1], {}, math.nan, math.inf, -math.inf, 1e300, 10**400, -(10**400)]
)
def test_a_number_that_is_none_counts_as_zero(odd: object) -> None:
    """In each place where a number stands."""
    look = progress_of(
        told(odd, odd, job_count=odd, job_no=odd, sampling_step=odd, sampling_steps=odd)
    )
    assert look == IDLE


def test_numbers_outside_their_range_are_brought_into_it() -> None:
    """Fractions are 0 to 1, steps are not negative, and nothing is left before the end."""
    look = progress_of(told(7.5, -2, sampling_step=-3, sampling_steps=-1))
    assert (look.fraction, look.eta_s, look.step, look.steps) == (1.0, None, 0, 0)
    assert progress_of(told(-0.5)).fraction == 0.0


@pytest.mark.parametrize("flag", ["interrupted", "skipped"])
def test_a_skip_is_an_interrupt(flag: str) -> None:
    """Both end a job before its time."""
    assert progress_of(told(**{flag: True})).interrupted
    assert not progress_of(told(**{flag: False})).interrupted


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
names = ("job", "job_count", "job_no", "job_timestamp", "sampling_step", "sampling_steps")


@settings(deadline=None)
@given(values, values, st.dictionaries(st.sampled_from(names), values))
def test_any_answer_is_read(progress: Any, eta: Any, state: dict[str, Any]) -> None:
    """Within bounds, and it can be written down."""
    look = progress_of(told(progress, eta, **state))
    assert 0 <= look.fraction <= 1
    assert look.step >= 0
    assert look.steps >= 0
    assert look.eta_s is None or 0 < look.eta_s < 1e15
    assert json.dumps(msgspec.to_builtins(look))


@pytest.mark.parametrize(
    ("look", "idle"),
    [
        (IDLE, True),
        (ServerProgress(job_count=1), False),
        (ServerProgress(job_count=-1), False),
        (ServerProgress(fraction=1.0), True),
        (ServerProgress(job="Upscale"), True),
        (ServerProgress(job="Upscale", fraction=1.0), False),
        (ServerProgress(job="txt2img", job_count=1, fraction=0.0), False),
    ],
)
def test_a_server_is_idle_that_counts_no_jobs_and_names_none(
    look: ServerProgress, idle: bool
) -> None:
    """A server that counts none is at work while it names one and says how far it is."""
    assert look.idle is idle


@pytest.mark.parametrize(
    ("looks", "extras", "factor"),
    [
        ((), False, MODEL_LOADING_FACTOR),
        ((LOADING,), False, MODEL_LOADING_FACTOR),
        ((LOADING, SAMPLING), False, 1),
        ((SAMPLING,), False, 1),
        ((IDLE,), False, MODEL_LOADING_FACTOR),
        ((LOADING, IDLE), False, 1),
        ((SAMPLING, IDLE), False, 1),
        ((), True, MODEL_LOADING_FACTOR),
        ((SAMPLING,), True, MODEL_LOADING_FACTOR),
        ((SAMPLING, IDLE), True, 1),
        ((SAMPLING, msgspec.structs.replace(LOADING, job_timestamp="2")), False, 5),
        ((SAMPLING, msgspec.structs.replace(LOADING, job="scripts_img2img")), False, 5),
        ((SAMPLING, msgspec.structs.replace(SAMPLING, step=0, job_number=1)), False, 1),
    ],
)
def test_the_limit_is_five_times_as_long_where_no_steps_are_seen(
    looks: tuple[ServerProgress, ...], extras: bool, factor: int
) -> None:
    """Before the first step of a job, and for extras while they run; not once all is done."""
    watch = StallWatch(10.0, is_patient=extras)
    for look in looks:
        watch.note(look)
    assert watch.limit_s == 10.0 * factor


@pytest.mark.parametrize(
    "more",
    [
        {"refiner": {"model": "refiner", "switch_at": 0.5}},
        {"hires": {"upscaler": "Latent", "scale": 2.0, "denoise": 0.4, "model": "other"}},
    ],
)
def test_a_model_that_is_loaded_in_the_middle_is_no_stall(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    """A request with a second model may stand still at any step, five times as long."""
    config = small("txt2img", images=1, server={"retries": 0, "stall_timeout_s": 0.1})
    config["txt2img"] |= more
    with ScriptedWebUI() as server:
        server.on(0, faults.STALLS)
        result = open_controller(tmp_path, server.url).start(config).wait(30)
    assert result.error is not None
    assert "no progress for 0.5 s (server.stall_timeout_s)" in result.error.message


def stalls(watch: StallWatch) -> float:
    """Wait until it says that it stalled; for how long nothing had moved then, at least."""
    until(lambda: watch.stalled, "a stall", 5.0)
    return watch.still_s


@pytest.mark.parametrize("extras", [True, False])
@pytest.mark.parametrize("look", [LOADING, SAMPLING])
def test_a_stall_comes_with_the_limit_and_not_before(look: ServerProgress, extras: bool) -> None:
    """Looks that show the same again do not put it off."""
    watch = StallWatch(TINY_S, is_patient=extras)
    watch.note(look)
    limit = TINY_S if look.step and not extras else LONG_S
    while not watch.stalled:
        before = watch.still_s
        watch.note(look)
        assert watch.still_s >= before
    assert watch.still_s > limit


@pytest.mark.parametrize(
    "moved",
    [
        {"step": 4},
        {"fraction": 0.2},
        {"job": "scripts_img2img"},
        {"job_count": 2},
        {"job_number": 1},
        {"job_timestamp": "2"},
    ],
)
def test_whatever_moves_ends_a_stall(moved: dict[str, Any]) -> None:
    """Anything of a job that goes on; it stalls again when that stands still."""
    watch = StallWatch(0.05)
    watch.note(SAMPLING)
    stalls(watch)
    before = time.monotonic()
    watch.note(msgspec.structs.replace(SAMPLING, **moved))
    assert watch.still_s <= time.monotonic() - before


def test_what_only_time_changes_is_no_movement() -> None:
    """An estimate that counts on, and the flag of an interrupt."""
    watch = StallWatch(TINY_S)
    watch.note(SAMPLING)
    stalls(watch)
    watch.note(msgspec.structs.replace(SAMPLING, eta_s=99.0, interrupted=True))
    assert watch.stalled


def test_bytes_are_movement() -> None:
    """They end a stall; when no more come there is one again."""
    watch = StallWatch(0.05)
    watch.note(SAMPLING)
    stalls(watch)
    before = time.monotonic()
    watch.note_bytes(4096)
    assert watch.still_s <= time.monotonic() - before
    assert stalls(watch) > 0.05


def test_bytes_are_movement_only_at_the_rate_of_a_line_that_works() -> None:
    """As many KiB as the limit has seconds, since something moved last."""
    watch = StallWatch(10.0)
    enough = 10 * MODEL_LOADING_FACTOR * 1024
    until(lambda: watch.still_s > 0.01, "time passes")
    watch.note_bytes(enough - 1)
    assert watch.still_s > 0.01
    before = time.monotonic()
    watch.note_bytes(1)
    assert watch.still_s <= time.monotonic() - before


def test_bytes_count_from_the_last_movement_and_by_the_limit_that_holds_now() -> None:
    """What came before a step was seen says nothing of the line after it."""
    watch = StallWatch(10.0)
    watch.note_bytes(10 * 1024)
    watch.note(SAMPLING)
    until(lambda: watch.still_s > 0.01, "time passes")
    watch.note_bytes(10 * 1024 - 1)
    assert watch.still_s > 0.01
    before = time.monotonic()
    watch.note_bytes(1)
    assert watch.still_s <= time.monotonic() - before


def test_nothing_stalls_at_once() -> None:
    """A watch begins when it is made, whatever the clock says then."""
    watch = StallWatch(NEVER_S)
    assert not watch.stalled
    assert 0 <= watch.still_s < NEVER_S


@pytest.mark.parametrize("sent", [b"", OK, OK + b"Content-Length: 10\r\n\r\n[1,"])
def test_silence_ends_with_the_timeout(sent: bytes) -> None:
    """Before the answer, in its head, or in its body."""
    ended = threading.Event()

    def script(wire: Wire) -> None:
        wire.send(sent)
        ended.wait(10)

    with talking(script) as (client, _server):
        before = time.monotonic()
        with pytest.raises(AnswerLostError):
            client.get("/", timeout_s=0.1)
        assert 0.1 <= time.monotonic() - before < 3
        ended.set()


def test_a_trickling_answer_ends_with_the_timeout() -> None:
    """A list or a state may take timeout_s and no longer, however it comes."""

    def script(wire: Wire) -> None:
        wire.send(OK + b"Content-Length: 200\r\n\r\n")
        for _ in range(200):
            wire.send(b"1")
            time.sleep(0.05)

    with talking(script) as (client, _server), pytest.raises(AnswerLostError):
        client.get("/", timeout_s=0.2)


def test_a_body_is_sent_in_pieces_of_known_length() -> None:
    """With the whole Content-Length; each piece is told as it goes, then those that come."""
    body = bytes(range(256)) * 4000
    told: list[int] = []

    def script(wire: Wire) -> None:
        assert wire.header("Content-Length") == str(len(body))
        assert not wire.header("Transfer-Encoding")
        wire.answer(wire.body)

    with talking(script) as (client, _server):
        assert exchanged(client, "/", body, len(body), told.append) == body
    assert 2 * len(body) < sum(told) < 2 * len(body) + 2000  # with what is before the bodies
    gone = next(place for place in range(len(told)) if sum(told[:place]) >= len(body))
    assert max(told[:gone]) <= 1 << 18


def test_what_has_come_is_told_before_all_is_there() -> None:
    """Else a large picture over a slow line looks like a server that stands still."""
    seen = threading.Event()
    parts: list[bool] = []

    def arrived(count: int) -> None:
        if count >= 1000:
            seen.set()

    def script(wire: Wire) -> None:
        wire.send(OK + b"Content-Length: 2000\r\n\r\n" + b"x" * 1000)
        parts.append(seen.wait(0.5))
        wire.send(b"x" * 1000)

    with talking(script) as (client, _server):
        assert len(exchanged(client, "/", b"{}", 2000, arrived)) == 2000
    assert parts == [True]


def test_a_server_that_takes_no_connection_is_unreachable() -> None:
    """After connect_timeout_s: its queue is full, so that it does not even refuse."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        for _ in range(8):
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(listener.getsockname())
        address = ServerAddress.parse(f"127.0.0.1:{listener.getsockname()[1]}")
        client = HttpClient(address, ServerTable(connect_timeout_s=0.1))
        before = time.monotonic()
        with pytest.raises(ServerUnreachableError):
            client.get("/")
        assert 0.1 <= time.monotonic() - before < 3
        client.close()
        for one in waiting:
            one.close()


def test_a_handshake_that_does_not_end_is_no_lost_answer() -> None:
    """No request has left, so that the server cannot be working on it."""
    with talking(lambda wire: wire.connection.recv(1)) as (_client, server):
        address = ServerAddress.parse(server.url.replace("http:", "https:"))
        client = HttpClient(address, ServerTable(connect_timeout_s=0.1))
        with pytest.raises(ServerError) as caught:
            client.get("/")
        client.close()
    assert not caught.value.unanswered
