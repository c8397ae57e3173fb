"""What becomes of each exception of the libraries, and of each status: one of our errors."""

from __future__ import annotations

import inspect
import json
import time
from pathlib import Path
from typing import Any

import pytest
import requests
import urllib3
from hypothesis import given, settings
from hypothesis import strategies as st
from stagewright.adapters import open_controller
from stagewright.adapters.backends.http import errors
from stagewright.adapters.backends.http.address import ServerAddress
from stagewright.adapters.backends.http.client import HttpClient
from stagewright.adapters.backends.http.credentials import Credentials, credentials_for
from stagewright.adapters.backends.http.error_mapping import (
    TRANSPORT_EXCEPTIONS,
    error_of_exception,
    error_of_status,
    message_in,
)
from stagewright.adapters.backends.http.errors import NansError
from stagewright.adapters.backends.webui.features import ADVICE
from stagewright.events import CallFailed
from stagewright.statemachine.config.schema import RetryKind
from stagewright.statemachine.errors import BackendAnswerError, BackendError

from . import webui_faults as faults
from .support import document
from .webui_server import ScriptedWebUI

ADDRESS = ServerAddress.parse("http://127.0.0.1:7860")
PATH = "/sdapi/v1/txt2img"
WHERE = f"{ADDRESS.url}{PATH}: "
SECRET = 'sesä"me  42'
CREDENTIALS = credentials_for(
    ADDRESS, named_by_user=True, environment={"STAGEWRIGHT_AUTH": f"somebody:{SECRET}"}
)
BY_PROXIES_ALONE = {urllib3.exceptions.ProxySchemeUnsupported}
PARTS: dict[str, Any] = {
    "pool": None,
    "conn": None,
    "response": urllib3.HTTPResponse(b""),
    "request": None,
    "scheme": "http",
    "url": "/",
    "message": "words",
    "reason": OSError("words"),
    "host": "host",
    "retries": 1,
    "location": "there",
    "partial": 3,
    "expected": 5,
    "length": b"zz",
    "error": OSError("a"),
    "defects": [],
    "unparsed_data": None,
}
"""Arguments that exceptions are made with."""


def exceptions_of(module: Any) -> list[type[BaseException]]:
    """Every class in ``module`` that is its library's own and no warning."""
    library = module.__name__.partition(".")[0]
    found = {cls for cls in vars(module).values() if inspect.isclass(cls)}
    return sorted(
        (
            cls
            for cls in found
            if issubclass(cls, BaseException) and not issubclass(cls, Warning)
            if cls.__module__.startswith(library)
        ),
        key=lambda cls: cls.__name__,
    )


LIBRARIES = (requests.exceptions, urllib3.exceptions)
EVERY = [
    pytest.param(cls, id=f"{cls.__module__}.{cls.__name__}")
    for module in LIBRARIES
    for cls in exceptions_of(module)
]


def made(cls: type[BaseException]) -> BaseException:
    """One of them, made as its library makes it."""
    if cls is requests.exceptions.JSONDecodeError:
        return cls("words", "{", 0)
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(cls.__init__).parameters.values()
    wanted = [one for one in parameters if one.name != "self" and one.kind not in kinds]
    return cls(*[PARTS[one.name] for one in wanted]) if wanted else cls("words")


def client(credentials: Credentials = CREDENTIALS) -> HttpClient:
    """A client that sends nothing."""
    return HttpClient(ADDRESS, None, credentials, advice=ADVICE)


def mapped(error: BaseException, *, connected: bool = True) -> errors.ServerError:
    return error_of_exception(client(), PATH, error, connected=connected)


@pytest.mark.parametrize("cls", EVERY)
def test_every_exception_of_the_libraries_is_one_of_our_errors(cls: type[BaseException]) -> None:
    """Before there is a connection nothing was sent; once there is one, an answer may be lost."""
    assert issubclass(cls, TRANSPORT_EXCEPTIONS) or cls in BY_PROXIES_ALONE
    untrusted = cls.__name__ == "SSLError"
    kind = errors.ServerNotTrustedError if untrusted else errors.ServerUnreachableError
    for connected, wanted in ((False, kind), (True, errors.AnswerLostError)):
        error = mapped(made(cls), connected=connected)
        assert type(error) is wanted
        assert (error.endpoint, error.unanswered) == (PATH, connected)
        assert error.transient is not (wanted is errors.ServerNotTrustedError)
        assert str(error).startswith(WHERE)
        assert " object at 0x" not in str(error)


def test_the_walk_finds_the_exceptions() -> None:
    """A library that moved its classes would else make the test above pass for nothing."""
    assert len(exceptions_of(requests.exceptions)) > 15
    assert len(exceptions_of(urllib3.exceptions)) > 20


def test_no_secret_is_in_an_exceptions_words() -> None:
    """The password, and both together as they are sent."""
    error = mapped(OSError(f"{SECRET} and {CREDENTIALS.header}"))
    assert str(error).endswith("OSError: *** and Basic ***")


