"""Folders and patterns of input images: their order, what is left out, and files that are bad."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stagewright.events import PipelineRunResult, RunOpened, RunState
from stagewright.statemachine import (
    InputImageError,
    ResumeRefusedError,
    build_stage_execution_plan,
    load_config,
)
from stagewright.statemachine.config.input_files import list_images

from .command_line import stagewright, write_config
from .input_images import READER
from .support import ScriptedBackend, document, png
from .test_inputs import controller, load

WAIT_S = 60
UPSCALE = '[upscale]\nupscaler = "Lanczos"\nfactor = 1.0\n'
NO_IMAGE = "not a PNG, JPEG, WebP, AVIF, BMP, TIFF, GIF or HEIC image"


def folder_of(where: Path, *names: str, bad: tuple[str, ...] = ()) -> Path:
    """A folder with an image of each name, and with ``bad`` files that are none."""
    where.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        (where / name).write_bytes(png(number))
    for name in bad:
        (where / name).write_bytes(b"no image")
    return where


def names_in(folder: Path, named: str) -> list[str]:
    """The names of the files that ``input_image`` stands for, in order."""
    found = load(folder, document("upscale", input_image=named)).inputs
    return [Path(one.path).name for one in found]


@pytest.mark.parametrize(
    "names",
    [
        ["img1.png", "img2.png", "img10.png", "img100.png"],
        ["IMG_9.jpg", "img_10.jpg", "IMG_11.jpg"],
        ["2.png", "02b.png", "10.png"],
        ["a 2 of 10.png", "a 10 of 2.png"],
        ["scan-1.png", "scan-1-2.png", "scan-1-10.png", "scan-2.png"],
        ["日2.png", "日10.png"],
        ["v1.2.png", "v1.10.png"],
    ],
)
def test_a_folder_is_in_natural_order(tmp_path: Path, names: list[str]) -> None:
    """Numbers in names are ordered as numbers, wherever they stand."""
    folder_of(tmp_path / "photos", *reversed(names))
    assert names_in(tmp_path, "photos") == names


@given(st.sets(st.integers(0, 10**30), min_size=1, max_size=20))
def test_numbered_frames_are_in_the_order_of_their_numbers(
    tmp_path_factory: pytest.TempPathFactory, numbers: set[int]
) -> None:
    """However many digits they have."""
    folder = tmp_path_factory.mktemp("frames")
    for number in numbers:
        (folder / f"frame{number}.png").touch()
    listed = list_images(str(folder), folder, key="input_image").paths
    assert [path.stem for path in listed] == [f"frame{number}" for number in sorted(numbers)]


@pytest.mark.parametrize(
    ("others", "words"),
    [
        (["notes.txt"], "1 file of photos/ is left out: 1 is not an image (notes.txt)"),
        ([".a.png"], "1 file of photos/ is left out: 1 is hidden"),
        (["raw/"], "1 file of photos/ is left out: 1 is a folder (raw)"),
        (["z/", "y.png/"], "2 files of photos/ are left out: 2 are folders (y.png, ...)"),
        (
            ["notes.txt", "Thumbs.db", ".DS_Store"],
            "3 files of photos/ are left out: 2 are not images (Thumbs.db, ...), 1 is hidden",
        ),
        (
            ["a.psd", "b.cr2", "c.mp4", "._d.jpg", ".e.png"],
            "5 files of photos/ are left out: 3 are not images (a.psd, ...), 2 are hidden",
        ),
    ],
)
def test_the_plan_counts_what_is_left_out_of_a_folder(
    tmp_path: Path, others: list[str], words: str
) -> None:
    """By reason, as a warning of the plan; nothing to say of a clean folder."""
    photos = folder_of(tmp_path / "photos", "a.png", "b.png")
    config = document("upscale", input_image="photos")
    assert build_stage_execution_plan(load(tmp_path, config)).warnings == ()
    for name in others:
        (photos / name).mkdir() if name.endswith("/") else (photos / name).touch()
    assert build_stage_execution_plan(load(tmp_path, config)).warnings == (words,)


@pytest.mark.parametrize(
    ("named", "names"),
    [
        ("photos/*.png", ["a2.png", "a10.png", "c[1].png"]),
        ("photos/a*", ["a2.png", "a10.png"]),
        ("photos/a?.png", ["a2.png"]),
        ("photos/[cb]*", ["b.jpg", "c[1].png"]),
        ("ph*/*.jpg", ["b.jpg"]),
        ("**/*.png", ["e.png", "a2.png", "a10.png", "c[1].png"]),
        ("photos/c[1].png", ["c[1].png"]),
        ("{tmp}/photos/*.jpg", ["b.jpg"]),
        ("~/photos/*.jpg", ["b.jpg"]),
        ("~/photos", ["a2.png", "a10.png", "b.jpg", "c[1].png"]),
        ("~/photos/b.jpg", ["b.jpg"]),
    ],
)
def test_a_pattern_stands_for_the_files_that_it_matches(
    tmp_path: Path, named: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative, absolute or in the home folder; a file of that very name goes before."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    folder_of(tmp_path / "photos", "a2.png", "a10.png", "b.jpg", "c[1].png")
    folder_of(tmp_path / "other", "e.png")
    (tmp_path / "photos" / "a.txt").touch()
    assert names_in(tmp_path, named.replace("{tmp}", str(tmp_path))) == names


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("photos/*.gif", "it matches no .png, "),
        ("photos/*.txt", "(1 file of photos/*.txt is left out: 1 is not an image (notes.txt))"),
        ("none/*", "it matches no .png, "),
        ("empty", "(1 file of empty/ is left out: 1 is hidden)"),
        ("~nobody-of-this-name/a.png", "there is no such file"),
    ],
)
def test_nothing_to_be_found_is_one_error(tmp_path: Path, named: str, words: str) -> None:
    """It says what was looked for, and what is there instead."""
    folder_of(tmp_path / "photos", "a.png")
    (tmp_path / "photos" / "notes.txt").touch()
    (folder_of(tmp_path / "empty") / ".hidden.png").touch()
    with pytest.raises(InputImageError, match=re.escape(words)) as error:
        load(tmp_path, document("upscale", input_image=named))
    assert error.value.key == "input_image"
    assert Path(named).name in str(error.value)


def test_all_bad_files_of_a_folder_are_named_at_once(tmp_path: Path) -> None:
    """Not images, cut off, empty, a link to nowhere; each with its reason, in one line."""
    photos = folder_of(tmp_path / "photos", "a.png", bad=("b.png", "c.jpg"))
    (photos / "d.png").write_bytes(png(1)[:-40])
    (photos / "e.webp").touch()
    (photos / "f.png").symlink_to(tmp_path / "nowhere")
    config = write_config(tmp_path, f'input_image = "photos"\n{UPSCALE}')
    done = stagewright("plan", config, folder=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "input_image = photos: 5 of 6 images cannot be used: " in line
    for name in ("b.png", "c.jpg", "d.png", "e.webp"):
        assert f"{name}: {NO_IMAGE}" in line
    assert "f.png: there is no such file" in line


def went_on(tmp_path: Path, **top: Any) -> PipelineRunResult:
    """The result of a run that goes on past bad images."""
    config = document("img2img", "upscale", run={"on_image_error": "continue"}, **top)
    return controller(tmp_path / "runs", ScriptedBackend()).start(config).wait(WAIT_S)


@pytest.mark.parametrize("images", [1, 2])
def test_with_continue_bad_files_are_missing_images(tmp_path: Path, images: int) -> None:
    """The rest is made at its own index and seed; verify and a resume find nothing else wrong."""
    photos = folder_of(tmp_path / "photos", "a.png", "c.png", bad=("b.png", "d.png"))
    result = went_on(tmp_path, input_image=str(photos), images=images)
    assert (result.state, result.outcome) == (RunState.ERROR, "partial")
    bad = [*range(images, 2 * images), *range(3 * images, 4 * images)]
    assert [gap.image_index for gap in result.missing] == bad
    assert {gap.stage_id for gap in result.missing} == {"00-img2img"}
    for gap in result.missing:
        assert gap.error is not None
        assert gap.error.kind == "InputRefusedError"
        assert gap.error.message.startswith(f"input {'bd'[gap.image_index // images // 2]}.png: ")
        assert NO_IMAGE in gap.error.message
    assert [image.image_index for image in result.images] == [
        index for index in range(4 * images) if index not in bad
    ]
    assert [image.seed for image in result.images] == [
        result.seeds[image.image_index] for image in result.images
    ]
    done = stagewright("verify", result.run_id, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_resume_cannot_help_a_bad_file(tmp_path: Path) -> None:
    """No command offers one, and what it would say is in the words of ``verify``; other images are
    made again, and the log stays as it is otherwise."""
    photos = folder_of(tmp_path / "photos", "a.png", "c.png", bad=("b.png",))
    result = went_on(tmp_path, input_image=str(photos))
    folder = tmp_path / "runs" / result.run_id
    log = (folder / "events.jsonl").read_bytes()
    why = "only images of inputs that cannot be used are missing; repair these files, then run the"
    with pytest.raises(ResumeRefusedError, match=rf"{why} .*: b\.png$"):
        controller(tmp_path / "runs").resume(result.run_id)
    assert (folder / "events.jsonl").read_bytes() == log
    assert "to continue" not in stagewright("show", "last", folder=tmp_path).stdout
    assert stagewright("resume", "--all", folder=tmp_path).returncode == 0
    (folder / result.images[-1].path).unlink()
    again = controller(tmp_path / "runs").resume(result.run_id).wait(WAIT_S)
    assert [image.image_index for image in again.images] == [0, 2]
    assert [gap.error.kind for gap in again.missing if gap.error] == ["InputRefusedError"]


def test_with_continue_the_plan_says_what_will_be_missing(tmp_path: Path) -> None:
    """As a warning; sizes follow the images that can be used."""
    folder_of(tmp_path / "photos", "a.png", bad=("b.png",))
    table = '[run]\non_image_error = "continue"\n'
    config = write_config(tmp_path, f'input_image = "photos"\n{UPSCALE}{table}')
    plan = json.loads(stagewright("plan", config, "--json", folder=tmp_path).stdout)
    assert plan["total_images"] == 2
    assert plan["stages"][0]["output_size"] == [64, 64]
    (warning,) = plan["warnings"]
    assert warning.startswith(
        f"1 of 2 inputs cannot be used, so their images will be missing: b.png: {NO_IMAGE}"
    )


@pytest.mark.parametrize("named", ["photos", "photos/b.png"])
def test_with_continue_some_image_must_be_usable(tmp_path: Path, named: str) -> None:
    """A run that could make nothing does not begin."""
    folder_of(tmp_path / "photos", bad=("b.png", "c.png"))
    config = document("upscale", input_image=named, run={"on_image_error": "continue"})
    with pytest.raises(InputImageError, match=r"b\.png: not a PNG"):
        load(tmp_path, config)


def test_a_record_of_a_bad_file_is_no_copy(tmp_path: Path) -> None:
    """``inputs[]`` keeps its place, and says why the file could not be used."""
    photos = folder_of(tmp_path / "photos", "a.png", bad=("b.png",))
    result = went_on(tmp_path, input_image=str(photos))
    opened = next(iter(result.events))
    assert isinstance(opened, RunOpened)
    good, bad = opened.inputs
    assert (good.refusal, bad.sha256) == (None, "")
    assert bad.refusal is not None
    assert bad.original is not None
    assert bad.original.name == "b.png"
    copies = tmp_path / "runs" / result.run_id / "inputs"
    assert [path.name for path in copies.iterdir()] == ["00000.png"]


def test_the_order_of_a_recorded_run_stays(tmp_path: Path) -> None:
    """A resume takes the inputs as recorded, whatever is in the folder by then."""
    photos = folder_of(tmp_path / "photos", "b.png", bad=("c.png",))
    result = went_on(tmp_path, input_image=str(photos))
    (tmp_path / "runs" / result.run_id / result.images[0].path).unlink()
    folder_of(photos, "a.png", "c.png")
    again = controller(tmp_path / "runs").resume(result.run_id).wait(WAIT_S)
    assert [Path(image.path).name for image in again.images] == ["00000-100-b.png"]


@pytest.mark.parametrize(
    ("option", "is_found"),
    [
        ("input_image=photos/a.png", True),
        ("input_image=photos", True),
        ("input_image=./photos/*.png", True),
        ("input_image_path=photos/a.png", True),
        (" input_image =photos/a.png", True),
        ("upscale.factor=1.0", False),
        ("input_image=beside.png", False),
    ],
)
def test_a_path_on_the_command_line_is_relative_to_the_working_folder(
    tmp_path: Path, option: str, monkeypatch: pytest.MonkeyPatch, *, is_found: bool
) -> None:
    """One in the file is relative to the file."""
    folder_of(tmp_path / "photos", "a.png")
    configs = folder_of(tmp_path / "configs", "beside.png")
    named = "" if "path" in option else 'input_image = "photos/a.png"\n'
    config = write_config(configs, f"{named}{UPSCALE}")

    def is_there(override: str) -> bool:
        try:
            load_config(config, inputs=READER, runs=tmp_path, overrides=[override])
        except InputImageError:
            return False
        return True

    monkeypatch.chdir(tmp_path)
    assert is_there(option) is is_found
    monkeypatch.chdir(configs)
    assert is_there("input_image=beside.png")


TABLE = "img2img={mask='mask.png',model='m',sampler='s',steps=3,cfg_scale=7.0,denoise=0.5}"


def test_a_mask_on_the_command_line_is_relative_to_the_working_folder(tmp_path: Path) -> None:
    """By its own key or within its table."""
    folder_of(tmp_path, "in.png", "mask.png")
    path = folder_of(tmp_path / "configs") / "c.toml"
    path.write_text(
        'prompt = "x"\ninput_image = "../in.png"\n[img2img]\nmodel = "m"\nsampler = "s"\n'
        "steps = 3\ncfg_scale = 7.0\ndenoise = 0.5\n"
    )
    for option in ("img2img.mask=mask.png", TABLE):
        done = stagewright("plan", path, "--set", option, folder=tmp_path)
        assert done.returncode == 0, done.stderr
    loaded = load_config(path, inputs=READER, runs=tmp_path)
    assert build_stage_execution_plan(loaded).warnings == ()


def test_one_image_of_a_run_is_an_input(tmp_path: Path) -> None:
    """``run:RUN#2`` is its second image, also of ``last``, of a prefix and of a folder."""
    earlier = controller(tmp_path).start(document("txt2img", images=3)).wait(WAIT_S)
    for named in ("last", earlier.run_id, earlier.run_id[:14], str(tmp_path / earlier.run_id)):
        (found,) = load(tmp_path, document("img2img", input_image=f"run:{named}#2")).inputs
        assert found.path == str(tmp_path / earlier.run_id / earlier.images[1].path)
        assert (found.parent_run_id, found.seed) == (earlier.run_id, earlier.images[1].seed)


