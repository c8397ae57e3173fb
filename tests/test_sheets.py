"""``grid``: sheets of the images of a run or a group; what is in a cell, and what is drawn."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from stagewright.adapters.drawing import Font, choose_font
from stagewright.adapters.export.sheet import (
    Block,
    Cell,
    Row,
    SheetContent,
    SheetRefusedError,
    group_content,
    run_content,
    write_sheets,
)
from stagewright.adapters.export.sheet.pages import Layout
from stagewright.events import PipelineRunResult
from stagewright.statemachine import BackendError, CancelToken, GenerateRequest

from .command_line import stagewright
from .support import ScriptedBackend, controller, document, png
from .sweeping import group_opened, variant, write_group_log

Colour = tuple[int, int, int]


def colour_of(request: GenerateRequest) -> Colour:
    """One for each number of steps, scale and image."""
    config: Any = request.config
    return (20 * config.steps, int(20 * config.cfg_scale), 40 * (request.image_index + 1))


def painted(request: GenerateRequest) -> list[bytes]:
    return [_png(colour_of(request))]


def _png(colour: Colour) -> bytes:
    import io

    stream = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(stream, "PNG")
    return stream.getvalue()


def group(runs: Path, *vary: str, backend: ScriptedBackend | None = None, **top: Any) -> str:
    """The id of a group that has ended."""
    made = controller(runs, backend or ScriptedBackend(images=painted))
    return made.start_group(document("txt2img", **top), vary=vary).wait(60).group_id


def content(runs: Path, group_id: str, **chosen: str) -> SheetContent:
    options: dict[str, Any] = {"stage": None, "rows": None, "columns": None, **chosen}
    return group_content(runs / "groups" / group_id, runs, **options)


def boxes(file: Path, colours: list[Colour]) -> list[tuple[int, int, int, int] | None]:
    """Where each colour is on a sheet, None where it is not."""
    with Image.open(file) as sheet:
        pixels = sheet.convert("RGB")
    found = []
    for colour in colours:
        channels = zip(pixels.split(), colour, strict=True)
        first, *others = [
            channel.point([255 if level == value else 0 for level in range(256)])
            for channel, value in channels
        ]
        for one in others:
            first = Image.composite(first, Image.new("L", pixels.size), one)
        found.append(first.getbbox())
    return found


def run_of(runs: Path, **top: Any) -> PipelineRunResult:
    return controller(runs).start(document("txt2img", "upscale", **top)).wait(60)


def test_pictures_stand_where_their_row_and_column_meet(tmp_path: Path) -> None:
    """The first axis is the rows, the second the columns; each picture is whole."""
    group(tmp_path / "runs", "txt2img.cfg_scale=5,7", "txt2img.steps=2,4,6")
    done = stagewright("grid", "last-group", "--output", "a.png", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    colours = [(20 * steps, 20 * scale, 40) for scale in (5, 7) for steps in (2, 4, 6)]
    found = boxes(tmp_path / "a.png", colours)
    assert all(box and (box[2] - box[0], box[3] - box[1]) == (64, 48) for box in found)
    lefts = [box[0] for box in found if box]
    tops = [box[1] for box in found if box]
    assert lefts[:3] == lefts[3:] == sorted(set(lefts))
    assert tops == [min(tops)] * 3 + [max(tops)] * 3
    assert min(tops) < max(tops)


def test_rows_and_columns_are_chosen_by_key(tmp_path: Path) -> None:
    """By a whole key, or its last part; a key that is not varied is refused by name."""
    one = group(tmp_path, "txt2img.cfg_scale=5,7", "txt2img.steps=2,4,6")
    found = content(tmp_path, one, rows="steps")
    assert found.columns == ("txt2img.cfg_scale = 5", "txt2img.cfg_scale = 7")
    labels = [row.label for block in found.blocks for row in block.rows]
    assert labels == [f"txt2img.steps = {steps}" for steps in (2, 4, 6)]
    assert content(tmp_path, one, columns="txt2img.cfg_scale") == found
    with pytest.raises(SheetRefusedError, match=r"--rows sampler: it is not varied; the varied"):
        content(tmp_path, one, rows="sampler")
    with pytest.raises(SheetRefusedError, match="are the same axis"):
        content(tmp_path, one, rows="steps", columns="txt2img.steps")


def test_further_axes_are_blocks_and_further_images_rows(tmp_path: Path) -> None:
    """In the order of the axes; each cell is named as commands find it."""
    one = group(
        tmp_path, "txt2img.cfg_scale=5,7", "txt2img.steps=2,4", "txt2img.width=64,128", images=2
    )
    found = content(tmp_path, one)
    assert [block.heading for block in found.blocks] == [
        "txt2img.width = 64",
        "txt2img.width = 128",
    ]
    assert [row.label for row in found.blocks[0].rows] == [
        f"txt2img.cfg_scale = {scale}\nimage {image}" for scale in (5, 7) for image in (1, 2)
    ]
    cells = found.cells
    assert len(cells) == 16
    for cell in cells:
        assert cell.file is not None
        run, mark, rest = cell.caption.partition("#")
        assert cell.file.parts[-4].endswith(f"-{run}")
        assert mark
        assert rest in ("1, seed 100", "2, seed 101")


def test_one_axis_is_the_columns_and_keys_that_move_together_share_a_label(
    tmp_path: Path,
) -> None:
    """As --zip makes it."""
    made = controller(tmp_path, ScriptedBackend(images=painted))
    vary = ("txt2img.steps=2,4", "txt2img.cfg_scale=5,7")
    one = made.start_group(document("txt2img"), vary=vary, zip_axes=True).wait(60).group_id
    found = content(tmp_path, one)
    assert found.columns == (
        "txt2img.steps = 2\ntxt2img.cfg_scale = 5",
        "txt2img.steps = 4\ntxt2img.cfg_scale = 7",
    )
    assert [(block.heading, [row.label for row in block.rows]) for block in found.blocks] == [
        ("", [""])
    ]


def test_a_missing_cell_says_why(tmp_path: Path) -> None:
    """Failed, removed, altered, lost, or of a run that is gone or corrupt."""

    def fail_at_4(request: GenerateRequest, _cancel: CancelToken) -> None:
        config: Any = request.config
        if config.steps == 4:
            raise BackendError("CUDA out of memory", transient=False)

    backend = ScriptedBackend(fail_at_4, images=painted)
    one = group(tmp_path, "txt2img.steps=2,4,6,8,10,12", backend=backend)
    files = [cell.file for cell in content(tmp_path, one).cells]
    runs = [file.parents[2] if file else None for file in files]
    assert files[0]
    files[0].unlink()
    assert files[2]
    files[2].write_bytes(b"other")
    assert runs[3]
    runs[3].rename(tmp_path.parent / "elsewhere")
    assert runs[4]
    log = runs[4] / "events.jsonl"
    log.write_bytes(log.read_bytes().replace(b"a lighthouse", b"a lightxouse", 1))
    reasons = [cell.reason for cell in content(tmp_path, one).cells]
    assert reasons[0].startswith("its file is missing: ")
    assert reasons[1] == "failed: BackendError: CUDA out of memory"
    assert reasons[2] == "its file was altered"
    assert reasons[3].endswith(f"{runs[3].name} is not here")
    assert "corrupt at byte" in reasons[4]
    assert reasons[5] == ""


def test_a_value_that_no_axis_lists_has_a_place_of_its_own(tmp_path: Path) -> None:
    """A log that others wrote may name any."""
    variants = [variant(0, **{"txt2img.steps": 1}), variant(1, **{"txt2img.steps": 9})]
    folder = write_group_log(tmp_path, group_opened(variants=variants))
    found = content(tmp_path, folder.name)
    assert [label.split()[-1] for label in found.columns] == ["1", "9"]
    assert [cell.reason for cell in found.cells] == ["not begun", "not begun"]


def test_variants_that_never_began_and_images_that_were_removed_are_named(tmp_path: Path) -> None:
    """With fail_fast the group ends; ``rm --keep-last-stage`` leaves the last stage."""

    def fail(_request: GenerateRequest, _cancel: CancelToken) -> None:
        raise BackendError("broken", transient=False)

    made = controller(tmp_path / "runs", ScriptedBackend(fail))
    ended = made.start_group(document("txt2img"), vary=["txt2img.steps=2,4"], fail_fast=True)
    cells = content(tmp_path / "runs", ended.wait(60).group_id).cells
    assert [cell.reason for cell in cells] == ["failed: BackendError: broken", "not begun"]
    result = run_of(tmp_path / "runs")
    kept = stagewright("rm", result.run_id, "--keep-last-stage", "--yes", folder=tmp_path)
    assert kept.returncode == 0, kept.stderr
    folder = tmp_path / "runs" / result.run_id
    assert [cell.reason for cell in run_content(folder, "txt2img").cells] == ["removed"]
    assert [cell.reason for cell in run_content(folder, None).cells] == [""]


def test_a_run_is_a_square_of_numbered_images_of_a_stage(tmp_path: Path) -> None:
    """The last stage, or the one that is named by id or type."""
    result = run_of(tmp_path, images=5)
    folder = tmp_path / result.run_id
    found = run_content(folder, "00-txt2img")
    assert [len(row.cells) for block in found.blocks for row in block.rows] == [3, 2]
    assert [cell.caption for cell in found.cells] == [
        f"#{number}, seed {99 + number}" for number in range(1, 6)
    ]
    assert run_content(folder, "upscale") == run_content(folder, None) != found
    with pytest.raises(SheetRefusedError, match="its stages are 00-txt2img, 01-upscale"):
        run_content(folder, "img2img")


def test_a_sheet_replaces_a_sheet_and_nothing_else(tmp_path: Path) -> None:
    """The default name is in the folder of runs; an own picture is kept."""
    result = run_of(tmp_path / "runs")
    for _ in range(2):
        assert stagewright("grid", "last", folder=tmp_path).returncode == 0
    with Image.open(tmp_path / "runs" / f"{result.run_id}.png") as sheet:
        sheet.load()
    (tmp_path / "mine.png").write_bytes(png(1))
    refused = stagewright("grid", "last", "--output", "mine.png", folder=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr == (
        "stagewright: mine.png exists and is not a sheet; name another file with --output\n"
    )
    assert (tmp_path / "mine.png").read_bytes() == png(1)
    assert stagewright("grid", "last", "--rows", "steps", folder=tmp_path).returncode == 2


def many(count: int, *, columns: int, file: Path | None = None, reason: str = "") -> SheetContent:
    """A content with equal cells."""
    cells = [Cell(f"#{place}", reason, file, 64, 48) for place in range(count)]
    rows = [Row("", tuple(cells[at : at + columns])) for at in range(0, count, columns)]
    return SheetContent("many", ("",) * columns, (Block("", tuple(rows)),))


@pytest.mark.parametrize(("count", "columns"), [(2000, 2000), (100, 1)])
def test_what_does_not_fit_becomes_several_sheets(tmp_path: Path, count: int, columns: int) -> None:
    """Too wide or too high for one; every cell is on one of them."""
    counted: list[tuple[int, int]] = []
    found = many(count, columns=columns, reason="not begun")
    written = write_sheets(found, tmp_path / "a.png", lambda *one: counted.append(one))
    assert [Path(sheet.path).name for sheet in written.sheets] == [
        f"a-{number}.png" for number in range(1, len(written.sheets) + 1)
    ]
    assert len(written.sheets) > 1
    assert sum(sheet.cells for sheet in written.sheets) == count
    for sheet in written.sheets:
        with Image.open(sheet.path) as opened:
            assert opened.size == (sheet.width, sheet.height)
        assert max(sheet.width, sheet.height) <= 6_400
    assert (written.images, written.missing, counted) == (0, count, [])


def test_a_row_that_is_too_long_is_wrapped(tmp_path: Path) -> None:
    """Its parts follow below each other, each below the labels of its columns."""
    found = many(100, columns=100, reason="not begun")
    labelled = found._replace(columns=tuple(f"steps = {place}" for place in range(100)))
    (page,) = Layout(labelled, choose_font([])).pages()
    assert [one.cell.caption for one in page.cells] == [f"#{place}" for place in range(100)]
    assert len({one.y for one in page.cells}) == 3
    headed = {lines[0]: (x, y) for x, y, lines in page.texts[1:] if lines}
    for place, one in enumerate(page.cells):
        x, y = headed[f"steps = {place}"]
        assert x == one.x
        assert y < one.y
        assert not [other for other in page.cells if y < other.y < one.y]
    (sheet,) = write_sheets(labelled, tmp_path / "a.png", lambda *_: None).sheets
    assert (sheet.cells, sheet.height < 6_400) == (100, True)


def test_the_work_for_an_axis_grows_with_its_values(tmp_path: Path) -> None:
    """Eight times the values take some eight times as long, not sixty-four times."""
    taken: list[float] = []
    for count in (2_000, 16_000):
        variants = [variant(place, **{"txt2img.steps": place}) for place in range(count)]
        axes = [{"key": "txt2img.steps", "values": list(range(count))}]
        runs = tmp_path / str(count)
        folder = write_group_log(runs, group_opened(variants=variants, axes=axes))
        begin = time.process_time()
        assert len(content(runs, folder.name).columns) == count
        taken.append(time.process_time() - begin)
    assert taken[1] < 30 * taken[0]


def test_a_text_that_is_too_long_for_its_place_is_on_a_sheet_of_its_own(tmp_path: Path) -> None:
    """The whole of it, once, however many cells have it."""
    long = "word " * 400
    short = write_sheets(many(4, columns=2, reason="word"), tmp_path / "a.png", lambda *_: None)
    both = write_sheets(many(4, columns=2, reason=long), tmp_path / "b.png", lambda *_: None)
    assert [sheet.cells for sheet in short.sheets] == [4]
    assert [sheet.cells for sheet in both.sheets] == [4, 0]
    words = 400 * 5 * 6  # each letter is some six pixels wide
    assert both.sheets[1].width * (both.sheets[1].height // 20) > words


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """The others are drawn; the command says which one it was."""
    result = run_of(tmp_path / "runs", images=2)
    broken = tmp_path / "runs" / result.run_id / result.images[0].path
    broken.write_bytes(bytes(broken.stat().st_size))
    done = stagewright("grid", "last", "--json", "--output", "a.png", folder=tmp_path)
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert (told["images"], told["missing"]) == (1, 1)
    assert "not drawn: " in done.stderr
    assert f"{broken.name}: not a PNG" in done.stderr


def test_letters_that_no_font_has_are_escaped_and_reported(tmp_path: Path) -> None:
    """Never an empty box; what the built-in font has is left as it is."""
    strange = "\U000f0000"
    font = choose_font([strange])
    assert font.printable(f"a{strange}b\x1b") == "a\\U000f0000b\\x1b"
    assert list(font.lacking) == [strange]
    run_of(tmp_path / "runs", name="x")
    made = controller(tmp_path / "runs", ScriptedBackend(images=painted))
    made.start_group(document("txt2img"), vary=[f"prompt=a{strange},b"]).wait(60)
    done = stagewright("grid", "last-group", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "they are written as escapes" in done.stderr


FONT = choose_font(["plain"])


@given(st.text(alphabet=st.characters(codec="ascii", categories=["L", "N", "P", "Zs"])))
def test_wrapping_loses_nothing_and_keeps_to_the_width(text: str) -> None:
    """All letters are there in order; a line is wider only if it is a single character."""
    lines = FONT.wrap(FONT.printable(text), 60)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(FONT.width(line) <= 62 or len(line) == 1 for line in lines)


def test_a_text_in_ascii_is_drawn_in_the_font_that_every_machine_has() -> None:
    """So that sheets look the same everywhere."""
    assert isinstance(FONT, Font)
    assert FONT.font.getname() == choose_font([]).font.getname()
    assert FONT.lacks("".join(map(chr, range(32, 127)))) == set()


def test_combinations_that_a_random_draw_left_out_are_named(tmp_path: Path) -> None:
    """Values that no variant has make no row and no column."""
    table = {
        "random": 2,
        "seed": 7,
        "axes": [
            {"key": "txt2img.steps", "values": [2, 4, 6, 8]},
            {"key": "txt2img.cfg_scale", "values": [5.0, 6.0, 7.0, 8.0]},
        ],
    }
    made = controller(tmp_path, ScriptedBackend(images=painted))
    ended = made.start_group(document("txt2img", sweep=table)).wait(60)
    found = content(tmp_path, ended.group_id)
    drawn = [variant.values for variant in ended.variants]
    steps = sorted({values["txt2img.steps"] for values in drawn})
    labels = [row.label for block in found.blocks for row in block.rows]
    assert labels == [f"txt2img.steps = {one}" for one in steps]
    assert len(found.columns) == len({values["txt2img.cfg_scale"] for values in drawn})
    assert sum(cell.file is not None for cell in found.cells) == 2
    assert {cell.reason for cell in found.cells if cell.file is None} <= {"not in the sweep"}
