"""Odd metadata of sound images: huge, malformed, of several pictures, worth a warning."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from PIL import Image
from stagewright.adapters.imaging import open_image
from stagewright.events import RunState
from stagewright.statemachine import (
    InputImageError,
)

from .command_line import stagewright, write_config
from .input_images import (
    RAW,
    READER,
    SIZE,
    UNREADABLE,
    XMP,
    chunk,
    damaged_lists,
    exif,
    finished,
    international,
    packed_text,
    picture,
    png_with,
    saved,
    shown,
    thumbnail_size,
    two_pictures,
    xmp,
)
from .support import ScriptedBackend, document

pytestmark = pytest.mark.lowest

HUGE = bytes(3_000_000)


@pytest.mark.parametrize(
    "chunks",
    [
        [international(b"parameters", HUGE, packed=True)],
        [packed_text(b"Comment", HUGE)],
        [packed_text(b"Comment", HUGE[:900_000])] * 80,
        [international(XMP, xmp(6, padding=len(HUGE)), packed=True)],
        [packed_text(RAW, HUGE)],
        [chunk(b"iCCP", b"profile\0\0" + zlib.compress(HUGE))],
        [chunk(b"iCCP", b"profile\0\7nothing")],
        [chunk(b"pHYs", b"\0")],
        [chunk(b"gAMA", b"")],
        [chunk(b"cHRM", b"\0" * 5)],
        [chunk(b"tEXt", b"Comment\0broken", checksum=7)],
        [chunk(b"eXIf", exif(6)[6:], checksum=7)],
        [chunk(b"zTXt", b"Comment\0\0not packed")],
    ],
)
@pytest.mark.parametrize("behind", [False, True])
def test_no_metadata_is_a_reason_to_refuse_sound_pixels(
    tmp_path: Path, chunks: list[bytes], *, behind: bool
) -> None:
    """Huge packed texts and profiles, malformed chunks, wrong checksums beside the pixels."""
    data = png_with(*chunks, behind=behind)
    assert sorted(shown(data)) == sorted(SIZE)
    (tmp_path / "in.png").write_bytes(data)
    assert sorted(thumbnail_size(tmp_path / "in.png")) == sorted(SIZE)
    with open_image(data) as image:
        image.load()
        assert image.tobytes() == picture().tobytes()


def test_damaged_pixels_are_refused_all_the_same() -> None:
    """Without its metadata, a PNG must still be whole and pass its checksums."""
    data = png_with(international(b"parameters", HUGE, packed=True))
    place = data.index(b"IDAT")
    for damaged in (data[:-40], data[: place + 20] + b"\xff" + data[place + 21 :]):
        with pytest.raises(InputImageError, match="not a PNG, JPEG or WebP image"):
            READER.inspect(damaged, name="in")


def test_a_jpeg_of_two_pictures_is_its_first(tmp_path: Path) -> None:
    """As input and as answer, even with a damaged list of pictures; the file is kept as it is."""
    for data in (two_pictures(), *damaged_lists()):
        facts = READER.inspect(data, name="in")
        assert (facts.media_type, facts.width, facts.height) == ("image/jpeg", *SIZE)
    (tmp_path / "in.jpg").write_bytes(two_pictures())
    backend = ScriptedBackend(images=lambda _: [two_pictures()])
    config = document("img2img", "adetailer", input_image=str(tmp_path / "in.jpg"))
    result = finished(tmp_path / "runs", config, backend)
    assert result.state is RunState.COMPLETED
    assert [request.inputs[0].data for request in backend.requests] == [two_pictures()] * 2
    (image,) = result.images
    assert (image.media_type, image.path[-4:]) == ("image/jpeg", ".jpg")
    assert (image.width, image.height) == SIZE
    assert (tmp_path / "runs" / result.run_id / image.path).read_bytes() == two_pictures()


def test_warnings_of_pillow_never_reach_the_terminal(tmp_path: Path) -> None:
    """Images that Pillow warns of are read in silence; a damaged TIFF costs our own line only."""
    images = tmp_path / "images"
    images.mkdir()
    odd = {
        "animated.png": png_with(chunk(b"acTL", bytes(8))),
        "exif.webp": saved("WEBP", exif=UNREADABLE[3]),
        "large.png": saved("PNG", Image.new("1", (12_000, 8_000))),
        "list.jpg": damaged_lists()[0],
        "turned.tif": saved("TIFF", exif=exif(6)),
    }
    for name, data in odd.items():
        (images / name).write_bytes(data)
    config = write_config(
        tmp_path, 'input_image = "images"\n[upscale]\nupscaler = "Lanczos"\nfactor = 1.0\n'
    )
    done = stagewright("plan", config, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    damaged = bytearray(saved("TIFF", compression="tiff_lzw"))
    damaged[10:40] = bytes(30)
    (images / "turned.tif").write_bytes(damaged)
    done = stagewright("plan", config, folder=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "turned.tif: not a PNG, JPEG, WebP, AVIF, BMP, TIFF, GIF or HEIC image" in line