def test_all_images_of_a_run_that_changed_are_named_at_once(tmp_path: Path) -> None:
    """Each by its file and reason; one image alone needs only its own file."""
    earlier = controller(tmp_path).start(document("txt2img", images=3)).wait(WAIT_S)
    files = [tmp_path / earlier.run_id / image.path for image in earlier.images]
    files[0].unlink()
    files[2].write_bytes(png(9))
    with pytest.raises(InputImageError) as error:
        load(tmp_path, document("upscale", input_image="run:last"))
    assert f"{files[0]}: it is missing; {files[2]}: it has been altered" in str(error.value)
    assert len(load(tmp_path, document("upscale", input_image="run:last#2")).inputs) == 1


@pytest.mark.parametrize(
    ("number", "words"),
    [
        ("#0", "run {} has no image 0 of 2"),
        ("#3", "run {} has no image 3 of 2"),
        ("#1", "run {} has finished no image 1 of 2"),
        ("#x", "there is no run 'last#x'"),
        ("#", "there is no run 'last#'"),
        ("#-1", "there is no run 'last#-1'"),
    ],
)
def test_an_image_that_a_run_does_not_have_is_refused(
    tmp_path: Path, number: str, words: str
) -> None:
    """The message names the image by its number, and how many there are."""
    photos = folder_of(tmp_path / "photos", "b.png", bad=("a.png",))
    config = document("upscale", input_image=str(photos), run={"on_image_error": "continue"})
    earlier = controller(tmp_path).start(config).wait(WAIT_S)
    with pytest.raises(InputImageError) as error:
        load(tmp_path, document("upscale", input_image=f"run:last{number}"))
    assert words.format(earlier.run_id) in str(error.value)
