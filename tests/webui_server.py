"""A WebUI to test against: AUTOMATIC1111 1.10.1 with ADetailer as users meet it over HTTP.

A real server on 127.0.0.1 with a queue, progress, interrupts and task ids like the original,
plain pictures, and faults (``webui_faults``) that are scripted for chosen requests. It knows
nothing of stagewright. Its queue is in ``webui_queue``,
its pictures are in ``webui_painting``, its lists in ``webui_names``.
"""

from __future__ import annotations

import base64
import json
import socket
import socketserver
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any, Self, cast

from .webui_faults import JSON_TYPE, Document, Fault, encoded
from .webui_names import (
    STAGES,
    Names,
    Received,
    describe,
    listed,
)
from .webui_painting import Painter
from .webui_queue import Job, JobQueue, ServerClosingError, WebUIError


class ScriptedWebUI:
    """The server; a context manager. ``url`` stays the same while it refuses connections.

    ``missing_routes`` answer 404. ``auth`` guards ``/sdapi``. ``painter`` holds what the server
    has and its options, ``queue`` its jobs; ``streamed`` counts the bytes of answers. So many
    ``refused_posts`` of options fail. ``more`` are other answers of plain routes, by path, and
    ``odd`` may name a fault for any request beside the generating. ``copied`` are the names after
    a refresh, and ``replaced`` contents of files.
    """

    def __init__(
        self, *, ui: bool = True, openapi: bool = True, auth: tuple[str, str] | None = None,
        fork: str = "a1111", missing_routes: tuple[str, ...] = (), names: Names | None = None,
        steps_per_second: float | None = None, deaf_interrupts: int = 0,
        more: Mapping[str, Any] = {},
    ) -> None:  # fmt: skip
        self.ui, self.openapi, self.auth, self.fork = ui, openapi, auth, fork
        self.missing_routes = missing_routes
        self.queue = JobQueue(steps_per_second, deaf_interrupts)
        self.painter = Painter(self.queue, names or Names(), fork)
        self.description = describe(fork)
        self.painter.schemas = self.description["components"]["schemas"]
        self.requests: list[Received] = []
        self.failures: list[BaseException] = []
        self.odd: Callable[[Received], Fault | None] = lambda _received: None
        self.more = dict(more)
        self.muted = False
        self.refused_posts = 0
        self.copied: Names | None = None
        self.replaced: dict[str, str] = {}
        self.streamed = 0
        self._faults: list[tuple[range, Fault, str | None]] = []
        self._counts: Counter[str | None] = Counter()
        self._lock = threading.RLock()
        self._connections: dict[threading.Thread, socket.socket] = {}
        self._listener: Listener | None = None
        self._port = 0
        self._accepting: threading.Thread | None = None
        self.listen()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    def generating(self, stage: str | None = None) -> list[Received]:
        """The requests that generate, in order; of one stage or of all."""
        with self._lock:
            return [one for one in self.requests if one.stage and stage in (None, one.stage)]

    def asked(self, path: str) -> int:
        """How often a path was asked for after the first generating request."""
        paths = [one.path if one.stage is None else one.stage for one in self.requests]
        began = next((place for place, one in enumerate(self.requests) if one.stage), len(paths))
        return paths[began:].count(path)

    def interrupts(self, *, foreign: bool) -> int:
        """How many interrupts found another client's job, or found one of ours or none."""
        found = [job is not None and job.foreign for job in self.queue.interrupts]
        return found.count(foreign)

    def on(self, nth: int | range, fault: Fault, *, stage: str | None = None) -> None:
        """Answer the ``nth`` generating request of a stage (of all when None) by ``fault``."""
        places = range(nth, nth + 1) if isinstance(nth, int) else nth
        self._faults.append((places, fault, stage))

    @contextmanager
    def hold(self, *, step: int = 1, deaf: bool = False) -> Iterator[None]:
        """Jobs stand at ``step`` until the end, or until interrupted unless they are deaf."""
        self.queue.alter(lambda: setattr(self.queue, "held", (step, deaf)))
        try:
            yield
        finally:
            self.queue.alter(lambda: setattr(self.queue, "held", None))

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that jobs change; AssertionError when it does not come."""
        assert self.queue.wait(condition, 60.0), "the test server waited in vain"

    def until_running(self, *, step: int = 0) -> None:
        """Wait for a job that is at ``step``, or for any upscaling."""
        state = self.queue
        self.until(
            lambda: (
                bool(state.state["job"])
                and (state.state["sampling_step"] >= step or state.state["job"] == "Upscale")
            )
        )

    @contextmanager
    def foreign_job(self, *, moving: bool = True) -> Iterator[Job]:
        """Another client's job holds the server; it ends with the block or an interrupt."""
        place = None if moving else 1
        job = Job("scripts_txt2img", (10**6,), "task(foreign)", foreign=True, stands_at=place)
        job.pace_s = 0.01

        def work() -> None:
            with suppress(ServerClosingError), self.queue.enter(job):
                self.queue.begin(job)
                self.queue.advance(job)

        thread = threading.Thread(target=work, name="foreign-job")
        thread.start()
        self.until(lambda: self.queue.state["job"] != "" and self.queue.line[0] is job)
        try:
            yield job
        finally:
            self.queue.alter(lambda: setattr(job, "released", True))
            thread.join()

    def refuse(self) -> None:
        """Close the listening socket and every connection."""
        with self._lock:
            listener, self._listener = self._listener, None
            thread = self._accepting
        if listener is not None and thread is not None:
            listener.shutdown()
            thread.join()
            listener.server_close()
        with self._lock:
            connections = list(self._connections.values())
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def listen(self) -> None:
        """Listen (again, on the same port)."""
        with self._lock:
            if self.queue.closing:
                return
            self._listener = Listener(self, self._port)
            self._port = self._listener.server_address[1]
            self._accepting = threading.Thread(
                target=self._listener.serve_forever, args=(0.01,), name="scripted-webui"
            )
            self._accepting.start()
        self.queue.alter(lambda: None)

    @property
    def listening(self) -> bool:
        """Whether it takes connections."""
        return self._listener is not None

    def close(self) -> None:
        """Stop everything and wait for every thread."""
        self.queue.close()
        self.refuse()
        with self._lock:
            threads = list(self._connections)
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive(), "a thread of the test server does not end"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()
        assert error is not None or not self.failures, self.failures

    def arrived(self, received: Received) -> Fault | None:
        """Keep a request and say which fault was scripted for it."""
        stage = received.stage
        with self._lock:
            self.requests.append(received)
            places = {None: self._counts[None], stage: self._counts[stage]}
            self._counts.update((None, stage) if stage else ())
        self.queue.alter(lambda: None)
        if stage is None:
            return self.odd(received)
        for nths, fault, wanted in self._faults:
            if wanted in places and places[wanted] in nths:
                return fault
        return None

    def serve(self, connection: socket.socket, work: Callable[[], None]) -> None:
        """Serve a connection on a thread of its own."""

        def served() -> None:
            try:
                work()
            finally:
                with self._lock:
                    self._connections.pop(threading.current_thread(), None)

        thread = threading.Thread(target=served, name="scripted-webui-connection")
        with self._lock:
            self._connections[thread] = connection
        thread.start()

    def lists(self) -> dict[str, Any]:
        """What the plain GET routes answer, by path."""
        painter = self.painter
        answers = listed(
            painter.names, painter.hashed, painter.scripts, self.fork, painter.contents
        )
        if "/adetailer/v1/version" in answers:
            answers["/adetailer/v1/version"] = {"version": painter.detailer_version}
        answers["/sdapi/v1/options"] = painter.options
        answers["/sdapi/v1/cmd-flags"] = {"api": True, "nowebui": not self.ui}
        if self.openapi:
            answers["/openapi.json"] = self.description
        if self.ui:
            answers["/internal/ping"] = {}
            answers["/internal/sysinfo"] = {"Version": painter.version}
        return answers | self.more


