"""Formats of input images: which are converted to PNG, which are kept, which are refused."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image
from stagewright.adapters.pixel_comparison import same_pixels
from stagewright.events import OriginalFile, RunOpened, RunState
from stagewright.statemachine import (
    InputImageError,
)

from .input_images import (
    READER,
    SIZE,
    finished,
    heic,
    picture,
    saved,
)
from .support import ScriptedBackend, document

pytestmark = pytest.mark.lowest


def moving(kind: str) -> bytes:
    others = [Image.new("RGB", SIZE, colour) for colour in ("red", "green")]
    return saved(kind, save_all=True, append_images=others)


CONVERTED: dict[str, Callable[[], bytes]] = {
    "photo.avif": lambda: saved("AVIF", quality=100, subsampling="4:4:4"),
    "photo.bmp": lambda: saved("BMP"),
    "photo.gif": lambda: saved("GIF"),
    "photo.tif": lambda: saved("TIFF", compression="tiff_lzw"),
    "photo.heic": lambda: heic(quality=-1, chroma=444),
    "moving.gif": lambda: moving("GIF"),
    "moving.avif": lambda: moving("AVIF"),
    "pages.tiff": lambda: moving("TIFF"),
    "named.png": lambda: saved("BMP"),
    "Фото 1.gif": lambda: saved("GIF"),
}


@pytest.mark.parametrize("name", CONVERTED)
def test_an_input_of_another_format_is_converted_once(tmp_path: Path, name: str) -> None:
    """The run keeps its first picture as PNG, sends that, and records the original file."""
    data = CONVERTED[name]()
    (tmp_path / name).write_bytes(data)
    backend = ScriptedBackend()
    config = document("img2img", input_image=str(tmp_path / name))
    config["img2img"]["mask"] = str(tmp_path / name)
    result = finished(tmp_path / "runs", config, backend)
    assert result.state is RunState.COMPLETED, result.error
    opened = next(iter(result.events))
    assert isinstance(opened, RunOpened)
    image, mask = opened.inputs
    assert [image.path, mask.path] == ["inputs/00000.png", "inputs/mask.png"]
    digest = sha256(data).hexdigest()
    assert image.original == mask.original == OriginalFile(name=name, sha256=digest)
    (request,) = backend.requests
    assert request.mask is not None
    assert request.inputs[0].data == request.mask.data
    assert request.inputs[0].source_sha256 == image.source_sha256 == image.sha256
    kept = Image.open(tmp_path / "runs" / result.run_id / image.path)
    assert (kept.format, kept.size, kept.info) == ("PNG", SIZE, {})
    with Image.open(io.BytesIO(data)) as original:
        assert kept.convert("RGB").tobytes() == original.convert("RGB").tobytes()


def test_an_input_that_is_kept_is_its_original(tmp_path: Path) -> None:
    """PNG, JPEG and WebP are copied unchanged: the digests of copy and original are equal."""
    folder = tmp_path / "images"
    folder.mkdir()
    for kind in ("PNG", "JPEG", "WEBP"):
        (folder / f"in.{kind.lower()}").write_bytes(saved(kind))
    result = finished(tmp_path, document("upscale", input_image=str(folder)), ScriptedBackend())
    opened = next(iter(result.events))
    assert isinstance(opened, RunOpened)
    for name, one in zip(["in.jpeg", "in.png", "in.webp"], opened.inputs, strict=True):
        assert one.original == OriginalFile(name=name, sha256=one.sha256)


@pytest.mark.parametrize(
    ("mode", "kept"),
    [
        ("1", "1"), ("L", "L"), ("LA", "RGBA"), ("P", "RGB"), ("RGBA", "RGBA"),
        ("CMYK", "RGB"), ("LAB", "RGB"), ("I;16", "I;16"),
    ],
)  # fmt: skip
def test_a_tiff_of_any_mode_becomes_a_png(mode: str, kept: str) -> None:
    """Grey stays grey, alpha stays alpha, 16 bits of grey stay; printers' colours become RGB."""
    image = Image.new("I;16", SIZE, 40_000) if mode == "I;16" else picture().convert(mode)
    made = Image.open(io.BytesIO(READER.convert_to_png(saved("TIFF", image), name="in")))
    assert (made.mode, made.size) == (kept, SIZE)
    assert made.getpixel((1, 1)) == image.convert(kept).getpixel((1, 1))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_32_bits_are_refused(mode: str) -> None:
    """Their range is unknown, so no 8 bits would be right."""
    with pytest.raises(InputImageError, match="in: its pixels have 32 bits a channel"):
        READER.convert_to_png(saved("TIFF", Image.new(mode, SIZE)), name="in")


def test_without_the_extra_heic_is_refused_by_its_name(tmp_path: Path) -> None:
    """The message names the extra; other formats need none."""
    (tmp_path / "in.heic").write_bytes(
        struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + bytes(64)
    )
    program = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from stagewright.adapters import PillowInputReader\n"
        "data = open(sys.argv[1], 'rb').read()\n"
        "PillowInputReader().inspect(data, name='in.heic', convertible=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "in.heic")],
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stderr.splitlines()[-1]
    assert last.endswith(
        "in.heic: HEIC images need the extra heic: pip install 'stagewright[heic]'"
    )


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "AVIF"])
def test_pixels_of_these_formats_are_not_compared(kind: str) -> None:
    """No run holds such images; a log that says so gets no answer."""
    assert same_pixels(saved(kind), saved(kind)) is None


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "AVIF"])
def test_a_server_s_answer_is_not_of_these_formats(tmp_path: Path, kind: str) -> None:
    """A run holds PNG, JPEG and WebP only; the error says so."""
    backend = ScriptedBackend(images=lambda _: [saved(kind)])
    result = finished(tmp_path, document("txt2img"), backend)
    assert result.state is RunState.ERROR
    assert result.error is not None
    assert "kept: image 1 of 00-txt2img: not a PNG, JPEG or WebP image" in result.error.message


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}), ("JPEG", {}), ("WEBP", {}), ("AVIF", {}), ("BMP", {}), ("GIF", {}),
        ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "jpeg"}), ("HEIF", {}),
    ],
)  # fmt: skip
def test_damaged_bytes_are_an_image_or_an_input_error(
    kind: str, options: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever is wrong with a file, the reader raises InputImageError only and prints nothing."""
    whole = heic() if kind == "HEIF" else saved(kind, **options)
    random = Random(kind)  # the same bytes in each run
    outcomes = set()
    for _ in range(100):
        data = bytearray(whole)
        for _ in range(random.choice((1, 3))):
            data[random.randrange(min(len(data), random.choice((60, 100_000))))] ^= 0xFF
        if random.random() < 0.2:
            del data[random.randrange(len(data)) :]
        try:
            outcomes.add(READER.convert_to_png(bytes(data), name="in")[:4])
        except InputImageError as error:
            outcomes.add(str(error)[:4].encode())
    assert outcomes <= {b"\x89PNG", b"in: "}
    assert b"in: " in outcomes
    assert capfd.readouterr() == ("", "")
