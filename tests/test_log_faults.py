"""Every small damage to a log: found, or, where a crash may have done it, cut to whole records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from hypothesis import strategies as st
from stagewright.events import (
    CancelMode,
    CancelRequested,
    LogCorruptError,
    MemoryEventLog,
    StageEnd,
)

from .log_format import (
    chain_value,
    changed,
    make_line,
    make_log,
    split_bodies,
    split_lines,
)
from .samples import STAGE
from .support import START, memory_log

DATA = memory_log(1).to_bytes()
"""RunOpened, start, StageStart, CallRequested, CallCompleted, progress, StageEnd, finish, seal."""
LINES = split_lines(DATA)
BODIES = split_bodies(DATA)
EVENTS = MemoryEventLog.from_bytes(DATA).timeline()
TYPES = [json.loads(body)["type"] for body in BODIES]
STARTS = [sum(map(len, LINES[:place])) for place in range(len(LINES) + 1)]
BARRIERS = {
    "RunOpened", "LifecycleChanged", "CallRequested", "CallCompleted", "CancelRequested",
    "RunResumed", "LogRepaired", "RunSealed",
}  # fmt: skip
NULS = 16
HEADER = 48


def events_in(data: bytes) -> int | None:
    """How many events a log is read to hold; None where it is corrupt.

    Asserts that what is read is a beginning of the original, byte for byte.
    """
    try:
        log = MemoryEventLog.from_bytes(data)
    except LogCorruptError:
        return None
    assert log.timeline() == EVENTS[: log.next_seq]
    assert log.to_bytes() == DATA[: STARTS[log.next_seq]]
    assert log.chain == chain_value(BODIES[: log.next_seq])
    return log.next_seq


def corruption(data: bytes) -> LogCorruptError:
    """The refusal of a log that must be refused."""
    with pytest.raises(LogCorruptError) as caught:
        MemoryEventLog.from_bytes(data)
    return caught.value


def zeroed(data: bytes, begin: int, end: int) -> bytes:
    return data[:begin] + bytes(end - begin) + data[end:]


def record_at(offset: int) -> int:
    """The record that this byte belongs to."""
    return next(place for place in range(len(LINES)) if offset < STARTS[place + 1])


def test_the_log_under_test_is_sound() -> None:
    """The undamaged log is read whole; all that follows would prove nothing otherwise."""
    assert events_in(DATA) == len(LINES) == 9
    assert TYPES[-1] == "RunSealed"


def test_every_flipped_bit_is_corruption() -> None:
    """Any one bit of any byte flipped is found, at the very record it is in."""
    for offset in range(len(DATA)):
        for bit in range(8):
            damaged = bytearray(DATA)
            damaged[offset] ^= 1 << bit
            error = corruption(bytes(damaged))
            place = record_at(offset)
            assert (error.seq, error.offset) == (place, STARTS[place]), (offset, bit)


def test_every_prefix_is_cut_to_its_whole_records() -> None:
    """A log that ends anywhere holds its whole records; inside the first it is corrupt."""
    for length in range(len(DATA)):
        whole = sum(start <= length for start in STARTS) - 1
        assert events_in(DATA[:length]) == (whole or None), length


def test_a_zeroed_tail_is_torn_where_the_failing_record_holds_16_nuls() -> None:
    """Zeros over the last bytes: torn once the first record they reach holds 16, else corrupt."""
    for length in range(1, len(DATA) + 1):
        begin = len(DATA) - length
        place = record_at(begin)
        torn = place > 0 and STARTS[place + 1] - begin >= NULS
        assert events_in(zeroed(DATA, begin, len(DATA))) == (place if torn else None), length


def test_an_appended_run_of_zeros_is_torn() -> None:
    """Zeros of any length behind the last record are cut, and nothing else is."""
    for length in [*range(1, 200), 512, 4096, 300_000]:
        assert events_in(DATA + bytes(length)) == len(LINES)


@pytest.mark.parametrize("place", range(len(LINES)))
def test_a_deleted_record_is_corruption_unless_it_was_the_last(place: int) -> None:
    """Without one record the chain breaks; without the last the log is a shorter sound one."""
    data = b"".join(LINES[:place] + LINES[place + 1 :])
    if place == len(LINES) - 1:
        assert events_in(data) == len(LINES) - 1
    else:
        error = corruption(data)
        assert error.seq == place
        assert error.offset == STARTS[place]


@pytest.mark.parametrize("place", range(len(LINES)))
def test_a_doubled_record_is_corruption(place: int) -> None:
    """A record that stands there twice is refused the second time."""
    data = b"".join(LINES[: place + 1] + LINES[place:])
    assert corruption(data).offset == STARTS[place + 1]


@pytest.mark.parametrize("place", range(len(LINES) - 1))
def test_swapped_neighbours_are_corruption(place: int) -> None:
    """Two records in the wrong order are refused at the first of them."""
    data = b"".join([*LINES[:place], LINES[place + 1], LINES[place], *LINES[place + 2 :]])
    assert corruption(data).offset == STARTS[place]


def proved(place: int, last: int) -> bool:
    """Whether a barrier stands at ``place`` or after it, with a sound record up to ``last``."""
    return any(TYPES[barrier] in BARRIERS for barrier in range(place, last))


@pytest.mark.parametrize("place", range(1, len(LINES)))
@pytest.mark.parametrize("nuls", [16, 40])
def test_an_unwritten_sector_is_torn_unless_a_proved_barrier_follows(place: int, nuls: int) -> None:
    """16 NULs in a body: torn in the open window, corruption before what was built upon."""
    middle = STARTS[place] + HEADER + 100
    for last in range(place, len(LINES)):
        damaged = zeroed(DATA[: STARTS[last + 1]], middle, middle + nuls)
        expected = None if proved(place, last) else place
        assert events_in(damaged) == expected, (TYPES[place], TYPES[last])


@pytest.mark.parametrize("nuls", range(NULS))
def test_fewer_than_16_nuls_in_a_whole_last_record_are_corruption(nuls: int) -> None:
    """All bytes of the record are there, so fewer NULs than a sector leaves are damage."""
    begin = len(DATA) - 60
    damaged = zeroed(DATA, begin, begin + nuls)
    assert events_in(damaged) == (len(LINES) if nuls == 0 else None)
    assert events_in(zeroed(DATA, begin, begin + NULS)) == len(LINES) - 1


def test_a_last_record_that_lacks_only_its_newline_is_torn() -> None:
    """One byte short is torn; all bytes there with a wrong last one is corruption."""
    for kept in range(2, len(LINES) + 1):
        data = b"".join(LINES[:kept])
        assert events_in(data[:-1]) == kept - 1
        assert corruption(data[:-1] + b" ").seq == kept - 1


@pytest.mark.parametrize("length", [1, 2, 47, 48, 49, 100])
def test_garbage_behind_the_last_record(length: int) -> None:
    """What is shorter than a header may be a torn one; a whole header that fails is corruption."""
    assert events_in(DATA + b"x" * length) == (len(LINES) if length < HEADER else None)


def test_a_torn_record_with_a_damaged_length_is_corruption() -> None:
    """The header's own checksum tells a flipped length from a file that ends early."""
    last = STARTS[-2]
    longer = DATA[:last] + DATA[last:].replace(b'{"h":"0000', b'{"h":"0001', 1)
    assert corruption(longer).offset == last


