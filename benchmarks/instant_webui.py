"""A WebUI server that answers at once with prepared bytes, so that only clients take time.

``python -m benchmarks.instant_webui --size 512 --count 4`` prints the port that it listens on
and serves until its standard input ends. It knows one model, one sampler and one number of
steps, and says of every image that it was made with them.
"""

from __future__ import annotations

import argparse
import base64
import io
import itertools
import json
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from urllib.request import urlopen

from PIL import Image, ImageChops, PngImagePlugin

from .configuration import CFG_SCALE, MODEL, PROMPT, SAMPLER, STEPS

_HOST = "127.0.0.1"
_NOISE_LEVELS = 13
"""So strong a noise makes a PNG of 512 x 512 pixels about 450 KB, a photograph's size."""
_SEED_MARK = 98_765_432_123_456_789
"""Stands for the seed in prepared texts; no server takes one so large."""
_RECEIVED_AT_ONCE = 1 << 16
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_NUMBER = re.compile(rb"\s*:\s*(-?\d+)")
_START_OF_IMAGE = re.compile(rb'"image"\s*:\s*"(?:data:image/png;base64,)?')
_IDLE = {
    "progress": 0.0,
    "eta_relative": 0.0,
    "state": {
        "skipped": False,
        "interrupted": False,
        "stopping_generation": False,
        "job": "",
        "job_count": 0,
        "job_timestamp": "20261120225226",
        "job_no": 0,
        "sampling_step": 0,
        "sampling_steps": 0,
    },
    "current_image": None,
    "textinfo": None,
}


class Request(NamedTuple):
    """What a client asks: ``route`` is method and path, without the query."""

    route: str
    body: bytes | bytearray


class Answer(NamedTuple):
    """A status line's end, and a body in parts that are sent one after the other."""

    status: str
    parts: tuple[bytes, ...]


def _small(document: object, status: str = "200 OK") -> Answer:
    return Answer(status, (json.dumps(document).encode(),))


_NOT_FOUND = _small({"detail": "Not Found"}, "404 Not Found")
_PROGRESS = _small(_IDLE)


