"""Input images: where they are looked for, which are taken, which are refused."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image
from stagewright.adapters import PillowInputReader
from stagewright.events import PipelineRunResult, RunOpened, RunState
from stagewright.statemachine import (
    BackendError,
    CancelToken,
    ConfigurationError,
    GenerateRequest,
    InputImageError,
    InvalidStagePlanError,
    PipelineController,
    RunConfig,
    build_stage_execution_plan,
    load_config,
)
from stagewright.statemachine.config.input_files import MAX_INPUT_BYTES

from .support import ScriptedBackend, document, png

pytestmark = pytest.mark.lowest

WAIT_S = 30


def encoded(kind: str, size: tuple[int, int] = (40, 24), mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, 77).save(stream, kind)
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size, and has the pixels of a much smaller one."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    whole = png(1)
    return whole[:12] + head + struct.pack(">I", zlib.crc32(head)) + whole[33:]


def load(folder: Path, config: dict[str, Any], runs: Path | None = None) -> RunConfig:
    """The configuration, from a file in ``folder``."""
    path = folder / "config.json"
    path.write_bytes(msgspec.json.encode(config))
    return load_config(path, inputs=PillowInputReader(), runs=runs or folder)


def refused(folder: Path, config: dict[str, Any], key: str = "input_image") -> str:
    """Why the configuration's image is refused; the message names the key."""
    with pytest.raises(InputImageError) as error:
        load(folder, config)
    assert isinstance(error.value, ConfigurationError)
    assert error.value.key == key
    assert str(error.value).startswith(f"{key} = ")
    assert str(error.value).isprintable()
    return str(error.value)


def controller(runs: Path, backend: ScriptedBackend | None = None) -> PipelineController:
    return PipelineController(
        backend=backend or ScriptedBackend(), runs=runs, inputs=PillowInputReader()
    )


def finished(runs: Path, config: dict[str, Any]) -> PipelineRunResult:
    return controller(runs).start(config).wait(WAIT_S)


@pytest.mark.parametrize(
    ("name", "data", "media_type", "size"),
    [
        ("in.png", png(1, (72, 40)), "image/png", (72, 40)),
        ("in.png", encoded("PNG", mode="L"), "image/png", (40, 24)),
        ("in.png", encoded("PNG", mode="P"), "image/png", (40, 24)),
        ("in.jpg", encoded("JPEG"), "image/jpeg", (40, 24)),
        ("in.webp", encoded("WEBP"), "image/webp", (40, 24)),
        ("in.png", encoded("JPEG"), "image/jpeg", (40, 24)),
        ("in.data", encoded("WEBP", (8, 16)), "image/webp", (8, 16)),
    ],
)
def test_a_file_is_taken_for_what_it_is(
    tmp_path: Path, name: str, data: bytes, media_type: str, size: tuple[int, int]
) -> None:
    """PNG, JPEG and WebP are told by their bytes, whatever the name; sizes are the image's."""
    (tmp_path / name).write_bytes(data)
    (found,) = load(tmp_path, document("img2img", input_image=name)).inputs
    assert found.path == str(tmp_path / name)
    assert (found.media_type, (found.width, found.height)) == (media_type, size)
    assert found.parent_run_id is None


def test_paths_are_relative_to_the_configurations_folder(tmp_path: Path) -> None:
    """Input and mask are found beside the file, above it, or where an absolute path says."""
    folder = tmp_path / "configs"
    folder.mkdir()
    (tmp_path / "in.png").write_bytes(png(1))
    (folder / "mask.png").write_bytes(png(2, mode="L"))
    config = document("img2img", input_image="../in.png")
    config["img2img"]["mask"] = "mask.png"
    loaded = load(folder, config)
    assert [Path(one.path).resolve() for one in loaded.inputs] == [tmp_path / "in.png"]
    assert loaded.mask is not None
    assert Path(loaded.mask.path) == folder / "mask.png"
    absolute = load(folder, document("upscale", input_image=str(tmp_path / "in.png")))
    assert absolute.inputs[0].path == str(tmp_path / "in.png")


