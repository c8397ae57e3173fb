"""How long a sheet of many images takes, beside decoding them with Pillow."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image, ImageChops
from stagewright.adapters.export.sheet import Block, Cell, Row, SheetContent, write_sheets

from .measuring import Ratio, alternately

_IMAGES, _COLUMNS, _SIDE = 1_000, 32, 512
_DIFFERENT = 100
"""The files; each is on the sheet several times."""


def sheet_ratio(folder: Path) -> Ratio:
    """A sheet of 1,000 images of 512 pixels, with the noise of photographs."""
    files = [_picture(folder, number) for number in range(_DIFFERENT)]
    cells = [
        Cell(
            f"#{place + 1}, seed {place}", file=files[place % _DIFFERENT], width=_SIDE, height=_SIDE
        )
        for place in range(_IMAGES)
    ]
    rows = [Row("", tuple(cells[at : at + _COLUMNS])) for at in range(0, _IMAGES, _COLUMNS)]
    content = SheetContent("benchmark", ("",) * _COLUMNS, (Block("", tuple(rows)),))

    def ours() -> None:
        write_sheets(content, folder / "sheet.png", lambda *_: None)

    def rival() -> None:
        for cell in cells:
            assert cell.file is not None
            with Image.open(cell.file) as picture:
                picture.load()

    times = alternately(ours, rival, rounds=2)
    what = f"a sheet of {_IMAGES:,} images of {_SIDE} px"
    return Ratio(what, "decoding them", *times, limit="at most 1.3")


def _picture(folder: Path, number: int) -> Path:
    size = (_SIDE, _SIDE)
    scene = Image.radial_gradient("L").resize(size).rotate(7 * number)
    noise = Image.effect_noise(size, 12)
    channels = [ImageChops.add(scene, noise.rotate(90 * turn), 2) for turn in range(3)]
    file = folder / f"{number}.png"
    Image.merge("RGB", channels).save(file)
    return file


def main() -> None:
    """Print the table's row."""
    with TemporaryDirectory() as folder:
        print(sheet_ratio(Path(folder)).line())


if __name__ == "__main__":
    main()
