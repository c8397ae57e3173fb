"""Odd, slow and broken-off exchanges with a server, and answers that only look like other ones."""

from __future__ import annotations

import base64
import io
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps
from stagewright.adapters import open_controller
from stagewright.adapters.backends.http import errors
from stagewright.adapters.backends.http.address import ServerAddress
from stagewright.adapters.backends.http.client import HttpClient
from stagewright.adapters.backends.http.exchange import Exchange
from stagewright.events import PipelineRunResult, RunState
from stagewright.statemachine.config.schema import ServerTable
from stagewright.statemachine.errors import GenerationCancelled

from . import webui_faults as faults
from .support import png
from .test_webui_client import exchanged
from .test_webui_settling import INTERNAL_PROGRESS, PROGRESS, configured, failures, ran
from .webui_names import Names, Received
from .webui_server import ScriptedWebUI

PATIENCE_S = 5.0
TXT2IMG = "/sdapi/v1/txt2img"
OURS = {name for name, one in vars(errors).items() if isinstance(one, type)} | {
    "BackendAnswerError"
}


def replies_raw(data: bytes) -> faults.Fault:
    """Answers with these very bytes and closes."""

    def reply(exchange: faults.Exchange) -> None:
        exchange.write(data)
        exchange.break_off(reset=False)

    return reply


def trickles(exchange: faults.Exchange) -> None:
    """Begins an answer and goes on with one byte at a time, for ever."""
    exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        exchange.write(b" ")
        exchange.wait(0.05)


