"""The scripted WebUI does what it says, so that a failure elsewhere is not its own."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import requests
from PIL import Image

from . import webui_faults as faults
from .support import png
from .webui_server import ScriptedWebUI

SMALL: dict[str, Any] = {"prompt": "a lighthouse", "seed": 7, "steps": 4, "width": 64, "height": 64}
INPUT = base64.b64encode(png(1)).decode("ascii")


class Client:
    """Plain requests to one server; ``later`` sends on a thread of its own."""

    def __init__(self, url: str, session: requests.Session, pool: ThreadPoolExecutor) -> None:
        self.url, self.session, self.pool = url, session, pool

    def post(self, name: str, timeout: float = 10.0, **body: Any) -> requests.Response:
        path = name if name.startswith("/") else f"/sdapi/v1/{name}"
        return self.session.post(self.url + path, json=body, timeout=timeout)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.session.get(self.url + path, timeout=10.0, **options)

    def later(self, name: str, **body: Any) -> Future[requests.Response]:
        return self.pool.submit(self.post, name, **body)

    def progress(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.get("/sdapi/v1/progress").json()
        return answer

    def task(self, name: str) -> tuple[bool, bool, bool]:
        found = self.post("/internal/progress", id_task=name).json()
        return found["active"], found["queued"], found["completed"]


@contextmanager
def client(server: ScriptedWebUI) -> Iterator[Client]:
    with server, requests.Session() as session, ThreadPoolExecutor(8) as pool:
        yield Client(server.url, session, pool)


@pytest.fixture
def server() -> ScriptedWebUI:
    return ScriptedWebUI()


@pytest.fixture
def webui(server: ScriptedWebUI) -> Iterator[Client]:
    with client(server) as made:
        yield made


def pictures(answer: requests.Response) -> list[Image.Image]:
    assert answer.status_code == 200, answer.text[:300]
    document = answer.json()
    images = document["images"] if "images" in document else [document["image"]]
    return [Image.open(io.BytesIO(base64.b64decode(image))) for image in images]


def info(answer: requests.Response) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer.json()["info"])
    return found


def detailing(*arguments: Any, **more: Any) -> dict[str, Any]:
    scripts = {"ADetailer": {"args": list(arguments)}}
    return {**SMALL, "init_images": [INPUT], "denoising_strength": 0.4, **more} | {
        "alwayson_scripts": scripts
    }


def test_txt2img_gives_seeded_pictures_and_tells_what_it_used(webui: Client) -> None:
    """Two images have consecutive seeds, a PNG text, sizes cut to eights; a bad field is 422."""
    answer = webui.post("txt2img", **SMALL | {"batch_size": 2, "width": 70, "sampler_name": "?"})
    first, second = pictures(answer)
    assert (first.size, second.size) == ((64, 64), (64, 64))
    assert first.tobytes() != second.tobytes()
    assert "Seed: 7" in first.info["parameters"]
    told = info(answer)
    assert told["all_seeds"] == [7, 8]
    assert (told["sampler_name"], told["sd_model_name"], told["width"]) == ("DPM++ 2M", "base", 70)
    refused = webui.post("txt2img", steps="many", misspelt=1)
    assert refused.status_code == 422
    assert [one["loc"] for one in refused.json()["detail"]] == [["body", "steps"]]


def test_models_are_chosen_by_setting_and_evidence_names_refiner_and_hires(webui: Client) -> None:
    """An unknown model is ignored; hires with the refiner's own model tells no refiner."""
    for asked, used in (
        ("other", "other"),
        ("no such", "base"),
        ("refiner.safetensors", "refiner"),
    ):
        setting = {"sd_model_checkpoint": asked}
        assert (
            info(webui.post("txt2img", **SMALL, override_settings=setting))["sd_model_name"] == used
        )
    refiner: dict[str, Any] = {"refiner_checkpoint": "refiner", "refiner_switch_at": 0.8}
    plain = info(webui.post("txt2img", **SMALL, **refiner))["extra_generation_params"]
    assert plain["Refiner"].startswith("refiner [")
    assert plain["Refiner switch at"] == 0.8
    hires: dict[str, Any] = {"enable_hr": True, "hr_scale": 1.5, "hr_checkpoint_name": "refiner"}
    answer = webui.post("txt2img", **SMALL, **refiner, **hires, denoising_strength=0.3)
    assert pictures(answer)[0].size == (96, 96)
    both = info(answer)["extra_generation_params"]
    assert "Refiner" not in both
    assert both["Hires checkpoint"].startswith("refiner [")
    assert webui.post("txt2img", **SMALL, **hires).json()["error"] == "TypeError"
    assert all(" [" in one["title"] for one in webui.get("/sdapi/v1/sd-models").json())


