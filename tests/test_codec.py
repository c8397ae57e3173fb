"""Events to JSON and back: strict with what is known, patient with what is newer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stagewright.events import (
    EVENT_TYPES,
    CallFailed,
    CancelMode,
    CancelRequested,
    ErrorDetail,
    StageEvent,
    StageStart,
    UnknownEvent,
)
from stagewright.events.codec import CODEC, Codec, EventDecodeError, json_values

from .samples import one_of_each
from .support import START

pytestmark = pytest.mark.lowest

RUN = "20261120T225226.123456Z-codec-7f3a9c"
SAMPLES = one_of_each(RUN)
BY_TYPE = {type(event).__name__: event for event in SAMPLES}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
TIMES = st.datetimes(
    min_value=datetime(1970, 1, 1), max_value=datetime(9000, 1, 1), timezones=st.just(UTC)
)


def document(event: StageEvent) -> dict[str, Any]:
    """What an event looks like to a reader that knows JSON only."""
    read: dict[str, Any] = json.loads(CODEC.encode(event))
    return read


def body(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields).encode()


def test_the_samples_are_all_types() -> None:
    """Each of the fifteen types is round-tripped below."""
    assert tuple(type(event) for event in SAMPLES) == EVENT_TYPES
    assert len(EVENT_TYPES) == 15


@pytest.mark.parametrize("event", SAMPLES, ids=lambda event: type(event).__name__)
def test_every_type_is_read_back_equal(event: StageEvent) -> None:
    """Encoded and decoded, an event is equal, of the same type, and encodes to the same bytes."""
    encoded = CODEC.encode(event)
    again = CODEC.decode(encoded)
    assert again == event
    assert type(again) is type(event)
    assert CODEC.encode(again) == encoded
    assert b"\n" not in encoded


@pytest.mark.parametrize("event", SAMPLES, ids=lambda event: type(event).__name__)
def test_an_event_cannot_be_changed(event: StageEvent) -> None:
    """Every field of every type refuses assignment."""
    for field in event.__struct_fields__:
        with pytest.raises(AttributeError):
            setattr(event, field, getattr(event, field))


@settings(max_examples=150, deadline=None)
@given(ts=TIMES, reason=TEXT, metadata=st.dictionaries(TEXT, JSON, max_size=4))
def test_any_text_time_and_metadata_is_read_back_equal(
    ts: datetime, reason: str, metadata: dict[str, Any]
) -> None:
    """Whatever a user or a server wrote comes back as it was; times to the microsecond."""
    events = [
        CancelRequested(run_id=RUN, seq=0, ts=ts, reason=reason, mode=CancelMode.NOW),
        CallFailed(
            run_id=RUN, seq=1, ts=ts, call_id=reason, endpoint=reason, will_retry=False,
            error=ErrorDetail(kind="E", message=reason, detail=reason),
        ),
        StageStart(
            run_id=RUN, seq=2, ts=ts, stage_id=reason, stage_type=SAMPLES[2].stage_type,  # type: ignore[attr-defined]  # the third sample is a StageStart
            order_index=0, total_images=0, metadata=metadata,
        ),
    ]  # fmt: skip
    bodies = [CODEC.encode(event) for event in events]
    assert CODEC.decode_many(bodies) == events
    assert [json.loads(each)["ts"] for each in bodies] == [
        ts.strftime("%Y-%m-%dT%H:%M:%S.%f").zfill(26) + "Z"
    ] * 3


def test_an_unknown_type_is_kept_with_its_bytes() -> None:
    """A newer version's event is an UnknownEvent that re-encodes to the very bytes read."""
    raw = b' {"later":[1e3],"type":"New","v":3,"run_id":"r","seq":7,"ts":"2030-01-01T00:00:00Z"}'
    event = CODEC.decode(raw)
    assert isinstance(event, UnknownEvent)
    assert (event.type, event.v, event.run_id, event.seq, event.epoch) == (
        "New",
        3,
        "r",
        7,
        0,
    )
    assert event.ts == datetime(2030, 1, 1, tzinfo=UTC)
    assert event.raw == raw
    assert CODEC.encode(event) == raw


