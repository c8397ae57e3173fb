"""Input images as people have them: orientation, odd metadata, formats and sizes."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from stagewright.adapters import EmbeddedBackend, PillowInputReader
from stagewright.adapters.imaging import open_image, same_pixels, thumbnail_of
from stagewright.events import OriginalFile, PipelineRunResult, RunOpened, RunState
from stagewright.statemachine import (
    InputImageError,
    InvalidStagePlanError,
    PipelineController,
    build_stage_execution_plan,
)

from .command_line import stagewright, write_config
from .support import ScriptedBackend, document, png

pytestmark = pytest.mark.lowest

WAIT_S = 60
SIZE = (64, 40)
READER = PillowInputReader()


def picture() -> Image.Image:
    """A picture that looks different from every side."""
    image = Image.new("RGB", SIZE, "navy")
    image.paste("orange", (0, 0, 40, 12))
    image.paste("white", (0, 0, 8, 8))
    return image


def saved(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    stream = io.BytesIO()
    (image or picture()).save(stream, kind, **options)
    return stream.getvalue()


def exif(orientation: int) -> bytes:
    found = Image.Exif()
    found[0x0112] = orientation
    return found.tobytes()


def xmp(orientation: int, padding: int = 0) -> bytes:
    turned = f'<rdf:Description tiff:Orientation="{orientation}"/>'
    return f"<x:xmpmeta><rdf:RDF>{turned}</rdf:RDF></x:xmpmeta>{' ' * padding}".encode()


def chunk(kind: bytes, body: bytes, *, checksum: int | None = None) -> bytes:
    crc = zlib.crc32(kind + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def png_with(*chunks: bytes, behind: bool = False) -> bytes:
    """The picture as a PNG with these chunks before its pixels, or behind them."""
    data = saved("PNG")
    place = len(data) - 12 if behind else 33
    return data[:place] + b"".join(chunks) + data[place:]


def raw_profile(data: bytes) -> bytes:
    return f"\nexif\n{len(data):8}\n{data.hex()}\n".encode()


def text(keyword: bytes, value: bytes) -> bytes:
    return chunk(b"tEXt", keyword + b"\0" + value)


def packed_text(keyword: bytes, value: bytes) -> bytes:
    return chunk(b"zTXt", keyword + b"\0\0" + zlib.compress(value))


def international(keyword: bytes, value: bytes, *, packed: bool = False) -> bytes:
    value = zlib.compress(value) if packed else value
    return chunk(b"iTXt", keyword + (b"\0\1" if packed else b"\0\0") + b"\0\0\0" + value)


XMP, RAW = b"XML:com.adobe.xmp", b"Raw profile type exif"
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


def two_pictures(**options: Any) -> bytes:
    """A JPEG with a second picture behind the first, as cameras make it."""
    preview = Image.new("RGB", (16, 16), "red")
    return saved("MPO", save_all=True, append_images=[preview], **options)


def heic(**options: Any) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif", reason="needs the extra heic")
    pillow_heif.register_heif_opener()
    return saved("HEIF", **options)


def as_pillow_turns_it(data: bytes) -> Image.Image:
    """What ``exif_transpose`` of Pillow makes of a file, which servers use too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ImageOps.exif_transpose(Image.open(io.BytesIO(data)))


def shown(data: bytes) -> tuple[int, int]:
    """The displayed size of an input; if the run keeps the file, the header says it as well."""
    facts = READER.inspect(data, name="in", convertible=True)
    if facts.media_type in ("image/png", "image/jpeg", "image/webp"):
        assert READER.inspect(data, name="in", decode=False) == facts
    return facts.width, facts.height


def finished(
    runs: Path, config: dict[str, Any], backend: ScriptedBackend | EmbeddedBackend
) -> PipelineRunResult:
    controller = PipelineController(backend=backend, runs=runs, inputs=READER)
    return controller.start(config).wait(WAIT_S)


@pytest.mark.parametrize("carrier", CARRIERS)
def test_an_input_is_turned_as_pillow_turns_it(tmp_path: Path, carrier: str) -> None:
    """Each orientation is followed: in the plan's sizes, in the stage's input, in thumbnails."""
    for turn in range(1, 9):
        data = CARRIERS[carrier](turn)
        expected = as_pillow_turns_it(data)
        assert shown(data) == expected.size == (SIZE if turn < 5 else SIZE[::-1])
        (tmp_path / "in.bin").write_bytes(data)
        config = document("upscale", input_image=str(tmp_path / "in.bin"))
        config["upscale"] |= {"upscaler": "Nearest", "factor": 1.0}
        result = finished(tmp_path / "runs", config, EmbeddedBackend())
        folder = tmp_path / "runs" / result.run_id
        made = Image.open(folder / result.images[0].path)
        assert made.tobytes() == expected.convert("RGB").tobytes()
        assert thumbnail_size(next((folder / "inputs").iterdir())) == expected.size