def test_a_folder_gives_one_image_per_file_in_order(tmp_path: Path) -> None:
    """Sorted by name; hidden files, other kinds of file and folders are passed over."""
    images = tmp_path / "images"
    (images / "folder.png").mkdir(parents=True)
    for name in ("c.webp", "a.jpeg", "b.PNG", "a.jpg", "a.png", ".hidden.png"):
        kind = {"png": "PNG", "webp": "WEBP"}.get(name[-4:].lower().strip("."), "JPEG")
        (images / name).write_bytes(encoded(kind))
    (images / "notes.txt").write_text("no image")
    loaded = load(tmp_path, document("upscale", input_image="images"))
    names = [Path(one.path).name for one in loaded.inputs]
    assert names == ["a.jpeg", "a.jpg", "a.png", "b.PNG", "c.webp"]
    assert build_stage_execution_plan(loaded).total_images == 5


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("none.png", "there is no such file"),
        ("empty", "the folder holds no .png, .jpg, .jpeg, .webp"),
        ("n" * 300 + ".png", "cannot be read: File name too long"),
        ("run:none", "there is no run 'none'"),
        ("run:last", "there is no run yet"),
        ("run:", "there is no run ''"),
    ],
)
def test_an_input_that_is_not_there_is_refused(tmp_path: Path, named: str, words: str) -> None:
    """A missing file, an empty folder, an unknown run: one line, naming what was asked for."""
    (tmp_path / "empty").mkdir()
    message = refused(tmp_path, document("img2img", input_image=named))
    assert words in message
    assert named in message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no image",
        png(1)[:-60],
        png(1)[:40],
        encoded("JPEG", (640, 480))[:-400],
        encoded("WEBP", (640, 480))[:-40],
        encoded("GIF", (640, 480), mode="L")[:-400],
        encoded("BMP")[:-40],
        encoded("TIFF")[:-40],
        encoded("AVIF")[:-40],
        encoded("PPM"),
        encoded("ICO"),
        b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>',
        b"%PDF-1.4\n",
    ],
)
@pytest.mark.parametrize("key", ["input_image", "img2img.mask"])
def test_what_does_not_decode_is_refused(tmp_path: Path, data: bytes, key: str) -> None:
    """Truncated images and every other format, renamed to .png or not."""
    (tmp_path / "good.png").write_bytes(png(1))
    (tmp_path / "bad.png").write_bytes(data)
    config = document("img2img", input_image="good.png")
    table = config if key == "input_image" else config["img2img"]
    table[key.rpartition(".")[2]] = "bad.png"
    message = refused(tmp_path, config, key)
    formats = "PNG, JPEG, WebP, AVIF, BMP, TIFF, GIF or HEIC"
    assert message.startswith(f"{key} = {tmp_path / 'bad.png'}: not a {formats} image")
    assert "object at" not in message


@pytest.mark.parametrize("size", [(60_000, 60_000), (2**31 - 1, 1), (13_378, 13_378)])
def test_an_image_of_too_many_pixels_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    """The header's word is enough: no memory is taken for what it claims."""
    (tmp_path / "in.png").write_bytes(png_header(*size))
    message = refused(tmp_path, document("upscale", input_image="in.png"))
    assert "in.png: more than 178956970 pixels" in message


def test_a_file_of_too_many_bytes_is_refused(tmp_path: Path) -> None:
    """It is not even read."""
    with open(tmp_path / "in.png", "wb") as stream:
        stream.truncate(MAX_INPUT_BYTES + 1)
    message = refused(tmp_path, document("upscale", input_image="in.png"))
    assert message.endswith(f"in.png: larger than {MAX_INPUT_BYTES} bytes")


def test_without_decoding_only_the_header_is_read() -> None:
    """Kind and size are told of a truncated image, where pixels do not matter."""
    facts = PillowInputReader().inspect(png(1, (72, 40))[:-60], name="in", decode=False)
    assert (facts.media_type, facts.width, facts.height) == ("image/png", 72, 40)


@pytest.mark.parametrize("switch", [{}, {"txt2img_enabled": True, "txt2img": None}])
def test_with_txt2img_no_input_image_is_looked_for(tmp_path: Path, switch: dict[str, Any]) -> None:
    """It is not used, so it need not be there: the plan warns of it."""
    flat = {"model_name": "m", "sampler": "s", "cfg_scale": 7, "width": 64, "height": 64}
    config = document("txt2img", input_image="none.png") | (flat | {"steps": 3} | switch)
    loaded = load(tmp_path, {key: value for key, value in config.items() if value is not None})
    assert loaded.inputs == ()
    plan = build_stage_execution_plan(loaded)
    assert plan.warnings == ("input_image is not used, because txt2img is enabled",)
    assert plan.input_count == 1


def test_an_empty_input_image_is_none(tmp_path: Path) -> None:
    """The empty path of older tools does not stand for the configuration's own folder."""
    (tmp_path / "in.png").write_bytes(png(1))
    for key in ("input_image", "input_image_path"):
        with pytest.raises(InvalidStagePlanError, match="needs an input image"):
            load(tmp_path, document("img2img") | {key: ""})


