"""Which web pages elsewhere may use the API: the origins in the setting `api_cors_allowed_origins`."""

from __future__ import annotations

from collections.abc import Iterable

from quart import Request, Response

from .route import no_content

METHODS = "GET, POST, PUT, PATCH, DELETE"
REQUEST_HEADERS = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-Request-ID"
RESPONSE_HEADERS = (
    b"X-Request-ID, X-Total-Count, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, Retry-After"
)
PREFLIGHT_MAX_AGE_S = 600


def allow(origin: str | None, allowed: tuple[str, ...]) -> Iterable[tuple[bytes, bytes]]:
    """The headers by which a browser lets the page of `origin` read a response."""
    if origin is not None and origin in allowed:
        yield b"access-control-allow-origin", origin.encode("latin1")
        yield b"access-control-allow-credentials", b"true"
        yield b"access-control-expose-headers", RESPONSE_HEADERS


def is_preflight(request: Request) -> bool:
    """Whether a browser asks beforehand; it sends no credential with that."""
    return (
        request.method == "OPTIONS"
        and "Origin" in request.headers
        and "Access-Control-Request-Method" in request.headers
    )


def preflight(request: Request, allowed: tuple[str, ...]) -> Response:
    """Say what a page may send; to an origin that is not allowed nothing is said, so that its browser refuses."""
    if request.headers["Origin"] not in allowed:
        return no_content()
    headers = {
        "Access-Control-Allow-Methods": METHODS,
        "Access-Control-Allow-Headers": REQUEST_HEADERS,
        "Access-Control-Max-Age": str(PREFLIGHT_MAX_AGE_S),
    }
    return no_content(headers)
