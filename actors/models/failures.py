"""What the statuses and error objects of model servers mean, as our errors."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import httpcore2
import msgspec
import trio

from ...runtime.errors import PocketPawError
from .connections import HttpError
from .errors import (
    ModelCredentialRefused,
    ModelMisconfigured,
    ModelOutOfCredit,
    ModelRateLimited,
    ModelRefusedInput,
    ModelTimedOut,
    ModelUnreachable,
    PromptTooLong,
)
from .wire_error import UNREADABLE, WireError, counted

QUOTE_LIMIT_CHARACTERS = 300

LONGEST_PAUSE_S = 24 * 3600.0
"""What a server may ask for; one that asks for eternity is asked again tomorrow."""

# OpenAI, llama.cpp, LM Studio, vLLM and Anthropic, in this order.
_TOO_LONG = (
    "context_length_exceeded",
    "exceed_context_size",
    "context length",
    "context size",
    "context window",
    "maximum context",
    "prompt is too long",
)
_OUT_OF_CREDIT = ("insufficient_quota", "billing", "credit balance", "insufficient credits")
_WRONG_KEY = ("api key not valid", "api_key_invalid")
"""What Google says with a 400."""


class Source(msgspec.Struct, frozen=True):
    """Who failed, and the secret that no error may repeat."""

    backend: str
    model: str
    address: str
    api_key: str = ""

    def quote(self, text: object) -> str:
        """Shorten a server's words to one line without the credential."""
        line = " ".join(str(text or "").split())
        if self.api_key:
            line = line.replace(self.api_key, "[redacted]")
        return line if len(line) <= QUOTE_LIMIT_CHARACTERS else line[:QUOTE_LIMIT_CHARACTERS] + "…"

    def __repr__(self) -> str:
        return f"Source({self.backend} at {self.address})"


class _ErrorBody(msgspec.Struct):
    error: WireError | str | None = None
    message: object = None
    detail: object = None


def parse_error_body(body: bytes) -> WireError:
    """Find the error in the body of a failed request, whatever shape it has."""
    try:
        # in a list of one, if it is Google's
        parsed = msgspec.json.decode(body.strip().removeprefix(b"[").removesuffix(b"]"), type=_ErrorBody)
    except UNREADABLE:
        return WireError(message=body.decode("utf-8", "replace"))
    if isinstance(parsed.error, WireError):
        return parsed.error
    return WireError(message=parsed.error or parsed.message or parsed.detail)


def failure_of_status(
    status: int, error: WireError, source: Source, retry_after_s: float | None = None
) -> PocketPawError:
    """Name the failure that an HTTP status and its error object stand for."""
    words = source.quote(error.message)
    said = f"{source.backend} at {source.address} answered {status}" + (f": {words}" if words else "")
    clues = f"{error.code} {error.type} {error.message}".lower()
    context: dict[str, object] = {"backend": source.backend, "model": source.model, "status": status}
    match status:
        case _ if _is_about_key(status, clues):
            return _refused_credential(status, source, context)
        case _ if _is_about_credit(status, clues):
            return ModelOutOfCredit(f"{said}; the account has no credit left", **context)
        case HTTPStatus.TOO_MANY_REQUESTS:
            return ModelRateLimited(said, retry_after_s=retry_after_s, **context)
        case HTTPStatus.NOT_FOUND | HTTPStatus.METHOD_NOT_ALLOWED:
            return ModelMisconfigured(f"{said}; is the address right, and does it have {source.model!r}?", **context)
        case _ if any(clue in clues for clue in _TOO_LONG):
            tokens = {"prompt_tokens": counted(error.n_prompt_tokens), "limit_tokens": counted(error.n_ctx)}
            return PromptTooLong(said, **tokens, **context)
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return PromptTooLong(said, prompt_tokens=None, limit_tokens=None, **context)
        case HTTPStatus.REQUEST_TIMEOUT | HTTPStatus.CONFLICT | HTTPStatus.TOO_EARLY:
            return ModelUnreachable(said, retry_after_s=retry_after_s, **context)
        case _ if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
            return ModelMisconfigured(
                f"{said}, a redirect, which is not followed with a key: set its target", **context
            )
        case _ if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return ModelRefusedInput(said, **context)
        case _:
            return ModelUnreachable(said, retry_after_s=retry_after_s, **context)


