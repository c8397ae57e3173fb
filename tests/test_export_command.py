"""``export``: copies of chosen images under chosen names."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from stagewright.adapters.export.images.names import (
    ExportRefusedError,
    NameTemplate,
    name_key,
    safe_name,
)
from stagewright.adapters.imaging import converted

from .command_line import SMALL, run_json, stagewright, write_config
from .crashing import KILLED
from .forking import ForkServer

Export = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of two images, and a group of two such runs."""
    folder = tmp_path_factory.mktemp("made")
    sweep = write_config(folder, SMALL, "sweep.toml")
    done = stagewright("run", sweep, "--vary", "txt2img.cfg_scale=5,7.5", folder=folder)
    assert done.returncode == 0, done.stderr
    run_json(write_config(folder, SMALL, "small.toml"))
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """The same, for one test."""
    shutil.copytree(made, tmp_path / "here")
    return tmp_path / "here"


def export(folder: Path, *arguments: str | Path, status: int = 0) -> dict[str, Any]:
    """What an export to ``out`` did."""
    done = stagewright("export", *arguments, "--to", "out", "--json", folder=folder)
    assert done.returncode == status, done
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def refused(folder: Path, *arguments: str | Path) -> str:
    """What an export to ``out`` says that is refused; nothing was copied."""
    before = names(folder)
    done = stagewright("export", *arguments, "--to", "out", folder=folder)
    assert done.returncode == 2, done
    assert names(folder) == before
    return done.stderr


def names(folder: Path) -> list[str]:
    """The names of the files in ``out``, hidden ones too."""
    return sorted(path.name for path in (folder / "out").glob("*"))


def images(folder: Path, run: str) -> list[Path]:
    """The images of a run, in order."""
    (found,) = folder.glob(f"runs/*-{run}-*")
    return sorted(found.glob("images/*/*.png"))


def test_images_are_copied_byte_for_byte_and_a_second_time_nothing_is_left_to_do(
    folder: Path,
) -> None:
    """The copies are named after the run, the number and the seed."""
    first = export(folder, "small")
    assert [image["copied"] for image in first["images"]] == [True, True]
    assert names(folder) == ["small-001-42.png", "small-002-43.png"]
    for copy, source in zip(names(folder), images(folder, "small"), strict=True):
        assert (folder / "out" / copy).read_bytes() == source.read_bytes()
    second = export(folder, "small")
    assert [image["copied"] for image in second["images"]] == [False, False]
    assert "2 images there already" in stagewright(
        "export", "small", "--to", "out", folder=folder
    ).stdout  # fmt: skip


def test_a_file_with_other_content_is_replaced_only_on_request(folder: Path) -> None:
    """Nothing is copied before the refusal; a folder or a link in the place is refused too."""
    out = folder / "out"
    out.mkdir()
    (out / "small-002-43.png").write_bytes(b"mine")
    assert "other files named small-002-43.png" in refused(folder, "small")
    assert (out / "small-002-43.png").read_bytes() == b"mine"
    export(folder, "small", "--replace")
    assert (out / "small-002-43.png").read_bytes() == images(folder, "small")[1].read_bytes()
    (out / "small-002-43.png").unlink()
    (out / "small-002-43.png").symlink_to(folder / "nowhere")
    assert "other files named" in refused(folder, "small")


def test_chosen_images_of_a_run_and_of_a_group_are_exported(folder: Path) -> None:
    """A number stands for that image of every variant; ratings choose across variants."""
    export(folder, "small", "--only", "2")
    assert names(folder) == ["small-002-43.png"]
    shutil.rmtree(folder / "out")
    export(folder, "last-group", "--only", "1")
    assert names(folder) == ["sweep-001-001-42.png", "sweep-002-001-42.png"]
    shutil.rmtree(folder / "out")
    assert "no finished image that 'picked' fits" in refused(
        folder, "last-group", "--only", "picked"
    )
    _, _, third, _ = sorted(folder.glob("runs/*-sweep-*/images/*/*.png"))
    stagewright("rate", third, "5", "--pick", folder=folder)
    stagewright("report", "last-group", "--output", "page.html", folder=folder)
    assert (folder / "page.html").read_text().count("image 1: 5 of 5, picked") == 1
    found = export(
        folder, "last-group", "--only", "rating>=4", "--name", "{rating}-{txt2img.cfg_scale}"
    )
    assert len(found["images"]) == 1
    assert names(folder) in (["5-5.png"], ["5-7.5.png"])
    assert "no image 3: it has 2" in refused(folder, "small", "--only", "3")
    assert "examples: 3,17" in refused(folder, "small", "--only", "third")


