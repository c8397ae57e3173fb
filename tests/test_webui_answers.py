"""What is made of a generating request's answer: its images, and what it says of them."""

from __future__ import annotations

import base64
import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stagewright.adapters.backends.http.address import ServerAddress
from stagewright.adapters.backends.http.client import HttpClient
from stagewright.adapters.backends.http.credentials import credentials_for
from stagewright.adapters.backends.http.errors import ServerError, ServerFailureError
from stagewright.adapters.backends.http.exchange import MAX_SMALL_ANSWER_BYTES
from stagewright.adapters.backends.webui.answers import Answer, read_answer
from stagewright.adapters.backends.webui.features import EXTRA_SINGLE_IMAGE, TXT2IMG
from stagewright.statemachine.errors import BackendAnswerError, BackendError

from .test_webui_client import OK, Script, Wire, exchanged, nothing, raw, talking

MIB = 1 << 20
SECRET = "sesame42"
ADDRESS = ServerAddress.parse("http://127.0.0.1:1")
CREDENTIALS = credentials_for(
    ADDRESS, named_by_user=True, environment={"STAGEWRIGHT_AUTH": f"somebody:{SECRET}"}
)
CLIENT = HttpClient(ADDRESS, None, CREDENTIALS)
"""Reads only; nothing is sent."""
PICTURES = (b"first", b"\xff\xfe\xfd", b"third")


