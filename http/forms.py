"""URL-encoded forms, as pages and OAuth2 clients send them, read like JSON objects of the same fields."""

from __future__ import annotations

from typing import TypeVar
from urllib.parse import parse_qsl

import msgspec

from ..runtime.errors import InvalidInput
from .binding import decode_json, require_json
from .call import Call
from .errors import invalid_input

T = TypeVar("T", bound=msgspec.Struct)

FORM = "application/x-www-form-urlencoded"
FIELDS_LIMIT = 50


async def read_fields(call: Call, type_: type[T]) -> T:
    """Read the request's body: JSON, or a form.

    Raises:
        InvalidInput: a field is missing, of a wrong type, or there more than once.
        UnsupportedMedia: it is neither.
    """
    body = await call.body()
    content_type = call.request.headers.get("Content-Type")
    if (content_type or "").partition(";")[0].strip().lower() == FORM:
        return _read_form(body, type_)
    require_json(content_type, body)
    return decode_json(msgspec.json.Decoder(type_).decode, body or b"{}")


def _read_form(body: bytes, type_: type[T]) -> T:
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FIELDS_LIMIT, errors="strict")
    except ValueError:
        raise InvalidInput("the body is no form in UTF-8, or has too many fields", field=["body"]) from None
    known = [(name, value) for name, value in pairs if name in type_.__struct_encode_fields__]
    fields = dict(known)
    if len(fields) < len(known):  # https://www.rfc-editor.org/rfc/rfc6749#section-3.2
        raise InvalidInput("a field is there more than once", field=["body"])
    try:
        return msgspec.convert(fields, type_, strict=False)
    except msgspec.ValidationError as error:
        raise invalid_input(error, "body") from None
