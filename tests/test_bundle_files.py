"""The files of a bundle: thumbnails, and with ``images`` the images and inputs themselves."""

from __future__ import annotations

import io
import json
import signal
import struct
import sys
import zlib
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin
from stagewright.adapters.export.bundle import BundleRefusedError, bundle_run
from stagewright.adapters.export.bundle.image_metadata import texts_in
from stagewright.adapters.export.bundle.pictures import PictureReader
from stagewright.adapters.export.bundle.redaction import Redactor
from stagewright.events import iterate, replay
from stagewright.events.codec import CODEC
from stagewright.statemachine.files.recorded_files import RecordedFile
from stagewright.statemachine.resume.verify import verify_run

from .bundling import LOG, bundled, documents, members, private, sealed, unpacked, written
from .posix import make_pipe
from .resuming import ALTERED, STAGE_IDS, image_file, linked, painter, ran, small
from .support import ScriptedBackend, png

PASSWORD = "s3same-op3n"
AUTH = f"somebody:{PASSWORD}"
EMPTY_ZIP = b"PK\5\6" + bytes(18)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two images through all four stages, from the input image of a file."""
    picture = tmp_path / "face.png"
    picture.write_bytes(png(3))
    config = small("img2img", "upscale", input_image=str(picture))
    return ran(tmp_path / "runs", config, painter())


def test_every_image_of_every_stage_has_a_thumbnail(tmp_path: Path) -> None:
    """By stage and index, small enough to look at a thousand of them."""
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


def test_with_images_a_bundle_is_the_whole_run(run: Path, tmp_path: Path) -> None:
    """Inputs and images byte for byte, so that ``verify`` finds it sound elsewhere."""
    made = bundled(run, images=True)
    new = unpacked(made.file, tmp_path / "there")
    assert verify_run(new).sound
    for path in [*run.rglob("*.png")]:
        assert (new / path.relative_to(run)).read_bytes() == path.read_bytes()
    assert made.manifest.images == len(list(run.rglob("*.png"))) == 5
    assert made.manifest.not_bundled == ()


def test_progress_is_told_for_every_file(run: Path) -> None:
    """Up to the last one; the total is known from the first on."""
    told: list[tuple[int, int]] = []
    bundled(run, images=True, on_file=lambda done, total: told.append((done, total)))
    assert told == [(number, 9) for number in range(1, 10)]


@pytest.mark.parametrize("images", [False, True])
def test_files_that_are_not_as_recorded_are_not_in_it(run: Path, *, images: bool) -> None:
    """Missing, altered or linked to another place: named once, with the reason."""
    stage = "00-img2img"
    image_file(run, stage, 0).unlink()
    image_file(run, stage, 1).write_bytes(ALTERED)
    linked(image_file(run, "01-upscale", 0))
    made = bundled(run, images=images)
    assert [(one.path.split("/")[1], one.why) for one in made.manifest.not_bundled] == [
        (stage, "it is missing"),
        (stage, "it has been altered: its digest differs"),
        ("01-upscale", "it is a link, or its folder is one"),
    ]
    assert (made.altered, made.manifest.not_bundled_count) == (2, 3)
    assert not any(ALTERED in data for data in members(made.file).values())


def image(kind: str, words: str, where: str) -> bytes:
    """A small image of this kind that carries words beside its pixels."""
    picture, stream = Image.new("RGB", (16, 16), "teal"), io.BytesIO()
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        if where == "itxt":
            info.add_itxt("parameters", words, zip=True)
        else:
            info.add_text("parameters", words, zip=where == "ztxt")
        picture.save(stream, "PNG", pnginfo=info)
        return stream.getvalue()
    exif = Image.Exif()
    if where == "utf-16":  # As WebUIs write it, behind eight bytes that say so.
        exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + words.encode("utf-16-be")
    else:
        exif[0x010E] = words
    picture.save(stream, kind, exif=exif)
    return stream.getvalue()


KINDS = [
    ("PNG", "text"), ("PNG", "ztxt"), ("PNG", "itxt"), ("JPEG", "exif"), ("JPEG", "utf-16"),
    ("WEBP", "exif"), ("WEBP", "utf-16"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "where"), KINDS)
@pytest.mark.parametrize("words", [PASSWORD, "/home/bob/x", "/data/people/alice/x"])
def test_an_image_whose_own_text_tells_is_not_in_it(
    tmp_path: Path, kind: str, where: str, words: str
) -> None:
    """The text of an image is as it is, packed or in EXIF; the image is left out as a whole."""
    telling, plain = image(kind, f"see {words}", where), image(kind, "a lighthouse", where)
    backend = ScriptedBackend(images=lambda request: [(telling, plain)[request.image_index]])
    folder = ran(tmp_path / "runs", small(), backend)
    made = bundled(folder, private(AUTH, homes=("/data/people/alice",)), images=True)
    (left,) = made.manifest.not_bundled
    assert left.path == f"images/00-txt2img/{image_file_name(folder, 0)}"
    assert "its metadata" in left.why
    assert (made.manifest.images, made.manifest.thumbnails) == (1, 2)
    assert f"images/00-txt2img/{image_file_name(folder, 1)}" in members(made.file)


def chunk(kind: bytes, body: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def packed(words: bytes) -> bytes:
    """A text chunk that is compressed."""
    return chunk(b"zTXt", b"Comment\0\0" + zlib.compress(words))


TELLING = f"see {PASSWORD} ".encode() * 3
HEXED = b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n99\n" + TELLING.hex().encode())


@pytest.mark.parametrize(
    ("inside", "behind"),
    [
        (packed(TELLING) + packed(b"nothing"), b""),
        (packed(b"nothing") + packed(TELLING), b""),
        (b"", packed(TELLING)),
        (chunk(b"teSt", zlib.compress(TELLING)), b""),
        (chunk(b"iCCP", b"icc\0\0" + zlib.compress(TELLING)), b""),
        (chunk(b"zTXt", HEXED), b""),
        (chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"nothing") + TELLING[::-1]), b""),
        (chunk(b"caNv", b"api_key=8f3ab6c2d1e08f3ab6c2"), b""),
        (chunk(b"tEXt", b'workflow\0{"inputs":{"api_key":"abc"}}'), b""),
        (chunk(b"eXIf", "xs3same-\u00e9".encode("utf-16-be")), b""),
        (chunk(b"eXIf", b"x" + "xs3same-\u00e9".encode("utf-16-le")), b""),
    ],
)
def test_a_png_is_looked_through_to_its_last_byte(
    tmp_path: Path, inside: bytes, behind: bytes
) -> None:
    """Texts of one name, behind the end, packed, in other encodings: the file is left out."""
    data = png(1)
    backend = ScriptedBackend(images=lambda _: [data[:33] + inside + data[33:] + behind])
    folder = ran(tmp_path / "runs", small(images=1), backend)
    auth = "somebody:s3same-\u00e9" if b"eXIf" in inside else AUTH
    made = bundled(folder, private(auth), images=True)
    assert "its metadata" in made.manifest.not_bundled[-1].why
    assert made.manifest.images == 0


def segment(marker: int, body: bytes) -> bytes:
    """One segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def saved(kind: str) -> bytes:
    """A small image of this kind, without a word in it."""
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), "teal").save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("marker", [0xFE, 0xE1, 0xE4, 0xEC, 0xED, 0xEE])
def test_every_segment_of_a_jpeg_is_looked_through(marker: int) -> None:
    """The first of two comments too, and what no program here knows."""
    data = saved("JPEG")
    words = segment(marker, b"see api_key=abc") + segment(0xFE, b"nothing")
    found = texts_in(data[:2] + words + data[2:])
    assert found is not None
    assert "see api_key=abc" in found


