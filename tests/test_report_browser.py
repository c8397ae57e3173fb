"""Reports in a real browser that has no network: they look, search and open as they should."""

from __future__ import annotations

import io
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from PIL import Image
from stagewright.adapters.export.report import write_report
from stagewright.events import Artifact, StageImageProgress

from .reports import Browser, Refusing, eventful_run, press, reported
from .resuming import STAGE_IDS
from .stories import Story
from .support import png
from .test_report_laws import HOSTILE, run_with, written
from .tools import needs_browser

pytestmark = needs_browser

ROWS = "document.querySelectorAll('#event-rows > tr').length"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run with a retry, a death and a resume."""
    root = tmp_path_factory.mktemp("page")
    write_report(eventful_run(root / "runs"), root / "a.html")
    return root / "a.html"


def choose(browser: Browser, name: str, value: str) -> None:
    """Set a filter, as a user's choice does."""
    browser.run(
        "const one = document.getElementById('filters').elements[arguments[0]];"
        "one.value = arguments[1]; one.dispatchEvent(new Event('input', {bubbles: true}));",
        name,
        value,
    )


def picture_of(browser: Browser) -> Image.Image:
    """What is to be seen now."""
    return Image.open(io.BytesIO(browser.driver.get_screenshot_as_png())).convert("RGB")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_is_shown_without_a_word_or_a_request(
    browser: Browser, page: Path, scheme: str
) -> None:
    """Nothing on the console, nothing asked for but the file and its own data; in both schemes."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.command("Emulation.setEmulatedMedia", features=features)
    browser.open(page)
    seen = picture_of(browser)
    assert browser.complaints() == []
    assert set(browser.requests()) <= {"file", "data"}
    ground = seen.getpixel((5, 5))
    assert ground == ((255, 255, 255) if scheme == "light" else (21, 23, 26))
    assert len(seen.getcolors(1 << 24) or ()) > 100
    browser.run("document.images[0].scrollIntoView()")
    browser.wait("document.images[0].complete && document.images[0].naturalWidth === 8")
    browser.command("Emulation.setEmulatedMedia", features=[])


def test_events_are_filtered_and_opened(browser: Browser, page: Path) -> None:
    """By type, by stage, by text; an event opens to all that the log holds of it."""
    browser.open(page)
    every = browser.run(f"return {ROWS}")
    choose(browser, "type", "problems")
    browser.wait(f"{ROWS} === 2")
    words = browser.run("return document.getElementById('event-rows').textContent")
    assert Refusing.words in words
    assert "process died" in words
    choose(browser, "type", "")
    choose(browser, "stage", "02-upscale")
    browser.wait(f"{ROWS} < {every}")
    stages = browser.run(
        "return [...document.querySelectorAll('#event-rows > tr')]"
        ".map((row) => row.children[4].textContent)"
    )
    assert set(stages) == {"02-upscale"}
    choose(browser, "stage", "")
    choose(browser, "text", "LINE 12 </SCRIPT>")
    browser.wait(f"{ROWS} === 1")
    browser.run("document.querySelector('#event-rows .open').click()")
    shown = browser.run("return document.querySelector('.event-detail pre').textContent")
    assert '"detail": "Traceback\\n  line 12 </script>"' in shown
    browser.run("document.querySelector('#event-rows .open').click()")
    browser.wait("!document.querySelector('.event-detail')")
    choose(browser, "text", "nowhere to be found")
    browser.wait("document.getElementById('event-count').textContent === 'No event matches.'")
    assert browser.complaints() == []


def test_times_are_those_of_the_reader_and_utc_is_their_tooltip(
    browser: Browser, page: Path
) -> None:
    """At the head, in the timeline, in the table of events, in the details of one."""
    browser.command("Emulation.setTimezoneOverride", timezoneId="Asia/Kathmandu")
    browser.open(page)
    browser.run("details.show(0)")
    browser.wait("document.getElementById('details').open")
    times = browser.run(
        "return [...document.querySelectorAll('time')]"
        ".map((one) => [one.dateTime, one.textContent, one.title])"
    )
    browser.command("Emulation.setTimezoneOverride", timezoneId="")
    assert len(times) > 10
    for exact, shown, title in times:
        moment = datetime.fromisoformat(exact)
        local = moment.astimezone(timezone(timedelta(hours=5, minutes=45)))
        assert shown in local.isoformat(" ", "milliseconds")
        assert title == f"{moment.replace(tzinfo=None).isoformat(' ', 'milliseconds')} UTC"
    (first, *_) = browser.run(
        "return [...document.querySelectorAll('.epoch')].map((one) => one.firstChild.data)"
    )
    assert first == times[0][1].split()[1]
    assert browser.complaints() == []


def test_text_is_found_as_it_is_meant_and_as_it_is_written(
    browser: Browser, tmp_path: Path
) -> None:
    """Quotes, backslashes and line ends, which JSON escapes; none of them is part of a pattern."""
    folder = run_with('cannot open C:\\models\\x.pt: "no such\nfile" (für É*)', tmp_path / "runs")
    reported(folder)
    browser.open(tmp_path / f"{folder.name}.html")
    every = browser.run(f"return {ROWS}")
    meant = ("c:\\MODELS\\x.pt", '"no such', "no such file", "(für é*)")
    for text in (*meant, "C:\\\\models", '\\"no such\\nfile'):
        choose(browser, "text", "nowhere to be found")
        browser.wait("document.getElementById('event-count').textContent === 'No event matches.'")
        choose(browser, "text", text)
        browser.wait(f"{ROWS} > 0")
        assert browser.run(f"return {ROWS}") < every
    assert browser.complaints() == []


def test_an_image_opens_in_full_size_and_its_event_from_there(browser: Browser, page: Path) -> None:
    """By pointer and by keyboard, with its prompt; arrows go to other images and other stages."""
    browser.open(page)
    browser.run("document.querySelector('#stage-01-img2img .frame').click()")
    shown = "document.getElementById('viewer-front')"
    browser.wait(f"{shown}.complete && {shown}.naturalWidth === 8")
    (folder,) = page.parent.glob("runs/*-eventful-*")
    image = folder / "images/01-img2img/00000-100.png"
    assert browser.run(f"return {shown}.src") == image.as_uri()
    facts = "return document.getElementById('viewer-facts').textContent"
    assert "a lighthouse" in browser.run(facts)
    press(browser, "#viewer-stage", "ArrowDown")
    press(browser, "#viewer-stage", "ArrowRight")
    title = "return document.getElementById('viewer-title').textContent"
    assert browser.run(title) == "02-upscale, image 2"
    press(browser, "#viewer-stage", "ArrowUp")
    press(browser, "#viewer-stage", "p")
    press(browser, "#viewer-stage", "e")
    browser.wait("document.getElementById('details').open")
    told = browser.run("return document.getElementById('details-body').textContent")
    assert '"sampler_name": "Euler"' in told
    assert "images/01-img2img/00000-100.png" in told
    browser.run("document.querySelector('#details .close').click()")
    browser.wait("!document.getElementById('details').open")
    browser.run("document.querySelector('#viewer .close').click()")
    browser.wait("document.activeElement.closest('#stage-01-img2img .tile')")
    press(browser, "#stage-01-img2img .frame", "ArrowRight")
    alt = browser.run("return document.activeElement.querySelector('img').alt")
    assert alt == "image 2, seed 101"
    press(browser, None, "Enter")
    browser.wait("document.getElementById('viewer').open")
    assert browser.complaints() == []
    assert set(browser.requests()) <= {"file", "data"}


def test_a_page_without_its_files_shows_thumbnails_and_says_so(
    browser: Browser, page: Path, tmp_path: Path
) -> None:
    """A page that was mailed, or whose run was archived."""
    alone = tmp_path / "alone.html"
    alone.write_bytes(page.read_bytes())
    browser.open(alone)
    browser.run("document.querySelector('.frame').click()")
    browser.wait("document.getElementById('viewer-note').textContent.includes('is not there')")
    source = browser.run("return document.getElementById('viewer-front').src")
    assert source.startswith("data:image/webp;")


def test_the_timeline_tells_its_bars_by_keyboard(browser: Browser, page: Path) -> None:
    """Arrows go from call to call and from lane to lane, Enter opens one; it can be stretched."""
    browser.open(page)
    for _ in range(3):
        press(browser, "#gantt-scroll", "ArrowRight")
    read = "return document.getElementById('readout').textContent"
    assert "00-txt2img, image 2, attempt 2" in browser.run(read)
    press(browser, "#gantt-scroll", "ArrowLeft")
    assert f"BackendError: {Refusing.words}" in browser.run(read)
    press(browser, "#gantt-scroll", "Enter")
    browser.wait("document.getElementById('details').open")
    told = browser.run("return document.getElementById('details-body').textContent")
    assert Refusing.detail in told
    browser.run("document.getElementById('details').close()")
    press(browser, "#gantt-scroll", "ArrowDown")
    assert "01-img2img" in browser.run(read)
    browser.run("document.getElementById('zoom-in').click()")
    assert browser.run("return document.getElementById('gantt').clientWidth") > 2_000
    assert browser.complaints() == []


def test_without_scripts_all_but_the_events_is_there(browser: Browser, page: Path) -> None:
    """Head, timeline, stages and thumbnails; and a word on where the events are."""
    browser.open(page, scripts=False)
    seen = picture_of(browser)
    browser.command("Emulation.setScriptExecutionDisabled", value=False)
    shown = browser.run("return document.body.innerText")
    assert "COMPLETED" in shown
    assert "scripts are switched off here" in shown
    assert all(stage_id in shown for stage_id in STAGE_IDS)
    assert browser.run("return document.querySelectorAll('#gantt .bar').length") == 14
    assert browser.run("return document.images.length") == 12
    assert len(seen.getcolors(1 << 24) or ()) > 100


def test_a_narrow_window_shows_it_all(browser: Browser, page: Path) -> None:
    """At 400 pixels what is wide scrolls within itself; no mark's line crosses a stage's name."""
    browser.open(page, width=400)
    wide = browser.run(
        "return [...document.querySelectorAll('main > section, header, nav, .tiles, .facts')]"
        ".filter((one) => one.getBoundingClientRect().right > innerWidth).map((one) => one.id)"
    )
    assert wide == []
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    above = browser.run(
        "const marks = document.querySelector('#gantt .marks');"
        "return [...document.querySelectorAll('#gantt .lane-label')].map((label) =>"
        " [marks.compareDocumentPosition(label) & Node.DOCUMENT_POSITION_FOLLOWING,"
        "  getComputedStyle(label).paintOrder, getComputedStyle(label).stroke])"
    )
    assert above == [[4, "stroke", "rgb(255, 255, 255)"]] * len(STAGE_IDS)


def test_a_hostile_log_stays_text(browser: Browser, tmp_path: Path) -> None:
    """No element, no script and no dialogue comes of it; its words are shown with their escapes."""
    folder = run_with(HOSTILE, tmp_path / "runs")
    reported(folder)
    browser.open(tmp_path / f"{folder.name}.html")
    assert browser.run("return document.querySelector('h1').textContent").startswith(
        "</script><img"
    )
    assert browser.run("return document.querySelectorAll('[onerror], img[src=x]').length") == 0
    choose(browser, "type", "problems")
    browser.wait(f"{ROWS} > 0")
    browser.run("document.querySelectorAll('#event-rows .open').forEach((one) => one.click())")
    words = browser.run("return document.getElementById('event-rows').textContent")
    assert "</script><img src=x onerror=alert(1)>" in words
    assert not set(words) & set(HOSTILE) & {"\u2028", "\u202e", "\x1b"}
    assert browser.complaints() == []
    assert set(browser.requests()) <= {"file", "data"}


class LongStory(Story):
    """A run of four stages; every image is the same small file, as the log records."""

    def image(self, kind: str, index: int) -> Artifact:
        data = png(7)
        digest = sha256(data).hexdigest()
        return msgspec.structs.replace(
            super().image(kind, index), sha256=digest, source_sha256=digest
        )


def long_run(runs: Path, images: int) -> Path:
    """The folder of such a run with its files."""
    kinds = [stage_id[3:] for stage_id in STAGE_IDS]
    story = LongStory(*kinds, images=images).move("start")
    for kind in kinds:
        story.begin(kind)
        for index in range(images):
            story.make(kind, index, prompt="a lighthouse", steps=20)
            story.announce(kind, index, story.image(kind, index))
    folder = written(story, runs)
    for event in story.events:
        if isinstance(event, StageImageProgress):
            (folder / event.artifact.path).parent.mkdir(parents=True, exist_ok=True)
            (folder / event.artifact.path).write_bytes(png(7))
    return folder


def test_a_thousand_images_in_four_stages_are_usable(browser: Browser, tmp_path: Path) -> None:
    """Events are there at once, the last one and the last thumbnail within reach."""
    folder = long_run(tmp_path / "runs", 250)
    report = write_report(folder, tmp_path / "long.html")
    assert (report.images, report.events) == (1_000, 3_006)
    browser.open(tmp_path / "long.html")
    ready_ms = browser.run("return performance.now()")
    assert ready_ms < 15_000
    assert browser.run("return document.getElementById('event-count').textContent") == (
        "1 to 100 of 3,006 events"
    )
    browser.run("document.getElementById('page-last').click()")
    browser.wait("document.querySelector('#event-rows .open').textContent === '3000'")
    choose(browser, "text", "txt2img.249.")
    browser.wait(f"{ROWS} === 2")
    last = "document.querySelector('#stage-03-adetailer .sheet:last-child .tile:last-child img')"
    browser.run(f"{last}.scrollIntoView()")
    browser.wait(f"{last}.complete && {last}.naturalWidth === 64")
    assert browser.run(f"return {last}.alt") == "image 250, seed 349"
    assert browser.run("return document.querySelectorAll('#gantt .bar').length") == 1_000
    assert browser.complaints() == []
