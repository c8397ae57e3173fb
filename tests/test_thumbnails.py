"""Thumbnails: small, right way up, and safe to make of whatever bears an image's name."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from stagewright.adapters.imaging import ImageError
from stagewright.adapters.thumbnails import thumbnail_of
from stagewright.events import StagewrightError

from .posix import make_pipe
from .support import png


def small(file: Path, side: int = 128) -> Image.Image:
    """The thumbnail of a file, decoded."""
    image = Image.open(io.BytesIO(thumbnail_of(file, side)))
    assert image.format == "WEBP"
    image.load()
    return image


def saved(folder: Path, image: Image.Image, name: str = "a.png", **options: Any) -> Path:
    file = folder / name
    image.save(file, **options)
    return file


@pytest.mark.parametrize(
    ("size", "expected"),
    [((512, 768), (85, 128)), ((768, 512), (128, 85)), ((64, 64), (64, 64)), ((4000, 2), (128, 1))],
)
def test_a_thumbnail_fits_its_side(
    tmp_path: Path, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    """The longer side is 128 pixels, or what the image has where that is less."""
    assert small(saved(tmp_path, Image.new("RGB", size, "red"))).size == expected


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_every_kind_of_a_run_s_images_is_taken(tmp_path: Path, name: str) -> None:
    """PNG, JPEG and WebP; the colours stay."""
    made = small(saved(tmp_path, Image.new("RGB", (300, 200), (200, 40, 40)), name), side=64)
    red, green, blue = made.convert("RGB").getpixel((30, 20))  # type: ignore[misc]  # three numbers
    assert red > 180
    assert max(green, blue) < 70


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK"])
def test_every_mode_has_a_thumbnail(tmp_path: Path, mode: str) -> None:
    """Grey, palettes, transparency and printers' colours become what WebP can hold."""
    name = "a.jpg" if mode == "CMYK" else "a.png"
    made = small(saved(tmp_path, Image.new("RGB", (200, 100), "white").convert(mode), name))
    assert made.size == (128, 64)
    assert made.convert("L").getpixel((60, 30)) > 240  # type: ignore[operator]  # one number


def test_transparency_stays(tmp_path: Path) -> None:
    """What is transparent in an image is so in its thumbnail."""
    made = small(saved(tmp_path, Image.new("RGBA", (200, 100), (255, 0, 0, 0))))
    assert made.mode == "RGBA"
    assert made.getchannel("A").getextrema() == (0, 0)


def test_sixteen_bits_of_grey_are_not_cut_off(tmp_path: Path) -> None:
    """Half as bright as can be is half as bright in the thumbnail."""
    made = small(saved(tmp_path, Image.new("I;16", (64, 64), 0x8000)))
    level = made.convert("L").getpixel((32, 32))
    assert isinstance(level, int)
    assert 110 < level < 146


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def header_only(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a PNG, JPEG or WebP image"),
        (b"GIF89a" + bytes(40), "not a PNG, JPEG or WebP image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a PNG, JPEG or WebP image"),
        (png(1)[:60], "not a PNG, JPEG or WebP image"),
        (header_only(13_378, 13_378), "more than 178956970 pixels"),
        (header_only(65_535, 65_535), "more than 178956970 pixels"),
    ],
)
def test_what_is_no_bearable_image_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    """A typed error names the file; an image beyond the bound is not decoded."""
    file = tmp_path / "a.png"
    file.write_bytes(data)
    with pytest.raises(ImageError, match=words) as caught:
        thumbnail_of(file)
    assert str(file) in str(caught.value)
    assert isinstance(caught.value, StagewrightError)


@pytest.mark.posix
def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """Nothing, a folder, and a pipe that nobody writes to."""
    make_pipe(tmp_path / "pipe")
    for name in ("nothing", ".", "pipe"):
        with pytest.raises(ImageError):
            thumbnail_of(tmp_path / name)


def test_threads_do_not_undo_each_other_s_silence(tmp_path: Path) -> None:
    """Images that Pillow warns of are made in many threads, and warnings are on again after."""
    plain, odd = tmp_path / "plain.png", tmp_path / "odd.png"
    data, end_of_head = png(1), 33
    plain.write_bytes(data)
    animated = chunk(b"acTL", bytes(8))  # an animation without a picture
    odd.write_bytes(data[:end_of_head] + animated + data[end_of_head:])
    with pytest.warns(UserWarning, match="APNG"), Image.open(odd):
        pass
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(thumbnail_of, [plain, odd] * 100))
    assert set(made) == {made[0]}
    assert warnings.filters == before
