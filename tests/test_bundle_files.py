"""The files of a bundle: thumbnails, and with ``images`` the images and inputs themselves."""

from __future__ import annotations

import io
import json
import operator
import signal
import struct
import sys
import zlib
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from stagewright.adapters.export.bundle import BundleRefusedError, bundle_run
from stagewright.adapters.export.bundle.private_names import PrivateNames
from stagewright.events import iterate, replay
from stagewright.events.codec import CODEC
from stagewright.statemachine.resume.verify import verify_run

from .bundling import LOG, NO_NAMES, bundled, documents, members, sealed, unpacked, written
from .posix import make_pipe
from .resuming import ALTERED, image_file, linked, painter, ran, small
from .support import ScriptedBackend, png

PASSWORD = "s3same-op3n"
NAMES = PrivateNames(password=PASSWORD, homes=("/data/people/alice",))
EMPTY_ZIP = b"PK\5\6" + bytes(18)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two images through two stages, from an input image."""
    picture = tmp_path / "face.png"
    picture.write_bytes(png(3))
    config = small("img2img", "upscale", input_image=str(picture))
    return ran(tmp_path / "runs", config, painter())


def test_every_image_of_every_stage_has_a_thumbnail(tmp_path: Path) -> None:
    """By stage and index, in a small size; with ``thumbnails=False`` there are none."""
    folder = ran(tmp_path / "runs", small("txt2img", "upscale"), painter())
    made = bundled(folder)
    found = {name: data for name, data in members(made.file).items() if name.endswith(".webp")}
    stages = ("00-txt2img", "01-upscale")
    assert set(found) == {f"thumbnails/{one}/{n:05d}.webp" for one in stages for n in range(2)}
    for data in found.values():
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == "WEBP"
            assert max(image.size) <= 128
    manifest = made.manifest
    assert (manifest.thumbnails, manifest.images, manifest.with_images) == (4, 0, False)
    assert bundled(folder, thumbnails=False).manifest.thumbnails == 0


def test_with_images_a_bundle_is_the_whole_run(run: Path, tmp_path: Path) -> None:
    """Inputs and images byte for byte, so that ``verify`` finds it sound elsewhere."""
    progress: list[tuple[int, int]] = []
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    made = bundled(run, images=True, on_file=lambda done, total: progress.append((done, total)))
    new = unpacked(made.file, tmp_path / "there")
    assert verify_run(new).sound
    assert replay(new).images == replay(run).images
    for path in [*run.rglob("*.png")]:
        assert (new / path.relative_to(run)).read_bytes() == path.read_bytes()
    assert made.manifest.images == len(list(run.rglob("*.png"))) == 5
    assert made.manifest.not_bundled == {}
    assert progress == [(number, 5) for number in range(1, 6)]
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


@pytest.mark.parametrize("images", [False, True])
def test_files_that_are_not_as_recorded_are_not_in_it(run: Path, *, images: bool) -> None:
    """A missing, an altered and a linked file are named once, with the reason."""
    image_file(run, "00-img2img", 0).unlink()
    image_file(run, "00-img2img", 1).write_bytes(ALTERED)
    linked(image_file(run, "01-upscale", 0))
    made = bundled(run, images=images)
    left = made.manifest.not_bundled
    assert [path.split("/")[1] for path in left] == ["00-img2img", "00-img2img", "01-upscale"]
    assert all(map(operator.contains, left.values(), ("missing", "altered", "link")))
    assert made.altered == 2
    assert not any(ALTERED in data for data in members(made.file).values())


# --- Private text inside image files


def chunk(kind: bytes, body: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with(inside: bytes, behind: bytes = b"") -> bytes:
    """A PNG with more chunks after its header, and more bytes after its end."""
    data = png(1)
    return data[:33] + inside + data[33:] + behind


def packed(text: bytes) -> bytes:
    """A text chunk that is compressed."""
    return chunk(b"zTXt", b"Comment\0\0" + zlib.compress(text))


def photo(kind: str, text: bytes) -> bytes:
    """A JPEG or WebP with a text in its EXIF data, as WebUIs write it."""
    exif, stream = Image.Exif(), io.BytesIO()
    exif.get_ifd(0x8769)[0x9286] = text
    Image.new("RGB", (16, 16), "teal").save(stream, kind, exif=exif)
    return stream.getvalue()


def images_with(text: str) -> dict[str, bytes]:
    """An image for each place in which a text may be."""
    data, wide = text.encode(), text.encode("utf-16-be")
    comment = struct.pack(">BBH", 0xFF, 0xFE, len(data) + 2) + data
    jpeg = photo("JPEG", b"nothing")
    return {
        "tEXt": png_with(chunk(b"tEXt", b"parameters\0" + data)),
        "zTXt": png_with(packed(data) + packed(b"nothing")),
        "second zTXt": png_with(packed(b"nothing") + packed(data)),
        "iTXt": png_with(chunk(b"iTXt", b"parameters\0\0\0en\0\0" + data)),
        "packed iTXt": png_with(chunk(b"iTXt", b"parameters\0\1\0en\0\0" + zlib.compress(data))),
        "eXIf": png_with(chunk(b"eXIf", b"MM\0*\0\0\0\x08" + bytes(6) + wide)),
        "unknown chunk": png_with(chunk(b"teSt", data)),
        "after the end": png_with(b"", data),
        "JPEG": photo("JPEG", b"ASCII\0\0\0" + data),
        "JPEG, UTF-16": photo("JPEG", b"UNICODE\0" + wide),
        "JPEG, first comment": jpeg[:2] + comment + b"\xff\xfe\0\x04no" + jpeg[2:],
        "WebP": photo("WEBP", b"ASCII\0\0\0" + data),
        "WebP, UTF-16": photo("WEBP", b"UNICODE\0" + wide),
    }


TEXTS = [PASSWORD, "/home/bob/x", "/data/people/alice/x", "api_key=abc"]


@pytest.mark.parametrize("place", images_with(""))
def test_an_image_whose_metadata_holds_private_text_is_left_out(tmp_path: Path, place: str) -> None:
    """Removing the text would break its digest; an image without such text is copied."""
    pictures = [images_with(f"see {text} ")[place] for text in TEXTS]
    pictures.append(images_with("a lighthouse, Steps: 3, Seed: 42")[place])
    backend = ScriptedBackend(images=lambda request: [pictures[request.image_index]])
    folder = ran(tmp_path / "runs", small(images=len(pictures)), backend)
    made = bundled(folder, NAMES, images=True)
    assert set(made.manifest.not_bundled.values()) == {"its metadata holds private text"}
    assert (made.manifest.images, made.manifest.thumbnails) == (1, len(pictures))
    copied = [name for name in members(made.file) if name.startswith("images/")]
    assert [name.split("/")[2][:5] for name in copied] == [f"{len(TEXTS):05d}"]


@pytest.mark.parametrize(
    "inside",
    [packed(b"x" * 40_000_000), chunk(b"zTXt", b"Comment\0\0" + b"no zlib"), chunk(b"iTXt", b"a")],
    ids=["long", "broken", "cut off"],
)
def test_an_image_whose_metadata_cannot_be_searched_is_left_out(
    tmp_path: Path, inside: bytes
) -> None:
    """A text that unpacks to more than 16 MiB, or that is malformed, may hold anything."""
    backend = ScriptedBackend(images=lambda _request: [png_with(inside)])
    made = bundled(ran(tmp_path / "runs", small(images=1), backend), images=True)
    assert made.manifest.images == 0
    (why,) = made.manifest.not_bundled.values()
    assert "its metadata cannot be searched" in why


@pytest.mark.parametrize("path", ["inputs/a.png", "manifest.json", "thumbnails/x.webp"])
def test_a_file_whose_path_is_taken_is_left_out(tmp_path: Path, path: str) -> None:
    """A log that stagewright did not write may name a file twice, or a part of the bundle."""
    events = documents()[:1]
    digest = sha256(png(1)).hexdigest()
    paths = ["inputs/A.png", path, "inputs/A.png"]
    events[0]["inputs"] = [
        {"path": one, "sha256": digest, "source_sha256": digest} for one in paths
    ]
    folder = written(tmp_path / "runs" / "run", events)
    for one in paths:
        (folder / one).parent.mkdir(exist_ok=True)
        (folder / one).write_bytes(png(1))
    made = bundled(folder, images=True)
    assert made.manifest.images == 1
    assert list(made.manifest.not_bundled) == [path, "inputs/A.png"]


def test_hostile_names_of_stages_stay_inside_the_folder(tmp_path: Path) -> None:
    """Their thumbnails are left out."""
    folder = ran(tmp_path / "runs", small("txt2img", "upscale"), painter())
    renamed = {"00-txt2img": "../../x/y", "01-upscale": "..\\..\\x/y"}
    events: list[dict[str, Any]] = [json.loads(CODEC.encode(event)) for event in iterate(folder)]
    for one in [*events, *events[0]["plan"]["stages"]]:
        if "stage_id" in one:
            one["stage_id"] = renamed[one["stage_id"]]
    (folder / LOG).write_bytes(sealed(events))
    made = bundled(folder)
    assert set(members(made.file)) == {LOG, "manifest.json", "environment.json"}
    assert len(made.manifest.not_bundled) == 4


# --- The zip file


@pytest.mark.parametrize("content", [b"", b"my notes", EMPTY_ZIP, EMPTY_ZIP[:-3]])
def test_no_other_file_is_replaced(run: Path, tmp_path: Path, content: bytes) -> None:
    """A mistyped name costs nothing; an earlier bundle is replaced."""
    output = tmp_path / "run.bundle.zip"
    output.write_bytes(content)
    with pytest.raises(BundleRefusedError, match="is not a bundle; name another file"):
        bundled(run)
    assert output.read_bytes() == content
    output.unlink()
    bundled(written(tmp_path / "other" / "run", documents()))
    earlier = output.read_bytes()
    bundled(run)
    assert output.read_bytes() != earlier
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("kind", [pytest.param("pipe", marks=pytest.mark.posix), "link", "folder"])
def test_no_pipe_link_folder_or_device_is_replaced(run: Path, tmp_path: Path, kind: str) -> None:
    """Not even by a link to a bundle."""
    output = tmp_path / "run.bundle.zip"
    if kind == "pipe":
        make_pipe(output)
    elif kind == "folder":
        output.mkdir()
    else:
        output.symlink_to(Path(bundled(run).file).rename(tmp_path / "earlier.zip"))
    before = output.lstat()
    for path in (output, Path("/dev/null")):
        with pytest.raises(BundleRefusedError, match="is not a bundle"):
            bundle_run(run, path, names=NO_NAMES)
    assert (output.lstat().st_ino, output.lstat().st_mode) == (before.st_ino, before.st_mode)


def test_an_unpacked_bundle_is_not_bundled_again(run: Path, tmp_path: Path) -> None:
    """That would replace the zip that it came from, and lose the thumbnails."""
    made = bundled(run)
    before = Path(made.file).read_bytes()
    new = unpacked(made.file, tmp_path / "there")
    with pytest.raises(BundleRefusedError, match="share the zip file"):
        bundle_run(new, Path(made.file), names=NO_NAMES)
    assert Path(made.file).read_bytes() == before


@pytest.mark.posix
def test_a_full_disk_leaves_no_half_bundle(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is the system's; the temporary file is removed."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # compiled modules would be cut off
    if sys.platform == "win32":
        raise OSError("not on Windows")
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as full:
            bundled(run, images=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert str(full.value.filename).endswith(".zip")
    assert not [one for one in tmp_path.iterdir() if "bundle" in one.name]
    with pytest.raises(FileNotFoundError) as error:
        bundle_run(run, tmp_path / "nowhere" / "x.zip", names=NO_NAMES)
    assert error.value.filename == str(tmp_path / "nowhere" / "x.zip")