def test_adetailer_alone_details_and_a_slip_repaints_the_whole_image(webui: Client) -> None:
    """The evidence stands only where the skip worked; numbers for flags and unknown keys do not."""
    good = webui.post("img2img", **detailing(True, True, {"ad_model": "face_yolov8n.pt"}))
    (before,), (after,) = [Image.open(io.BytesIO(png(1)))], pictures(good)
    told = info(good)
    assert (told["width"], told["steps"], told["sampler_name"]) == (128, 1, "Euler")
    assert told["extra_generation_params"]["ADetailer model"] == "face_yolov8n.pt"
    assert after.size == before.size
    assert after.getpixel((0, 0)) == before.getpixel((0, 0))
    assert after.tobytes() != before.tobytes()
    for slip in (
        detailing(1, 1, {"ad_model": "face_yolov8n.pt"}),
        detailing(True, True, {"ad_model": "face_yolov8n.pt", "ad_what": 1}),
    ):
        answer = webui.post("img2img", **slip)
        assert info(answer)["width"] == 64
        assert pictures(answer)[0].getpixel((0, 0)) != before.getpixel((0, 0))


def test_upscaling_and_the_cache_that_keeps_an_interrupted_picture(
    server: ScriptedWebUI, webui: Client
) -> None:
    """The same request gives the bad picture again; a factor a little larger does not."""
    asked: dict[str, Any] = {"image": INPUT, "upscaler_1": "R-ESRGAN 4x+", "upscaling_resize": 2.0}
    with server.hold():
        answer = webui.later("extra-single-image", **asked)
        server.until_running()
        assert webui.progress()["progress"] == 1.0
        webui.post("interrupt")
        (bad,) = pictures(answer.result())
    (again,) = pictures(webui.post("extra-single-image", **asked))
    (good,) = pictures(webui.post("extra-single-image", **asked | {"upscaling_resize": 2.0005}))
    assert bad.size == again.size == good.size == (128, 128)
    assert bad.tobytes() == again.tobytes() != good.tobytes()
    assert webui.post("extra-single-image", image=INPUT, upscaler_1="?").status_code == 500
    assert webui.progress()["state"]["job"] == "Upscale"


def test_img2img_wants_an_input_and_a_failed_task_stays_active(webui: Client) -> None:
    """No list is 404, an empty one or no picture 500, an unknown script 422."""
    assert webui.post("img2img", **SMALL).status_code == 404
    assert webui.post("img2img", **SMALL, init_images=[]).status_code == 500
    broken = webui.post("img2img", **SMALL, init_images=["AAAA"], force_task_id="broken")
    assert broken.status_code == 500
    assert webui.task("broken") == (False, True, False)
    assert webui.post("txt2img", **SMALL, alwayson_scripts={"No": {}}).status_code == 422
    settings = {"no such option": 1}
    failed = webui.post("txt2img", **SMALL, override_settings=settings, force_task_id="failed")
    assert failed.json()["error"] == "KeyError"
    assert webui.task("failed") == (True, False, False)
    assert webui.progress()["state"]["job"] == ""
    webui.post("txt2img", **SMALL, force_task_id="next")
    assert webui.task("failed") == (False, False, False)
    assert webui.task("next") == (False, False, True)


def test_progress_advances_and_an_interrupt_gives_a_half_made_picture(
    server: ScriptedWebUI, webui: Client
) -> None:
    """An interrupted hires request answers 200 in the first pass's size; the flag stays."""
    hires: dict[str, Any] = {"enable_hr": True, "hr_scale": 2.0, "denoising_strength": 0.3}
    (whole,) = pictures(webui.post("txt2img", **SMALL))
    with server.hold(step=2):
        answer = webui.later("txt2img", **SMALL, **hires, force_task_id="mine")
        server.until_running(step=2)
        state = webui.progress()
        assert webui.task("mine") == (True, False, False)
        webui.post("interrupt")
        (half,) = pictures(answer.result())
    assert state["progress"] == pytest.approx(0.01 + 2 / 4 / 2)
    assert state["state"]["job_count"] == 2
    assert half.size == (64, 64)
    assert half.tobytes() != whole.tobytes()
    after = webui.progress()
    assert (after["progress"], after["state"]["interrupted"]) == (0.0, True)
    webui.post("txt2img", **SMALL)
    assert not webui.progress()["state"]["interrupted"]