def test_an_empty_log_is_corruption() -> None:
    """A log appears with RunOpened in it, so a file without a byte has lost it."""
    assert corruption(b"").offset == 0


def with_body(place: int, body: bytes) -> bytes:
    """The log with one other body, every checksum and chain value right, seals too."""
    return make_log([*BODIES[:place], body, *BODIES[place + 1 :]])


@pytest.mark.parametrize(
    ("place", "fields", "reason"),
    [
        (3, {"run_id": "20261120T225226.123456Z-other-000000"}, "belongs to run"),
        (3, {"seq": 4}, "sequence number is 4"),
        (3, {"seq": 2}, "sequence number is 2"),
        (0, {"seq": 1}, "sequence number is 1"),
        (0, {"type": "StageNew"}, "not a RunOpened"),
        (2, {"total_images": "all"}, "not a valid StageStart"),
        (2, {"ts": "yesterday"}, "not an event"),
        (4, {"artifacts": [{"path": "../secret.png"}]}, "not a valid CallCompleted"),
        (8, {"count": 7}, "seal"),
        (8, {"count": 9}, "seal"),
        (8, {"head": "0" * 64}, "seal"),
    ],
)
def test_what_only_the_meaning_betrays_is_corruption(
    place: int, fields: dict[str, object], reason: str
) -> None:
    """Right checksums do not help a record of another run, number, shape, or a wrong seal."""
    error = corruption(with_body(place, changed(BODIES[place], **fields)))
    assert (error.seq, error.offset) == (place, STARTS[place])
    assert reason in error.reason