def test_names_that_cannot_be_used_are_refused_before_anything_is_copied(folder: Path) -> None:
    """Equal names, unknown fields, fields without a value, folders, and odd formats."""
    assert "two images would be named small.png" in refused(folder, "small", "--name", "{name}")
    assert "two images would be named" in refused(folder, "last-group", "--name", "{number}")
    unknown = refused(folder, "small", "--name", "{nam}")
    assert "there are name, number, seed, run, stage, group, variant, date, rating" in unknown
    assert "an image has no group" in refused(folder, "small", "--name", "{group}{number}")
    assert "makes folders" in refused(folder, "small", "--name", "../{number}")
    for odd in ("{number:x}", "{number!r}", "{number.real}", "{number", "{0}", "{number:999999}"):
        refused(folder, "small", "--name", odd)


@pytest.mark.parametrize(("kind", "suffix"), [("jpeg", "jpg"), ("webp", "webp")])
def test_a_converted_image_keeps_its_settings_and_its_origin(
    folder: Path, kind: str, suffix: str
) -> None:
    """Other programs find the settings in EXIF, where WebUI servers write them."""
    export(folder, "small", "--format", kind)
    copy = folder / "out" / f"small-001-42.{suffix}"
    (source, _) = images(folder, "small")
    with Image.open(source) as original, Image.open(copy) as converted:
        assert converted.format == kind.upper()
        assert converted.size == original.size
        exif = converted.getexif()
        settings = exif.get_ifd(0x8769)[0x9286]
        assert settings == b"UNICODE\0" + original.info["parameters"].encode("utf-16-be")
        software, _, stamp = exif[0x0131].partition(" {")
        assert software.startswith("stagewright ")
        assert json.loads("{" + stamp) == json.loads(original.info["stagewright"])
    shown = json.loads(stagewright("show", copy, "--json", folder=folder).stdout)
    assert (shown["prompt"], shown["seed"]) == ("a lighthouse at dusk", 42)
    again = export(folder, "small", "--format", kind)
    assert [image["copied"] for image in again["images"]] == [False, False]


def test_images_that_are_missing_or_altered_are_left_out_and_named(folder: Path) -> None:
    """The others are copied; the exit status is 4."""
    first, second = images(folder, "small")
    first.write_bytes(first.read_bytes() + b"x")
    found = export(folder, "small", status=4)
    assert names(folder) == ["small-002-43.png"]
    assert list(found["left_out"].values()) == ["it has been altered: its digest differs"]
    second.unlink()
    done = stagewright("export", "small", "--to", "none", folder=folder)
    assert done.stderr.count("not exported") == 2


def test_a_corrupt_run_of_a_group_is_left_out_and_named(folder: Path) -> None:
    """The images of the others are copied; where no run can be read, nothing is."""
    first, second = sorted(folder.glob("runs/*-sweep-*/events.jsonl"))
    first.write_bytes(b"damaged\n" + first.read_bytes().partition(b"\n")[2])
    found = export(folder, "last-group", status=4)
    (left_out,) = found["left_out"].items()
    assert left_out[0] == f"runs/{first.parent.name}"
    assert "corrupt at byte 0" in left_out[1]
    assert len(found["images"]) == len(names(folder)) == 2
    done = stagewright("export", "last-group", "--to", "out", folder=folder)
    assert f"{left_out[0]}: not exported: " in done.stderr
    second.write_bytes(b"damaged\n" * 40)
    assert stagewright("export", "last-group", "--to", "out", folder=folder).returncode == 4


