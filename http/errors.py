"""From errors to responses: the only place that knows which failure has which status."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import cast

import msgspec
from quart import Response

from ..actors.channels.chat_platform import DeliveryUnsure, NotDelivered
from ..runtime.errors import (
    ActorDied,
    AskTimeout,
    BadRequest,
    Conflict,
    DeliveryFailure,
    Forbidden,
    InvalidInput,
    NeedsOperator,
    NoSuchActor,
    NotBuilt,
    NotFound,
    PocketPawError,
    TimedOut,
    TooLarge,
    TooManyRequests,
    TransientFailure,
    Unauthenticated,
    Unavailable,
    UnsupportedMedia,
)

NAMED_IN_BODY = ("session_id", "turn_id", "request_id")
"""What of an error's data a client may need to go on."""

Place = str | int


class MethodNotAllowed(PocketPawError):
    """`allowed` are the methods that there are."""

    code = "method_not_allowed"


class InternalError(PocketPawError):
    """Something failed that nobody expected: the log and health/errors have it under `request_id`."""

    code = "internal_error"


CRASH = re.compile(r"crashed \((\w+)\b.*\)", re.DOTALL)

STATUS: Mapping[type[PocketPawError], HTTPStatus] = {
    BadRequest: HTTPStatus.BAD_REQUEST,
    Unauthenticated: HTTPStatus.UNAUTHORIZED,
    Forbidden: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    MethodNotAllowed: HTTPStatus.METHOD_NOT_ALLOWED,
    Conflict: HTTPStatus.CONFLICT,
    TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnsupportedMedia: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    InvalidInput: HTTPStatus.UNPROCESSABLE_ENTITY,
    TooManyRequests: HTTPStatus.TOO_MANY_REQUESTS,
    NotBuilt: HTTPStatus.NOT_IMPLEMENTED,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    TransientFailure: HTTPStatus.SERVICE_UNAVAILABLE,
    NeedsOperator: HTTPStatus.SERVICE_UNAVAILABLE,
    NotDelivered: HTTPStatus.SERVICE_UNAVAILABLE,
    DeliveryUnsure: HTTPStatus.SERVICE_UNAVAILABLE,
    DeliveryFailure: HTTPStatus.SERVICE_UNAVAILABLE,
    NoSuchActor: HTTPStatus.NOT_FOUND,  # only a client names actors that may not be there
    TimedOut: HTTPStatus.GATEWAY_TIMEOUT,
    AskTimeout: HTTPStatus.GATEWAY_TIMEOUT,
    PocketPawError: HTTPStatus.INTERNAL_SERVER_ERROR,
}
"""The nearest class of an error's ancestry counts."""


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """What went wrong: a sentence for people and a code for programs."""

    detail: str
    code: str
    session_id: str | None = None
    turn_id: str | None = None
    request_id: str | None = None


class InvalidField(msgspec.Struct, frozen=True):
    """`loc` is where the field stands: `["body", "content"]`, `["query", "limit"]`."""

    loc: list[Place]
    msg: str
    type: str


class InvalidRequest(msgspec.Struct, frozen=True):
    """Which field of the request is wrong, and what was expected of it."""

    detail: list[InvalidField]
    code: str = InvalidInput.code


def status_of(error: PocketPawError) -> HTTPStatus:
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def error_response(error: PocketPawError) -> Response:
    """Say `error` as JSON, with the headers that its status asks for."""
    status = status_of(error)
    response = Response(msgspec.json.encode(error_body(error)), status.value, content_type="application/json")
    if status is HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    elif status is HTTPStatus.METHOD_NOT_ALLOWED:
        response.headers["Allow"] = ", ".join(cast("Sequence[str]", error.data.get("allowed", ())))
    retry_after_s = error.data.get("retry_after_s")
    if isinstance(retry_after_s, int | float):
        response.headers["Retry-After"] = str(max(1, round(retry_after_s)))
    return response


def error_body(error: PocketPawError) -> Problem | InvalidRequest:
    if isinstance(error, InvalidInput):
        field = error.data.get("field", ())
        loc = cast("Sequence[Place]", (field,) if isinstance(field, str) else field)
        return InvalidRequest([InvalidField(list(loc), error.detail, str(error.data.get("type", "value_error")))])
    named = {name: str(error.data[name]) for name in NAMED_IN_BODY if name in error.data}
    return Problem(_told(error), error.code, **named)


def _told(error: PocketPawError) -> str:
    """The error's sentence. What a crash itself said may quote anything, as a statement's parameters: health has it."""
    return CRASH.sub(r"crashed (\1; see health/errors)", error.detail) if isinstance(error, ActorDied) else error.detail


def invalid_input(error: msgspec.DecodeError | UnicodeDecodeError | RecursionError, where: str) -> InvalidInput:
    """Turn msgspec's refusal of what stood in `where` (body, query or path) into ours, which names the field."""
    if not isinstance(error, msgspec.ValidationError):
        text = str(error) if isinstance(error, msgspec.DecodeError) else "the text is no UTF-8 or nested too deeply"
        return InvalidInput(f"{where} is not valid JSON: {text}", field=[where], type="json_invalid")
    text, _, path = str(error).partition(" - at `")
    loc: list[Place] = [where]
    for name, index in re.findall(r"\.([^.\[\]`]+)|\[(\d+)\]", path):
        loc.append(name or int(index))
    if missing := re.search(r"missing required field `([^`]+)`", text):
        return InvalidInput("the field is required", field=[*loc, missing[1]], type="missing")
    is_wrong_type = ", got `" in text
    return InvalidInput(text.replace("`", ""), field=loc, type="type_error" if is_wrong_type else "value_error")