@pytest.mark.parametrize("kind", [b"XMP ", b"TEXT"])
def test_every_chunk_of_a_webp_is_looked_through(kind: bytes) -> None:
    """Whatever the head of the image announces."""
    body = saved("WEBP")[8:] + kind + struct.pack("<I", 16) + b"see api_key=abcd"
    found = texts_in(b"RIFF" + struct.pack("<I", len(body)) + body)
    assert found is not None
    assert "see api_key=abcd" in found


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_what_stands_behind_the_end_of_an_image_keeps_it_out(kind: str) -> None:
    """Nobody looks at it, and it may hold anything."""
    assert texts_in(saved(kind)) is not None
    assert texts_in(saved(kind) + b"more") is None


def test_a_png_of_usual_texts_is_in_it(tmp_path: Path) -> None:
    """With all that WebUIs and cameras write, packed or not."""
    usual = packed(b"a lighthouse") + chunk(b"pHYs", bytes(9)) + chunk(b"tIME", bytes(7))
    usual += chunk(b"iTXt", b"parameters\0\1\0en\0\0" + zlib.compress(b"Steps: 3"))
    data = png(1)
    backend = ScriptedBackend(images=lambda _: [data[:33] + usual + data[33:]])
    folder = ran(tmp_path / "runs", small(images=1), backend)
    assert bundled(folder, private(AUTH), images=True).manifest.images == 1