def test_interrupts_may_be_lost_or_not_heard() -> None:
    """The first is lost as if sent between two jobs; a deaf job goes on in spite of all."""
    server = ScriptedWebUI(deaf_interrupts=1)
    with client(server) as webui:
        with server.hold():
            answer = webui.later("txt2img", **SMALL)
            server.until_running(step=1)
            webui.post("interrupt")
            assert not webui.progress()["state"]["interrupted"]
            webui.post("interrupt")
            answer.result()
        with server.hold(deaf=True):
            answer = webui.later("txt2img", **SMALL)
            server.until_running(step=1)
            webui.post("interrupt")
            time.sleep(0.05)
            assert not answer.done()
        answer.result()
        assert server.interrupts(foreign=False) == 3


def test_requests_wait_in_line_behind_another_clients_job(
    server: ScriptedWebUI, webui: Client
) -> None:
    """The foreign job advances, ours is queued; an interrupt hits the foreign one."""
    with server.foreign_job():
        answer = webui.later("txt2img", **SMALL, force_task_id="mine")
        server.until(lambda: len(server.queue.line) == 2)
        first = webui.progress()["state"]["sampling_step"]
        server.until_running(step=first + 2)
        assert webui.task("mine") == (False, True, False)
        assert not answer.done()
    pictures(answer.result())
    with server.foreign_job():
        webui.post("interrupt")
        server.until(lambda: not server.queue.line)
    assert (server.interrupts(foreign=True), server.interrupts(foreign=False)) == (1, 0)


def test_a_job_outlives_its_client(server: ScriptedWebUI, webui: Client) -> None:
    """After the client's time-out the server stays busy until the job ends, unrequested."""
    with server.hold():
        with pytest.raises(requests.ReadTimeout):
            webui.post("txt2img", timeout=0.1, **SMALL, force_task_id="lost")
        assert webui.progress()["state"]["job"] != ""
    server.until(lambda: not server.queue.line)
    assert webui.task("lost") == (False, False, True)
    server.on(1, faults.LosesAnswer(0.1))
    with pytest.raises(requests.ConnectionError):
        webui.post("txt2img", **SMALL, force_task_id="lost too")
    server.until_running()
    assert webui.task("lost too") == (True, False, False)


def test_forks_routes_and_credentials_differ_as_asked() -> None:
    """Forge, SD.Next, a server without UI and schema, and one with a password."""
    with client(ScriptedWebUI(fork="forge")) as webui:
        assert webui.get("/sdapi/v1/sd-vae").status_code == 404
        assert webui.get("/sdapi/v1/sd-modules").status_code == 200
        hires: dict[str, Any] = {"enable_hr": True, "denoising_strength": 0.3}
        answer = webui.post("txt2img", **SMALL, **hires)
        assert (answer.status_code, list(answer.json())) == (500, ["detail"])
        modules: dict[str, Any] = {"hr_additional_modules": ["Use same choices"]}
        assert pictures(webui.post("txt2img", **SMALL, **hires, **modules))[0].size == (128, 128)
    with client(ScriptedWebUI(fork="sdnext")) as webui:
        assert webui.post("interrupt").status_code == 204
        schemas = webui.get("/openapi.json").json()["components"]["schemas"]
        fields = schemas["StableDiffusionProcessingTxt2Img"]["properties"]
        assert "scheduler" not in fields
        pictures(webui.post("txt2img", **SMALL))
    hidden = ("/sdapi/v1/schedulers",)
    bare = ScriptedWebUI(ui=False, openapi=False, auth=("me", "secret"), missing_routes=hidden)
    with client(bare) as webui:
        for path in ("/openapi.json", "/internal/ping"):
            assert webui.get(path).status_code == 404
        refused = webui.get("/sdapi/v1/options")
        assert refused.status_code == 401
        assert "WWW-Authenticate" not in refused.headers
        webui.session.auth = ("me", "secret")
        assert webui.get("/sdapi/v1/options").status_code == 200
        assert webui.get("/sdapi/v1/schedulers").status_code == 404