@pytest.mark.parametrize("event", SAMPLES, ids=lambda event: type(event).__name__)
def test_unknown_fields_and_a_higher_version_alone_are_ignored(event: StageEvent) -> None:
    """A field that a newer version added makes no difference, at the top or within."""
    fields = {**document(event), "added": {"later": [1]}, "v": 2}
    for key, value in fields.items():
        if isinstance(value, dict) and key in {"backend", "error", "artifact"}:
            fields[key] = {**value, "added": 1}
    read = CODEC.decode(body(fields))
    assert type(read) is type(event)
    assert msgspec.structs.replace(read, v=1) == event


def without_one_field(event: StageEvent, **more: Any) -> bytes:
    """The event without a field that its type demands."""
    fields = document(event)
    required = next(
        field.name
        for field in msgspec.structs.fields(type(event))
        if field.required and field.name not in {"run_id", "seq", "ts"}
    )
    del fields[required]
    return body({**fields, **more})


@pytest.mark.parametrize("event", SAMPLES, ids=lambda event: type(event).__name__)
def test_an_event_that_lacks_a_field_is_unknown_if_newer_and_else_an_error(
    event: StageEvent,
) -> None:
    """What our own version cannot have written is refused, naming the type."""
    raw = without_one_field(event, v=2)
    read = CODEC.decode(raw)
    assert isinstance(read, UnknownEvent)
    assert (read.type, read.v, read.raw) == (type(event).__name__, 2, raw)
    with pytest.raises(EventDecodeError, match=type(event).__name__):
        CODEC.decode(without_one_field(event))
    with pytest.raises(EventDecodeError, match=type(event).__name__):
        CODEC.decode_many([CODEC.encode(SAMPLES[0]), without_one_field(event)])


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"[]", b"null", b"7", b'"RunOpened"', b"{}", b"\xff", b'{"type":"\xff"}',
        b'{"type":7,"v":1,"run_id":"r","seq":0,"ts":"2030-01-01T00:00:00Z"}',
        b'{"type":"New","v":"1","run_id":"r","seq":0,"ts":"2030-01-01T00:00:00Z"}',
        b'{"type":"New","run_id":"r","seq":0}',
        b'{"type":"New","seq":0,"ts":"2030-01-01T00:00:00Z"}',
    ],
)  # fmt: skip
def test_what_has_no_envelope_is_an_error(raw: bytes) -> None:
    """Rubbish, and objects without type, run, number and time, are no events."""
    with pytest.raises(EventDecodeError):
        CODEC.decode(raw)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_make_decoding_fail_otherwise(raw: bytes) -> None:
    """Whatever the bytes, decoding gives an event or EventDecodeError, alone and in a batch."""
    for prefix in [b"", b'{"type":"StageStart",', CODEC.encode(SAMPLES[4])[:-1]]:
        try:
            assert isinstance(CODEC.decode(prefix + raw), StageEvent)
        except EventDecodeError:
            with pytest.raises(EventDecodeError):
                CODEC.decode_many([prefix + raw])


@pytest.mark.parametrize("kind", ["StageStart", "StageNew"])
def test_a_body_nested_beyond_reason_is_an_error(kind: str) -> None:
    """A hundred thousand brackets exhaust no stack: they are refused like other rubbish."""
    nested = b"[" * 100_000 + b"]" * 100_000
    start = body({**document(SAMPLES[2]), "type": kind})[:-2]
    raw = start + b'"deep":' + nested + b"}}"
    with pytest.raises(EventDecodeError):
        CODEC.decode(raw)
    with pytest.raises(EventDecodeError):
        CODEC.decode_many([raw])


def test_a_line_break_never_turns_one_body_into_two_events() -> None:
    """Decoding many at once refuses what decoding one by one refuses, blank bodies too."""
    two = CODEC.encode(SAMPLES[2]) + b"\n" + CODEC.encode(SAMPLES[3])
    for bodies in [[two], [b" ", two], [two, b""], [b"\n", CODEC.encode(SAMPLES[2])]]:
        with pytest.raises(EventDecodeError):
            CODEC.decode_many(bodies)


def lift_1(fields: dict[str, Any]) -> dict[str, Any]:
    why = fields.pop("why")
    return {**fields, "v": 2, "cause": why}


def lift_2(fields: dict[str, Any]) -> dict[str, Any]:
    cause = fields.pop("cause")
    return {**fields, "v": 3, "reason": cause, "mode": "now"}


