"""What the tests of reports share: runs to report, pages taken apart, a real browser."""

from __future__ import annotations

import base64
import json
import re
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stagewright.adapters.export.report import WrittenReport, write_report
from stagewright.events import CallCompleted
from stagewright.statemachine import BackendError, CancelToken, GenerateRequest

from .resuming import FOUR, cut_before, painter, ran, resumed, small
from .support import ScriptedBackend

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

INFO = {
    "sampler_name": "Euler",
    "steps": 3,
    "sd_model_name": "base",
    "all_seeds": [100],
    "extra_generation_params": {"Schedule type": "Karras"},
}
"""An answer's info: another sampler than the one that is asked for, the same steps and model."""
_DRAWN_TAGS = ("rect", "use", "line", "path", "circle", "pattern")


class Refusing:
    """Fails the first attempt at these images of the first stage, in a server's words."""

    words = "CUDA out of memory <b>&"
    detail = "Traceback\n  line 12 </script>"

    def __init__(self, *indexes: int) -> None:
        self._left = set(indexes)

    def __call__(self, request: GenerateRequest, _: CancelToken) -> None:
        if request.stage_id == "00-txt2img" and request.image_index in self._left:
            self._left.discard(request.image_index)
            raise BackendError(self.words, transient=True, detail=self.detail, settled=True)


def eventful_run(runs: Path) -> Path:
    """Four stages of three images, with a retry, a death in the last stage and a resume."""
    backend = painter(Refusing(1))
    backend._info = INFO
    config = small(*FOUR, images=3, name="eventful", server={"retries": 1, "backoff_s": 0.001})
    folder = ran(runs, config, backend)
    cut_before(folder, CallCompleted, -1)
    resumed(folder, _told(painter()))
    return folder


def _told(backend: ScriptedBackend) -> ScriptedBackend:
    backend._info = INFO
    return backend


class Page(HTMLParser):
    """A page taken apart: its tags with their attributes, its text, its scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self._open = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._open = tag
        if tag in self.raw:
            self.raw[tag].append("")

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002 - the parser's signature
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open in self.raw:
            self.raw[self._open][-1] += data
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        """All that is to be read, in one line."""
        return " ".join(" ".join(self.words).split())

    @property
    def shape(self) -> list[tuple[str, tuple[str, ...]]]:
        """The tags and the names of their attributes, but for what is drawn."""
        return [(tag, tuple(names)) for tag, names in self.tags if tag not in _DRAWN_TAGS]

    def all(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        """The attributes of every element of a tag that has these."""
        return [
            found
            for name, found in self.tags
            if name == tag and attributes.items() <= found.items()
        ]

    def thumbnails(self) -> list[bytes]:
        """The bytes of every picture."""
        lead = "data:image/webp;base64,"
        sources = [found["src"] for found in self.all("img")]
        assert all(source.startswith(lead) for source in sources)
        return [base64.b64decode(source.removeprefix(lead), validate=True) for source in sources]

    def events(self) -> list[tuple[list[Any], str]]:
        """The columns and the raw text of every event that the page carries."""
        return [
            (json.loads(columns), raw)
            for (tag, attributes), text in zip(
                [one for one in self.tags if one[0] == "script"], self.raw["script"], strict=True
            )
            if attributes.get("class") == "event-block"
            for columns, _, raw in (
                line.partition("\t")
                for line in zlib.decompress(base64.b64decode(text)).decode().split("\n")
            )
        ]


def reported(folder: Path, **options: Any) -> tuple[Page, WrittenReport]:
    """The report of a run, written beside its folder of runs, and taken apart."""
    output = folder.parent.parent / f"{folder.name}.html"
    written = write_report(folder, output, **options)
    return Page(output.read_text(encoding="utf-8")), written


def digest_source(text: str) -> str:
    """How a policy names an inline script or style."""
    return f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'"


class Browser:
    """Chromium without a network, driven as a user would."""

    def __init__(self, driver: WebDriver) -> None:
        self.driver = driver

    def command(self, name: str, **parameters: Any) -> None:
        """A command of the DevTools protocol."""
        self.driver.execute_cdp_cmd(name, parameters)

    def open(self, file: Path, *, width: int = 1300, scripts: bool = True) -> None:
        """Open a page and wait until it is ready."""
        size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        self.command("Emulation.setDeviceMetricsOverride", **size)
        self.command("Emulation.setScriptExecutionDisabled", value=not scripts)
        self._log("performance")
        self._log("browser")
        self.driver.get(file.resolve().as_uri())
        if scripts:
            self.wait("document.documentElement.dataset.ready === 'yes'")

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition: str) -> None:
        """Return once a condition in the page holds."""
        assert self.driver.execute_async_script(
            "const done = arguments[0];"
            f"(function look() {{ if ({condition}) done(true); else setTimeout(look, 10); }})()"
        )

    def _log(self, name: str) -> list[dict[str, Any]]:
        """What a log of the browser holds since it was last asked for."""
        return self.driver.get_log(name)  # type: ignore[no-untyped-call,no-any-return]  # selenium's

    def complaints(self) -> list[str]:
        """What the console says."""
        return [entry["message"] for entry in self._log("browser")]

    def requests(self) -> list[str]:
        """The schemes of the addresses asked for since the page was opened, each once."""
        messages = [json.loads(one["message"]) for one in self._log("performance")]
        urls = [
            one["message"]["params"]["request"]["url"]
            for one in messages
            if one["message"]["method"] == "Network.requestWillBeSent"
        ]
        return sorted({re.split(":", url)[0] for url in urls})


def press(browser: Browser, selector: str | None, key: str) -> None:
    """Press a key in an element that is given the focus, or in the one that has it."""
    # A window in the background has an active element, which `:focus` does not match.
    browser.run(
        "const named = arguments[0] === null ? null : document.querySelector(arguments[0]);"
        "const one = named || document.activeElement; one.focus();"
        "one.dispatchEvent("
        "new KeyboardEvent('keydown', {key: arguments[1], bubbles: true, cancelable: true}));",
        selector,
        key,
    )


@contextmanager
def open_browser(folder: Path) -> Iterator[Browser]:
    """A browser that is offline; its profile is in ``folder``."""
    # Here: each process of a run of all tests imports this file.
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.chrome.webdriver import WebDriver

    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert browser, "chromium is not installed"
    assert driver, "chromedriver (Debian: chromium-driver) is not installed"
    options = Options()
    options.binary_location = browser
    for switch in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
        "disable-background-networking", "disable-component-update", "disable-sync",
        "disable-dev-shm-usage", f"user-data-dir={folder}",
    ):  # fmt: skip
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = WebDriver(options=options, service=Service(driver))
    try:
        chrome.set_script_timeout(30)
        opened = Browser(chrome)
        opened.command("Network.enable")
        none = {"latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        opened.command("Network.emulateNetworkConditions", offline=True, **none)
        yield opened
    finally:
        chrome.quit()
