"""Events to JSON and back: strict for known types, tolerant of newer ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import reduce
from operator import or_
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import msgspec

from .model import EVENT_TYPES, StageEvent, UnknownEvent


class Record(Protocol):
    """An event of any kind of log: of a run, of a group of runs, or of ratings."""

    barrier: ClassVar[bool]

    @property
    def seq(self) -> int:
        """Its number in its log, from 0."""
        ...

    @property
    def ts(self) -> datetime:
        """When it was recorded."""
        ...


E = TypeVar("E", bound=Record)

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
"""Turns an event's document of version v into one of version v + 1 (``v`` included)."""

UPCASTERS: Mapping[tuple[str, int], Upcaster] = {}
"""By (tag, version read). Empty while every type is at its first version."""

DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not JSON of the type, not UTF-8, or nested too deep."""


_SEPARATORS = (
    ("\u0085".encode(), rb"\u0085"),
    ("\u2028".encode(), rb"\u2028"),
    ("\u2029".encode(), rb"\u2029"),
)


def escape_separators(data: bytes) -> bytes:
    """JSON in which the line separators U+0085, U+2028 and U+2029 are escaped.

    Many programs end a line at them, and JSON has them inside of strings only.
    """
    if data.isascii():
        return data
    for separator, escape in _SEPARATORS:
        data = data.replace(separator, escape)
    return data


def encode_line(value: Any) -> bytes:
    """A value as JSON that is one line for every program, without the newline at its end."""
    return escape_separators(msgspec.json.encode(value))


class EventDecodeError(ValueError):
    """The bytes are not an event: not JSON, no envelope, or a known type with wrong fields."""


class Codec(Generic[E]):
    """Encodes and decodes the events of one kind of log.

    ``types`` are those that are known; an event of another type becomes an ``unknown``, whose
    fields are the envelope of all events, ``type`` and ``raw``. ``upcasters`` lift old shapes to
    the present ones.
    """

    def __init__(
        self,
        types: Sequence[type[E]],
        unknown: type[E],
        upcasters: Mapping[tuple[str, int], Upcaster] = {},
    ) -> None:
        self.barrier_tags = frozenset(tag_of(kind) for kind in types if kind.barrier)
        self._unknown: Any = unknown
        self._upcasters = upcasters
        self._union: Any = reduce(or_, types)
        self._versions = {tag_of(kind): _version_of(kind) for kind in types}
        envelope = [one for one in _fields_of(unknown) if one.name != "raw"]
        names = [one.name for one in envelope]
        self._after_time = b'Z","%b":' % names[names.index("ts") + 1].encode()
        self._encoder = msgspec.json.Encoder()
        self._event: msgspec.json.Decoder[E] = msgspec.json.Decoder(self._union)
        self._envelope: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
            msgspec.defstruct(
                "Envelope", [(one.name, one.type, one.default) for one in envelope], kw_only=True
            )
        )

    def encode(self, event: E) -> bytes:
        """The bytes of ``e``: UTF-8 JSON in one line; an unknown event as it was read.

        Raises ValueError or TypeError for what has no JSON form, and a time without a zone.
        """
        if isinstance(event, self._unknown):
            return escape_separators(event.raw)
        if event.ts.tzinfo is not UTC:
            event = msgspec.structs.replace(event, ts=_in_utc(event.ts))  # type: ignore[type-var]
        body = escape_separators(self._encoder.encode(event))
        if event.ts.microsecond:
            return body
        # msgspec leaves out a fraction of zero; the format promises six digits.
        return body.replace(self._after_time, b".000000" + self._after_time, 1)

    def decode(self, body: bytes) -> E:
        """One event. Raises EventDecodeError."""
        if self._upcasters:
            return self._decode_old(body)
        try:
            return self._event.decode(body)
        except DECODE_ERRORS as error:
            return self._decode_newer(body, error)

    def decode_many(self, bodies: Sequence[bytes]) -> list[E]:
        """Many events in one call, in order. Raises EventDecodeError, naming no record."""
        lines = b"\n".join(bodies)
        # A line break within a body would make one record two events.
        if not self._upcasters and lines.count(b"\n") == len(bodies) - 1:
            try:
                events = self._event.decode_lines(lines)
            except DECODE_ERRORS:
                pass  # one of them is newer or wrong: decode them one by one
            else:
                if len(events) == len(bodies):
                    return events
        return [self.decode(body) for body in bodies]

    def _decode_old(self, body: bytes) -> E:
        try:
            document = msgspec.json.decode(body, type=dict[str, Any])
            while lift := self._upcasters.get((document.get("type", ""), document.get("v", 1))):
                document = lift(document)
            return msgspec.convert(document, self._union)  # type: ignore[no-any-return]  # a runtime union
        except (*DECODE_ERRORS, ValueError, TypeError, LookupError, AttributeError) as error:
            # Upcasters may trust the shape of what their own version wrote.
            return self._decode_newer(body, error)

    def _decode_newer(self, body: bytes, error: Exception) -> E:
        try:
            envelope = self._envelope.decode(body)
            if envelope.v > self._versions.get(envelope.type, 0):
                newer: E = self._unknown(raw=bytes(body), **msgspec.structs.asdict(envelope))
                return newer
        except DECODE_ERRORS as wrong:
            raise EventDecodeError(f"not an event: {wrong}") from wrong
        raise EventDecodeError(f"not a valid {envelope.type}: {error}") from error


def _in_utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError(f"the time {moment} has no time zone")
    return moment.astimezone(UTC)


def tag_of(kind: type[Any]) -> str:
    """The ``type`` that the events of a class are recorded with."""
    return str(kind.__struct_config__.tag)


def _fields_of(kind: type[Any]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(kind)


def _version_of(kind: type[Any]) -> int:
    found = (field.default for field in _fields_of(kind) if field.name == "v")
    return int(next(found))


CODEC: Codec[StageEvent] = Codec(EVENT_TYPES, UnknownEvent, UPCASTERS)
"""The codec of the events of a run; stateless, so one serves all."""


def json_values(value: Any) -> Any:
    """``value`` as it will be read back: lists for tuples, strings for dates and enums."""
    return msgspec.json.decode(msgspec.json.encode(value))
