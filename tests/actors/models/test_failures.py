"""What a server's refusal is called, and what it never repeats."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pocketpaw.actors.models.errors import (
    ModelCredentialRefused,
    ModelMisconfigured,
    ModelOutOfCredit,
    ModelRateLimited,
    ModelRefusedInput,
    ModelUnreachable,
    PromptTooLong,
)
from pocketpaw.actors.models.failures import (
    LONGEST_PAUSE_S,
    QUOTE_LIMIT_CHARACTERS,
    Source,
    failure_in_answer,
    failure_of_status,
    parse_error_body,
    retry_after,
)
from pocketpaw.actors.models.wire_error import WireError
from pocketpaw.runtime.errors import PocketPawError

KEY = "sk-canary-0123456789"
SOURCE = Source("openai_compatible", "m", "http://127.0.0.1:1/v1", KEY)
NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (401, b'{"error": {"message": "no"}}', ModelCredentialRefused),
        (403, b"", ModelCredentialRefused),
        (402, b'{"error": {"message": "Insufficient credits", "code": 402}}', ModelOutOfCredit),
        (429, b'{"error": {"code": "insufficient_quota", "message": "You exceeded"}}', ModelOutOfCredit),
        (429, b'{"error": {"message": "slow down"}}', ModelRateLimited),
        (404, b'{"error": {"message": "model \'x\' not found"}}', ModelMisconfigured),
        (301, b"", ModelMisconfigured),
        (400, b'{"error": {"message": "temperature is too hot"}}', ModelRefusedInput),
        (422, b'{"detail": [{"msg": "bad"}]}', ModelRefusedInput),
        (400, b'{"error": {"code": "context_length_exceeded", "message": "long"}}', PromptTooLong),
        (400, b'{"error": "This model\'s maximum context length is 8192 tokens"}', PromptTooLong),
        (408, b"", ModelUnreachable),
        (500, b"<html>oops</html>", ModelUnreachable),
        (503, b'{"message": "loading"}', ModelUnreachable),
        (529, b'{"type": "error", "error": {"type": "overloaded_error"}}', ModelUnreachable),
    ],
)
def test_each_status_has_its_error(status: int, body: bytes, expected: type[PocketPawError]) -> None:
    failure = failure_of_status(status, parse_error_body(body), SOURCE)
    assert type(failure) is expected
    assert failure.data["backend"] == "openai_compatible"
    assert failure.data["model"] == "m"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (WireError(message="slow", code=429), ModelRateLimited),
        (WireError(message="slow", code="429"), ModelRateLimited),
        (WireError(message="slow", type="rate_limit_error"), ModelRateLimited),
        (WireError(message="down", code=502), ModelUnreachable),
        (WireError(message="what", code="server_error"), ModelUnreachable),
        (WireError(message="what", type="invalid_request_error"), ModelRefusedInput),
        (WireError(message="long", type="exceed_context_size_error", code=400), PromptTooLong),
    ],
)
def test_an_error_inside_an_answer_has_the_error_of_its_status(
    error: WireError, expected: type[PocketPawError]
) -> None:
    assert type(failure_in_answer(error, SOURCE)) is expected


def test_a_prompt_that_is_too_long_tells_by_how_much_if_the_server_does() -> None:
    body = b'{"error": {"type": "exceed_context_size_error", "code": 400, "n_prompt_tokens": 30, "n_ctx": 20}}'
    failure = failure_of_status(400, parse_error_body(body), SOURCE)
    assert (failure.data["prompt_tokens"], failure.data["limit_tokens"]) == (30, 20)


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
def test_no_error_repeats_the_key_or_more_than_a_line(status: int) -> None:
    words = f"Incorrect key {KEY}!\n" + "x" * 1000
    failure = failure_of_status(status, WireError(message=words), SOURCE)
    assert KEY not in repr(failure) + str(failure.data) + repr(SOURCE)
    assert "\n" not in failure.detail
    assert len(failure.detail) < QUOTE_LIMIT_CHARACTERS + 200


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "Sun, 22 Nov 2026 12:00:09 GMT"}, 9.0),
        ({"retry-after": "Sun, 22 Nov 2026 12:00:09 -0000"}, 9.0),
        ({"retry-after": "Sun, 22 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after-ms": "nan?"}, None),
    ],
)
def test_retry_after_is_read_in_each_of_its_forms(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after({name.encode(): value.encode() for name, value in headers.items()}, NOW) == expected


@pytest.mark.parametrize(
    ("status", "body", "failure"),
    [
        (400, b'[{"error": {"code": 400, "message": "API key not valid. Please pass one."}}]', ModelCredentialRefused),
        (400, b'{"error": {"message": "Your credit balance is too low"}}', ModelOutOfCredit),
        (413, b'{"error": {"type": "request_too_large"}}', PromptTooLong),
        (529, b'{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}', ModelUnreachable),
        (404, b'{"error": "model not found"}', ModelMisconfigured),
    ],
)
def test_what_google_anthropic_and_ollama_say_is_understood_too(
    status: int, body: bytes, failure: type[PocketPawError]
) -> None:
    assert type(failure_of_status(status, parse_error_body(body), SOURCE)) is failure


@pytest.mark.parametrize("code", ["\u00b2", "9" * 5000, 10**30, True])
def test_a_code_that_is_no_status_is_none(code: object) -> None:
    assert type(failure_in_answer(WireError(message="what", code=code), SOURCE)) is ModelUnreachable


def test_a_refusal_with_too_many_brackets_is_quoted() -> None:
    body = b'{"error": {"message": ' + b"[" * 5000 + b"]" * 5000 + b"}}"
    assert type(failure_of_status(500, parse_error_body(body), SOURCE)) is ModelUnreachable


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({b"retry-after-ms": b"inf"}, LONGEST_PAUSE_S),
        ({b"retry-after": b"9" * 400}, LONGEST_PAUSE_S),
        ({b"retry-after": b"Mon, 01 Jan 9999 00:00:00 GMT"}, LONGEST_PAUSE_S),
        ({b"retry-after": b"Mon, 01 Jan 99999999999999999999 00:00:00 GMT"}, None),
        ({b"retry-after": b"Mon, 01 Jan 2030 00:00:00 +99999999999999999999"}, None),
    ],
)
def test_no_pause_is_for_ever(headers: dict[bytes, bytes], expected: float | None) -> None:
    assert retry_after(headers, NOW) == expected
