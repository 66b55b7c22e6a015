"""The OpenAPI document holds to the specification and to the routes; its pages need nothing from elsewhere."""

from __future__ import annotations

import json
import re
from typing import Any, cast

import jsonschema
import pytest
from pocketpaw.http.documentation import ASSETS
from pocketpaw.http.openapi import document
from pocketpaw.http.route import Route
from pocketpaw.http.routes import ROUTES
from pocketpaw.http.sse import MEDIA_TYPE

from .conftest import Serve

Json = dict[str, Any]

DOCUMENT = cast("Json", json.loads(document(ROUTES, "1.2.3")))


def operation(route: Route) -> Json:
    return cast("Json", DOCUMENT["paths"][route.mounts[0]][route.method.lower()])


def every(node: Any, key: str) -> list[Any]:
    """Every value under `key`, however deep."""
    if isinstance(node, dict):
        found = cast("Json", node)
        return [value for name, value in found.items() if name == key] + [
            inner for value in found.values() for inner in every(value, key)
        ]
    return [inner for value in cast("list[Any]", node) for inner in every(value, key)] if isinstance(node, list) else []


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_endpoint_is_described(route: Route) -> None:
    described = operation(route)
    assert described["summary"]
    assert {f"{{{name}}}" for name in route.path_names} == {
        f"{{{parameter['name']}}}" for parameter in described.get("parameters", []) if parameter["in"] == "path"
    }
    assert ("requestBody" in described) == (
        route.reads_body or route.takes_upload or route.takes_anything or route.takes_form
    )
    assert "500" in described["responses"]
    if not route.is_exempt:
        assert {"401", "403", "429"} <= set(described["responses"])
    if not route.is_built:
        assert described["x-not-built"] is True
        assert "501" in described["responses"]


def test_nothing_else_is_described() -> None:
    described = {(method, path) for path, item in DOCUMENT["paths"].items() for method in item}
    assert described == {(route.method.lower(), route.mounts[0]) for route in ROUTES}
    operations = [described["operationId"] for item in DOCUMENT["paths"].values() for described in item.values()]
    assert len(set(operations)) == len(operations)


def test_every_reference_leads_somewhere() -> None:
    for reference in every(DOCUMENT, "$ref"):
        node: Any = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


def test_every_schema_is_one() -> None:
    for schema in [*DOCUMENT["components"]["schemas"].values(), *every(DOCUMENT["paths"], "schema")]:
        jsonschema.Draft202012Validator.check_schema(schema)


def test_the_bounds_of_a_message_are_in_the_document() -> None:
    parameters = {one["name"]: one["schema"] for one in DOCUMENT["paths"]["/api/v1/sessions"]["get"]["parameters"]}
    assert parameters["limit"] == {"type": "integer", "minimum": 1, "maximum": 500, "default": 50}
    body = DOCUMENT["components"]["schemas"]["ChatBody"]
    assert body["required"] == ["content"]
    assert (body["properties"]["content"]["minLength"], body["properties"]["content"]["maxLength"]) == (1, 100_000)


def test_what_is_refused_as_unknown_is_closed_in_the_document() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert [schemas[name]["additionalProperties"] for name in ("SettingsChanges", "SettingsWritten")] == [False, False]


def test_a_stream_of_events_is_text() -> None:
    for route in ROUTES:
        if route.produces == MEDIA_TYPE:
            assert operation(route)["responses"]["200"]["content"] == {MEDIA_TYPE: {"schema": {"type": "string"}}}


async def test_the_document_and_its_pages_are_served_here(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        served = (await client.get("/api/v1/openapi.json")).json()
        assert served["openapi"] == "3.1.0"
        assert served["paths"].keys() == DOCUMENT["paths"].keys()
        for path in ("/api/v1/docs", "/api/docs", "/swagger", "/api/v1/redoc"):
            page = await client.get(path)
            assert page.headers["content-type"] == "text/html; charset=utf-8"
            assert "script-src" not in page.headers["content-security-policy"]  # falls back to default-src 'self'
            assert not re.search(r"<script(?![^>]* src=)|<style|https?://", page.text)
            for link in re.findall(r'(?:src|href|spec-url)="([^"]+)"', page.text):
                assert (await client.get(link)).status_code == 200, link
        assert "SwaggerUIBundle(" in (await client.get("/static/swagger-start.js")).text
        for name, content_type in ASSETS.items():
            asset = await client.get(f"/static/{name}")
            assert (asset.headers["content-type"], len(asset.content) > 100_000) == (content_type, True)
        assert (await client.get("/favicon.ico")).status_code == 204
