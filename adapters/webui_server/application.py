"""Routes requests to the functions that answer them, and checks credentials."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import msgspec
import pybase64

from ...events.version import VERSION
from ..backends.embedded.infotext import PRODUCT
from ..imaging import ImageError, open_image
from .api_errors import ApiError, client_error, server_error
from .bodies import decode_body, decode_object, image_bytes
from .extras import Extras
from .generation import Generator
from .jobs import Jobs
from .offered_names import LISTS, MODULES, Checkpoints
from .product import Product
from .schema import ApiSchema
from .settings import Settings

Route = Callable[[bytes], Any]
"""Answers a body with a JSON value. Raises ApiError."""

_GUARDED = ("/sdapi/", "/adetailer/")
_LOADING = ("sd_model_checkpoint", "sd_vae")
_WITHOUT_EFFECT = (
    *("refresh-checkpoints", "refresh-vae", "refresh-loras"),
    *("unload-checkpoint", "reload-checkpoint"),
)


class Application:
    """Answers requests of any transport. Safe from any thread.

    ``auth`` is user and password, ``ui`` whether there are ``/internal`` routes, ``product`` what
    the server behaves as.
    """

    def __init__(
        self,
        models: Iterable[str],
        *,
        auth: tuple[str, str] | None,
        ui: bool,
        step_delay_s: float,
        product: Product,
    ) -> None:
        self._auth = None if auth is None else ":".join(auth).encode("utf-8", "surrogateescape")
        self._checkpoints = Checkpoints(models)
        self._settings = Settings(self._checkpoints, product)
        self._schema = ApiSchema(product)
        self._jobs = Jobs()
        self._generator = Generator(
            self._checkpoints, self._settings, self._jobs, self._schema, step_delay_s
        )
        self._extras = Extras(self._jobs, step_delay_s)
        self._routes = {
            (method, path): route
            for method, routes in (("GET", self._get_routes(ui=ui)), ("POST", self._post_routes()))
            for path, route in routes.items()
            if path not in product.without and (ui or not path.startswith("/internal/"))
        }

    def admit(self, path: str, authorization: str | None) -> None:
        """Raises ApiError, 401, for a path that needs other credentials."""
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

    def answer(self, method: str, path: str, body: bytes) -> bytes:
        """The JSON document that a request is answered with. Raises ApiError."""
        route = self._route(method, path)
        try:
            return msgspec.json.encode(route(body))
        except ApiError:
            raise
        except Exception as error:  # a WebUI answers with it as well
            raise server_error(type(error).__name__, str(error)) from error

    def close(self) -> None:
        """Cancel the running job, and refuse waiting requests."""
        self._jobs.close()

    def _route(self, method: str, path: str) -> Route:
        route = self._routes.get((method, path))
        if route is not None:
            return route
        if any(path == known for _method, known in self._routes):
            raise ApiError(405, detail="Method Not Allowed")
        raise ApiError(404, detail="Not Found")

    def _get_routes(self, *, ui: bool) -> dict[str, Route]:
        flags = {
            "api": True, "nowebui": not ui, "api_log": False, "ckpt_dir": None, "vae_dir": None
        }  # fmt: skip
        same: dict[str, Any] = {
            **LISTS,
            "/sdapi/v1/sd-modules": MODULES,
            "/sdapi/v1/sd-models": [one.row() for one in self._checkpoints.every],
            "/sdapi/v1/cmd-flags": flags,
            "/adetailer/v1/schema": self._schema.component("ADetailerArgs"),
            "/openapi.json": self._schema.document(ui=ui),
            "/internal/ping": {},
            "/internal/sysinfo": {"Version": f"{PRODUCT} {VERSION}"},
        }
        routes: dict[str, Route] = {path: partial(_same, answer) for path, answer in same.items()}
        routes["/sdapi/v1/options"] = lambda _body: self._settings.values()
        routes["/sdapi/v1/progress"] = lambda _body: self._jobs.progress()
        return routes

    def _post_routes(self) -> dict[str, Route]:
        routes: dict[str, Route] = {
            "txt2img": self._generator.txt2img,
            "img2img": self._generator.img2img,
            "extra-single-image": self._extras.single,
            "extra-batch-images": self._extras.batch,
            "png-info": _png_info,
            "interrupt": self._interrupt,
            "skip": lambda _body: self._jobs.skip(),
            "options": self._set_options,
        }
        routes |= {name: lambda _body: None for name in _WITHOUT_EFFECT}
        routes = {f"/sdapi/v1/{name}": route for name, route in routes.items()}
        return routes | {"/internal/progress": self._task_progress}

    def _interrupt(self, _body: bytes) -> dict[str, Any]:
        self._jobs.interrupt()
        return {}

    def _set_options(self, body: bytes) -> None:
        changes = decode_object(body)
        if not any(name in changes for name in _LOADING):
            self._settings.update(changes)
            return
        # A model is loaded only while no job is running.
        with self._jobs.turn():
            self._settings.update(changes)

    def _task_progress(self, body: bytes) -> dict[str, Any]:
        asked = decode_body(body, "modules__progress__ProgressRequest")
        return self._jobs.task_progress(asked.all["id_task"])


def _same(answer: Any, _body: bytes) -> Any:
    return answer


def _png_info(body: bytes) -> dict[str, Any]:
    """The texts of a picture; its infotext is not parsed."""
    data = image_bytes(decode_body(body, "PNGInfoRequest").all["image"])
    try:
        with open_image(data, metadata=True) as image:
            image.load()
            items = {key: value for key, value in image.info.items() if isinstance(value, str)}
    except ImageError as error:
        raise client_error(500, "Invalid encoded image") from error
    return {"info": items.pop("parameters", ""), "items": items, "parameters": {}}