def test_upcasters_lift_old_shapes_step_by_step() -> None:
    """A document of version 1 goes through every later version; newer ones are left alone."""
    codec = Codec(
        EVENT_TYPES,
        UnknownEvent,
        upcasters={("CancelRequested", 1): lift_1, ("CancelRequested", 2): lift_2},
    )
    envelope = {"type": "CancelRequested", "run_id": RUN, "seq": 8, "ts": "2030-01-01T00:00:00Z"}
    expected = CancelRequested(
        v=3, run_id=RUN, seq=8, ts=datetime(2030, 1, 1, tzinfo=UTC), reason="x", mode=CancelMode.NOW
    )
    old = [
        {**envelope, "v": 1, "why": "x"},
        {**envelope, "why": "x"},
        {**envelope, "v": 2, "cause": "x"},
        {**envelope, "v": 3, "reason": "x", "mode": "now"},
    ]
    assert [codec.decode(body(each)) for each in old] == [expected] * 4
    assert codec.decode_many([body(each) for each in old]) == [expected] * 4


def test_a_codec_with_upcasters_reads_all_else_as_ever() -> None:
    """Other types, unknown types and wrong events are what they are without upcasters."""
    codec = Codec(
        EVENT_TYPES,
        UnknownEvent,
        upcasters={("CancelRequested", 0): lift_1, ("StageRated", 0): lift_1},
    )
    assert codec.decode_many([CODEC.encode(event) for event in SAMPLES]) == SAMPLES
    raw = body({**document(SAMPLES[2]), "type": "StageNew"})
    assert codec.decode(raw) == CODEC.decode(raw)
    unlike = body({**document(SAMPLES[2]), "type": "CancelRequested", "v": 0})
    for wrong in [b"{", b"[]", b'{"type":[1]}', without_one_field(SAMPLES[2]), unlike]:
        with pytest.raises(EventDecodeError):
            codec.decode(wrong)


HOSTILE = [
    "", "/", "/etc/passwd", "..", "../x.png", "images/../../x.png", "images/..", ".", "./x.png",
    "images/./x.png", "images//x.png", "images/", "//server/share", "images\\x.png",
    "\\\\server\\x",
    "C:/x.png", "C:x.png", "images/x.png:stream", "x\0.png", "x\n.png", "x.png\n", "x\x1b[2J.png",
    "x\x7f.png", ".hidden", "images/.hidden/x.png", "a" * 1025,
]  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE)
def test_hostile_paths_are_refused_when_decoded(path: str) -> None:
    """No path of a log leaves the run folder, hides, names a drive or moves a terminal's cursor."""
    completed = document(BY_TYPE["CallCompleted"])
    completed["artifacts"][1]["path"] = path
    announced = document(BY_TYPE["StageImageProgress"])
    announced["artifact"]["path"] = path
    for fields in [completed, announced]:
        with pytest.raises(EventDecodeError):
            CODEC.decode(body(fields))
    with pytest.raises(EventDecodeError):
        CODEC.decode(body({**document(BY_TYPE["LogRepaired"]), "copied_to": path}))
    copied = {"path": path, "sha256": "0" * 64, "source_sha256": "0" * 64}
    with pytest.raises(EventDecodeError):
        CODEC.decode(body({**document(BY_TYPE["RunOpened"]), "inputs": [copied]}))


@pytest.mark.parametrize("path", ["x.png", "images/00-txt2img/00000-42.png", "a/b..c/ü ~$.png"])
def test_plain_paths_are_kept(path: str) -> None:
    """Relative paths with ``/`` are what they were."""
    fields = document(BY_TYPE["StageImageProgress"])
    fields["artifact"]["path"] = path
    assert json_values(CODEC.decode(body(fields)))["artifact"]["path"] == path


@pytest.mark.parametrize("field", ["image_index", "total_images", "seq", "epoch"])
@pytest.mark.parametrize("number", [-1, 2**53, 2**64, 10**30, 1.5, "1"])
def test_numbers_out_of_range_are_refused(field: str, number: object) -> None:
    """Indexes and counts are whole numbers from 0 to 2^53 - 1: what every JSON reader keeps."""
    fields = {**document(BY_TYPE["StageImageProgress"]), field: number}
    with pytest.raises(EventDecodeError):
        CODEC.decode(body(fields))


def test_json_values_are_what_will_be_read_back() -> None:
    """Tuples become lists, times and enumerations strings."""
    read = json_values({"a": (1, 2), "when": START, "mode": CancelMode.AFTER_IMAGE})
    assert read == {"a": [1, 2], "when": "2026-11-20T22:52:26.123456Z", "mode": "after_image"}
