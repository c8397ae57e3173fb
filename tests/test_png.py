"""The ``stagewright`` chunk of a PNG: stamped, read, taken out; damage is noticed."""

from __future__ import annotations

import io
import json
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from stagewright.statemachine.files.png import (
    PngError,
    check_whole,
    read_stamp,
    source_of,
    stamp,
)

from .support import png

SIGNATURE = b"\x89PNG\r\n\x1a\n"
FACTS = {"run_id": "r", "stage_id": "00-txt2img", "image_index": 3, "call_id": "r.0"}


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def chunks_of(data: bytes) -> list[bytes]:
    """Every chunk of a whole PNG, as its bytes."""
    found, place = [], len(SIGNATURE)
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        found.append(data[place:end])
        place = end
    return found


def with_chunks(*added: bytes, at: int = 1) -> bytes:
    """A PNG with further chunks before its chunk ``at``."""
    parts = chunks_of(png(1, (8, 8)))
    return SIGNATURE + b"".join([*parts[:at], *added, *parts[at:]])


def pixels(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        return image.tobytes()


OURS = {
    "tEXt": chunk(b"tEXt", b"stagewright\0{}"),
    "zTXt": chunk(b"zTXt", b"stagewright\0\0" + zlib.compress(b"{}")),
    "iTXt": chunk(b"iTXt", b"stagewright\0\0\0\0\0{}"),
}
KINDS = st.sampled_from([b"tEXt", b"zTXt", b"iTXt", b"prVt", b"IDAT", b"eXIf"])
KEYWORDS = st.sampled_from(
    [b"parameters\0", b"stagewright2\0", b"Stagewright\0", b"stagewright", b""]
)
FOREIGN = st.builds(
    lambda kind, keyword, rest: chunk(kind, keyword + b"x" + rest), KINDS, KEYWORDS, st.binary()
)
SOURCES = st.builds(
    lambda added, at, tail: with_chunks(*added, at=at) + tail,
    st.lists(FOREIGN, max_size=4),
    st.integers(1, 2),
    st.binary(max_size=4),
)
FACT_SHEETS = st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.integers(-9, 9))


def test_the_stamp_is_a_text_chunk_right_after_ihdr() -> None:
    """ASCII JSON with the keyword ``stagewright``; every other chunk stays, byte for byte."""
    source = with_chunks(chunk(b"tEXt", b"parameters\0a lighthouse, steps: 3"))
    before, after = chunks_of(source), chunks_of(stamp(source, FACTS))
    ours = after.pop(1)
    assert after == before
    assert ours == chunk(b"tEXt", ours[8:-4])
    keyword, _, text = ours[8:-4].partition(b"\0")
    assert (keyword, json.loads(text.decode("ascii"))) == (b"stagewright", FACTS)


def test_a_stamped_image_shows_the_same_picture() -> None:
    """Pixels are untouched, and other software reads both texts."""
    source = with_chunks(chunk(b"tEXt", b"parameters\0a lighthouse"))
    stamped = stamp(source, FACTS)
    check_whole(stamped)
    assert pixels(stamped) == pixels(source)
    with Image.open(io.BytesIO(stamped)) as image:
        assert image.info["parameters"] == "a lighthouse"
        assert json.loads(image.info["stagewright"]) == FACTS


@given(SOURCES, FACT_SHEETS)
def test_the_source_of_a_stamped_image_is_the_image(source: bytes, facts: dict[str, Any]) -> None:
    """Whatever other chunks it has: nothing is lost, and the stamp reads as it was written."""
    stamped = stamp(source, facts)
    assert source_of(source) == source
    assert read_stamp(source) is None
    assert source_of(stamped) == source
    assert read_stamp(stamped) == facts


