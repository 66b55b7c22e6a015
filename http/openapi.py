"""The OpenAPI 3.1 document, made from the routes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import msgspec

from ..runtime import Done
from ..storage.sessions import Ok
from .binding import Part
from .errors import InvalidRequest, Problem
from .forms import FORM
from .route import JSON, Route

Schema = dict[str, Any]

DESCRIPTION = """\
The API of PocketPaw, a home-server AI-agent daemon.

Every path under `/api/v1` answers under `/api` too. A credential comes as `Authorization: Bearer …`, as `?token=…` or
in the cookie `pocketpaw_session`. Each response carries `X-Request-ID`, taken from the request or made.

WebSocket clients connect to `/ws`, `/v1/ws` or `/api/v1/ws`: JSON objects both ways, each with an `action`.
"""
REFERENCE = "#/components/schemas/{name}"
UPLOAD: Schema = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "properties": {"file": {"type": "string", "contentMediaType": "application/octet-stream"}},
            "required": ["file"],
        }
    }
}
ANYTHING: Schema = {
    "application/json": {"schema": {"description": "Any JSON value."}},
    "text/plain": {"schema": {"type": "string"}},
}
PROBLEMS: Mapping[HTTPStatus, str] = {
    HTTPStatus.BAD_REQUEST: "The request makes no sense here.",
    HTTPStatus.UNAUTHORIZED: "No credential, or one that is unknown or expired.",
    HTTPStatus.FORBIDDEN: "The credential lacks the scope, or the request's Origin is foreign.",
    HTTPStatus.NOT_FOUND: "There is no such thing.",
    HTTPStatus.CONFLICT: "It clashes with what is there.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is too large.",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "The body is not JSON.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "A field is missing, of a wrong type, or out of bounds.",
    HTTPStatus.TOO_MANY_REQUESTS: "Over a rate limit; Retry-After says when to come back.",
    HTTPStatus.INTERNAL_SERVER_ERROR: "Something failed that should not; health/errors says what.",
    HTTPStatus.NOT_IMPLEMENTED: "It is not built yet.",
    HTTPStatus.SERVICE_UNAVAILABLE: "It cannot be done now; the detail says what has to change.",
    HTTPStatus.GATEWAY_TIMEOUT: "It was not done in time.",
}


def document(routes: Iterable[Route], version: str) -> bytes:
    """Write the document for `routes`, each at its canonical path."""
    listed = list(routes)
    schemas, components = _schemas(listed)
    paths: dict[str, Schema] = {}
    for route in listed:
        paths.setdefault(route.mounts[0], {})[route.method.lower()] = _operation(route, schemas)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "PocketPaw", "version": version, "description": DESCRIPTION},
            "paths": paths,
            "components": {
                "schemas": components,
                "responses": _shared_responses(schemas),
                "securitySchemes": {
                    "bearer": {"type": "http", "scheme": "bearer"},
                    "query": {"type": "apiKey", "in": "query", "name": "token"},
                    "cookie": {"type": "apiKey", "in": "cookie", "name": "pocketpaw_session"},
                },
            },
            "security": [{"bearer": []}, {"query": []}, {"cookie": []}],
        }
    )


class _Schemas:
    """The JSON Schema of a type, by identity: a type may not be hashable."""

    def __init__(self, types: list[Any], schemas: Iterable[Schema]) -> None:
        self._by_id = {id(type_): schema for type_, schema in zip(types, schemas, strict=True)}

    def of(self, type_: Any) -> Schema:
        return self._by_id[id(type_)]


def _schemas(routes: Iterable[Route]) -> tuple[_Schemas, dict[str, Schema]]:
    """One pass over every type that is named, so that what they share is described once."""
    types: list[Any] = [Problem, InvalidRequest, Ok]
    for route in routes:
        named = [*_bodies(route), _answer(route), *(type_ for _, type_ in route.responses.values())]
        types += [type_ for type_ in named if type_ is not None]
    schemas, components = msgspec.json.schema_components(types, schema_hook=_any, ref_template=REFERENCE)
    return _Schemas(types, schemas), components


def _any(type_: type) -> Schema:
    if type_ is object:
        return {"description": "Any JSON value."}
    raise NotImplementedError(f"{type_!r} has no JSON Schema")


def _parts(route: Route) -> list[Part]:
    message = route.message
    if message is None:
        return []
    return [part for part in (message.path, message.query, message.body) if part is not None]


def _answer(route: Route) -> Any:
    """The type of the JSON that `route` answers with; None if it is no JSON of a known form."""
    if route.produces != JSON or not route.is_built:
        return None
    return Ok if route.answer_type is Done else route.answer_type if _is_data(route.answer_type) else None


def _is_data(type_: Any) -> bool:
    return not isinstance(type_, type) or issubclass(type_, msgspec.Struct | dict | list)


def _operation(route: Route, schemas: _Schemas) -> Schema:
    summary, _, more = route.doc.partition("\n\n")
    operation: Schema = {
        "operationId": f"{route.name}_{route.method}_{route.path.strip('/')}".replace("/", "_").translate(_NO_BRACES),
        "tags": [route.path.split("/")[1]],
        "summary": " ".join(summary.split()).rstrip("."),
        "responses": _responses(route, schemas),
    }
    if more:
        operation["description"] = more
    if parameters := _parameters(route):
        operation["parameters"] = parameters
    if body := _body(route, schemas):
        operation["requestBody"] = body
    if route.is_exempt:
        operation["security"] = []
    elif route.scope is not None:
        operation["x-scope"] = route.scope
    if not route.is_built:
        operation["x-not-built"] = True
    return operation


_NO_BRACES = str.maketrans("", "", "{}")


def _parameters(route: Route) -> list[Schema]:
    parameters: list[Schema] = []
    described: set[str] = set()
    for part in _parts(route):
        if part.where != "body":
            schema = _inline(part)
            for wire, field in part.fields.items():
                parameter: Schema = {"name": wire, "in": part.where, "schema": _not_null(schema[wire])}
                if part.where == "path" or field.required or route.needs(field.name):
                    parameter["required"] = True
                if wire in part.lists:
                    parameter |= {"style": "form", "explode": False}
                parameters.append(parameter)
                described.add(wire)
    parameters += [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in route.path_names
        if name not in described
    ]
    return parameters + [{"name": name, "in": "header", "schema": schema} for name, schema in route.headers.items()]


def _not_null(schema: Schema) -> Schema:
    """A parameter is text: it may be left out, but it is never null."""
    present = [one for one in schema.get("anyOf", ()) if one != {"type": "null"}]
    rest = {key: value for key, value in schema.items() if key != "anyOf" and (key, value) != ("default", None)}
    return {**present[0], **rest} if len(present) == 1 else schema


def _inline(part: Part) -> Schema:
    """The schemas of a part's fields, by wire name: all are plain values."""
    (_,), components = msgspec.json.schema_components([part.type], schema_hook=_any, ref_template=REFERENCE)
    return components[part.type.__name__]["properties"]


