"""The page of a group in a real browser without a network: laid out, opened and compared."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from stagewright.adapters.export.report.group_report import write_group_report
from stagewright.statemachine import CancelToken, GenerateRequest

from .reports import Browser, press
from .support import ScriptedBackend
from .sweeping import swept
from .test_group_report import report_of
from .test_report_laws import HOSTILE
from .tools import needs_browser

pytestmark = needs_browser

VARY = ("txt2img.cfg_scale=5.0,6.0,7.0", "txt2img.steps=1,2", "txt2img.sampler=Euler a,DDIM")
VIEWER = "document.getElementById('viewer')"
FRONT = "document.getElementById('viewer-front')"


def painted(request: GenerateRequest) -> list[bytes]:
    """A grey square, whose brightness is the seed's offset and 3 times the cfg_scale."""
    made = []
    for place in range(request.count):
        grey = request.seed - 100 + place + 3 * round(getattr(request.config, "cfg_scale", 0))
        stream = io.BytesIO()
        Image.new("RGB", (32, 32), (grey, grey, grey)).save(stream, "PNG")
        made.append(stream.getvalue())
    return made


def refuse(request: GenerateRequest, _: CancelToken) -> None:
    """Fail the second image where the cfg_scale is 7."""
    if getattr(request.config, "cfg_scale", None) == 7.0 and request.image_index == 1:
        raise RuntimeError("no <b>memory</b>")