def test_a_seal_over_an_earlier_seal_is_checked_too() -> None:
    """``count`` and ``head`` of a second seal cover every record before it."""
    ahead = json.loads(BODIES[-1])
    sealed_twice = [*BODIES, changed(BODIES[-1], seq=9, count=9, head=chain_value(BODIES))]
    assert MemoryEventLog.from_bytes(make_log(sealed_twice)).next_seq == 10
    wrong = [*BODIES, changed(BODIES[-1], seq=9, count=9, head=ahead["head"])]
    assert corruption(make_log(wrong)).seq == 9


def test_a_record_with_a_wrong_chain_alone_is_corruption() -> None:
    """A record whose own checks all pass but whose ``prev`` is another log's is refused."""
    lines = list(LINES)
    lines[4] = make_line(BODIES[4], "a" * 64)
    assert corruption(b"".join(lines)).offset == STARTS[4]


def test_a_body_that_is_not_one_event_is_corruption() -> None:
    """Checksums over rubbish, over nothing or over two events do not make an event."""
    two = BODIES[5] + b"\n" + changed(BODIES[5], seq=6)
    for rubbish in [b"{", b"[]", b"\xff\xfe", b"null", b'{"type":"RunSealed"', b" ", b"\n", two]:
        data = make_log([*BODIES[:5], rubbish, *BODIES[6:]])
        assert corruption(data).offset == STARTS[5]


@pytest.mark.parametrize("length", [0, 16 * 1024 * 1024 + 1])
def test_a_stated_length_out_of_bounds_is_corruption(length: int) -> None:
    """No record is empty or larger than 16 MiB, whatever its header says."""
    import binascii

    digits = f"{length:08x}" + "0" * 8 + chain_value(BODIES)[:16]
    header = digits + format(binascii.crc_hqx(digits.encode(), 0), "04x")
    line = b'{"h":"' + header.encode() + b'","e":' + b"x" * 60 + b"}\n"
    assert corruption(DATA + line).offset == len(DATA)


damages = st.tuples(
    st.sampled_from(["overwrite", "insert", "delete", "zero"]),
    st.integers(0, len(DATA)),
    st.binary(min_size=1, max_size=80),
    st.integers(1, 600),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(damages, min_size=1, max_size=4))
def test_no_damage_ever_yields_other_events(done: Sequence[tuple[str, int, bytes, int]]) -> None:
    """Bytes overwritten, inserted, deleted or zeroed: a beginning of the original or a refusal."""
    data = DATA
    for kind, offset, piece, size in done:
        head, rest = data[:offset], data[offset:]
        data = {
            "overwrite": head + piece + rest[len(piece) :],
            "insert": head + piece + rest,
            "delete": head + rest[size:],
            "zero": head + bytes(min(size, len(rest))) + rest[size:],
        }[kind]
    events_in(data)


SECTOR = 512


def log_of(lengths: list[int], last: int) -> tuple[bytes, int]:
    """A log whose last records are unsynced ones, one of them long; and its synced size."""
    log = memory_log(1, finished=False)
    for length in lengths:
        log.append(
            CancelRequested(
                run_id=log.run_id, seq=log.next_seq, ts=START, reason="x" * length,
                mode=CancelMode.NOW,
            )
        )  # fmt: skip
    synced = len(log.to_bytes())
    end = {"image_count": 1, "duration_ms": 1.0, "outcome": "failed"}
    log.append(StageEnd(run_id=log.run_id, seq=log.next_seq, ts=START, **STAGE, **end))  # type: ignore[arg-type]  # a plain mapping
    log.append(
        CancelRequested(
            run_id=log.run_id, seq=log.next_seq, ts=START, reason="y" * last, mode=CancelMode.NOW
        )
    )
    return log.to_bytes(), synced


@settings(deadline=None)
@given(some.lists(some.integers(0, 600), max_size=3), some.integers(0, 1200))
def test_whatever_sectors_are_lost_the_synced_records_are_there_and_the_rest_is_torn(
    lengths: list[int], last: int
) -> None:
    """Every choice of lost sectors behind the last sync leaves a log that opens."""
    data, synced = log_of(lengths, last)
    sound = len(split_lines(data)) - 2
    sectors = range(synced // SECTOR, (len(data) - 1) // SECTOR + 1)
    for kept in product([True, False], repeat=len(sectors)):
        found = bytearray(data)
        for sector, is_kept in zip(sectors, kept, strict=True):
            begin, end = max(synced, sector * SECTOR), min(len(data), (sector + 1) * SECTOR)
            if not is_kept:
                found[begin:end] = bytes(end - begin)
        read = MemoryEventLog.from_bytes(bytes(found)).next_seq
        assert sound <= read <= sound + 2
        assert (read == sound + 2) == all(kept)
