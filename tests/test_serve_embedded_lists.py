"""The lists, the schema and the doors of ``serve-embedded``."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from .serving import SMALL, Client, Json, serving


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A server whose state no test may change for the next."""
    with serving() as found:
        yield found


# --- Without UI, with credentials


def test_without_ui_there_is_no_internal_route() -> None:
    """``ui`` False leaves the /internal routes out."""
    with serving(ui=False) as client:
        client.get("/internal/ping", status=404)
        client.post("/internal/progress", {"id_task": "x"}, status=404)
        assert client.get("cmd-flags")["nowebui"] is True


def test_credentials_guard_all_but_the_internal_routes() -> None:
    """Without them 401, which does not say how to authenticate."""
    auth = ("somebody", "pass:word")
    with serving(auth=auth) as client:
        for given in (None, ("somebody", "wrong"), ("", "")):
            for path in ("/sdapi/v1/options", "/adetailer/v1/version", "/sdapi/v1/no-such"):
                answer = requests.get(client.url + path, auth=given, timeout=10)
                assert answer.status_code == 401
                assert answer.json() == {"detail": "Incorrect username or password"}
                assert "WWW-Authenticate" not in answer.headers
        body = SMALL | {"prompt": "x" * 200_000}
        assert client.post("txt2img", body, status=401)
        assert client.get("/internal/ping") == {}
        assert client.get("/openapi.json")["paths"]
        options = f"{client.url}/sdapi/v1/options"
        assert requests.get(options, auth=auth, timeout=10).status_code == 200


# --- Lists


def test_the_lists_hold_every_name_of_the_examples(client: Client) -> None:
    """Whatever an example asks for by name is offered."""
    models = {name for row in client.get("sd-models") for name in
              (row["title"], row["model_name"], Path(row["filename"]).name)}  # fmt: skip
    labels = {label for row in client.get("schedulers") for label in (row["label"], row["name"])}
    offered = {
        "model": models,
        "sampler": {row["name"] for row in client.get("samplers")},
        "scheduler": labels,
        "upscaler": {row["name"] for row in client.get("upscalers")}
        | {row["name"] for row in client.get("latent-upscale-modes")},
        "detector": set(client.get("/adetailer/v1/ad_model")["ad_model"]),
    }
    for path in (Path(__file__).parent.parent / "examples").glob("*.toml"):
        for kind, name in _names(tomllib.loads(path.read_text(encoding="utf-8"))):
            assert name in offered[kind], f"{path.name}: {kind} {name}"


def _names(tables: Json, within: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tables.items():
        if isinstance(value, dict):
            yield from _names(value, key)
        elif isinstance(value, list):
            for one in value:
                yield from _names(one, key)
        elif key == "model":
            yield "detector" if within == "passes" else "model", value
        elif key in ("sampler", "scheduler", "upscaler"):
            yield key, value
        elif key == "upscaler_2":
            yield "upscaler", value


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("sd-models", {"title", "model_name", "hash", "sha256", "filename"}),
        ("sd-vae", {"model_name", "filename"}),
        ("samplers", {"name", "aliases", "options"}),
        ("schedulers", {"name", "label", "aliases"}),
        ("upscalers", {"name", "model_name", "model_path", "model_url", "scale"}),
        ("latent-upscale-modes", {"name"}),
        ("script-info", {"name", "is_alwayson", "is_img2img", "args"}),
        ("extensions", {"name", "version", "enabled"}),
        ("face-restorers", {"name"}),
        ("realesrgan-models", {"name"}),
    ],
)
def test_every_list_has_rows_with_these_keys(client: Client, path: str, keys: set[str]) -> None:
    """Each list route gives rows as a WebUI does."""
    rows = client.get(path)
    assert rows
    assert all(keys <= set(row) for row in rows)


def test_the_other_facts_of_the_server(client: Client) -> None:
    """Empty lists, tables, ADetailer's own routes, and posts that do nothing."""
    for path in ("loras", "hypernetworks", "prompt-styles"):
        assert client.get(path) == []
    assert set(client.get("scripts")) == {"txt2img", "img2img"}
    assert "adetailer" in client.get("scripts")["img2img"]
    assert client.get("memory")["ram"]["total"] >= 0
    assert client.get("embeddings") == {"loaded": {}, "skipped": {}}
    assert client.get("options")["ad_max_models"] == 4
    assert client.get("/adetailer/v1/version") == {"version": "25.3.0"}
    schema = client.get("/adetailer/v1/schema")
    assert schema["properties"]["ad_confidence"]["default"] == 0.3
    assert schema["additionalProperties"] is False
    for path in ("refresh-checkpoints", "refresh-vae", "unload-checkpoint", "skip"):
        assert client.post(path, {}) in (None, {})


def test_the_schema_of_the_bodies_is_that_of_a_live_server(client: Client) -> None:
    """Field names, types, bounds, defaults and required fields are AUTOMATIC1111 1.10.1's."""
    path = Path(__file__).parent / "webui-openapi.json"
    live = json.loads(path.read_text(encoding="utf-8"))["components"]["schemas"]
    served = client.get("/openapi.json")["components"]["schemas"]
    assert {name: served[name] for name in live} == live


def test_the_schema_names_every_route(client: Client) -> None:
    """The bodies hang on their routes, and each path in it answers."""
    paths = client.get("/openapi.json")["paths"]
    body = paths["/sdapi/v1/txt2img"]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"] == {"$ref": "#/components/schemas/StableDiffusionProcessingTxt2Img"}
    for path, methods in paths.items():
        if "get" in methods:
            assert client.get(path) is not None