def test_the_legacy_path_is_looked_for_too(tmp_path: Path) -> None:
    """``input_image_path`` stands for ``input_image``, which goes before it."""
    (tmp_path / "in.png").write_bytes(png(1))
    loaded = load(tmp_path, document("img2img", input_image_path="in.png"))
    assert [Path(one.path).name for one in loaded.inputs] == ["in.png"]
    both = document("img2img", input_image="in.png", input_image_path="none.png")
    assert load(tmp_path, both).inputs == loaded.inputs


def test_a_mask_of_a_stage_that_is_off_is_not_looked_for(tmp_path: Path) -> None:
    """With img2img enabled it is, after txt2img as well."""
    config = document("txt2img", "img2img")
    config["img2img"]["mask"] = "none.png"
    assert "none.png" in refused(tmp_path, config, "img2img.mask")
    config["img2img"]["enabled"] = False
    assert load(tmp_path, config).mask is None


def test_what_was_found_once_is_kept_by_the_controller(tmp_path: Path) -> None:
    """A loaded configuration runs from any working folder: its mask is not sought again."""
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "mask.png").write_bytes(png(2, mode="L"))
    config = document("txt2img", "img2img")
    config["img2img"]["mask"] = "mask.png"
    backend = ScriptedBackend()
    handle = controller(tmp_path / "runs", backend).start(load(folder, config))
    assert handle.wait(WAIT_S).state is RunState.COMPLETED
    masks = [request.mask.data if request.mask else None for request in backend.requests]
    assert masks == [None, png(2, mode="L")]


def test_the_final_images_of_an_earlier_run_are_inputs(tmp_path: Path) -> None:
    """``run:RUN`` takes those of its last stage, by id, prefix, ``last`` or folder."""
    earlier = finished(tmp_path, document("txt2img", "upscale", images=2))
    folder = tmp_path / earlier.run_id
    for named in (earlier.run_id, earlier.run_id[:12], "last", str(folder)):
        found = load(tmp_path, document("img2img", input_image=f"run:{named}")).inputs
        assert [one.path for one in found] == [str(folder / one.path) for one in earlier.images]
        assert all(Path(one.path).parent.name == "01-upscale" for one in found)
        assert {one.parent_run_id for one in found} == {earlier.run_id}
    assert "there is no run ''" in refused(tmp_path, document("img2img", input_image="run:"))


def test_a_run_records_whose_images_it_began_with(tmp_path: Path) -> None:
    """RunOpened names the parent run and the digest of each source."""
    earlier = finished(tmp_path, document("txt2img", images=2))
    later = finished(tmp_path, document("img2img", input_image=f"run:{earlier.run_id}"))
    opened = next(iter(later.events))
    assert isinstance(opened, RunOpened)
    assert [one.parent_run_id for one in opened.inputs] == [earlier.run_id] * 2
    assert [one.source_sha256 for one in opened.inputs] == [
        one.source_sha256 for one in earlier.images
    ]


def test_a_run_without_finished_images_gives_none(tmp_path: Path) -> None:
    """Images of an earlier stage are not taken for the final ones."""

    def fail_upscale(request: GenerateRequest, _cancel: CancelToken) -> None:
        if request.stage_type == "upscale":
            raise BackendError("no")

    backend = ScriptedBackend(fail_upscale)
    failed = controller(tmp_path, backend).start(document("txt2img", "upscale")).wait(WAIT_S)
    assert (failed.state, len(failed.images)) == (RunState.ERROR, 1)
    message = refused(tmp_path, document("img2img", input_image="run:last"))
    assert message == f"input_image = run:last: run {failed.run_id} has finished no image"


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (Path.unlink, "it is missing"),
        (lambda path: path.write_bytes(png(9)), "it has been altered"),
        (lambda path: path.symlink_to(path.rename(path.parent / "away.png")), "it is a link"),
    ],
)
def test_an_image_of_an_earlier_run_must_still_be_what_it_made(
    tmp_path: Path, harm: Callable[[Path], object], words: str
) -> None:
    """One that was removed or altered is refused, naming the file."""
    earlier = finished(tmp_path, document("txt2img"))
    (image,) = earlier.images
    harm(tmp_path / earlier.run_id / image.path)
    message = refused(tmp_path, document("img2img", input_image="run:last"))
    assert f"{image.path}: {words}" in message
