"""Every endpoint that the contract and its four documents name, asked of the real daemon.

The list is read from the documents (`tests/contract/`), so that none can be forgotten. What PocketPaw 0.4.18 was seen
to answer is compared field by field; where we answer otherwise, `DEPARTURES` says why.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase as fnmatch
from functools import cache
from itertools import repeat
from typing import Any, cast

import httpx2
import jsonschema
import msgspec
import pytest
from pocketpaw.http.unbuilt import CONTRACT

from ..contract.departures import DEPARTURES
from ..contract.documents import Endpoint
from ..contract.exchanges import EXCHANGES, Exchange
from ..contract.generate import load
from ..contract.recordings import Recorded, by_endpoint
from ..contract.shapes import Shape, differences, missing, shape_of
from ..contract.world import World, world_in

Json = dict[str, Any]

PREFIXES = ("/api/v1", "/api")
DOCUMENTS, RECORDINGS = load()
ASKED_FOR = {one.key: one for one in DOCUMENTS.endpoints if not one.later}
LATER = {one.key: one for one in DOCUMENTS.endpoints if one.later}
RECORDED = by_endpoint(RECORDINGS)

SAYS_THAT_IT_IS_NOT_BUILT = {"GET /oauth/callback"}
"""Contract §2, oauth/authorize: signing in elsewhere answers 501 until it is built, and this is where it would lead."""

NOT_YET = sorted(
    {f"{method} /api/v1{re.sub(r'{[^}]*}', '{}', path)}" for method, path, _ in CONTRACT} & ASKED_FOR.keys()
)
BUILT = sorted(ASKED_FOR.keys() - set(NOT_YET) - SAYS_THAT_IT_IS_NOT_BUILT)
CLOSED = [key for key in BUILT if not EXCHANGES[key].is_exempt]
WRONG: dict[str, object] = {"string": 7, "integer": "x", "number": "x", "boolean": "x", "array": "x", "object": "x"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world_in(tmp_path_factory.mktemp("contract")) as furnished:
        yield furnished


@pytest.fixture(scope="module")
def document(world: World) -> Json:
    return world.ask("GET", "/api/v1/openapi.json")


def mounts(endpoint: Endpoint) -> list[str]:
    if not endpoint.path.startswith(PREFIXES[0]):
        return [endpoint.path]
    return [prefix + endpoint.path.removeprefix(PREFIXES[0]) for prefix in PREFIXES]


def filled(path: str, values: Iterator[str] | None = None) -> str:
    return re.sub(r"{}", lambda _: next(values) if values is not None else "nosuch", path)


def made(value: Any, world: World) -> Any:
    return value(world) if callable(value) else value


def request_of(exchange: Exchange, world: World) -> Json:
    parts: Json = {"params": made(exchange.query, world)}
    if exchange.body is not None:
        parts["json"] = made(exchange.body, world)
    if exchange.files is not None:
        parts["files"] = exchange.files(world)
    if exchange.headers is not None:
        parts["headers"] = exchange.headers(world)
    return parts


def succeed(world: World, endpoint: Endpoint, mount: str) -> httpx2.Response:
    exchange = EXCHANGES[endpoint.key]
    values = iter([str(made(value, world)) for value in exchange.values])
    return world.send(endpoint.method, filled(mount, values), **request_of(exchange, world))


def operation(document: Json, endpoint: Endpoint) -> Json:
    return _operations_of(id(document), msgspec.json.encode(document))[endpoint.key]


@cache
def _operations_of(_: int, document: bytes) -> dict[str, Json]:
    paths: Json = msgspec.json.decode(document)["paths"]
    return {
        f"{method.upper()} {re.sub(r'{[^}]*}', '{}', path)}": found
        for path, item in paths.items()
        for method, found in item.items()
    }


def resolved(document: Json, schema: Json) -> Json:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def check_schema(document: Json, described: Json, response: httpx2.Response) -> None:
    """The answer is as the OpenAPI document describes it."""
    described = described["responses"][str(response.status_code)]
    while "$ref" in described:
        described = document["components"]["responses"][described["$ref"].rpartition("/")[2]]
    schema = described.get("content", {}).get("application/json", {}).get("schema")
    if schema is not None:
        jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(response.json())


def test_every_endpoint_of_the_documents_is_tried() -> None:
    assert EXCHANGES.keys() == ASKED_FOR.keys() - SAYS_THAT_IT_IS_NOT_BUILT
    assert len(ASKED_FOR) > 110
    print(f"\n{len(ASKED_FOR)} endpoints, {len(LATER)} more for later; not built yet: {', '.join(NOT_YET) or 'none'}")


def test_what_is_not_built_is_there_and_says_so(world: World) -> None:
    for key in [*NOT_YET, *SAYS_THAT_IT_IS_NOT_BUILT, *LATER]:
        endpoint = ASKED_FOR.get(key) or LATER[key]
        for mount in mounts(endpoint):
            refused = world.send(endpoint.method, filled(mount))
            assert (refused.status_code, refused.json()["code"]) == (501, "not_built"), (key, refused.text)


@pytest.mark.parametrize("key", [key for key in BUILT if not EXCHANGES[key].is_stream])
def test_it_answers_as_is_written_under_both_prefixes(world: World, document: Json, key: str) -> None:
    endpoint, exchange, recorded = ASKED_FOR[key], EXCHANGES[key], RECORDED.get(key)
    seen: list[tuple[int, str, list[str]]] = []
    for mount in mounts(endpoint):
        answer = succeed(world, endpoint, mount)
        assert answer.status_code == exchange.status, answer.text
        assert answer.headers["X-Request-ID"]
        media_type = answer.headers.get("Content-Type", "").partition(";")[0]
        names: list[str] = []
        if media_type == "application/json":
            check_schema(document, operation(document, endpoint), answer)
            shape = shape_of(answer.json())
            check_shape(endpoint, recorded, shape)
            names = sorted(shape) if isinstance(shape, dict) else []
        elif recorded is not None:
            assert media_type == recorded.media_type
        seen.append((answer.status_code, media_type, names))
    assert seen[0] == seen[-1]


def check_shape(endpoint: Endpoint, recorded: Recorded | None, shape: Shape) -> None:
    """Only what is a departure on purpose is other than the contract writes, and than PocketPaw answered."""
    found = list(missing(endpoint.answers, shape))
    if recorded is not None and recorded.shape is not None:
        found += differences(cast("Shape", recorded.shape), shape)
    reasons = DEPARTURES.get(endpoint.key, {})
    assert [one for one in found if not any(fnmatch(one, known) for known in reasons)] == []
    assert [known for known in reasons if not any(fnmatch(one, known) for one in found)] == [], "no departure any more"


@pytest.mark.parametrize("key", [key for key in BUILT if EXCHANGES[key].is_stream])
def test_its_events_are_as_they_were_recorded(world: World, key: str) -> None:
    endpoint = ASKED_FOR[key]
    recorded = RECORDINGS.events[key]
    for mount in mounts(endpoint):
        with world.stream(endpoint.method, mount, **request_of(EXCHANGES[key], world)) as (answer, events):
            assert answer.status_code == 200
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            assert answer.headers["Cache-Control"] == "no-cache"
            assert answer.headers["X-Accel-Buffering"] == "no"
            told = [next(events)] if endpoint.method == "GET" else list(events)
        for name, data in told:
            assert list(differences(cast("Shape", recorded[name]), shape_of(data))) == [], name


@pytest.mark.parametrize("key", CLOSED)
def test_without_a_credential_it_is_closed(world: World, key: str) -> None:
    endpoint = ASKED_FOR[key]
    for mount in mounts(endpoint):
        refused = world.send(endpoint.method, filled(mount), token="")
        assert refused.status_code == 401
        assert set(refused.json()) == {"detail", "code"}
        assert refused.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("key", CLOSED)
def test_it_needs_its_scope_and_no_other(world: World, document: Json, key: str) -> None:
    endpoint, scope = ASKED_FOR[key], EXCHANGES[key].scope
    assert operation(document, endpoint).get("x-scope") == scope
    for mount in mounts(endpoint):
        if scope is None:
            continue
        without = world.send(endpoint.method, filled(mount), token=world.key_without(scope))
        assert without.status_code == 403
        assert without.json() == {"detail": f"Missing required scope: {scope}", "code": "forbidden"}
    if scope != "admin":
        key_with = world.key_with(scope or "chat")
        headers = {"Authorization": f"Bearer {key_with}"}
        with world.http.stream(endpoint.method, filled(endpoint.path), headers=headers) as answer:
            assert answer.status_code not in (401, 403)


@pytest.mark.parametrize("key", [key for key in BUILT if "{}" in key or EXCHANGES[key].unknown is not None])
def test_of_what_is_not_there_it_says_so(world: World, key: str) -> None:
    endpoint, exchange = ASKED_FOR[key], EXCHANGES[key]
    request: Json = {} if exchange.body is None else {"json": made(exchange.body, world)}
    if exchange.unknown is not None:
        request = {"json": exchange.unknown}
    elif exchange.query:
        request["params"] = made(exchange.query, world)
    for mount in mounts(endpoint):
        nothing = world.send(endpoint.method, filled(mount, repeat(exchange.absent)), **request)
        assert nothing.status_code == (401 if exchange.known_missing else 404), nothing.text
        assert set(nothing.json()) - {"session_id", "request_id"} == {"detail", "code"}


def body_fields(document: Json, endpoint: Endpoint) -> tuple[Json, list[str]]:
    """The fields of the JSON body, and the names of those that cannot be left out."""
    content = operation(document, endpoint).get("requestBody", {}).get("content", {})
    schema = resolved(document, content.get("application/json", {}).get("schema", {}))
    return schema.get("properties", {}), schema.get("required", [])


def type_of(schema: Json) -> str | None:
    """The one JSON type that a value must be of, null aside."""
    schemas = [one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]
    found = schemas[0].get("type") if len(schemas) == 1 else None
    return "string" if found is None and "enum" in schemas[0] else cast("str | None", found)


@pytest.mark.parametrize("key", [key for key in BUILT if EXCHANGES[key].body])
def test_a_field_of_a_wrong_type_or_missing_is_named(world: World, document: Json, key: str) -> None:
    endpoint = ASKED_FOR[key]
    properties, required = body_fields(document, endpoint)
    body = made(EXCHANGES[key].body, world)
    path = filled(endpoint.path, iter([str(made(value, world)) for value in EXCHANGES[key].values]))
    for name in required:
        check_named(world, endpoint, path, {field: body[field] for field in body.keys() - {name}}, name)
    for name, schema in properties.items():
        expected = type_of(schema)
        if expected is not None:
            check_named(world, endpoint, path, {**body, name: WRONG[expected]}, name)


def check_named(world: World, endpoint: Endpoint, path: str, body: Json, name: str) -> None:
    refused = world.send(endpoint.method, path, json=body)
    assert refused.status_code == 422, (name, refused.text)
    (found,) = refused.json()["detail"]
    assert set(found) >= {"loc", "msg", "type"}
    assert found["loc"][:2] == ["body", name]


@pytest.mark.parametrize("key", BUILT)
def test_a_parameter_of_a_wrong_type_or_missing_is_named(world: World, document: Json, key: str) -> None:
    endpoint = ASKED_FOR[key]
    for parameter in operation(document, endpoint).get("parameters", []):
        name, kind = parameter["name"], type_of(parameter["schema"])
        if parameter["in"] != "query":
            continue
        if kind in ("integer", "number", "boolean"):
            refused = world.send(endpoint.method, filled(endpoint.path), params={name: "x"})
            assert refused.status_code == 422, refused.text
            assert refused.json()["detail"][0]["loc"] == ["query", name]
        if parameter.get("required"):
            refused = world.send(endpoint.method, filled(endpoint.path))
            assert refused.status_code == 422, refused.text
            assert refused.json()["detail"][0]["loc"][0] == "query"


@pytest.mark.parametrize("key", BUILT)
def test_it_is_documented_with_what_the_contract_names(document: Json, key: str) -> None:
    endpoint, exchange = ASKED_FOR[key], EXCHANGES[key]
    described = operation(document, endpoint)
    answers = described["responses"]
    assert described["summary"]
    success = answers[str(exchange.status)]
    assert exchange.status in (204, 302) or all("schema" in one for one in success["content"].values())
    assert "500" in answers
    if not exchange.is_exempt:
        assert {"401", "403", "429"} <= set(answers)
    assert {str(status) for status in endpoint.statuses} <= set(answers)
    parameters = {parameter["name"] for parameter in described.get("parameters", [])}
    assert set(endpoint.query) <= parameters
    fields, _ = body_fields(document, endpoint)
    if fields or endpoint.asks:
        assert {name.rstrip("?") for name in endpoint.asks} - {"settings"} <= fields.keys()
        assert "422" in answers