def _is_about_key(status: int, clues: str) -> bool:
    if status == HTTPStatus.BAD_REQUEST:
        return any(clue in clues for clue in _WRONG_KEY)
    return status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


def _is_about_credit(status: int, clues: str) -> bool:
    if status == HTTPStatus.BAD_REQUEST:
        return "credit balance" in clues  # Anthropic's
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return any(clue in clues for clue in _OUT_OF_CREDIT)
    return status == HTTPStatus.PAYMENT_REQUIRED


def _refused_credential(status: int, source: Source, context: dict[str, object]) -> ModelCredentialRefused:
    # not in the server's own words: they tend to repeat parts of the key
    what = "its API key" if source.api_key else "a request without an API key"
    return ModelCredentialRefused(
        f"{source.backend} at {source.address} refused {what} for {source.model!r} ({status})", **context
    )


def failure_in_answer(error: WireError, source: Source) -> PocketPawError:
    """Name the failure that an error object inside a 200 stands for: its `code` is a status with some servers."""
    code = error.code
    if isinstance(code, str) and len(code) == 3 and code.isascii() and code.isdigit():
        code = int(code)
    if isinstance(code, int) and HTTPStatus.BAD_REQUEST <= code <= 599:
        return failure_of_status(code, error, source)
    kind = f"{error.type} {code}".lower()
    if "rate_limit" in kind:
        return failure_of_status(HTTPStatus.TOO_MANY_REQUESTS, error, source)
    if "invalid_request" in kind or any(clue in f"{kind} {error.message}".lower() for clue in _TOO_LONG):
        return failure_of_status(HTTPStatus.BAD_REQUEST, error, source)
    return failure_of_status(HTTPStatus.BAD_GATEWAY, error, source)


def failure_of_transport(error: HttpError | trio.TooSlowError, source: Source) -> PocketPawError:
    """Name the failure behind an exception of the HTTP client, or behind our own deadline."""
    who = f"{source.backend} at {source.address}"
    why = source.quote(_innermost(error)) or type(error).__name__
    context: dict[str, object] = {"backend": source.backend, "model": source.model}
    match error:
        case trio.TooSlowError():
            return ModelTimedOut(f"{who} did not finish in time", **context)
        case httpcore2.ConnectTimeout():
            return ModelUnreachable(f"{who} did not take the connection in time", **context)
        case httpcore2.TimeoutException():
            return ModelTimedOut(f"{who} was silent for too long", **context)
        case httpcore2.ConnectError():
            return ModelUnreachable(f"{who} cannot be reached: {why}", **context)
        case httpcore2.ProxyError():
            return ModelUnreachable(f"{who} cannot be reached through the proxy: {why}", **context)
        case httpcore2.UnsupportedProtocol() | httpcore2.LocalProtocolError():
            return ModelMisconfigured(f"{who} cannot be asked: {why}", **context)
        case _:
            return ModelUnreachable(f"{who} broke the connection: {why}", **context)


def _innermost(error: BaseException) -> BaseException:
    """Find what the layers of exceptions began with: the refused certificate, not the broken stream."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def retry_after(headers: Mapping[bytes, bytes], now: datetime) -> float | None:
    """Read `Retry-After` (RFC 9110, section 10.2.3: seconds or a date) or OpenAI's `retry-after-ms`, in seconds."""
    try:
        pause_s = _pause(headers, now)
    except (ValueError, OverflowError):
        return None  # not readable: as if it were absent
    return None if pause_s is None else min(max(0.0, pause_s), LONGEST_PAUSE_S)


def _pause(headers: Mapping[bytes, bytes], now: datetime) -> float | None:
    if milliseconds := headers.get(b"retry-after-ms"):
        return float(milliseconds) / 1000
    value = headers.get(b"retry-after", b"").decode("latin-1").strip()
    if not value:
        return None
    if value.replace(".", "", 1).isdigit():
        return float(value)
    date = parsedate_to_datetime(value)
    return ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds()