class Listener(socketserver.TCPServer):
    """The listening socket; each connection gets a thread that the server keeps."""

    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, webui: ScriptedWebUI, port: int) -> None:
        self.webui = webui
        super().__init__(("127.0.0.1", port), Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hand the connection to its own thread."""

        def work() -> None:
            try:
                self.finish_request(request, client_address)
            except (OSError, ServerClosingError):
                pass
            except Exception as error:  # noqa: BLE001 (kept, and raised where the server ends)
                self.webui.failures.append(error)
            finally:
                self.shutdown_request(request)

        self.webui.serve(request, work)


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection, and is what faults work with."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    body: Any = None

    @property
    def webui(self) -> ScriptedWebUI:
        """The server that this connection belongs to."""
        return cast("Listener", self.server).webui

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer a GET."""
        self._serve(None)

    def do_POST(self) -> None:
        """Answer a POST."""
        self._serve(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def _serve(self, data: bytes | None) -> None:
        path, _, query = self.path.partition("?")
        try:
            self.body = json.loads(data) if data else None
        except ValueError:
            self.body = None
        received = Received(self.command, path, query, dict(self.headers), self.body)
        fault = self.webui.arrived(received)
        try:
            self._admit(path)
            if fault is not None:
                fault(self)
            elif received.stage is not None:
                self.send(200, encoded(self.generate()), JSON_TYPE)
            else:
                self._answer_plain(path)
        except WebUIError as error:
            self.send(error.status, encoded(error.document), JSON_TYPE)

    def _admit(self, path: str) -> None:
        """Refuse a stranger, and a route that is not there."""
        if self.webui.auth is not None and path.startswith("/sdapi/"):
            wanted = base64.b64encode(":".join(self.webui.auth).encode()).decode()
            if self.headers.get("Authorization") != f"Basic {wanted}":
                raise WebUIError(401, {"detail": "Incorrect username or password"})
        if path in self.webui.missing_routes:
            raise WebUIError(404, {"detail": "Not Found"})

    def _answer_plain(self, path: str) -> None:
        queue = self.webui.queue
        if path in ("/sdapi/v1/progress", "/internal/progress"):
            queue.wait(lambda: not self.webui.muted)
        answer: object = None
        match self.command, path.removeprefix("/sdapi/v1/"):
            case "GET", "progress":
                answer = queue.progress()
            case "POST", "interrupt" | "skip" as action:
                queue.interrupt("interrupted" if action == "interrupt" else "skipped")
                if self.webui.fork == "sdnext":
                    self.send(204, b"", {})
                    return
            case "POST", "refresh-loras" | "refresh-checkpoints" | "refresh-vae":
                names = self.webui.copied or self.webui.painter.names
                self.webui.painter.names, self.webui.copied = names, None
                self.webui.painter.contents |= self.webui.replaced
            case "POST", "options":
                self._set_options()
            case "POST", "/internal/progress" if self.webui.ui:
                answer = queue.task_progress(self.body["id_task"])
            case "GET", _ if path in (lists := self.webui.lists()):
                answer = lists[path]
            case "POST", name if name in STAGES:
                raise WebUIError(422, {"detail": [{"loc": ["body"], "msg": "field required"}]})
            case _:
                raise WebUIError(404, {"detail": "Not Found"})
        self.send(200, encoded(answer), JSON_TYPE)

    def _set_options(self) -> None:
        painter = self.webui.painter
        if self.webui.refused_posts > 0:
            self.webui.refused_posts -= 1
            raise painter.failure("RuntimeError", "options cannot be saved")
        self.webui.queue.wait(lambda: not self.webui.queue.line)
        model = self.body.get("sd_model_checkpoint")
        if model is not None and painter.find(model) is None:
            raise painter.failure("RuntimeError", f"Unknown checkpoint: {model}")
        painter.set_options(self.body)
        if model is not None:
            painter.options["sd_model_checkpoint"] = painter.find(model)

    def generate(self, **job: Any) -> Document:
        """Do what was asked, with these fields of the ``Job`` set."""
        path = self.path.partition("?")[0]
        return self.webui.painter.paint(path.rpartition("/")[2], self.body, Job(**job))

    def send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Send an answer; its length is added unless ``headers`` say how it is told."""
        self.send_response(status)
        told = {"Content-Length", "Transfer-Encoding", "Content-Encoding"} & set(headers)
        for name, value in headers.items():
            self.send_header(name, value)
        if not told and status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.write(body)

    def write(self, data: bytes) -> None:
        """Send raw bytes."""
        self.wfile.write(data)
        self.webui.streamed += len(data)

    def break_off(self, *, reset: bool) -> None:
        """Close the connection; a reset discards what was not yet sent."""
        self.close_connection = True
        linger = socket.SO_LINGER
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, linger, struct.pack("ii", 1, 0))
        else:
            self.connection.shutdown(socket.SHUT_RDWR)
        self.rfile.close()
        self.connection.close()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until the time is over or the server ends."""
        self.webui.queue.wait(lambda: False, seconds)

    def mute_progress(self, *, muted: bool) -> None:
        """Whether /progress keeps silent."""
        self.webui.queue.alter(lambda: setattr(self.webui, "muted", muted))

    def refuse(self, seconds: float) -> None:
        """Refuse all connections for a while."""
        self.webui.refuse()
        self.wait(seconds)
        self.webui.listen()

    def authorization(self) -> str:
        """The credentials as sent and decoded."""
        sent = self.headers.get("Authorization") or ""
        return f"{sent} {base64.b64decode(sent.removeprefix('Basic ')).decode()}"
