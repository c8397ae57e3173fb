"""Masks: one for all images, or a folder with one for each input."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from PIL import Image
from stagewright.events import CallRequested, PipelineRunResult, RunOpened, RunState
from stagewright.events.errors import ImageAlteredError
from stagewright.statemachine import InputImageError, RunConfig, build_stage_execution_plan

from .resuming import cut_before
from .support import ScriptedBackend, document, png
from .test_inputs import controller, load

WAIT_S = 60
SIZES = {"a": (64, 64), "b 2": (72, 40), "c": (40, 80)}


def given(folder: Path, names: dict[str, tuple[int, int]] | None = None) -> dict[str, Any]:
    """A configuration with a folder of inputs, and with a folder of masks of their sizes."""
    for place, (stem, size) in enumerate((names or SIZES).items()):
        for kind, suffix in {"photos": ".png", "masks": ".gif"}.items():
            (folder / kind).mkdir(exist_ok=True)
            Image.new("L", size, 40 * place).save(folder / kind / f"{stem}{suffix}")
    config = document("img2img", input_image=str(folder / "photos"))
    config["img2img"]["mask"] = str(folder / "masks")
    return config


def masked(runs: Path, config: dict[str, Any]) -> tuple[PipelineRunResult, list[int]]:
    """The result of a run, and the shade of the mask in each request."""
    backend = ScriptedBackend()
    result = controller(runs, backend).start(config).wait(WAIT_S)
    return result, [shade(request.mask.data) for request in backend.requests if request.mask]


def shade(data: bytes) -> int:
    """The value of every pixel of an image."""
    low, high = Image.open(io.BytesIO(data)).convert("L").getextrema()
    assert low == high
    assert isinstance(low, int)
    return low


@pytest.mark.parametrize("images", [1, 2])
def test_each_input_has_the_mask_of_its_name(tmp_path: Path, images: int) -> None:
    """For all of its images; the masks are copied and recorded behind the inputs."""
    result, shades = masked(tmp_path / "runs", given(tmp_path) | {"images": images})
    assert result.state is RunState.COMPLETED
    assert shades == [shade for shade in (0, 40, 80) for _ in range(images)]
    opened = next(iter(result.events))
    assert isinstance(opened, RunOpened)
    assert [record.path for record in opened.inputs[3:]] == [
        f"inputs/masks/{number:05d}.png" for number in range(3)
    ]
    originals = [record.original.name for record in opened.inputs[3:] if record.original]
    assert originals == ["a.gif", "b 2.gif", "c.gif"]
    assert opened.plan["stages"][0]["config"]["mask"] == "inputs/masks"


def test_a_resume_uses_the_recorded_masks(tmp_path: Path) -> None:
    """The folder may be gone; a copy that is gone is named, and nothing else is done."""
    config = given(tmp_path)
    result, _ = masked(tmp_path / "runs", config)
    folder = tmp_path / "runs" / result.run_id
    cut_before(folder, CallRequested, 2)
    for mask in (tmp_path / "masks").iterdir():
        mask.unlink()
    copy = folder / "inputs/masks/00002.png"
    data = copy.read_bytes()
    copy.unlink()
    with pytest.raises(ImageAlteredError, match=r"masks/00002\.png: it is missing"):
        controller(tmp_path / "runs").resume(result.run_id)
    copy.write_bytes(data)
    backend = ScriptedBackend()
    again = controller(tmp_path / "runs", backend).resume(result.run_id).wait(WAIT_S)
    assert again.state is RunState.COMPLETED
    assert [shade(one.mask.data) for one in backend.requests if one.mask] == [80]


def test_inputs_of_one_stem_share_a_mask(tmp_path: Path) -> None:
    """The same picture in two formats."""
    config = given(tmp_path, {"a": (64, 64), "b": (64, 64)})
    (tmp_path / "photos" / "b.webp").write_bytes((tmp_path / "photos" / "b.png").read_bytes())
    assert masked(tmp_path / "runs", config)[1] == [0, 40, 40]


def test_a_name_may_be_written_in_two_ways(tmp_path: Path) -> None:
    """macOS takes accents apart; the mask is found all the same, whatever its format."""
    config = given(tmp_path, {normalize("NFC", "Été"): (64, 64)})
    (tmp_path / "masks" / f"{normalize('NFC', 'Été')}.gif").rename(
        tmp_path / "masks" / f"{normalize('NFD', 'Été')}.gif"
    )
    assert masked(tmp_path / "runs", config)[1] == [0]


def test_all_inputs_without_a_usable_mask_are_named_at_once(tmp_path: Path) -> None:
    """No mask, one of another size, one that is no image."""
    config, masks = given(tmp_path), tmp_path / "masks"
    (masks / "a.gif").unlink()
    Image.new("L", (8, 8)).save(masks / "b 2.gif")
    (masks / "c.gif").write_bytes(b"no image")
    with pytest.raises(InputImageError) as error:
        load(tmp_path, config)
    assert error.value.key == "img2img.mask"
    told = str(error.value)
    assert told.startswith(f"img2img.mask = {masks}: 3 of 3 images cannot be used: ")
    assert "a.png: it has no mask of its name" in told
    assert "b 2.png: its mask b 2.gif has 8x8 pixels, and it 72x40" in told
    assert "c.png: its mask c.gif: not a PNG" in told


@pytest.mark.parametrize("harm", ["remove", "resize", "spoil", "double"])
def test_with_continue_an_input_without_its_mask_is_missing(tmp_path: Path, harm: str) -> None:
    """It is never made without; the others are made with their own."""
    config = given(tmp_path) | {"run": {"on_image_error": "continue"}}
    mask = tmp_path / "masks" / "b 2.gif"
    match harm:
        case "remove":
            mask.unlink()
        case "resize":
            Image.new("L", (8, 8)).save(mask)
        case "spoil":
            mask.write_bytes(mask.read_bytes()[:30])
        case "double":
            Image.new("L", SIZES["b 2"]).save(mask.with_suffix(".png"))
    result, shades = masked(tmp_path / "runs", config)
    assert (result.state, result.outcome) == (RunState.ERROR, "partial")
    (gap,) = result.missing
    assert (gap.image_index, gap.error and gap.error.kind) == (1, "InputRefusedError")
    assert gap.error is not None
    assert "mask" in gap.error.message
    assert shades == [0, 80]


def test_masks_need_inputs(tmp_path: Path) -> None:
    """After txt2img no input has a name."""
    config = given(tmp_path)
    del config["input_image"]
    config |= {"txt2img": document("txt2img")["txt2img"]}
    with pytest.raises(InputImageError, match="a mask for each input image, and there is none"):
        load(tmp_path, config)


def warnings_of(config: RunConfig) -> tuple[str, ...]:
    """What the plan says, but for the settings of a mask that the configuration leaves open."""
    warnings = build_stage_execution_plan(config).warnings
    return tuple(one for one in warnings if "mask_content" not in one)


def test_masks_without_an_input_are_mentioned(tmp_path: Path) -> None:
    """As a warning, like files that are no masks."""
    config = given(tmp_path)
    (tmp_path / "masks" / "z.png").write_bytes(png(1))
    (tmp_path / "masks" / "notes.txt").touch()
    masks = tmp_path / "masks"
    assert warnings_of(load(tmp_path, config)) == (
        f"1 file of {masks}/ is left out: 1 is not an image (notes.txt)",
        f"img2img.mask = {masks}: 1 mask has no input: z.png",
    )


def test_one_mask_of_another_size_is_mentioned(tmp_path: Path) -> None:
    """Servers stretch it, which may be meant; one of the size of every input is silent."""
    config = given(tmp_path)
    config["img2img"]["mask"] = str(tmp_path / "masks" / "a.gif")
    (warning,) = warnings_of(load(tmp_path, config))
    assert warning.startswith("img2img.mask has 64x64 pixels, and an input 40x80: ")
    config["input_image"] = str(tmp_path / "photos" / "a.png")
    assert warnings_of(load(tmp_path, config)) == ()