def text(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


def document(*pictures: bytes, **info: Any) -> dict[str, Any]:
    """An answer with these pictures, its info in a string as a server gives it."""
    images = [text(one) for one in pictures]
    return {"images": images, "parameters": {"seed": -1}, "info": json.dumps(info)}


def read(answer: object, count: int = 1, endpoint: str = TXT2IMG) -> Answer:
    """What is read of an answer: bytes as they are, anything else as Python writes JSON."""
    data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return read_answer(CLIENT, data, endpoint, count)


def refused(answer: object, count: int = 1, endpoint: str = TXT2IMG) -> str:
    """Why an answer is not taken; the error names server and endpoint."""
    with pytest.raises(BackendAnswerError) as caught:
        read(answer, count, endpoint)
    assert caught.value.endpoint == endpoint
    assert str(caught.value).startswith(f"http://127.0.0.1:1{endpoint}: the answer is")
    assert len(str(caught.value)) < 2000
    return str(caught.value)


def test_images_come_in_order_with_what_is_said_of_them() -> None:
    """All three, decoded, and the info as an object."""
    answer = read(document(*PICTURES, seed=42, infotexts=["a"]), 3)
    assert answer.images == PICTURES
    assert answer.info == {"seed": 42, "infotexts": ["a"]}


def test_a_grid_before_them_is_passed_over() -> None:
    """As many as index_of_first_image says, and they do not count."""
    grid = document(b"grid", *PICTURES[:2], index_of_first_image=1)
    assert read(grid, 2).images == PICTURES[:2]
    assert "it holds 2 images instead of 3" in refused(grid, 3)


@pytest.mark.parametrize(("first", "taken"), [(0, 1), (None, 1), (1, 0), (5, 0), (10**30, 0)])
def test_an_index_beyond_the_images_leaves_none(first: int | None, taken: int) -> None:
    """None and 0 both mean that there is no grid."""
    answer = document(b"only", index_of_first_image=first)
    if taken:
        assert read(answer).images == (b"only",)
    else:
        assert "it holds 0 images instead of 1" in refused(answer)


@pytest.mark.parametrize("first", [-1, "1", 1.5, True, [0], {"a": 1}, "x" * 5000])
def test_an_index_that_is_no_count_is_refused(first: object) -> None:
    """The value is shown, and cut."""
    assert "index_of_first_image is" in refused(document(b"only", index_of_first_image=first))


@pytest.mark.parametrize(
    "written",
    [
        f"data:image/png;base64,{text(PICTURES[1])}",
        f"data:image/webp;base64,{text(PICTURES[1])}",
        text(PICTURES[1]),
    ],
)
@pytest.mark.parametrize("escaped", [True, False])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_prefix_and_escaped_slashes_are_understood(
    written: str, escaped: bool, indent: int | None
) -> None:
    """``\\/`` is how some libraries write a slash; white space between values means nothing."""
    for endpoint, answer in (
        (TXT2IMG, {"images": [written]}),
        (EXTRA_SINGLE_IMAGE, {"image": written}),
    ):
        data = json.dumps(answer, indent=indent)
        data = data.replace("/", "\\/") if escaped else data
        assert read(data.encode(), endpoint=endpoint).images == (PICTURES[1],)


NO_BASE64 = ("!not*base64!", "aaa", "aaaa=", "data:image/png;base64,!", "\ud800", "bücher")
NO_TEXT: tuple[Any, ...] = (5, None, ["aaaa"], {"data": "aaaa"})


@pytest.mark.parametrize(
    ("answer", "count", "words"),
    [
        (document(*PICTURES[:2]), 1, "it holds 2 images instead of 1"),
        (document(*PICTURES[:2]), 3, "it holds 2 images instead of 3"),
        ({"images": None, "info": "{}"}, 1, "it holds 0 images instead of 1"),
        ({"images": []}, 1, "it holds 0 images instead of 1"),
        ({"info": None}, 1, "it holds 0 images instead of 1"),
        *[({"images": [one]}, 1, "image 1 is not base64") for one in NO_BASE64],
        *[({"images": [one]}, 1, "it is not a string") for one in NO_TEXT],
        ({"images": [text(b"good"), "*"]}, 2, "image 2 is not base64"),
    ],
)
def test_what_does_not_hold_the_images_is_refused(answer: object, count: int, words: str) -> None:
    """Nothing of it is taken, and the place is named, counted from 1."""
    assert words in refused(answer, count)


@pytest.mark.parametrize("answer", [{"image": None}, {"image": ""}, {"html_info": ""}])
def test_an_upscale_without_image_is_refused(answer: object) -> None:
    """Null, nothing and an empty text are no image."""
    assert "0 images" in refused(answer, endpoint=EXTRA_SINGLE_IMAGE)


def test_an_upscale_says_little() -> None:
    """Its html_info is kept; null is an empty text."""
    answer = {"image": text(b"big"), "html_info": "<p>Lanczos</p>"}
    assert read(answer, endpoint=EXTRA_SINGLE_IMAGE).info == {"html_info": "<p>Lanczos</p>"}
    answer.pop("html_info")
    assert read(answer, endpoint=EXTRA_SINGLE_IMAGE).info == {"html_info": ""}


@pytest.mark.parametrize("info", [None, {}, "{}", {"seed": 1}, '{"seed": 1}'])
def test_info_may_be_null_an_object_or_its_text(info: Any) -> None:
    """Null is nothing said."""
    found = read({"images": [text(b"one")], "info": info}).info
    assert found == ({"seed": 1} if info and "seed" in info else {})


@pytest.mark.parametrize("info", [5, True, [1], "[1]", "5", "null", "{not json", "", '"text"'])
def test_info_of_any_other_kind_is_refused(info: object) -> None:
    """It would leave no evidence of what was used."""
    refused({"images": [text(b"one")], "info": info})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda answer: answer | {"parameters": "\ud800"},
        lambda answer: answer | {"\udfff": 1},
        lambda answer: answer | {"info": json.dumps({"prompt": "a \ud800 b"})},
        lambda answer: answer | {"info": {"prompt": "a \ud800 b"}},
        lambda answer: answer | {"info": {"\ud800": {"prompt": ["\udc00"]}}},
        lambda answer: answer | {"parameters": float("nan")},
        lambda answer: answer | {"info": json.dumps({"cfg": float("nan"), "eta": float("inf")})},
        lambda answer: answer | {"info": {"cfg": float("nan"), "big": 10**40}},
        lambda answer: answer | {"parameters": "\ud800", "big": 10**40},
    ],
)
def test_what_strict_readers_refuse_is_read_and_can_be_recorded(
    spoil: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    """Lone surrogates and NaN inside and outside the info; the images are those sent."""
    answer = read(spoil(document(*PICTURES)), 3)
    assert answer.images == PICTURES
    recorded = msgspec.json.decode(msgspec.json.encode(answer.info))
    assert isinstance(recorded, dict)


@pytest.mark.parametrize("depth", [100, 700, 5_000, 200_000])
@pytest.mark.parametrize("place", ["outside", "text", "object", "images"])
def test_deep_nesting_is_read_or_refused(depth: int, place: str) -> None:
    """No stack overflows; whichever it is, it is quick."""
    deep = "[" * depth + "]" * depth
    answer = {
        "outside": '{"images": ["aaaa"], "parameters": %s}',
        "text": '{"images": ["aaaa"], "info": "{\\"a\\": %s}"}',
        "object": '{"images": ["aaaa"], "info": {"a": %s}}',
        "images": '{"images": [%s]}',
    }[place] % deep
    with suppress(BackendAnswerError):
        assert len(read(answer.encode()).images) == 1


@pytest.mark.parametrize(
    "data", [b"", b"null", b"5", b"[]", b'"text"', b'{"images": {}}', b"\xff\xfe", b"{", b"<html>"]
)
@pytest.mark.parametrize("endpoint", [TXT2IMG, EXTRA_SINGLE_IMAGE])
def test_what_is_no_answer_at_all_is_refused(data: bytes, endpoint: str) -> None:
    """Another document, or none."""
    refused(data, endpoint=endpoint)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@settings(deadline=None)
@given(images=json_values, info=json_values, in_text=st.booleans())
def test_any_answer_is_read_or_refused(images: Any, info: Any, in_text: bool) -> None:
    """By one of our errors, and what is read can be recorded."""
    answer = {"images": images, "image": images, "info": json.dumps(info) if in_text else info}
    for endpoint in (TXT2IMG, EXTRA_SINGLE_IMAGE):
        with suppress(BackendError):
            msgspec.json.encode(read(answer | {"html_info": info}, endpoint=endpoint).info)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """By one of our errors."""
    for endpoint in (TXT2IMG, EXTRA_SINGLE_IMAGE):
        with suppress(BackendError):
            read(data, endpoint=endpoint)


def test_a_refused_index_is_shown_without_secrets() -> None:
    """The server's value may repeat the password; our words stay."""
    words = refused(document(b"only", index_of_first_image=f"is {SECRET}"))
    assert words.endswith("index_of_first_image is 'is ***'")


@pytest.mark.parametrize("small", [True, False])
def test_an_answer_that_says_it_is_too_large_is_refused_at_once(small: bool) -> None:
    """By its Content-Length, before a byte of its body has come."""
    limit = MAX_SMALL_ANSWER_BYTES if small else 1000

    def script(wire: Wire) -> None:
        wire.send(f"HTTP/1.1 200 OK\r\nContent-Length: {limit + 1}\r\n\r\n".encode())

    words = f"has {limit + 1} bytes; the limit is"
    with talking(script) as (client, _), pytest.raises(BackendAnswerError, match=words):
        client.get("/") if small else exchanged(client, "/", b"{}", limit, nothing)


def test_an_answer_of_just_the_limit_is_taken() -> None:
    """With its length or in chunks."""
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n%b\r\n0\r\n\r\n"
    for data in (b"x" * 1000, None):

        def script(wire: Wire, data: bytes | None = data) -> None:
            wire.answer(data) if data else wire.send(chunked % (b"x" * 1000))

        with talking(script) as (client, _server):
            assert exchanged(client, "/", b"{}", 1000, nothing) == b"x" * 1000
            with pytest.raises(BackendAnswerError, match="bytes"):
                exchanged(client, "/", b"{}", 999, nothing)


@contextmanager
def bounded_memory(limit: int) -> Iterator[None]:
    """What is allocated within stays below ``limit``."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def flooding(status: str, how: str) -> Script:
    """An answer without end, in chunks or until the connection is closed."""
    head = "Transfer-Encoding: chunked" if how == "chunked" else "Connection: close"
    block = b"10000\r\n%b\r\n" % (b"x" * 65_536) if how == "chunked" else b"x" * 65_536

    def script(wire: Wire) -> None:
        wire.send(f"HTTP/1.1 {status}\r\n{head}\r\n\r\n".encode())
        while True:
            wire.send(block)

    return script


@pytest.mark.parametrize("how", ["chunked", "close"])
def test_an_endless_answer_is_cut_at_the_limit(how: str) -> None:
    """With bounded memory; the connection is given up."""
    with talking(flooding("200 OK", how)) as (client, server), bounded_memory(32 * MIB):
        with pytest.raises(BackendAnswerError, match=f"more than {6 * MIB} bytes"):
            exchanged(client, "/", b"{}", 6 * MIB, nothing)
        assert server.closed.acquire(timeout=5)


def test_an_endless_error_is_cut_and_told() -> None:
    """Its status still says what kind of failure it is."""
    with talking(flooding("500 Oops", "chunked")) as (client, server):
        with pytest.raises(ServerFailureError, match="500: x") as caught:
            client.get("/")
        assert len(str(caught.value)) < 1000
        assert server.closed.acquire(timeout=5)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "GZIP"])
@pytest.mark.parametrize("status", ["200 OK", "500 Oops"])
def test_a_compressed_answer_is_refused(coding: str, status: str) -> None:
    """It could inflate to anything, and was not asked for; ``identity`` is none."""
    spoken = talking(lambda wire: wire.answer(b"{}", status, f"Content-Encoding: {coding}"))
    with spoken as (c, _), pytest.raises(BackendAnswerError, match="compressed"):
        c.get("/")
    with talking(lambda wire: wire.answer(b"1", "200 OK", "Content-Encoding: identity")) as (c, _):
        assert c.get("/") == 1


@pytest.mark.parametrize("length", [b"\xb2", b"9" * 5000])
def test_an_odd_content_length_is_one_of_our_errors(length: bytes) -> None:
    """Nothing else may come out of a client."""
    spoken = talking(raw(OK + b"Content-Length: " + length + b"\r\n\r\n[1]"))
    with spoken as (client, _server), suppress(ServerError, BackendAnswerError):
        client.get("/")


@pytest.mark.parametrize("answer", [OK + b"Content-Length: 0\r\n\r\n", b"HTTP/1.1 204 No\r\n\r\n"])
def test_an_empty_answer_is_none(answer: bytes) -> None:
    """SD.Next answers an interrupt with 204."""
    with talking(raw(answer)) as (client, _server):
        assert client.post("/interrupt", {}) is None


@pytest.mark.parametrize("body", [b"<html>", b"\xff\xfe", b'{"a":', b"[" * 100_000])
def test_what_is_no_json_is_shown(body: bytes) -> None:
    """It is the wrong server, or a proxy's page."""
    with talking(lambda wire: wire.answer(body)) as (client, _server):
        with pytest.raises(BackendAnswerError, match="the answer is not JSON") as caught:
            client.get("/")
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("body", [b'"a \\ud800 b"', b"NaN", b"[1e999]"])
def test_loose_json_is_read(body: bytes) -> None:
    """As the standard library does, without lone surrogates."""
    with talking(lambda wire: wire.answer(body)) as (client, _server):
        assert str(client.get("/")).encode()
