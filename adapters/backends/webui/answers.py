"""Decodes a server's answer to a generating request: images and ``info``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pybase64

from ....statemachine.errors import BackendAnswerError
from ..http.client import HttpClient
from .features import EXTRA_SINGLE_IMAGE

_SHOWN = 60


class Answer(msgspec.Struct, frozen=True):
    """The requested images in order, as the server encoded them, and its ``info``.

    The info is unfiltered and may contain the credentials.
    """

    images: tuple[bytes, ...]
    info: Mapping[str, Any]


_NOTHING = (msgspec.Raw(b"null"), msgspec.Raw(b'""'))


class _Generated(msgspec.Struct):
    """The decoded part of an answer; large strings are not copied."""

    images: list[msgspec.Raw] | None = None
    info: str | dict[str, Any] | None = None


class _Extras(msgspec.Struct):
    image: msgspec.Raw = _NOTHING[0]
    html_info: str | None = None


_generated = msgspec.json.Decoder(_Generated)
_extras = msgspec.json.Decoder(_Extras)


def read_answer(client: HttpClient, data: bytes, endpoint: str, count: int) -> Answer:
    """The ``count`` images in ``data``, which came from ``endpoint``.

    Raises BackendAnswerError if, apart from a grid at the beginning, it does not hold
    ``count`` images, or if one is not base64.
    """
    return _AnswerReader(client, endpoint).read(data, count)


class _AnswerReader:
    """Reads an answer; its errors name the server and the endpoint."""

    def __init__(self, client: HttpClient, endpoint: str) -> None:
        self._client = client
        self._endpoint = endpoint

    def read(self, data: bytes, count: int) -> Answer:
        if self._endpoint == EXTRA_SINGLE_IMAGE:
            extras = self._decoded(_extras, data)
            strings = [] if extras.image in _NOTHING else [extras.image]
            info = {"html_info": extras.html_info or ""}
        else:
            generated = self._decoded(_generated, data)
            info = self._info(generated.info)
            first = info.get("index_of_first_image") or 0
            if type(first) is not int or first < 0:
                shown = repr(self._client.credentials.scrub_values(first))[:_SHOWN]
                raise self._wrong(f"index_of_first_image is {shown}")
            strings = (generated.images or [])[first:]
            seeds = info.get("all_seeds")
            if isinstance(seeds, list) and len(seeds) == count:
                strings = strings[:count]  # Masks and other additions come after the images.
        if len(strings) != count:
            raise self._wrong(f"it holds {len(strings)} images instead of {count}")
        return Answer(self._images(strings), info)

    def _decoded(self, decoder: msgspec.json.Decoder[Any], data: bytes) -> Any:
        try:
            return decoder.decode(data)
        except msgspec.ValidationError as error:
            raise self._wrong(str(error)) from error
        except (ValueError, RecursionError):
            pass
        # Prompts and names may contain lone surrogates, which only the standard library reads.
        loose = self._client.loosely_decoded(data, self._endpoint)
        try:
            return decoder.decode(msgspec.json.encode(loose))
        except (ValueError, RecursionError) as error:
            raise self._wrong(str(error)) from error

    def _info(self, info: str | dict[str, Any] | None) -> dict[str, Any]:
        decoded: Any = {} if info is None else info
        if isinstance(info, str):
            decoded = self._client.decoded(info.encode(), self._endpoint)
        if not isinstance(decoded, dict):
            raise self._wrong("its info is not a JSON object")
        return decoded

    def _images(self, strings: Sequence[msgspec.Raw]) -> tuple[bytes, ...]:
        images = []
        for number, string in enumerate(strings, start=1):
            try:
                images.append(_decoded_image(string))
            except ValueError as error:
                raise self._wrong(f"image {number} is not base64: {error}") from error
        return tuple(images)

    def _wrong(self, why: str) -> BackendAnswerError:
        return self._client.failure(
            BackendAnswerError, self._endpoint, f"the answer is not valid: {why}"
        )


def _decoded_image(string: msgspec.Raw) -> bytes:
    """The bytes of a JSON string of base64. Raises ValueError."""
    view = memoryview(string)
    if len(view) < 2 or view[0] != ord('"'):
        raise ValueError("it is not a string")
    try:
        return pybase64.b64decode(view[1:-1], validate=True)
    except ValueError:
        # Some servers escape slashes, or put "data:image/png;base64," first.
        text = msgspec.json.decode(string, type=str)
        data = text.partition(",")[2] if text.startswith("data:") else text
        return pybase64.b64decode(data, validate=True)