def _body(route: Route, schemas: _Schemas) -> Schema | None:
    if route.takes_anything:
        return {"required": False, "content": ANYTHING}
    bodies = [schemas.of(type_) for type_ in _bodies(route)]
    if not bodies and not route.takes_upload:
        return None
    part = route.message.body if route.message is not None else None
    schema = bodies[0] if len(bodies) == 1 else {"anyOf": bodies}
    content = {**({JSON: {"schema": schema}} if bodies else {}), **(UPLOAD if route.takes_upload else {})}
    if route.takes_form:
        content[FORM] = {"schema": schema}
    return {"required": part is None or part.is_required, "content": content}


def _bodies(route: Route) -> tuple[Any, ...]:
    """The types of which the request's body is one."""
    part = route.message.body if route.message is not None else None
    type_ = route.body_type if part is None else part.type
    return route.described_as or (() if type_ is None else (type_,))


def _responses(route: Route, schemas: _Schemas) -> Schema:
    responses: Schema = {}
    if route.is_built:
        responses[str(route.status.value)] = _success(route, schemas)
    for status in _problems(route):
        responses[str(status.value)] = {"$ref": f"#/components/responses/{status.name}"}
    for status, (description, type_) in route.responses.items():
        content = {} if type_ is None else {"content": {JSON: {"schema": schemas.of(type_)}}}
        responses[str(status.value)] = {"description": description, **content}
    return responses


def _shared_responses(schemas: _Schemas) -> Schema:
    problem = {JSON: {"schema": schemas.of(Problem)}}
    shared: Schema = {
        status.name: {"description": description, "content": problem} for status, description in PROBLEMS.items()
    }
    shared[HTTPStatus.UNPROCESSABLE_ENTITY.name]["content"] = {JSON: {"schema": schemas.of(InvalidRequest)}}
    return shared


def _success(route: Route, schemas: _Schemas) -> Schema:
    if route.status is HTTPStatus.NO_CONTENT:
        return {"description": "Nothing."}
    answer = _answer(route)
    if answer is not None:
        return {"description": "Done.", "content": {JSON: {"schema": schemas.of(answer)}}}
    media_types = {media_type: {"type": "string"} for media_type in route.produces.split(", ")}
    if JSON in media_types:
        media_types[JSON] = {}
    return {"description": "Done.", "content": {name: {"schema": schema} for name, schema in media_types.items()}}


def _problems(route: Route) -> list[HTTPStatus]:
    """What may go wrong at `route`, in the order of the statuses."""
    problems = {HTTPStatus.INTERNAL_SERVER_ERROR}
    if not route.is_built:
        problems.add(HTTPStatus.NOT_IMPLEMENTED)
    elif not route.is_static:
        problems |= {HTTPStatus.BAD_REQUEST, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
    if not route.is_exempt or route.bucket != "api":
        problems |= {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS}
    if route.message is not None or route.body_type is not None or route.takes_upload or route.takes_form:
        problems |= {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY}
    if route.has_body:
        problems |= {HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE}
    if route.takes_anything:
        problems.add(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    return sorted(problems)