def photograph(width: int, height: int, number: int) -> bytes:
    """A PNG of about the size that a photograph has; the same bytes for the same ``number``."""
    noise = random.Random(number).randbytes(width * height * 3)
    levels = bytes(value * _NOISE_LEVELS // 256 for value in range(256))
    grain = Image.frombytes("RGB", (width, height), noise.translate(levels))
    gradient = Image.linear_gradient("L").resize((width, height))
    turned = gradient.transpose(Image.Transpose.ROTATE_90)
    picture = ImageChops.add(Image.merge("RGB", (gradient, turned, gradient)), grain)
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", f"{PROMPT}\nSteps: {STEPS}, Sampler: {SAMPLER}, Model: {MODEL}")
    stream = io.BytesIO()
    picture.save(stream, "PNG", pnginfo=text)
    return stream.getvalue()


def _info(width: int, height: int) -> str:
    """What the server says of an image, with a mark wherever its seed belongs."""
    infotext = f"{PROMPT}\nSteps: {STEPS}, Sampler: {SAMPLER}, Seed: {_SEED_MARK}, Model: {MODEL}"
    document = {
        "prompt": PROMPT,
        "all_prompts": [PROMPT],
        "negative_prompt": "",
        "all_negative_prompts": [""],
        "seed": _SEED_MARK,
        "all_seeds": [_SEED_MARK],
        "subseed": 1,
        "all_subseeds": [1],
        "subseed_strength": 0,
        "width": width,
        "height": height,
        "sampler_name": SAMPLER,
        "cfg_scale": CFG_SCALE,
        "steps": STEPS,
        "batch_size": 1,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": MODEL,
        "sd_model_hash": "0123456789",
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": None,
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "infotexts": [infotext],
        "styles": [],
        "job_timestamp": "20261120225226",
        "clip_skip": 1,
        "is_using_inpainting_conditioning": False,
        "version": "v1.10.1",
    }
    return json.dumps(document)


class PreparedAnswers:
    """Answers for one size of image, several in turn; only the seed is put in when asked."""

    def __init__(self, width: int, height: int, count: int) -> None:
        pictures = [photograph(width, height, number) for number in range(count)]
        texts = [base64.b64encode(picture) for picture in pictures]
        self.picture_bytes = sum(map(len, pictures)) // count
        parameters = {"prompt": PROMPT, "seed": -1, "steps": STEPS, "width": width}
        echo = json.dumps(parameters | {"height": height, "sampler_name": SAMPLER}).encode()
        self._generated = itertools.cycle(
            [b'{"images":["' + text + b'"],"parameters":' + echo + b',"info":' for text in texts]
        )
        words = b'{"html_info":"<p>upscaled</p>","image":"'
        self._enlarged = itertools.cycle([words + text + b'"}' for text in texts])
        self._info = json.dumps(_info(width, height)).encode().split(str(_SEED_MARK).encode())

    def generated(self, seed: bytes) -> Answer:
        """As txt2img and img2img answer."""
        return Answer("200 OK", (next(self._generated), seed.join(self._info), b"}"))

    def enlarged(self) -> Answer:
        """As extra-single-image answers."""
        return Answer("200 OK", (next(self._enlarged),))


def _number(body: bytes | bytearray, key: bytes) -> bytes:
    """The digits of a whole number in a JSON object, found without parsing the images in it."""
    place = body.find(key)
    found = _NUMBER.match(body, place + len(key)) if place >= 0 else None
    if found is None:
        raise ValueError(f"the request has no {key.decode()}")
    return bytes(found[1])


def _size_sent(body: bytes | bytearray) -> tuple[int, int]:
    """Width and height of the PNG in a request, from the first bytes of its base64 text."""
    found = _START_OF_IMAGE.search(body)
    if found is None:
        raise ValueError("the request has no image")
    header = base64.b64decode(body[found.end() : found.end() + 32])
    width, height = struct.unpack_from(">II", header, 16)
    return width, height


class InstantServer:
    """The routes, and how often each was asked for; an image takes ``delay_s`` seconds."""

    def __init__(self, size: int, count: int, delay_s: float = 0.0) -> None:
        self._count = count
        self._delay_s = delay_s
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._prepared: dict[tuple[int, int], PreparedAnswers] = {}
        for side in (size, 2 * size):
            self._answers(side, side)

    def answer(self, request: Request) -> Answer:
        """The answer to one request; may be called from several threads."""
        route, body = request
        if route == "GET /counts":
            with self._lock:
                return _small(dict(self._counts))
        with self._lock:
            self._counts[route] += 1
        if route in ("POST /sdapi/v1/txt2img", "POST /sdapi/v1/img2img"):
            width, height = int(_number(body, b'"width"')), int(_number(body, b'"height"'))
            seed = _number(body, b'"seed"')
            time.sleep(self._delay_s)
            with self._lock:
                return self._answers(width, height).generated(seed)
        if route == "POST /sdapi/v1/extra-single-image":
            width, height = _size_sent(body)
            with self._lock:
                return self._answers(2 * width, 2 * height).enlarged()
        return _PROGRESS if route == "GET /sdapi/v1/progress" else _NOT_FOUND

    def _answers(self, width: int, height: int) -> PreparedAnswers:
        if (width, height) not in self._prepared:
            self._prepared[width, height] = PreparedAnswers(width, height, self._count)
        return self._prepared[width, height]


def _requests(connection: socket.socket) -> Iterator[Request]:
    """Every request of a connection that is kept alive, each read to its end."""
    received = bytearray()
    while True:
        while (end := received.find(b"\r\n\r\n")) < 0:
            more = connection.recv(_RECEIVED_AT_ONCE)
            if not more:
                return
            received += more
        head = bytes(received[:end])
        length = _CONTENT_LENGTH.search(head)
        body = bytearray(int(length[1]) if length else 0)
        here = received[end + 4 : end + 4 + len(body)]
        body[: len(here)] = here
        del received[: end + 4 + len(here)]
        rest = memoryview(body)[len(here) :]
        while rest:
            count = connection.recv_into(rest)
            if not count:
                return
            rest = rest[count:]
        method, target, _ = head.split(b" ", 2)
        yield Request(f"{method.decode()} {target.partition(b'?')[0].decode()}", body)


def _send(connection: socket.socket, answer: Answer) -> None:
    length = sum(map(len, answer.parts))
    head = (
        f"HTTP/1.1 {answer.status}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    )
    parts = [memoryview(part) for part in (head.encode(), *answer.parts)]
    while parts:
        sent = connection.sendmsg(parts)
        while parts and sent >= len(parts[0]):
            sent -= len(parts.pop(0))
        if sent:
            parts[0] = parts[0][sent:]


def _serve_connection(server: InstantServer, connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        try:
            for request in _requests(connection):
                _send(connection, server.answer(request))
        except (ConnectionError, ValueError):
            return


def _accept(server: InstantServer, listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_serve_connection, args=(server, connection), daemon=True).start()


@contextmanager
def instant_webui(size: int, count: int = 4, delay_s: float = 0.0) -> Iterator[str]:
    """The address of a server in a process of its own, which ends with the block."""
    command = [sys.executable, "-m", "benchmarks.instant_webui"]
    command += ["--size", str(size), "--count", str(count), "--delay", str(delay_s)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield f"http://{_HOST}:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()


def counts(address: str) -> Counter[str]:
    """How often each route of the server was asked for."""
    with urlopen(f"{address}/counts") as answer:
        return Counter(json.load(answer))


def main() -> None:
    """Print the port, and serve until the standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512, help="pixels of a side")
    parser.add_argument("--count", type=int, default=4, help="different images, used in turn")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that an image takes")
    chosen = parser.parse_args()
    server = InstantServer(chosen.size, chosen.count, chosen.delay)
    with socket.create_server((_HOST, chosen.port)) as listener:
        threading.Thread(target=_accept, args=(server, listener), daemon=True).start()
        print(listener.getsockname()[1], flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
