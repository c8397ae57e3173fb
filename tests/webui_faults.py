"""What can be made to go wrong with the scripted WebUI."""

from __future__ import annotations

import base64
import io
import json
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from .webui_server import Handler

    Exchange = Handler

Document = dict[str, Any]
Fault = Callable[["Exchange"], None]
"""Answers one generating request in place of the server."""
JSON_TYPE = {"Content-Type": "application/json"}
HTML_TYPE = {"Content-Type": "text/html; charset=utf-8"}
BODY_LENGTH = 2 * 1024**3


def encoded(document: object) -> bytes:
    """The bytes of a JSON answer; NaN and lone surrogates are written as Python writes them."""
    return json.dumps(document).encode("ascii")


@dataclass(frozen=True)
class Replies:
    """Answers without doing anything."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = tuple(JSON_TYPE.items())

    def __call__(self, exchange: Exchange) -> None:
        exchange.send(self.status, self.body, dict(self.headers))


def fault_document(error: str, words: str, detail: str = "") -> Document:
    """How AUTOMATIC1111 reports an exception."""
    return {"error": error, "detail": detail, "body": "", "errors": words}


def server_error(error: str, words: str, *, status: int = 500) -> Replies:
    """A WebUI's own way to report an exception."""
    return Replies(status, encoded(fault_document(error, words)))


_PAGE = b"<html><head><title>%s</title></head><body><h1>%s</h1></body></html>"
HTML_PAGE = Replies(200, _PAGE % (b"Welcome", b"Welcome to nginx!"), tuple(HTML_TYPE.items()))
BAD_GATEWAY = Replies(502, _PAGE % ((b"502 Bad Gateway",) * 2), tuple(HTML_TYPE.items()))
UNAUTHORIZED = Replies(401, encoded({"detail": "Incorrect username or password"}))
NOT_FOUND = Replies(404, encoded({"detail": "Not Found"}))
_PROBLEM = {"loc": ["body", "steps"], "msg": "value is not a valid integer", "type": "type_error"}
UNPROCESSABLE = Replies(422, encoded({"detail": [_PROBLEM]}))
NANS = server_error("NansException", "A tensor with all NaNs was produced in Unet.")
OUT_OF_MEMORY = server_error("OutOfMemoryError", "CUDA out of memory. Tried to allocate 9.0 GiB")
HOSTILE = server_error(
    "Bad\x1b[31mError", "\x1b]0;owned\x07\x1b[2J\x00\r\n\u202e \x9b2J" + "A" * 300_000
)
REDIRECT = Replies(302, b"", (("Location", "http://127.0.0.1:1/sdapi/v1/txt2img"),))


def unavailable(retry_after: str = "0") -> Replies:
    """503 with Retry-After."""
    return Replies(503, b"busy", (("Content-Type", "text/plain"), ("Retry-After", retry_after)))


def echo_secrets(exchange: Exchange) -> None:
    """500 that repeats the credentials it was sent."""
    server_error("RuntimeError", f"request was {exchange.authorization()}")(exchange)


@dataclass(frozen=True)
class Alters:
    """Does what was asked and changes the answer's document."""

    change: Callable[[Document], object]

    def __call__(self, exchange: Exchange) -> None:
        document = exchange.generate()
        self.change(document)
        exchange.send(200, encoded(document), JSON_TYPE)


def alters_images(change: Callable[[list[str]], object]) -> Alters:
    """Replaces the list of images; a single upscaled image is the first of the new list."""

    def apply(document: Document) -> None:
        if "image" in document:
            images = change([document["image"]])
            document["image"] = (images or [""])[0] if isinstance(images, list) else images
        else:
            document["images"] = change(document["images"])

    return Alters(apply)


def alters_picture(change: Callable[[bytes], bytes]) -> Alters:
    """Changes the bytes of each image."""

    def altered(image: str) -> str:
        return base64.b64encode(change(base64.b64decode(image))).decode("ascii")

    return alters_images(lambda images: [altered(image) for image in images])


def alters_info(change: Callable[[Document], object]) -> Alters:
    """Changes what ``info`` says; an upscaled image has none and stays as it is."""

    def apply(document: Document) -> None:
        if "info" in document:
            info = json.loads(document["info"])
            change(info)
            document["info"] = json.dumps(info)

    return Alters(apply)


def _without(prefixes: tuple[str, ...]) -> Alters:
    def apply(info: Document) -> None:
        kept = info["extra_generation_params"].items()
        chosen = {name: value for name, value in kept if not name.startswith(prefixes)}
        info["extra_generation_params"] = chosen

    return alters_info(apply)


def reencoded(image_format: str, larger_by: int = 0) -> Alters:
    """Gives the pictures in another format, or another size."""

    def again(data: bytes) -> bytes:
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        stream = io.BytesIO()
        size = (picture.width + larger_by, picture.height)
        picture.resize(size).save(stream, image_format)
        return stream.getvalue()

    return alters_picture(again)