def page_of(runs: Path, *vary: str, **top: Any) -> Path:
    """The page of such a group."""
    backend = ScriptedBackend(refuse, images=painted)
    result = swept(runs, vary=vary, backend=backend, server={"retries": 0}, **top)
    folder = runs / "groups" / result.group_id
    write_group_report(folder, runs, folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three axes, two prompts a run, and an image that fails in some runs."""
    runs = tmp_path_factory.mktemp("group") / "runs"
    return page_of(runs, *VARY, prompts=["a lighthouse", "a harbour"], prompt=None)


def lay_out(browser: Browser, **choices: str) -> None:
    """Choose in the selects of the page."""
    for name, value in choices.items():
        browser.run(
            "const form = document.getElementById('layout');"
            "form.elements[arguments[0].replace('_', '-')].value = arguments[1];"
            "form.dispatchEvent(new Event('change', {bubbles: true}));",
            name,
            value,
        )


def tables(browser: Browser) -> list[list[list[str]]]:
    """The tables: the labels at the top, then for each row its label and its cells' images."""
    found: list[list[list[str]]] = browser.run(
        "const shots = (cell) => [...cell.querySelectorAll('.shot')]"
        ".map((shot) => `${shot.closest('.variant').dataset.number}.${shot.dataset.number}`);"
        "return [...document.querySelectorAll('#grids table')].map((table) =>"
        " [...table.rows].map((row) => [...row.cells].map((cell) =>"
        "  cell.tagName === 'TH' ? cell.textContent : shots(cell).join(' '))))"
    )
    return found


def open_first(browser: Browser) -> None:
    """Open the first image of the page."""
    browser.run("document.querySelector('.shot a').click()")
    browser.wait(f"{FRONT}.complete && {FRONT}.naturalWidth === 32")


def key(browser: Browser, *keys: str) -> None:
    """Press keys in the viewer."""
    for one in keys:
        press(browser, "#viewer-stage", one)


def text(browser: Browser, name: str) -> str:
    """The text of a part of the viewer."""
    return str(browser.run(f"return document.getElementById('viewer-{name}').textContent"))


def colour(browser: Browser) -> tuple[int, ...]:
    """The colour in the middle of the viewer."""
    browser.wait("[...document.querySelectorAll('#viewer-frame img')].every((one) => one.complete)")
    box = browser.run(
        "const box = document.getElementById('viewer-frame').getBoundingClientRect();"
        "return [box.x + box.width / 2, box.y + box.height / 2]"
    )
    seen = Image.open(io.BytesIO(browser.driver.get_screenshot_as_png())).convert("RGB")
    pixel = seen.getpixel((round(box[0]), round(box[1])))
    assert isinstance(pixel, tuple)
    return pixel


def test_rows_columns_and_filters_are_chosen_in_the_page(browser: Browser, page: Path) -> None:
    """Also by what varies within a run; with scripts the page begins as it is without them."""
    browser.open(page, scripts=False)
    browser.command("Emulation.setScriptExecutionDisabled", value=False)
    plain = tables(browser)
    browser.open(page)
    assert tables(browser) == plain
    assert [table[0] for table in plain] == [["cfg_scale / steps", "1", "2"]] * 2
    assert [row[0] for row in plain[0][1:]] == ["5.0", "6.0", "7.0"]
    assert plain[0][1][1] == "1.1 1.2"
    lay_out(browser, rows="prompt", columns="0", only_2="1")
    (one, two) = tables(browser)
    assert one[0] == ["prompt / cfg_scale", "5.0", "6.0", "7.0"]
    assert [row[0] for row in one[1:]] == ["a lighthouse", "a harbour"]
    assert all(cell.endswith(".2") for cell in one[2][1:])
    assert two != one
    lay_out(browser, only_1="0")
    assert tables(browser) == [one]
    note = browser.run("return document.getElementById('layout-note').textContent")
    assert note == "3 of 12 variants, 6 of 24 images."
    lay_out(browser, rows="variant", columns="")
    assert len(tables(browser)[0]) == 4
    assert browser.complaints() == []
    assert set(browser.requests()) <= {"file", "data"}


def test_an_image_opens_with_its_values_and_arrows_go_to_its_neighbours(
    browser: Browser, page: Path
) -> None:
    """In full size; a neighbour is the image of the same seed, or the reason why there is none."""
    browser.open(page)
    open_first(browser)
    assert browser.run(f"return {FRONT}.src").endswith("/images/00-txt2img/00000-100.png")
    facts = text(browser, "facts")
    for words in ("cfg_scale5.0", "steps1", "samplerEuler a", "seed100", "prompta lighthouse"):
        assert words in facts
    key(browser, "n")
    assert "prompta harbour" in text(browser, "facts")
    key(browser, "ArrowDown", "ArrowRight")
    assert "cfg_scale6.0steps2samplerEuler aseed101" in text(browser, "facts")
    key(browser, "ArrowDown")
    assert "failed: RuntimeError: no <b>memory</b>" in text(browser, "words")
    key(browser, "ArrowLeft", "p", "z")
    browser.wait(f"{FRONT}.naturalWidth === 32 && {FRONT}.clientWidth === 32")
    key(browser, "?")
    browser.wait("!document.getElementById('viewer-help').hidden")
    browser.run(f"{VIEWER}.querySelector('.close').click()")
    browser.wait(f"!{VIEWER}.open && document.activeElement.closest('.shot')")
    press(browser, None, "ArrowRight")
    press(browser, None, "Enter")
    browser.wait(f"{VIEWER}.open")
    assert "cfg_scale7.0steps2" in text(browser, "facts")
    assert browser.complaints() == []


def test_two_images_flicker_and_their_difference_is_amplified(browser: Browser, page: Path) -> None:
    """The held one and the present one, with a word where they are equal or their seeds differ."""
    browser.open(page)
    open_first(browser)
    assert colour(browser) == (15, 15, 15)
    key(browser, "m", "ArrowDown", "d")
    assert colour(browser) == (48, 48, 48)
    assert "cfg_scale5.0 \N{RIGHTWARDS ARROW} 6.0" in text(browser, "facts")
    key(browser, "a")
    assert colour(browser) == (192, 192, 192)
    key(browser, "n")
    assert text(browser, "note") == "The seeds differ: 100 and 101."
    key(browser, "p", "f", "+", "+")
    shown = "document.getElementById('viewer-stage').dataset.shown"
    browser.wait(f"{shown} === 'A'")
    browser.wait(f"{shown} === 'B'")
    key(browser, "-", " ")
    browser.wait(f"{shown} === 'A'")
    assert colour(browser) == (15, 15, 15)
    key(browser, " ")
    assert colour(browser) == (18, 18, 18)
    key(browser, "ArrowUp", "ArrowRight", "d")
    assert text(browser, "note") == "Both are the same image, pixel by pixel."
    assert colour(browser) == (0, 0, 0)
    assert browser.complaints() == []


def test_a_click_with_shift_on_two_images_compares_them(browser: Browser, page: Path) -> None:
    """The first is marked until it is clicked again."""
    browser.open(page)
    click = (
        "document.querySelectorAll('.shot a')[arguments[0]].dispatchEvent("
        "new MouseEvent('click', {shiftKey: true, bubbles: true, cancelable: true}))"
    )
    browser.run(click, 0)
    assert browser.run("return document.querySelectorAll('.held').length") == 1
    browser.run(click, 2)
    browser.wait(f"{VIEWER}.open")
    assert text(browser, "title") == "A: variant 1, image 1  |  B: variant 3, image 1"
    browser.run(f"{VIEWER}.close()")
    browser.run(click, 0)
    assert browser.run("return document.querySelectorAll('.held').length") == 0


def test_files_that_are_gone_are_replaced_by_thumbnails_and_words(
    browser: Browser, tmp_path: Path
) -> None:
    """In a page that was moved, and where the browser would scale the file itself."""
    made = page_of(tmp_path / "runs", "txt2img.cfg_scale=5.0,6.0", images=2)
    html = made.read_text(encoding="utf-8").replace("../../", "elsewhere/")
    moved = tmp_path / "moved.html"
    before, _, after = html.partition('<img src="data:')
    linked = f'{before}<img src="elsewhere/x.png"{after.partition(chr(34))[2]}'
    moved.write_text(linked, encoding="utf-8")
    browser.open(moved)
    browser.wait("document.querySelector('.shot .no-picture')?.textContent.includes('archived')")
    browser.run("document.querySelectorAll('.shot a')[1].click()")
    browser.wait("document.getElementById('viewer-note').textContent.includes('is not there')")
    assert browser.run(f"return {FRONT}.src").startswith("data:image/webp;")
    key(browser, "p")
    browser.wait(f"{FRONT}.hidden")
    assert "is not there" in text(browser, "note")


def test_a_page_of_hostile_texts_works(browser: Browser, tmp_path: Path) -> None:
    """They are shown with escapes; none ends the element that holds what the script reads."""
    browser.open(report_of(HOSTILE, tmp_path / "runs"))
    assert browser.run("return document.querySelectorAll('[onerror], img[src=x]').length") == 0
    lay_out(browser, rows="variant", columns="1")
    words = browser.run("return document.getElementById('grids').textContent")
    assert "</script><img src=x onerror=alert(1)>" in words
    browser.run("document.querySelector('.shot .no-picture').click()")
    browser.wait(f"{VIEWER}.open")
    facts = text(browser, "facts")
    assert "onerror" in facts
    assert not set(words + facts) & set(HOSTILE) & {"\u2028", "\u202e", "\x1b"}
    assert browser.complaints() == []


@pytest.mark.parametrize("width", [1400, 390])
def test_a_page_fits_its_window(browser: Browser, page: Path, width: int) -> None:
    """What is wide scrolls within itself, and all buttons of the viewer are within reach."""
    browser.open(page, width=width)
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    open_first(browser)
    outside = browser.run(
        "return [...document.querySelectorAll('#viewer button, #viewer select')]"
        ".filter((one) => one.getBoundingClientRect().right > innerWidth).length"
    )
    assert outside == 0
    assert browser.run("return document.getElementById('viewer-stage').clientHeight") > 200