ODD_ANSWERS = {
    "nested 200": faults.Replies(200, b'{"state":' * 5000 + b"1" + b"}" * 5000),
    "superscript": replies_raw(b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n{}"),
}


@pytest.mark.parametrize("odd", ODD_ANSWERS.values(), ids=ODD_ANSWERS.keys())
@pytest.mark.parametrize("path", [PROGRESS, TXT2IMG])
def test_an_odd_answer_neither_hangs_the_run_nor_ends_it_untyped(
    server: ScriptedWebUI, tmp_path: Path, path: str, odd: faults.Fault
) -> None:
    """Whatever becomes of the image, the error is one of ours."""
    if path == TXT2IMG:
        server.on(0, odd)
    server.odd = lambda one: odd if one.path == path and server.generating() else None
    config = configured(tmp_path, "txt2img", server={"stall_timeout_s": 0.1})
    result = ran(tmp_path, server, config, limit_s=PATIENCE_S)
    assert set(failures(result)) <= OURS
    assert (result.state is RunState.ERROR) == bool(failures(result))
    assert path == PROGRESS or result.state is RunState.ERROR


def test_progress_that_trickles_when_the_answer_is_there_ends_within_the_limit(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """It does not say whether the request was interrupted, so the image is not recorded."""
    server.odd = lambda one: trickles if one.path == PROGRESS and server.generating() else None
    config = configured(tmp_path, "txt2img", server={"stall_timeout_s": 0.1})
    result = ran(tmp_path, server, config, limit_s=PATIENCE_S)
    assert failures(result) == ["ServerUnavailableError"]


@pytest.mark.parametrize("answered", [True, False])
def test_a_cancel_ends_though_every_state_trickles(
    server: ScriptedWebUI, tmp_path: Path, answered: bool
) -> None:
    """Before the answer and after it."""

    def odd(one: Received) -> faults.Fault | None:
        return trickles if one.path in (PROGRESS, INTERNAL_PROGRESS) else None

    server.odd = odd
    server.on(0, faults.Generates() if answered else faults.silent)
    controller = open_controller(tmp_path / "runs", server.url)
    handle = controller.start(configured(tmp_path, "txt2img", server={"stall_timeout_s": 0.2}))
    server.until(lambda: len(server.generating()) == 1)
    if answered:
        server.until(lambda: server.asked(PROGRESS) > 0)
    controller.cancel(handle.run_id)
    assert handle.wait(PATIENCE_S).state is RunState.CANCELLED


def test_an_answer_that_arrives_slowly_and_steadily_is_no_stall(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """The job is over and the server idle for longer than the limit, but bytes come."""

    def slowly(exchange: faults.Exchange) -> None:
        body = faults.encoded({**exchange.generate(lasts_s=0.45), "pad": "x" * 400_000})
        exchange.send(200, b"", {"Content-Length": str(len(body))})
        for start in range(0, len(body), len(body) // 8):
            exchange.write(body[start : start + len(body) // 8])
            exchange.wait(0.08)

    server.on(0, slowly)
    config = configured(tmp_path, "txt2img", server={"stall_timeout_s": 0.3})
    result = ran(tmp_path, server, config)
    assert (failures(result), result.state) == ([], RunState.COMPLETED)


@contextmanager
def one_connection(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port where one connection is taken and talked to on a thread; it has ended afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)

        def serve() -> None:
            connection = listener.accept()[0]
            with connection:
                connection.settimeout(PATIENCE_S)
                talk(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_a_body_that_is_taken_slowly_is_no_lost_answer() -> None:
    """The limit on connecting is none on sending; what leaves is noted as it goes."""
    body = b"[" + b" " * (1 << 23) + b"]"
    gone: list[int] = []

    def talk(connection: socket.socket) -> None:
        head = connection.recv(1 << 12)
        threading.Event().wait(0.5)
        taken = len(head.partition(b"\r\n\r\n")[2])
        while taken < len(body):
            taken += len(connection.recv(1 << 20))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    with one_connection(talk) as port:
        address = ServerAddress.parse(f"http://127.0.0.1:{port}")
        client = HttpClient(address, ServerTable(connect_timeout_s=0.1))
        assert exchanged(client, TXT2IMG, body, 100, gone.append) == b"{}"
        client.close()
    assert len(body) < sum(gone) < len(body) + 2000


def floored_sizes() -> tuple[int, int]:
    """A square and a larger one that A1111 comes to only short of, for it rounds factors down."""
    return next(
        (side, wanted)
        for side in range(64, 1024, 8)
        for wanted in range(side, 1024, 8)
        if int(side * (wanted / side)) // 8 * 8 != wanted
    )


def test_an_upscale_to_a_size_that_the_server_floors_is_taken(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """Without crop the size goes by a factor, which comes out eight pixels short."""
    side, wanted = floored_sizes()
    (tmp_path / "input.png").write_bytes(png(1, (side, side)))
    config = configured(tmp_path, "upscale", input_image=str(tmp_path / "input.png"))
    config["upscale"] = {"upscaler": "Lanczos", "width": wanted, "height": wanted, "crop": False}
    result = ran(tmp_path, server, config)
    assert (failures(result), result.state) == ([], RunState.COMPLETED)
    assert sizes(tmp_path, result) == [(wanted - 8, wanted - 8)]


def sizes(folder: Path, result: PipelineRunResult) -> list[tuple[int, int]]:
    """The sizes of a run's last images, as they are stored."""
    found = []
    for image in result.images:
        with Image.open(folder / "runs" / result.run_id / image.path) as opened:
            found.append(opened.size)
    return found


def turned(folder: Path) -> str:
    """A JPEG of 64x96 stored pixels that is shown turned, 96 wide."""
    picture = Image.new("RGB", (64, 96), (200, 10, 10))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(folder / "photo.jpg", exif=exif)
    return str(folder / "photo.jpg")


def uprights(exchange: faults.Exchange) -> None:
    """Reads its input as A1111 1.10 does: turned as it is shown."""

    def upright(data: str) -> str:
        stream = io.BytesIO()
        with Image.open(io.BytesIO(base64.b64decode(data))) as opened:
            ImageOps.exif_transpose(opened).save(stream, "PNG")
        return base64.b64encode(stream.getvalue()).decode()

    body = exchange.body
    if "image" in body:
        body["image"] = upright(body["image"])
    else:
        body["init_images"] = [upright(one) for one in body["init_images"]]
    exchange.send(200, faults.encoded(exchange.generate()), faults.JSON_TYPE)


@pytest.mark.parametrize("embedded", [False, True])
@pytest.mark.parametrize(("stage", "size"), [("img2img", (96, 64)), ("upscale", (192, 128))])
def test_a_turned_photo_has_the_size_that_it_is_shown_in(
    server: ScriptedWebUI, tmp_path: Path, stage: str, size: tuple[int, int], embedded: bool
) -> None:
    """On a server as in process."""
    server.on(0, uprights)
    config = configured(tmp_path, stage, input_image=turned(tmp_path))
    config.pop("server" if embedded else "", None)
    where = None if embedded else server.url
    result = open_controller(tmp_path / "runs", where).start(config).wait(20)
    assert (failures(result), result.state) == ([], RunState.COMPLETED)
    assert sizes(tmp_path, result) == [size]
    if stage == "img2img" and not embedded:
        (sent,) = server.generating()
        assert (sent.body["width"], sent.body["height"]) == size


class GivesUp:
    """Gives a request up once something of its answer has come, and no more comes."""

    is_sent = has_come = False

    def note_bytes(self, _count: int) -> None:
        self.has_come = self.is_sent

    def tick(self) -> None:
        if self.has_come:
            raise GenerationCancelled("it is given up")


@pytest.mark.parametrize("head", ["", "Content-Length: 100000\r\n"])
def test_giving_up_an_answer_that_ends_with_its_connection_leaves_nothing(head: str) -> None:
    """The server sees the connection closed without another word."""
    patience, taken = GivesUp(), [b"nothing"]

    def talk(connection: socket.socket) -> None:
        request = b""
        while not request.endswith(b"{}"):
            request += connection.recv(1 << 16)
        connection.sendall(f'HTTP/1.1 200 OK\r\n{head}Connection: close\r\n\r\n{{"im'.encode())
        taken[0] = connection.recv(1000)

    with one_connection(talk) as port:
        client = HttpClient(ServerAddress.parse(f"http://127.0.0.1:{port}"))
        exchange = Exchange(client, TXT2IMG, patience, is_work=True)
        exchange.send("POST", b"{}")
        patience.is_sent = True
        with pytest.raises(GenerationCancelled):
            exchange.answer()
        client.close()
    assert taken == [b""]


def test_an_answer_cut_off_where_only_its_connection_ends_it_is_lost(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """It is no broken answer but a lost one, and made again."""

    def cut(exchange: faults.Exchange) -> None:
        body = faults.encoded(exchange.generate())
        exchange.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body[: len(body) // 2])
        exchange.break_off(reset=False)

    server.on(0, cut)
    config = configured(tmp_path, "txt2img", server={"retries": 1})
    result = ran(tmp_path, server, config)
    assert failures(result) == ["AnswerLostError"]
    assert (result.state, len(result.images)) == (RunState.COMPLETED, 1)


class FolderWebUI(ScriptedWebUI):
    """A server whose models lie in folders, and go by what A1111 1.10 calls ``model_name``."""

    def lists(self) -> dict[str, Any]:
        """What the plain GET routes answer, by path."""
        lists = super().lists()
        for row in lists["/sdapi/v1/sd-models"]:
            row["model_name"] = row["title"].partition(".")[0].replace("/", "_")
        return lists


def finds_sdxl_foo(exchange: faults.Exchange) -> None:
    """Looks the model up as A1111 does, and hires with the same one."""
    settings = exchange.body["override_settings"]
    assert settings["sd_model_checkpoint"] == "sdxl_foo"
    settings["sd_model_checkpoint"] = "sdxl/foo.safetensors"
    if exchange.body.get("hr_checkpoint_name") == "Use same checkpoint":
        del exchange.body["hr_checkpoint_name"]
    exchange.send(200, faults.encoded(exchange.generate()), faults.JSON_TYPE)


@pytest.mark.parametrize("hires", [False, True])
def test_a_model_in_a_folder_goes_by_the_servers_own_name_for_it(
    tmp_path: Path, hires: bool
) -> None:
    """Preflight knows it, and what the answer calls it is no other model; nor is hires's same."""
    names = Names(models=("base.safetensors", "sdxl/foo.safetensors"))
    with FolderWebUI(names=names) as server:
        server.on(0, finds_sdxl_foo)
        config = configured(tmp_path, "txt2img", run={"preflight": True})
        config["txt2img"]["model"] = "sdxl_foo"
        if hires:
            table = {"scale": 2.0, "denoise": 0.5, "upscaler": "Latent"}
            config["txt2img"]["hires"] = {**table, "model": "Use same checkpoint"}
        result = ran(tmp_path, server, config)
        assert (failures(result), result.state) == ([], RunState.COMPLETED)


@pytest.mark.parametrize(
    ("stages", "kinds"),
    [(("img2img", "adetailer"), ["ServerInterruptedError"]), (("img2img",), [])],
)
def test_stopping_after_the_image_matters_only_where_passes_follow(
    server: ScriptedWebUI, tmp_path: Path, stages: tuple[str, ...], kinds: list[str]
) -> None:
    """ADetailer leaves its passes out then; any other image is whole."""

    def stopping(exchange: faults.Exchange) -> None:
        answer = faults.encoded(exchange.generate())
        server.queue.update(stopping_generation=True)
        exchange.send(200, answer, faults.JSON_TYPE)

    server.on(0, stopping, stage="img2img" if len(stages) == 1 else "adetailer")
    result = ran(tmp_path, server, configured(tmp_path, *stages, server={"retries": 1}))
    assert failures(result) == kinds
    assert result.state is RunState.COMPLETED