def refused(
    status: int, body: object, *, location: str = "", credentials: Credentials = CREDENTIALS
) -> BackendError:
    """The error for an answer: text as it is, anything else as JSON."""
    text = body if isinstance(body, str) else json.dumps(body)
    return error_of_status(client(credentials), PATH, status, text, location=location)


def a1111(error: str, words: str = "it failed") -> dict[str, str]:
    return {"error": error, "detail": "", "body": "", "errors": words}


PROBLEM = {"loc": ["body", "steps"], "msg": "not an integer", "type": "type_error"}
PAGE = "<html><style>p {color: red}</style><h1>Bad\n Gateway</h1><script>x()</script></html>"
UNAVAILABLE, FAILURE = errors.ServerUnavailableError, errors.ServerFailureError
NOT_UNDERSTOOD, REFUSED = errors.RequestNotUnderstoodError, errors.RequestRefusedError
MEMORY, AUTH = errors.ServerOutOfMemoryError, errors.AuthenticationError


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (400, "no", REFUSED, "400: no"),
        (401, {"detail": "Not authenticated"}, AUTH, "401: Not authenticated (the server rejected"),
        (403, {"detail": "no"}, AUTH, "403: no (the server rejected the user and password)"),
        (404, {"detail": "Not Found"}, errors.RouteMissingError, "was it started with --api?"),
        (404, "", errors.RouteMissingError, "404: no such route"),
        (404, {"detail": "Init image not found"}, errors.RouteMissingError, "404: Init image not"),
        *[(status, "late", UNAVAILABLE, f"{status}: late") for status in (408, 429)],
        (413, PAGE, REFUSED, "413: Bad Gateway"),
        (422, {"detail": [PROBLEM]}, REFUSED, "422: body.steps: not an integer;"),
        (422, {"detail": [{"msg": "odd", "loc": []}]}, REFUSED, "422: odd;"),
        (422, {"detail": [PROBLEM, PROBLEM]}, REFUSED, "integer; body.steps: not an integer;"),
        (422, {"detail": "Script 'x' not found"}, REFUSED, "422: Script 'x' not found"),
        (500, a1111("RuntimeError"), FAILURE, "500: RuntimeError it failed"),
        (500, {"detail": "it failed"}, FAILURE, "500: it failed"),
        (500, {"message": "it failed"}, FAILURE, "500: it failed"),
        (500, "Internal Server Error", FAILURE, "500: Internal Server Error"),
        (500, PAGE, FAILURE, "500: Bad Gateway"),
        (500, {"error": {"detail": ["a"]}, "errors": ["b"]}, FAILURE, "500: a b"),
        (500, a1111("OutOfMemoryError"), MEMORY, "500: OutOfMemoryError"),
        (500, a1111("RuntimeError", "CUDA out of memory"), MEMORY, "CUDA out of memory"),
        (500, {"detail": "torch.OutOfMemoryError: x"}, MEMORY, "torch.OutOfMemoryError: x"),
        (500, a1111("NansException"), NansError, "500: NansException"),
        (500, a1111("TypeError"), NOT_UNDERSTOOD, "500: TypeError"),
        (500, a1111("", "Could not find checkpoint x"), NOT_UNDERSTOOD, "500: Could not find"),
        *[(status, PAGE, UNAVAILABLE, f"{status}: Bad Gateway") for status in (502, 503, 504)],
        *[(status, PAGE, UNAVAILABLE, f"{status}: Bad Gateway") for status in range(520, 525)],
        (200, "<h1>Welcome</h1>", BackendAnswerError, "the answer is not JSON: Welcome"),
        (201, "{}", REFUSED, "201"),
    ],
)
def test_a_status_is_one_of_our_errors_in_the_servers_words(
    status: int, body: object, kind: type[BackendError], words: str
) -> None:
    """Of the most specific kind, with the endpoint, the status and one line without tags."""
    error = refused(status, body)
    assert type(error) is kind
    assert str(error).startswith(WHERE)
    assert words in str(error)
    assert not {"<", "\n"} & set(str(error))
    assert error.endpoint == PATH
    assert getattr(error, "status", 200) == status
    assert error.detail == (body if isinstance(body, str) else json.dumps(body))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_names_where_it_leads(status: int) -> None:
    """It is refused, and the user told to give that address."""
    error = refused(status, PAGE, location=f"https://there/{SECRET}")
    assert type(error) is REFUSED
    assert f"{status}: redirected to https://there/***; use that address instead" in str(error)


@pytest.mark.parametrize("why", ["set STAGEWRIGHT_AUTH=user:password", "not sent, because"])
def test_a_401_says_why_no_credentials_were_sent(why: str) -> None:
    """The advice is that of the credentials."""
    error = refused(401, {"detail": "Not authenticated"}, credentials=Credentials(withheld=why))
    assert f"401: Not authenticated ({why})" in str(error)