def test_a_fault_strikes_the_request_it_was_scripted_for(
    server: ScriptedWebUI, webui: Client
) -> None:
    """Counts are kept for each stage, ADetailer being one of its own, and over all."""
    server.on(1, faults.NOT_FOUND, stage="img2img")
    server.on(range(3, 5), faults.BAD_GATEWAY)
    detail = detailing(True, True, {"ad_model": "face_yolov8n.pt"})
    plain: dict[str, Any] = {**SMALL, "init_images": [INPUT]}
    statuses = [
        webui.post("img2img", **body).status_code for body in (plain, detail, plain, plain, plain)
    ]
    assert statuses == [200, 200, 404, 502, 502]
    stages = [received.stage for received in server.generating()]
    assert stages == ["img2img", "adetailer", "img2img", "img2img", "img2img"]
    assert server.generating("adetailer")[0].body["alwayson_scripts"]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (faults.resets, requests.ConnectionError),
        (faults.BreaksOff(), requests.RequestException),
        (faults.HANGS, requests.ReadTimeout),
    ],
)
def test_connections_break_and_stall(
    server: ScriptedWebUI, webui: Client, fault: faults.Fault, error: type[Exception]
) -> None:
    """What a client sees of each; the server ends in spite of it."""
    server.on(0, fault)
    with pytest.raises(error):
        webui.post("txt2img", timeout=0.1, **SMALL)


def test_a_server_that_refuses_comes_back_at_its_address(
    server: ScriptedWebUI, webui: Client
) -> None:
    """Connections are refused, none reaches it, and later it answers again."""
    server.on(0, faults.Refuses(0.1))
    with pytest.raises(requests.ConnectionError):
        webui.post("txt2img", **SMALL)
    with pytest.raises(requests.ConnectionError, match="refused"):
        webui.post("txt2img", **SMALL)
    server.until(lambda: server.listening)
    pictures(webui.post("txt2img", **SMALL))
    assert len(server.generating()) == 2


def test_progress_may_keep_silent_too(server: ScriptedWebUI, webui: Client) -> None:
    """While a mute job stalls, /progress does not answer; an interrupt ends both."""
    server.on(0, faults.STALLS_MUTE)
    answer = webui.later("txt2img", **SMALL)
    server.until_running(step=1)
    with pytest.raises(requests.ReadTimeout):
        requests.get(f"{server.url}/sdapi/v1/progress", timeout=0.1)
    webui.post("interrupt")
    pictures(answer.result())
    assert webui.progress()["state"]["interrupted"]


def test_answers_trickle_and_floods_are_made_as_they_are_sent(
    server: ScriptedWebUI, webui: Client
) -> None:
    """A trickled answer arrives whole; of 2 GiB a client may read a little and go."""
    server.on(0, faults.Trickles(0.001, size=100))
    pictures(webui.post("txt2img", **SMALL))
    for place, how in enumerate(("length", "chunked", "endless", "gzip"), start=1):
        server.on(place, faults.Floods(how))
        path = f"{server.url}/sdapi/v1/txt2img"
        with requests.post(path, json=SMALL, stream=True, timeout=10) as answer:
            data = next(answer.iter_content(2**20))
            assert answer.headers.get("Content-Length") in (None, str(2 * 1024**3 + 13))
        assert data.startswith(b'{"images": ["')
    assert server.streamed < 2**27


ALTERED: dict[str, Callable[[dict[str, Any]], bool]] = {
    "TOO_MANY": lambda found: len(found["images"]) == 2,
    "NAN": lambda found: found["parameters"] != found["parameters"],
    "SURROGATE": lambda found: found["parameters"] == "\ud800",
}


@pytest.mark.parametrize("name", ALTERED)
def test_answers_are_altered(server: ScriptedWebUI, webui: Client, name: str) -> None:
    """The document is the true one with the one thing wrong."""
    server.on(0, getattr(faults, name))
    assert ALTERED[name](webui.post("txt2img", **SMALL).json())


def test_a_grid_stands_first(server: ScriptedWebUI, webui: Client) -> None:
    """Three pictures for two, with the index 1."""
    server.on(0, faults.grid_first)
    answer = webui.post("txt2img", **SMALL, batch_size=2)
    assert (len(pictures(answer)), info(answer)["index_of_first_image"]) == (3, 1)


def test_nothing_is_left_when_a_server_ends() -> None:
    """Stalled requests, a foreign job and idle connections end with it, and all threads."""
    before = threading.active_count()
    server = ScriptedWebUI()
    with requests.Session() as session, ThreadPoolExecutor(4) as pool:
        webui = Client(server.url, session, pool)
        server.on(0, faults.silent)
        server.on(1, faults.HANGS)
        waiting = [webui.later("txt2img", **SMALL) for _ in range(3)]
        server.until(lambda: len(server.generating()) == 3)
        server.close()
        assert all(isinstance(one.exception(), requests.ConnectionError) for one in waiting)
    assert threading.active_count() == before
