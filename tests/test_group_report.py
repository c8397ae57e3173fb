"""The report of a group: a cell for each variant, linked images, and logs only as text."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from stagewright.adapters.export.report.group_report import (
    WrittenGroupReport,
    write_group_report,
)
from stagewright.adapters.export.report.variant_grid import GridAxis, grids
from stagewright.events.groups.model import SweepAxis
from stagewright.statemachine.groups.result import GroupResult, VariantResult

from .command_line import stagewright
from .sweeping import VARY, group_opened, refusing, swept, variant, write_group_log

EVIL = "<script>alert(1)</script>\"'>"


class Page(HTMLParser):
    """The texts, links, pictures and tables of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.pictures: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect what a tag refers to."""
        self.tags.append(tag)
        found = dict(attrs)
        if tag == "a":
            self.links.append(found.get("href") or "")
        if tag == "img":
            self.pictures.append(found.get("src") or "")

    def handle_data(self, data: str) -> None:
        """Collect text."""
        self.text += data + "\n"


def report(runs: Path, result: GroupResult, output: Path | None = None) -> WrittenGroupReport:
    """Write the report of a group."""
    folder = runs / "groups" / result.group_id
    return write_group_report(folder, runs, output or folder / "report.html")


def variant_of(index: int, **values: object) -> VariantResult:
    """A variant with these values by key."""
    return VariantResult(
        variant_index=index, values=values, run_id=None, state="IDLE", outcome=None
    )


def test_the_page_links_to_every_final_image(tmp_path: Path) -> None:
    """By relative paths, so that the folder of runs can be moved."""
    result = swept(tmp_path / "runs", "txt2img", "upscale", images=2, name="a name #1")
    done = stagewright("report", "last-group", "--json", folder=tmp_path)
    written = json.loads(done.stdout)
    assert (done.returncode, written["variants"], written["images"]) == (0, 4, 8)
    path = tmp_path / written["path"]
    assert path == tmp_path / "runs" / "groups" / result.group_id / "report.html"
    moved = shutil.copytree(tmp_path / "runs", tmp_path / "moved #2")
    page = Page(moved / path.relative_to(tmp_path / "runs"))
    assert len(page.links) == 8
    for link in page.links:
        image = (moved / "groups" / result.group_id / unquote(link)).resolve()
        assert image.is_file()
        assert image.parent.name == "01-upscale"
    assert all(source.startswith("data:image/") for source in page.pictures)
    assert len(page.pictures) == 8
    assert "cfg_scale / sampler" in page.text


@pytest.mark.parametrize(
    ("vary", "seed", "shown"),
    [("seed=1,2", 7, None), ("txt2img.steps=1,2", 7, "7"), ("txt2img.steps=1,2", -1, "drawn")],
)
def test_a_group_that_varies_the_seed_has_none(
    tmp_path: Path, vary: str, seed: int, shown: str | None
) -> None:
    """Each variant names its own; any other group names the seed of all."""
    result = swept(tmp_path / "runs", vary=[vary], seed=seed)
    report(tmp_path / "runs", result)
    text = Page(tmp_path / "runs" / "groups" / result.group_id / "report.html").text
    facts = [line.strip() for line in text.splitlines() if line.strip()]
    assert ("Seed" in facts) == (shown is not None)
    if shown is not None:
        assert shown in facts[facts.index("Seed") + 1]


def test_a_report_goes_where_it_is_wanted(tmp_path: Path) -> None:
    """With links from there; it replaces an earlier report, but no other file."""
    result = swept(tmp_path / "runs", vary=["txt2img.steps=1,2"])
    output = tmp_path / "pages" / "sweep.html"
    output.parent.mkdir()
    for _ in range(2):
        report(tmp_path / "runs", result, output)
    assert all((output.parent / unquote(link)).is_file() for link in Page(output).links)
    output.write_text("mine", encoding="utf-8")
    done = stagewright("report", "last-group", "--output", output, folder=tmp_path)
    assert (done.returncode, output.read_text(encoding="utf-8")) == (2, "mine")


def test_what_is_missing_or_altered_is_shown(tmp_path: Path) -> None:
    """An altered image is not linked, and the exit status is 4; a failed variant has its error."""
    result = swept(tmp_path / "runs", backend=refusing(), server={"retries": 0})
    image = next((tmp_path / "runs" / str(result.variants[0].run_id)).glob("images/*/*"))
    image.write_bytes(b"altered")
    done = stagewright("report", "last-group", folder=tmp_path)
    assert (done.returncode, done.stdout.count("altered: ")) == (4, 1)
    page = Page(tmp_path / "runs" / "groups" / result.group_id / "report.html")
    assert len(page.links) == 1
    assert "it has been altered" in page.text
    assert "RuntimeError: no <b>memory</b>" in page.text
    assert page.text.count("ERROR") >= 2


def test_a_cell_without_a_run_says_why(tmp_path: Path) -> None:
    """Its folder is gone, its log is corrupt, it never began; images keep their numbers."""
    result = swept(tmp_path / "runs", images=2)
    gone, corrupt = (tmp_path / "runs" / str(one.run_id) for one in result.variants[:2])
    shutil.rmtree(gone)
    (corrupt / "events.jsonl").write_bytes(b"no log\n" * 3)
    assert report(tmp_path / "runs", result).images == 4
    page = Page(tmp_path / "runs" / "groups" / result.group_id / "report.html")
    for words in ("its run is not here", "the log of its run is corrupt"):
        assert [f"image {number}: {words}" in page.text for number in (1, 2)] == [True, True]
    idle = write_group_log(tmp_path / "other", group_opened())
    write_group_report(idle, tmp_path / "other", idle / "report.html")
    assert "not begun" in Page(idle / "report.html").text


def report_of(text: str, runs: Path) -> Path:
    """The page of a group whose log holds ``text`` wherever a log holds text."""
    axes = [{"key": text, "values": [text, "other"]}, {"key": "b", "values": [text, 1]}]
    opened = group_opened(
        name=text,
        software=text,
        axes=axes,
        variants=[variant(0, **{text: text, "b": text}), variant(1, **{text: "other", "b": 1})],
    )
    begun = {"type": "VariantBegun", "variant_index": 0, "run_id": text}
    error = {"kind": text, "message": text, "detail": text}
    failures = [{"variant_index": 1, "error": error}]
    sealed = {"type": "GroupSealed", "outcome": "failed", "error": error, "failures": failures}
    folder = write_group_log(runs, opened, begun, sealed)
    write_group_report(folder, runs, folder / "report.html")
    return folder / "report.html"


def test_text_of_the_log_is_escaped(tmp_path: Path) -> None:
    """Also in attributes, and in what the script of the page reads."""
    page = Page(report_of(EVIL, tmp_path / "evil"))
    assert page.tags == Page(report_of("plain", tmp_path / "plain")).tags
    assert EVIL in page.text


AXES = (
    SweepAxis(key="rows", values=(1, 2)),
    SweepAxis(key="columns", values=("a", "b", "c")),
    SweepAxis(keys=("model", "vae"), values=(("m", "v"), ("n", "w"))),
)


def test_rows_and_columns_are_the_first_two_axes() -> None:
    """In the order of their values; each combination of the others has a grid of its own."""
    places = [(row, column, pair) for pair in (1, 0) for column in "cba" for row in (2, 1)]
    variants = [
        variant_of(index, rows=row, columns=column, model="mn"[pair], vae="vw"[pair])
        for index, (row, column, pair) in enumerate(places)
    ]
    first, second = grids([GridAxis(one) for one in AXES], variants)
    assert (first.title, second.title) == ("model + vae m, v", "model + vae n, w")
    assert (first.corner, first.columns) == ("rows / columns", ["a", "b", "c"])
    assert [row.label for row in first.rows] == ["1", "2"]
    assert [one.variant_index for one in first.rows[0].cells[0]] == [11]
    assert [one.variant_index for one in second.rows[1].cells[2]] == [0]


def test_a_sparse_sweep_has_a_row_for_each_variant() -> None:
    """A grid of which most cells are empty would be of no use, or of any size."""
    many = [GridAxis(SweepAxis(key=key, values=tuple(range(300)))) for key in "ab"]
    variants = [variant_of(index, a=index, b=index) for index in range(300)]
    (grid,) = grids(many, variants)
    assert (len(grid.rows), grid.columns) == (300, [""])
    assert grid.rows[7].label == "7, 7"
    assert list(grids(many, [])) == []


@pytest.mark.parametrize("vary", [VARY[:1], ()])
def test_a_sweep_of_one_axis_has_one_column(vary: tuple[str, ...]) -> None:
    """As has one without any."""
    axes = AXES[:1] if vary else ()
    (grid,) = grids([GridAxis(one) for one in axes], [variant_of(0, rows=2), variant_of(1, rows=1)])
    assert len(grid.columns) == 1
    assert [len(row.cells) for row in grid.rows] == ([1, 1] if vary else [1])


@pytest.mark.posix
@pytest.mark.parametrize("name", ["last", "last-group"])
def test_a_full_disk_is_reported_with_the_name_of_the_report(tmp_path: Path, name: str) -> None:
    """Exit 1, and no part of a page is left. ``-B``: compiled modules would be cut off, too."""
    swept(tmp_path / "runs", vary=["txt2img.steps=1,2"])
    code = (
        "import resource; from stagewright.__main__ import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); main()"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, "report", name, "--output", "page.html"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "stagewright: page.html: File too large\n")
    assert [one.name for one in tmp_path.iterdir()] == ["runs"]