@pytest.mark.parametrize("path", ["inputs/a.png", "manifest.json", "thumbnails/x.webp"])
def test_two_files_of_one_name_are_one_in_it(tmp_path: Path, path: str) -> None:
    """A log that no stagewright wrote may name a file twice, or as a part of the bundle."""
    data, told = png(1), documents()[:1]
    digest = sha256(data).hexdigest()
    named = ["inputs/A.png", path]
    told[0]["inputs"] = [
        {"path": one, "sha256": digest, "source_sha256": digest} for one in [*named, "inputs/A.png"]
    ]
    folder = written(tmp_path / "runs" / "run", told)
    for one in named:
        (folder / one).parent.mkdir(exist_ok=True)
        (folder / one).write_bytes(data)
    manifest = bundled(folder, images=True).manifest
    assert manifest.images == 1
    assert [(one.path, one.why) for one in manifest.not_bundled] == [
        (one, "another file of the bundle has its name") for one in (path, "inputs/A.png")
    ]


def image_file_name(folder: Path, index: int) -> str:
    """The name of one image's file, whatever its kind."""
    return next((folder / "images" / STAGE_IDS[0]).glob(f"{index:05d}-*")).name


def test_an_image_whose_text_cannot_be_read_is_not_in_it(tmp_path: Path) -> None:
    """A text that unpacks to more than anybody writes may hold anything."""
    data = png(1)
    chunk = b"zTXtparameters\0\0" + zlib.compress(b"x" * 40_000_000)
    bomb = data[:33] + (len(chunk) - 4).to_bytes(4, "big") + chunk
    bomb += zlib.crc32(chunk).to_bytes(4, "big") + data[33:]
    backend = ScriptedBackend(images=lambda _request: [bomb])
    made = bundled(ran(tmp_path / "runs", small(images=1), backend), images=True)
    assert (made.manifest.images, made.manifest.thumbnails) == (0, 1)
    (no_copy,) = made.manifest.not_bundled
    assert "its metadata" in no_copy.why


def test_an_image_that_nobody_can_decode_has_no_thumbnail(tmp_path: Path) -> None:
    """It is the recorded one all the same, so this is no error."""
    reader = PictureReader(tmp_path, Redactor(private()))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x.png").write_bytes(b"no image")
    digest = sha256(b"no image").hexdigest()
    (found,) = reader.thumbnails(iter([RecordedFile("images/x.png", digest, "00-txt2img", 0)]))
    assert (found.data, found.why, found.wrong) == (b"", "cannot be decoded", None)


