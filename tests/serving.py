"""What the tests of ``serve-embedded`` share: a client, bodies, pictures both ways."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import requests
from PIL import Image
from stagewright.adapters.webui_server import EmbeddedServer

from .command_line import until

Json = dict[str, Any]

SMALL: Json = {"prompt": "a lighthouse", "seed": 5, "steps": 4, "width": 64, "height": 64}
"""A txt2img body that is quickly done."""

SLOW: Json = SMALL | {"steps": 2000}
"""One that a server with a delay has not done before somebody interrupts it."""

DELAY_S = 0.005

BASE, REFINER = "sd_xl_base_1.0.safetensors", "sd_xl_refiner_1.0.safetensors"
VAE = "vae-ft-mse-840000-ema-pruned.safetensors"
FACE_ARGS: Json = {"ad_model": "face_yolov8n.pt"}


class Client:
    """Talks to one server over one connection a thread."""

    def __init__(self, url: str, auth: tuple[str, str] | None = None) -> None:
        self.url = url
        self.auth = auth
        self._session = requests.Session()

    def close(self) -> None:
        """Drop the connections."""
        self._session.close()

    def get(self, path: str, status: int = 200, **query: Any) -> Any:
        """The JSON that a path answers with."""
        answer = self._session.get(self._at(path), params=query, auth=self.auth, timeout=30)
        assert answer.status_code == status, answer.text
        return answer.json()

    def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        """The JSON that a body is answered with."""
        answer = self._session.post(self._at(path), json=body, auth=self.auth, timeout=30)
        assert answer.status_code == status, answer.text
        return answer.json()

    def interrupt_when(self, condition: Callable[[Json], bool]) -> None:
        """Interrupt as soon as the progress is such."""
        until(lambda: condition(self.get("progress")), "what is to be interrupted")
        self.post("interrupt", {})

    def _at(self, path: str) -> str:
        return self.url + (path if path.startswith("/") else f"/sdapi/v1/{path}")


class InBackground:
    """A request that is under way on a thread of its own."""

    def __init__(self, client: Client, path: str, body: Json, status: int = 200) -> None:
        self._answer: list[Any] = []
        own = Client(client.url, client.auth)

        def ask() -> None:
            try:
                self._answer.append(own.post(path, body, status))
            finally:
                own.close()

        self._thread = threading.Thread(target=ask)
        self._thread.start()

    @property
    def waits(self) -> bool:
        """Whether no answer has come yet."""
        return self._thread.is_alive()

    def answer(self) -> Any:
        """What it was answered with."""
        self._thread.join(30)
        assert self._answer, "no answer came"
        return self._answer[0]


def ask_in_vain(url: str, body: Json) -> None:
    """Send a txt2img body to a server that ends before it answers."""
    with suppress(requests.RequestException):
        requests.post(f"{url}/sdapi/v1/txt2img", json=body, timeout=30)


@contextmanager
def serving(**settings: Any) -> Iterator[Client]:
    """A client of a server with these settings."""
    with EmbeddedServer(**settings) as server:
        client = Client(server.url)
        try:
            yield client
        finally:
            client.close()


def first_line(process: subprocess.Popen[str]) -> str:
    """The first line that a started ``serve-embedded`` prints: it listens from then on."""
    assert process.stdout is not None
    return process.stdout.readline()


def url_of(process: subprocess.Popen[str]) -> str:
    """The address that a started ``serve-embedded`` prints."""
    line = first_line(process)
    found = re.match(r"serving on (http://127\.0\.0\.1:\d+) ", line)
    assert found is not None, line
    return found[1]


def sent(image: Image.Image) -> str:
    """A picture as a body carries it."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def received(text: str) -> Image.Image:
    """A picture as an answer carries it."""
    image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    image.load()
    return image


def pictures(answer: Json) -> list[Image.Image]:
    """All pictures of an answer."""
    return [received(text) for text in answer["images"]]


def info(answer: Json) -> Json:
    """The ``info`` of an answer, which is JSON in a string."""
    found: Json = json.loads(answer["info"])
    return found


def detailed(face: Image.Image, *arguments: Any, **fields: Any) -> Json:
    """The body that sends a finished picture through ADetailer."""
    return SMALL | {
        "init_images": [sent(face)], "width": face.width, "height": face.height,
        "denoising_strength": 0, "sampler_name": "Euler a",
        "alwayson_scripts": {"ADetailer": {"args": [True, True, *arguments]}},
    } | fields  # fmt: skip
