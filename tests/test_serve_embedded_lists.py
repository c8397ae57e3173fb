"""The lists, the schema and the doors of ``serve-embedded``."""

from __future__ import annotations

import json
from pathlib import Path

import requests

from .serving import SMALL, Client, serving

LIVE = json.loads((Path(__file__).parent / "webui-openapi.json").read_bytes())


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


def test_every_list_has_the_fields_of_a_live_server(served: Client) -> None:
    """Each GET route that the schema of a live server describes answers in that form."""
    for path, operations in LIVE["paths"].items():
        if "get" not in operations:
            continue
        schema = operations["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        found = served.get(path)
        rows = found if schema.get("type") == "array" else [found]
        name = schema.get("items", schema).get("$ref", "").rpartition("/")[2]
        required = set(LIVE["components"]["schemas"].get(name, {}).get("required", ()))
        assert all(required <= set(row) for row in rows), path
        assert rows or path == "/sdapi/v1/loras"


def test_the_other_facts_of_the_server(served: Client) -> None:
    """Empty lists, ADetailer's own routes, and posts that do nothing."""
    for path in ("loras", "hypernetworks", "prompt-styles"):
        assert served.get(path) == []
    assert "adetailer" in served.get("scripts")["img2img"]
    assert served.get("options")["ad_max_models"] == 4
    schema = served.get("/adetailer/v1/schema")
    assert schema["properties"]["ad_confidence"]["default"] == 0.3
    assert schema["additionalProperties"] is False
    for path in ("refresh-checkpoints", "refresh-vae", "unload-checkpoint", "skip"):
        assert served.post(path, {}) is None


def test_the_schema_of_the_bodies_is_that_of_a_live_server(served: Client) -> None:
    """Field names, types, bounds, defaults and required fields are AUTOMATIC1111 1.10.1's."""
    ours = served.get("/openapi.json")["components"]["schemas"]
    live = LIVE["components"]["schemas"]
    assert {name: ours[name] for name in live} == live


def test_the_server_has_every_route_of_the_schema(served: Client) -> None:
    """Each path with a GET answers, the others refuse a GET, and the bodies are on their routes."""
    paths = served.get("/openapi.json")["paths"]
    body = paths["/sdapi/v1/txt2img"]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"] == {"$ref": "#/components/schemas/StableDiffusionProcessingTxt2Img"}
    for path, methods in paths.items():
        assert served.get(path, status=200 if "get" in methods else 405) is not None