def test_hostile_names_of_stages_stay_inside_the_folder(tmp_path: Path) -> None:
    """Two stages whose names come out the same have folders of their own."""
    folder = ran(tmp_path / "runs", small("txt2img", "upscale"), painter())
    renamed = {"00-txt2img": "../../x/y", "01-upscale": "..\\..\\x/y"}
    told: list[dict[str, Any]] = [json.loads(CODEC.encode(event)) for event in iterate(folder)]
    for one in [*told, *told[0]["plan"]["stages"]]:
        if "stage_id" in one:
            one["stage_id"] = renamed[one["stage_id"]]
    (folder / LOG).write_bytes(sealed(told))
    made = bundled(folder)
    names = [name for name in members(made.file) if name.endswith(".webp")]
    assert len(names) == 4
    assert all(name.count("/") == 2 and "\\" not in name for name in names)
    there = tmp_path / "there"
    unpacked(made.file, there)
    assert {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*.webp")} == {"there"}


def test_an_earlier_bundle_is_replaced_as_a_whole(run: Path, tmp_path: Path) -> None:
    """And is left alone where the new one does not come about."""
    output = tmp_path / "run.bundle.zip"
    bundled(written(tmp_path / "other" / "run", documents()))
    earlier = output.read_bytes()
    with pytest.raises(BundleRefusedError, match="unset STAGEWRIGHT_AUTH"):
        bundled(run, private("me:config"))
    assert output.read_bytes() == earlier
    bundled(run)
    assert output.read_bytes() != earlier
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("content", [b"", b"my notes", EMPTY_ZIP, EMPTY_ZIP[:-3]])
def test_no_other_file_is_replaced(run: Path, tmp_path: Path, content: bytes) -> None:
    """Whoever mistypes a name loses nothing."""
    output = tmp_path / "run.bundle.zip"
    output.write_bytes(content)
    with pytest.raises(BundleRefusedError, match="exists and is not a bundle"):
        bundled(run)
    assert output.read_bytes() == content


@pytest.mark.parametrize(
    "kind",
    [pytest.param("pipe", marks=pytest.mark.posix), "dangling link", "link", "folder"],
)
def test_nothing_but_a_bundle_is_replaced(run: Path, tmp_path: Path, kind: str) -> None:
    """A pipe, a link or a device stays what it is."""
    output = tmp_path / "run.bundle.zip"
    earlier = tmp_path / "earlier.zip"
    if kind == "pipe":
        make_pipe(output)
    elif kind == "folder":
        output.mkdir()
    else:
        if kind == "link":
            earlier.write_bytes(Path(bundled(run).file).read_bytes())
            output.unlink()
        output.symlink_to(earlier)
    before = output.lstat()
    with pytest.raises(BundleRefusedError, match="not a bundle; name another file"):
        bundled(run)
    assert (output.lstat().st_ino, output.lstat().st_mode) == (before.st_ino, before.st_mode)
    with pytest.raises(BundleRefusedError, match="/dev/null"):
        bundle_run(run, Path("/dev/null"), words=private())


def test_an_error_names_the_file_that_was_asked_for(run: Path, tmp_path: Path) -> None:
    """Not the temporary one beside it."""
    output = tmp_path / "nowhere" / "x.zip"
    with pytest.raises(FileNotFoundError) as told:
        bundle_run(run, output, words=private())
    assert told.value.filename == str(output)


@pytest.mark.parametrize("images", [False, True])
def test_an_unpacked_bundle_is_not_bundled_again(
    run: Path, tmp_path: Path, *, images: bool
) -> None:
    """It would replace the zip that it came from, and lose the thumbnails."""
    made = bundled(run, images=images)
    before = Path(made.file).read_bytes()
    new = unpacked(made.file, tmp_path / "there")
    with pytest.raises(BundleRefusedError, match="share the zip file"):
        bundle_run(new, Path(made.file), words=private())
    assert Path(made.file).read_bytes() == before


@pytest.mark.posix
def test_a_full_disk_leaves_no_half_bundle(run: Path, tmp_path: Path) -> None:
    """The error is the system's; the temporary file is gone."""
    if sys.platform == "win32":
        raise OSError("not on Windows")
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            bundled(run, images=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert not [one for one in tmp_path.iterdir() if "bundle" in one.name]


def test_the_run_itself_is_not_written_to(run: Path) -> None:
    """Neither its files nor their times."""
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    bundled(run, images=True)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_bundle_replays_to_the_result_of_its_run(run: Path, tmp_path: Path) -> None:
    """Stage by stage, image by image, with every digest."""
    made = bundled(run)
    old, new = replay(run), replay(unpacked(made.file, tmp_path / "there"))
    assert new.images == old.images
    assert [(one.stage_id, one.image_count) for one in new.stages] == [
        (one.stage_id, one.image_count) for one in old.stages
    ]


def test_nothing_is_made_of_a_run_without_images(tmp_path: Path) -> None:
    """A log alone is a bundle too."""
    made = bundled(written(tmp_path / "runs" / "run", documents()[:2]))
    assert set(members(made.file)) == {"events.jsonl", "manifest.json", "environment.json"}