@given(
    st.lists(st.tuples(st.sampled_from(sorted(OURS)), st.integers(0, 2)), max_size=4),
    st.lists(FOREIGN, max_size=3),
)
def test_the_source_has_no_chunk_of_ours_wherever_it_stood(
    ours: list[tuple[str, int]], foreign: list[bytes]
) -> None:
    """tEXt, zTXt and iTXt of that name go, before and after the pixels; the others stay."""
    parts = chunks_of(with_chunks(*foreign))
    stamped = list(parts)
    for kind, place in ours:
        stamped.insert([1, len(stamped) // 2, len(stamped) - 1][place], OURS[kind])
    assert source_of(SIGNATURE + b"".join(stamped)) == SIGNATURE + b"".join(parts)


def test_what_only_looks_like_ours_stays() -> None:
    """Another keyword, another kind of chunk, and bytes after the end are not ours."""
    private = chunk(b"prVt", b"stagewright\0{}")
    longer = chunk(b"tEXt", b"stagewright-notes\0{}")
    trailing = with_chunks(private, longer) + OURS["tEXt"]
    assert source_of(trailing) == trailing
    assert read_stamp(trailing) is None


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[1]",
        b"7",
        b"\xff",
        b'{"a":"\xff"}',
        b'{"a":"\\ud800"}',
        b'{"a":' + b"[" * 100_000,
    ],
)
def test_a_stamp_that_cannot_be_read_is_none(text: bytes) -> None:
    """Text that is no JSON object, no UTF-8 or too deep says nothing, and raises nothing."""
    broken = chunk(b"tEXt", b"stagewright\0" + text)
    assert read_stamp(with_chunks(broken)) is None
    assert source_of(with_chunks(broken)) == with_chunks()


def test_the_first_readable_kind_of_stamp_counts() -> None:
    """Only the tEXt chunk is read; the first of several is the one."""
    assert read_stamp(with_chunks(OURS["zTXt"], OURS["iTXt"])) is None
    two = stamp(stamp(with_chunks(OURS["zTXt"]), {"n": 1}), {"n": 2})
    assert read_stamp(two) == {"n": 2}


def test_every_prefix_is_told_from_the_whole() -> None:
    """A truncated file is its own source, bears no wrong stamp, and fails the check."""
    whole = stamp(with_chunks(OURS["zTXt"], at=2), FACTS)
    check_whole(whole)
    for size in range(len(whole)):
        cut = whole[:size]
        assert source_of(cut) == cut
        assert read_stamp(cut) in (None, FACTS)
        with pytest.raises(PngError):
            check_whole(cut)


def test_every_changed_byte_is_noticed() -> None:
    """Signature, lengths, kinds, bodies, checksums: any other value of any byte fails."""
    whole = stamp(png(1, (8, 8)), {"n": 1})
    noticed = 0
    for place in range(len(whole)):
        for flip in range(1, 256):
            changed = whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :]
            source_of(changed)
            read_stamp(changed)
            with pytest.raises(PngError):
                check_whole(changed)
            noticed += 1
    assert noticed == 255 * len(whole)


def test_bytes_after_the_end_are_no_part_of_the_check() -> None:
    """No checksum covers what follows IEND: it is let be, and kept in the source."""
    check_whole(png(1) + b"trailing")
    assert source_of(stamp(png(1) + b"trailing", FACTS)) == png(1) + b"trailing"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "do not begin with the signature"),
        (b"GIF89a", "do not begin with the signature"),
        (SIGNATURE, "ends at byte 8 without an IEND chunk"),
        (SIGNATURE + chunk(b"IEND", b""), "begins with IEND instead of IHDR"),
        (SIGNATURE + chunk(b"IHDR", b"short") + chunk(b"IEND", b""), "begins with IHDR"),
        (with_chunks()[:-12] + b"\xff\xff\xff\xffIEND____", "ends inside the IEND chunk at"),
        (with_chunks(chunk(b"tEXt", b"a\0b")[:-1] + b"?"), "the tEXt chunk at byte 33 fails its"),
    ],
)
def test_a_malformed_png_is_told_where(data: bytes, words: str) -> None:
    """The error names the chunk and the byte."""
    with pytest.raises(PngError, match=words):
        check_whole(data)
    assert source_of(data) == data
    assert read_stamp(data) is None


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_an_error(tail: bytes) -> None:
    """Behind a signature and an IHDR anything may stand."""
    for data in (tail, SIGNATURE + tail, with_chunks()[:33] + tail):
        assert len(source_of(data)) <= len(data)
        assert read_stamp(data) in (None, {})


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_jpeg_and_webp_are_kept_as_they_came(kind: str) -> None:
    """They bear no stamp, not even where their metadata hold a chunk of ours."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, kind)
    data = stream.getvalue() + OURS["tEXt"]
    assert source_of(data) == data
    assert read_stamp(data) is None