NO_IMAGES = alters_images(lambda _images: [])
NULL_IMAGES = alters_images(lambda _images: None)
TOO_FEW = alters_images(lambda images: images[:-1])
TOO_MANY = alters_images(lambda images: [*images, images[-1]])
NOT_TEXT = alters_images(lambda images: [5 for _ in images])
GARBAGE_BASE64 = alters_images(lambda images: ["!not*base64!" for _ in images])
TRUNCATED_PNG = alters_picture(lambda data: data[: len(data) // 2])
NOT_AN_IMAGE = alters_picture(lambda _data: b"%PDF-1.7 no picture")
JPEG, WEBP, WRONG_SIZE = reencoded("JPEG"), reencoded("WEBP"), reencoded("PNG", larger_by=8)
WRONG_MODEL = alters_info(lambda info: info.update(sd_model_name="another"))
WRONG_SAMPLER = alters_info(lambda info: info.update(sampler_name="DPM++ 2M"))
NO_ADETAILER_EVIDENCE = _without(("ADetailer",))
NO_REFINER_EVIDENCE = _without(("Refiner", "Hires checkpoint"))
SURROGATE_IN_INFO = alters_info(lambda info: info.update(prompt="a \ud800 lighthouse"))
SURROGATE = Alters(lambda document: document.update(html_info="\udfff", parameters="\ud800"))
NAN = Alters(lambda document: document.update(parameters=math.nan, html_info=math.nan))
INFO_NUMBER = Alters(lambda document: document.update(info=5))
INFO_NOT_JSON = Alters(lambda document: document.update(info="{not json"))
NOT_AN_OBJECT = Replies(200, b"[1, 2]")
CUT_JSON = Replies(200, b'{"images": ["iVBOR')


def grid_first(exchange: Exchange) -> None:
    """A grid stands before the images, as ``index_of_first_image`` says."""
    exchange.body["save_images"] = True
    exchange.send(200, encoded(exchange.generate()), JSON_TYPE)


def repainted(exchange: Exchange) -> None:
    """ADetailer drops the skip and repaints the whole image."""
    exchange.body["alwayson_scripts"]["ADetailer"]["args"][:2] = [1, 1]
    exchange.send(200, encoded(exchange.generate()), JSON_TYPE)


@dataclass(frozen=True)
class Generates:
    """Answers truly, but with these fields of the ``Job`` set; ``mute`` silences /progress."""

    stands_at: int | None = None
    deaf: bool = False
    interrupted_at: int | None = None
    lasts_s: float = 0.0
    mute: bool = False

    def __call__(self, exchange: Exchange) -> None:
        exchange.mute_progress(muted=self.mute)
        job = {"stands_at": self.stands_at, "deaf": self.deaf, "lasts_s": self.lasts_s}
        document = exchange.generate(**job, interrupted_at=self.interrupted_at)
        exchange.mute_progress(muted=False)
        exchange.send(200, encoded(document), JSON_TYPE)


STALLS = Generates(stands_at=1)
STALLS_AT_FIRST_STEP = Generates(stands_at=0)
HANGS = Generates(stands_at=1, deaf=True)
STALLS_MUTE = Generates(stands_at=1, mute=True)
INTERRUPTED_BY_ANOTHER = Generates(interrupted_at=1)


def silent(exchange: Exchange) -> None:
    """Never answers, and no job of it runs."""
    exchange.wait()


def resets(exchange: Exchange) -> None:
    """The connection is reset before anything is done."""
    exchange.break_off(reset=True)


@dataclass(frozen=True)
class BreaksOff:
    """The connection ends in the middle of the answer's body."""

    reset: bool = True

    def __call__(self, exchange: Exchange) -> None:
        body = encoded(exchange.generate())
        length = {**JSON_TYPE, "Content-Length": str(len(body))}
        exchange.send(200, body[: len(body) // 2], length)
        exchange.break_off(reset=self.reset)


@dataclass(frozen=True)
class LosesAnswer:
    """The connection closes at once while the job goes on for ``lasts_s`` and ends."""

    lasts_s: float = 0.1

    def __call__(self, exchange: Exchange) -> None:
        exchange.break_off(reset=False)
        exchange.generate(lasts_s=self.lasts_s)


@dataclass(frozen=True)
class Trickles:
    """Sends the answer ``size`` bytes at a time, every ``every_s`` seconds."""

    every_s: float
    size: int = 1

    def __call__(self, exchange: Exchange) -> None:
        body = encoded(exchange.generate())
        exchange.send(200, b"", {**JSON_TYPE, "Content-Length": str(len(body))})
        for start in range(0, len(body), self.size):
            exchange.wait(self.every_s)
            exchange.write(body[start : start + self.size])


@dataclass(frozen=True)
class Floods:
    """A JSON text of 2 GiB, made as it is sent; ``how``: length, chunked, endless or gzip."""

    how: str = "length"

    def __call__(self, exchange: Exchange) -> None:
        block, count = b"0" * 2**20, BODY_LENGTH // 2**20
        headers = dict(JSON_TYPE)
        if self.how == "length":
            headers["Content-Length"] = str(BODY_LENGTH + len(_FLOOD_HEAD))
        elif self.how == "gzip":
            headers |= {"Content-Encoding": "gzip", "Connection": "close"}
        else:
            headers["Transfer-Encoding"] = "chunked"
        exchange.send(200, b"", headers)
        for place in range(-1, count if self.how != "endless" else 10**9):
            exchange.write(self._framed(_FLOOD_HEAD if place < 0 else block))
        exchange.break_off(reset=False)

    def _framed(self, data: bytes) -> bytes:
        if self.how == "gzip":
            return _GZIP_HEAD if data is _FLOOD_HEAD else _GZIP_BLOCK
        return data if self.how == "length" else b"%x\r\n%b\r\n" % (len(data), data)


def _gzip_parts() -> tuple[bytes, bytes]:
    press = zlib.compressobj(wbits=31)
    head = press.compress(_FLOOD_HEAD) + press.flush(zlib.Z_FULL_FLUSH)
    return head, press.compress(b"0" * 2**20) + press.flush(zlib.Z_FULL_FLUSH)


_FLOOD_HEAD = b'{"images": ["'
_GZIP_HEAD, _GZIP_BLOCK = _gzip_parts()


@dataclass(frozen=True)
class Refuses:
    """Closes every connection, this one too, and refuses new ones for ``seconds``."""

    seconds: float = 0.05

    def __call__(self, exchange: Exchange) -> None:
        exchange.refuse(self.seconds)
