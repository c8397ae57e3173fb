"""Routes requests to the functions that answer them, and checks credentials."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import pybase64

from . import lists
from .api_errors import ApiError, validation_error
from .bodies import TaskProgressBody
from .body_schema import decode_body, decode_object, encode_json
from .detailer import VERSION as DETAILER_VERSION
from .extras import Extras
from .generation import Generator
from .model_catalogue import DETECTORS, Checkpoints
from .openapi import openapi_schema
from .progress import FairLock, Progress, Tasks
from .renderer import Renderer
from .settings import Settings

_WORDS = {"true": True, "1": True, "on": True, "yes": True}
_WORDS |= {"false": False, "0": False, "off": False, "no": False}
_GUARDED = ("/sdapi/", "/adetailer/")
_LOADING = ("sd_model_checkpoint", "sd_vae")


class Call(NamedTuple):
    """One request: its body, and the fields of its query."""

    body: bytes
    query: Mapping[str, str]


Route = Callable[[Call], Any]


class Application:
    """Answers requests of any transport. Safe from any thread.

    ``auth`` is user and password, ``ui`` whether there are ``/internal`` routes.
    """

    def __init__(
        self,
        models: Iterable[str],
        *,
        auth: tuple[str, str] | None,
        ui: bool,
        step_delay_s: float,
    ) -> None:
        self._auth = None if auth is None else ":".join(auth).encode("utf-8", "surrogateescape")
        self._checkpoints = Checkpoints(models)
        self._settings = Settings(self._checkpoints)
        self._progress = Progress()
        self._tasks = Tasks()
        self._lock = FairLock()
        renderer = Renderer(step_delay_s)
        self._generator = Generator(
            self._checkpoints, self._settings, self._progress, self._lock, self._tasks, renderer
        )
        self._extras = Extras(self._progress, self._lock, renderer)
        self._routes = self._working_routes() | self._listing_routes(ui=ui)
        self._routes |= self._internal_routes() if ui else {}
        self._schema = openapi_schema(self._routes)
        self._routes["GET", "/openapi.json"] = lambda _call: self._schema

    def answer(
        self, method: str, path: str, authorization: str | None, call: Callable[[], Call]
    ) -> tuple[int, bytes]:
        """The status and JSON document; ``call`` reads the request once it is authorised."""
        try:
            self._admit(path, authorization)
            route = self._route(method, path)
            asked = call()
        except ApiError as error:
            return error.status, encode_json(error.body)
        return _answered(route, asked)

    def close(self) -> None:
        """Cancel the running job, and refuse waiting requests."""
        self._lock.close()
        self._progress.close()

    def _route(self, method: str, path: str) -> Route:
        route = self._routes.get((method, path))
        if route is not None:
            return route
        if any(path == known for _method, known in self._routes):
            raise ApiError(405, detail="Method Not Allowed")
        raise ApiError(404, detail="Not Found")

    def _admit(self, path: str, authorization: str | None) -> None:
        if self._auth is None or not path.startswith(_GUARDED):
            return
        kind, _, words = (authorization or "").partition(" ")
        try:
            given = pybase64.b64decode(words.strip().encode("ascii"), validate=True)
        except ValueError:
            given = b""
        same = hmac.compare_digest(given, self._auth)
        if kind.lower() != "basic" or not same:
            raise ApiError(401, detail="Incorrect username or password")

    def _working_routes(self) -> dict[tuple[str, str], Route]:
        posts: dict[str, Route] = {
            "txt2img": lambda call: self._generator.txt2img(call.body),
            "img2img": lambda call: self._generator.img2img(call.body),
            "extra-single-image": lambda call: self._extras.single(call.body),
            "extra-batch-images": lambda call: self._extras.batch(call.body),
            "png-info": lambda call: lists.png_info(call.body),
            "interrupt": lambda _call: self._interrupt(),
            "skip": lambda _call: self._progress.skip(),
            "options": self._set_options,
        }
        nothing = ("refresh-checkpoints", "refresh-vae", "refresh-loras")
        posts |= {name: lambda _call: None for name in nothing}
        posts |= {name: lambda _call: {} for name in ("unload-checkpoint", "reload-checkpoint")}
        return {("POST", f"/sdapi/v1/{name}"): route for name, route in posts.items()}

    def _listing_routes(self, *, ui: bool) -> dict[tuple[str, str], Route]:
        makers: dict[str, Callable[[], Any]] = {
            "options": self._settings.values,
            "samplers": lists.samplers,
            "schedulers": lists.schedulers,
            "upscalers": lists.upscalers,
            "latent-upscale-modes": lists.latent_upscale_modes,
            "sd-models": partial(lists.sd_models, self._checkpoints),
            "sd-vae": lists.sd_vaes,
            "memory": lists.memory,
            "scripts": lists.scripts,
            "script-info": lists.script_info,
            "extensions": lists.extensions,
            "loras": list,
            "hypernetworks": list,
            "prompt-styles": list,
            "embeddings": lists.embeddings,
            "face-restorers": lists.face_restorers,
            "realesrgan-models": lists.realesrgan_models,
            "cmd-flags": partial(lists.cmd_flags, ui=ui),
        }
        paths = {f"/sdapi/v1/{name}": make for name, make in makers.items()}
        paths["/adetailer/v1/ad_model"] = lambda: {"ad_model": list(DETECTORS)}
        paths["/adetailer/v1/version"] = lambda: {"version": DETAILER_VERSION}
        paths["/adetailer/v1/schema"] = lists.detailer_schema
        routes: dict[tuple[str, str], Route] = {
            ("GET", path): partial(_listed, make) for path, make in paths.items()
        }
        routes["GET", "/sdapi/v1/progress"] = self._report
        return routes

    def _internal_routes(self) -> dict[tuple[str, str], Route]:
        return {
            ("GET", "/internal/ping"): lambda _call: {},
            ("POST", "/internal/progress"): self._report_task,
        }

    def _interrupt(self) -> dict[str, Any]:
        self._progress.interrupt()
        return {}

    def _set_options(self, call: Call) -> None:
        changes = decode_object(call.body)
        if not any(name in changes for name in _LOADING):
            self._settings.update(changes)
            return
        # A model is loaded only while no job is running.
        with self._lock.hold():
            self._settings.update(changes)

    def _report(self, call: Call) -> dict[str, Any]:
        word = call.query.get("skip_current_image", "false").lower()
        if word not in _WORDS:
            place = ("query", "skip_current_image")
            raise validation_error(
                place, "value could not be parsed to a boolean", "type_error.bool"
            )
        return self._progress.report() | {"current_image": None, "textinfo": None}

    def _report_task(self, call: Call) -> dict[str, Any]:
        body = decode_body(call.body, TaskProgressBody).body
        found = self._tasks.report(body.id_task)
        preview = {"live_preview": None, "id_live_preview": -1}
        if not found["active"]:
            return found | {"progress": None, "eta": None} | preview
        done, left = self._progress.task_progress()
        return found | {"progress": done, "eta": left} | preview


def _answered(route: Route, asked: Call) -> tuple[int, bytes]:
    try:
        return 200, encode_json(route(asked))
    except ApiError as error:
        return error.status, encode_json(error.body)
    except Exception as error:  # noqa: BLE001 - a WebUI answers with it as well
        words = {"error": type(error).__name__, "detail": "", "body": "", "errors": str(error)}
        return 500, encode_json(words)


def _listed(make: Callable[[], Any], _call: Call) -> Any:
    return make()