@pytest.mark.parametrize(
    "body",
    ["A" * 300_000, a1111("E" * 5000, "x\r\n\u2028\x85y " * 9000), {"detail": ["w" * 90] * 99}],
)
def test_words_are_one_line_of_bearable_length(body: object) -> None:
    """However much the server says; the detail keeps the rest."""
    error = refused(500, body)
    assert len(str(error)) < 700
    assert len(str(error).splitlines()) == 1
    assert str(error).endswith(" ...")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "detail", "errors", "message", "body", "x"]), inner
        )
        | st.fixed_dictionaries({"msg": inner, "loc": st.lists(inner, max_size=2)})
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(status=st.integers(200, 599), body=json_values | st.text())
def test_any_answer_has_an_error(status: int, body: Any) -> None:
    """One line of bearable length, whatever the shape."""
    error = refused(status, body)
    assert len(str(error).splitlines()) == 1
    assert len(str(error)) < 800


PLAIN = credentials_for(
    ADDRESS, named_by_user=True, environment={"STAGEWRIGHT_AUTH": "somebody:passw0rd"}
)


@pytest.mark.parametrize(
    "body", [{"detail": "passw0rd"}, a1111("E", f"{PLAIN.header}"), "<b>somebody:passw0rd</b>"]
)
@pytest.mark.parametrize("status", [200, 401, 422, 500, 502])
def test_no_secret_is_in_a_servers_words(status: int, body: object) -> None:
    """Though the server repeats what it was sent."""
    error = refused(status, body, credentials=PLAIN)
    assert PLAIN.secrets[0] not in str(error) + error.detail
    assert "passw0rd" not in str(error) + error.detail
    assert "***" in str(error)


@pytest.mark.parametrize("body", [SECRET, "x" * 590 + f" {SECRET}", "sesä<b>x"])
def test_no_part_of_a_secret_is_left(body: str) -> None:
    """Cutting and tidying the words leaves no half of a password behind."""
    secret = "sesä<b>x" if "<" in body else SECRET
    auth = {"STAGEWRIGHT_AUTH": f"somebody:{secret}"}
    credentials = credentials_for(ADDRESS, named_by_user=True, environment=auth)
    assert "sesä" not in str(refused(500, body, credentials=credentials))


def test_no_escaped_secret_is_in_the_detail() -> None:
    """JSON writes quotes and letters beyond ASCII as escapes."""
    assert json.dumps(SECRET)[1:-1] not in refused(500, a1111("E", SECRET)).detail


@pytest.mark.parametrize("loc", [5, True, 1.5])
def test_an_odd_loc_is_no_reason_to_fail(loc: object) -> None:
    """The message is shown all the same."""
    assert "odd" in str(refused(422, {"detail": [{"loc": loc, "msg": "odd"}]}))


@pytest.mark.parametrize("body", ["[" * 800 + "]" * 800, '{"detail":' * 800 + "1" + "}" * 800])
def test_deep_nesting_has_an_error(body: str) -> None:
    """Of the kind that its status has."""
    assert type(refused(500, body)) is FAILURE


@pytest.mark.parametrize("opening", ["<", "<script"])
def test_tags_that_never_end_take_no_time(opening: str) -> None:
    """An answer of 32 MiB is read; one of 30 KB must cost next to nothing."""
    before = time.process_time()
    message_in({"detail": [{"msg": opening * (30_000 // len(opening))}]})
    assert time.process_time() - before < 0.1


def test_a_long_redirect_is_cut() -> None:
    """A header may have 64 KiB."""
    assert len(str(refused(302, "", location="http://there/" + "a" * 60_000))) < 2000


BY_KIND: dict[RetryKind | None, faults.Fault] = {
    RetryKind.LOST: faults.resets,
    RetryKind.UNAVAILABLE: faults.unavailable(),
    RetryKind.OUT_OF_MEMORY: faults.OUT_OF_MEMORY,
    RetryKind.FAILURE: faults.server_error("RuntimeError", "the GPU fell off"),
    None: faults.NANS,
}


def failing(folder: Path, url: str, **server: Any) -> tuple[str | None, list[bool]]:
    """The kind of error that a run ends with, and for each failure whether it was tried again."""
    table = {"retries": 1, "wait_s": 0, "backoff_s": 0.01, **server}
    config = document(run={"preflight": False}, server=table)
    result = open_controller(folder, url).start(config).wait(60)
    failures = [event for event in result.events if isinstance(event, CallFailed)]
    return result.error.kind if result.error else None, [one.will_retry for one in failures]


@pytest.mark.parametrize("kind", [*BY_KIND, RetryKind.UNREACHABLE])
def test_a_failure_is_transient_where_the_user_lets_it_be(
    tmp_path: Path, kind: RetryKind | None
) -> None:
    """Each kind by default; with ``[server] transient`` only those that it names."""
    others = [one.value for one in RetryKind if one is not kind]
    with ScriptedWebUI() as server:
        server.on(range(1000), BY_KIND.get(kind, faults.NANS))
        url = "http://127.0.0.1:1" if kind is RetryKind.UNREACHABLE else server.url
        name, retried = failing(tmp_path / "default", url)
        assert retried == ([True, False] if kind else [False])
        for place, transient in enumerate(([kind.value] if kind else [], others, [])):
            again = kind is not None and kind in transient
            wanted = (name, [True, False] if again else [False])
            assert failing(tmp_path / str(place), url, transient=transient) == wanted