def thumbnail_size(file: Path) -> tuple[int, int]:
    """The size of a thumbnail, which does not pass the orientation on."""
    image = Image.open(io.BytesIO(thumbnail_of(file)))
    assert not image.getexif()
    return image.size


UNREADABLE = [
    b"",
    b"garbage garbage",
    b"b'Exif\\x00\\x00MM\\x00*'",
    b"MM\0*\0\0\0\xff",
    b"MM\0*\0\0\0\x08\xff\xff",
    b"II*\0\xff\xff\xff\xff",
    b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\xff\xff\xff\xff\0\0\0\6",
    b"MM\0*\0\0\0\x08\0\1\1\x12\0\2\0\0\0\4six\0",
    b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\x63\0\0",
]


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


def damaged_lists() -> list[bytes]:
    """JPEGs of two pictures in which one byte of the list of pictures is wrong."""
    whole = two_pictures()
    start = whole.index(b"MPF\0") + 4
    places = range(start, start + 80, 3)
    return [whole[:place] + b"\xff" + whole[place + 1 :] for place in places]


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
    originals = [
        OriginalFile(name=f"in.{one.path[13:]}", sha256=one.sha256) for one in opened.inputs
    ]
    assert [one.original and one.original.sha256 for one in opened.inputs] == [
        one.sha256 for one in originals
    ]


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
    assert "not a PNG, JPEG or WebP image" in result.error.message


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
    for _ in range(300):
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


@pytest.mark.parametrize(
    ("stages", "tables", "size"),
    [
        (["txt2img"], {"txt2img": {"width": 16_000, "height": 16_000}}, "16000x16000"),
        (
            ["txt2img"],
            {"txt2img": {"hires": {"scale": 60.0, "denoise": 0.5}, "width": 256, "height": 256}},
            "15360x15360",
        ),
        (["txt2img"], {"txt2img": {"hires": {"resize_x": 16_000, "denoise": 0.5}}}, "16000x16000"),
        (["txt2img", "img2img"], {"img2img": {"width": 16_000, "height": 16_000}}, "16000x16000"),
        (
            ["txt2img", "upscale", "adetailer"],
            {"txt2img": {"width": 512, "height": 512}, "upscale": {"factor": 32.0}},
            "16384x16384",
        ),
    ],
)
def test_results_beyond_the_limit_are_refused_in_the_plan(
    stages: list[str], tables: dict[str, Any], size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names stage, size and limit; the variable raises the limit."""
    config = document(*stages)
    for stage, table in tables.items():
        config[stage] = config[stage] | table
    with pytest.raises(InvalidStagePlanError) as caught:
        build_stage_execution_plan(config)
    assert str(caught.value) == (
        f"{caught.value.key} makes images of {size}: more than 178956970 pixels; "
        "STAGEWRIGHT_MAX_PIXELS sets this limit"
    )
    assert caught.value.key in stages
    monkeypatch.setenv("STAGEWRIGHT_MAX_PIXELS", "3000000000")
    assert build_stage_execution_plan(config).stages


def test_the_limit_holds_for_each_input_of_a_folder(tmp_path: Path) -> None:
    """A large input among small ones is named by the size that it would reach."""
    (tmp_path / "images").mkdir()
    for name, size in {"a.png": (64, 64), "b.png": (4000, 3000)}.items():
        (tmp_path / "images" / name).write_bytes(png(1, size))
    config = write_config(
        tmp_path, 'input_image = "images"\n[upscale]\nupscaler = "Lanczos"\nfactor = 4.0\n'
    )
    done = stagewright("plan", config, folder=tmp_path)
    assert done.returncode == 2
    assert "upscale makes images of 16000x12000: more than 178956970 pixels" in done.stderr


def test_a_raised_limit_holds_for_inputs_too(tmp_path: Path) -> None:
    """Above Pillow's own limit as well; a lower one refuses what is usually accepted."""
    (tmp_path / "in.png").write_bytes(saved("PNG", Image.new("1", (14_000, 13_000))))
    config = write_config(
        tmp_path, 'input_image = "in.png"\n[upscale]\nupscaler = "Lanczos"\nfactor = 0.5\n'
    )
    for value, status in {"": 2, "200000000": 0, "1000000": 2}.items():
        environment = {**os.environ, "STAGEWRIGHT_MAX_PIXELS": value}
        done = stagewright("plan", config, folder=tmp_path, env=environment)
        assert (done.returncode, done.stderr == "") == (status, status == 0), done.stderr


@pytest.mark.parametrize("value", ["many", "0", "-1", "1e9", "9" * 5000, "²"])
def test_a_wrong_limit_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It must be a whole number of pixels."""
    monkeypatch.setenv("STAGEWRIGHT_MAX_PIXELS", value)
    with pytest.raises(ValueError, match=r"STAGEWRIGHT_MAX_PIXELS = .* must be a whole number"):
        build_stage_execution_plan(document("txt2img"))