@pytest.mark.posix
@pytest.mark.parametrize("at", ["file-half", "file-written", "file-synced", "file-linked"])
def test_a_killed_export_leaves_no_half_file(folder: Path, forks: ForkServer, at: str) -> None:
    """A file with its final name is whole; the next export completes the rest."""
    order = ("export", "small", "--to", "out")
    killed = forks.command(*order, folder=folder, failpoint=f"{at} small-002")
    assert killed.status == KILLED
    whole = {path.read_bytes() for path in images(folder, "small")}
    assert {path.read_bytes() for path in (folder / "out").glob("small*")} <= whole
    assert forks.command(*order, folder=folder).status == 0
    assert {path.read_bytes() for path in (folder / "out").glob("small*")} == whole


def picture(mode: str, colour: int | tuple[int, ...]) -> bytes:
    """A PNG of one colour."""
    stream = io.BytesIO()
    Image.new(mode, (8, 8), colour).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "jpeg", "webp"),
    [
        (picture("RGBA", (255, 0, 0, 0)), (255, 255, 255), (255, 0, 0, 0)),
        (picture("L", 128), (128, 128, 128), (128, 128, 128)),
        (picture("I;16", 0x8000), (128, 128, 128), (128, 128, 128)),
        (picture("1", 1), (255, 255, 255), (255, 255, 255)),
    ],
)
def test_pictures_of_every_kind_are_converted(
    data: bytes, jpeg: tuple[int, ...], webp: tuple[int, ...]
) -> None:
    """White shows through a JPEG; WebP keeps transparency; grey stays grey."""
    for kind, wanted in (("JPEG", jpeg), ("WEBP", webp)):
        with Image.open(io.BytesIO(converted(data, kind))) as image:
            found = image.getpixel((4, 4))
        assert isinstance(found, tuple)
        assert len(found) == len(wanted)
        if found[3:] != (0,):  # of what is not seen any colour will do
            assert all(abs(one - other) < 4 for one, other in zip(found, wanted, strict=True))


def test_settings_that_are_too_long_for_a_jpeg_are_left_out() -> None:
    """The image is converted all the same, and still says where it comes from."""
    data = picture("RGB", (1, 2, 3))
    with Image.open(io.BytesIO(converted(data, "JPEG", comment="é" * 40_000, software="s"))) as one:
        assert one.getexif()[0x0131] == "s"
        assert 0x9286 not in one.getexif().get_ifd(0x8769)


@given(text=st.text(max_size=300))
@example('".0')
def test_every_name_is_one_that_all_systems_allow(text: str) -> None:
    """No separators, no control characters, no devices of Windows, not too long, never empty."""
    name = safe_name(text)
    assert 0 < len(name.encode()) <= 201
    assert not set(name) & set('<>:"/\\|?*\0\n\r\x1b')
    assert name.isprintable() or all(letter.isprintable() or ord(letter) > 127 for letter in name)
    assert name[0] not in ".- "
    assert name[-1] not in ". "
    assert name.split(".")[0].casefold() not in ("con", "nul", "aux", "prn", "com1", "lpt9")
    assert safe_name(name) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a/b\\c", "a-b-c"), ("CON", "_CON"), ("nul.txt", "_nul.txt"), ("..", "image"),
        ("-rf", "rf"), (" x. ", "x"), ("Straße 猫", "Straße 猫"), ("\x1b[31m", "[31m"),
        ("e\u0301", "é"), ("con: the movie", "con- the movie"),
    ],
)  # fmt: skip
def test_odd_names_become_plain_ones(text: str, name: str) -> None:
    """Letters of any script stay as they are."""
    assert safe_name(text) == name


@given(text=st.text(alphabet="{}:!.0ax ", max_size=12))
def test_any_template_makes_a_name_or_is_refused(text: str) -> None:
    """No template ends in another error, or takes much memory."""
    try:
        template = NameTemplate(text)
        template.check_fields(["a", "x"])
        assert len(template.name({"a": 1, "x": "b"})) < 200
    except ExportRefusedError:
        pass


def test_names_that_differ_only_in_case_are_equal() -> None:
    """Some systems would put both in one file."""
    assert name_key("A\u0301.png") == name_key("á.PNG")
