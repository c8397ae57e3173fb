"""Input images are used as they are displayed; an unreadable orientation means not turned."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from stagewright.adapters import EmbeddedBackend
from stagewright.adapters.imaging import open_image, upright

from .input_images import (
    RAW,
    READER,
    SIZE,
    UNREADABLE,
    XMP,
    chunk,
    exif,
    finished,
    heic,
    international,
    packed_text,
    png_with,
    raw_profile,
    saved,
    shown,
    text,
    thumbnail_size,
    two_pictures,
    xmp,
)
from .support import document

pytestmark = pytest.mark.lowest


PNG_CARRIERS: dict[str, Callable[[int], bytes]] = {
    "eXIf": lambda turn: chunk(b"eXIf", exif(turn)[6:]),
    "XMP": lambda turn: international(XMP, xmp(turn)),
    "packed XMP": lambda turn: international(XMP, xmp(turn), packed=True),
    "raw profile": lambda turn: text(RAW, raw_profile(exif(turn))),
    "packed raw profile": lambda turn: packed_text(RAW, raw_profile(exif(turn))),
}


def in_png(carrier: Callable[[int], bytes], *, behind: bool) -> Callable[[int], bytes]:
    return lambda turn: png_with(carrier(turn), behind=behind)


CARRIERS: dict[str, Callable[[int], bytes]] = {
    **{f"PNG, {name}": in_png(one, behind=False) for name, one in PNG_CARRIERS.items()},
    **{f"PNG, {name}, behind": in_png(one, behind=True) for name, one in PNG_CARRIERS.items()},
    "JPEG, EXIF": lambda turn: saved("JPEG", exif=exif(turn)),
    "JPEG, XMP": lambda turn: saved("JPEG", xmp=xmp(turn)),
    "JPEG, two pictures": lambda turn: two_pictures(exif=exif(turn)),
    "WebP, EXIF": lambda turn: saved("WEBP", lossless=True, exif=exif(turn)),
    "WebP, XMP": lambda turn: saved("WEBP", lossless=True, xmp=xmp(turn)),
    "TIFF": lambda turn: saved("TIFF", exif=exif(turn)),
    "AVIF, EXIF": lambda turn: saved("AVIF", exif=exif(turn)),
    "AVIF, XMP": lambda turn: saved("AVIF", xmp=xmp(turn)),
    "HEIC": lambda turn: heic(exif=exif(turn)),
}


def as_pillow_turns_it(data: bytes) -> Image.Image:
    """What ``exif_transpose`` of Pillow makes of a file, which servers use too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ImageOps.exif_transpose(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("carrier", CARRIERS)
def test_an_input_is_turned_as_pillow_turns_it(tmp_path: Path, carrier: str) -> None:
    """Each orientation is followed: in the sizes of a plan, in pixels, in thumbnails."""
    for turn in range(1, 9):
        data = CARRIERS[carrier](turn)
        expected = as_pillow_turns_it(data)
        assert shown(data) == expected.size == (SIZE if turn < 5 else SIZE[::-1])
        is_kept = carrier.startswith(("PNG", "JPEG", "WebP"))
        kept = data if is_kept else READER.convert_to_png(data, name="in")
        (tmp_path / "in.bin").write_bytes(kept)
        assert thumbnail_size(tmp_path / "in.bin") == expected.size
        with open_image(kept) as image:
            assert upright(image).convert("RGB").tobytes() == expected.convert("RGB").tobytes()


@pytest.mark.parametrize("carrier", ["PNG, XMP, behind", "WebP, EXIF", "TIFF"])
def test_a_run_works_on_the_turned_input(tmp_path: Path, carrier: str) -> None:
    """Its stage gets the picture as it is displayed."""
    data = CARRIERS[carrier](6)
    (tmp_path / "in.bin").write_bytes(data)
    config = document("upscale", input_image=str(tmp_path / "in.bin"))
    config["upscale"] |= {"upscaler": "Nearest", "factor": 1.0}
    result = finished(tmp_path / "runs", config, EmbeddedBackend())
    made = Image.open(tmp_path / "runs" / result.run_id / result.images[0].path)
    assert made.tobytes() == as_pillow_turns_it(data).convert("RGB").tobytes()


def bearers(body: bytes) -> list[bytes]:
    """Images with these bytes where EXIF is expected."""
    return [
        *(png_with(chunk(b"eXIf", body), behind=behind) for behind in (False, True)),
        *(png_with(text(word, body)) for word in (b"exif", b"xmp", XMP, RAW)),
        png_with(packed_text(RAW, raw_profile(body)), behind=True),
        png_with(international(b"exif", body)),
        png_with(international(XMP, body, packed=True), behind=True),
        saved("JPEG", exif=b"Exif\0\0" + body),
        saved("WEBP", exif=body),
        saved("WEBP", xmp=body),
    ]


def expected_size(data: bytes) -> tuple[int, int]:
    try:
        return as_pillow_turns_it(data).size
    except (SyntaxError, ValueError, TypeError, LookupError, OSError, struct.error):
        return SIZE


@pytest.mark.parametrize("body", UNREADABLE)
def test_unreadable_exif_means_not_turned(body: bytes) -> None:
    """Where Pillow fails to read an orientation, the image is taken as it is stored."""
    for data in bearers(body):
        assert shown(data) == expected_size(data) == SIZE


@given(st.binary(max_size=60).map(lambda body: b"MM\0*\0\0\0\x08" + body) | st.binary(max_size=60))
def test_no_exif_makes_an_image_unreadable(body: bytes) -> None:
    """Whatever bytes are in the place of EXIF, the size is the one that Pillow would apply."""
    for data in bearers(body):
        assert shown(data) == expected_size(data)


def test_an_avif_with_unreadable_exif_is_read() -> None:
    """Pillow refuses such a file as a whole; its pixels and its own rotation are sound."""
    found = Image.Exif()
    found[0x010E], found[0x0112] = "a lighthouse", 6
    data = saved("AVIF", exif=found.tobytes())
    for place in (place for place in range(len(data)) if data[place : place + 2] == b"MM"):
        data = data[:place] + b"garbage " + data[place + 8 :]
    with pytest.raises((SyntaxError, ValueError)):
        Image.open(io.BytesIO(data))
    assert shown(data) == SIZE[::-1]
