"""Who is asking: the raw facts of a request, for the guard to judge."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import parse_qs

import msgspec
from hypercorn.typing import HTTPScope, WebsocketScope
from werkzeug.http import parse_cookie

from ..actors.access.guard import Authenticate, Bucket, Verdict
from ..actors.access.known_credentials import ENDED_TOPIC, CredentialsEnded
from ..runtime import ActorSystem, Principal
from ..runtime.errors import Forbidden, TooManyRequests, Unauthenticated

SESSION_COOKIE = "pocketpaw_session"
FORWARDING = {b"forwarded", b"x-real-ip"}
FORWARDING_PREFIXES = (b"x-forwarded-", b"cf-")


def facts(scope: HTTPScope | WebsocketScope, *, bucket: Bucket, required: bool) -> Authenticate:
    """Gather what the guard needs to know. Nothing here is believed yet."""
    headers: dict[bytes, str] = {}
    forwarded = False
    for name, value in scope["headers"]:
        headers[name] = value.decode("latin1")
        forwarded = forwarded or name in FORWARDING or name.startswith(FORWARDING_PREFIXES)
    is_upgrade = scope["type"] == "websocket"
    client = scope["client"]
    return Authenticate(
        bearer=_bearer(headers.get(b"authorization")),
        query_token=_query_token(scope["query_string"]),
        cookie=_cookie(headers.get(b"cookie")),
        subprotocols=tuple(scope["subprotocols"]) if scope["type"] == "websocket" else (),
        peer=client[0] if client else None,
        forwarded=forwarded,
        host=headers.get(b"host", ""),
        origin=headers.get(b"origin"),
        method="GET" if scope["type"] == "websocket" else scope["method"],
        is_upgrade=is_upgrade,
        bucket=bucket,
        required=required,
    )


def check(verdict: Verdict) -> None:
    """Let the request pass, or raise what the guard decided."""
    if verdict.outcome == "unauthenticated":
        raise Unauthenticated(verdict.reason)
    if verdict.outcome == "forbidden":
        raise Forbidden(verdict.reason)
    if verdict.outcome == "too_many":
        raise TooManyRequests(verdict.reason, retry_after_s=verdict.retry_after_s)


async def until_ended(system: ActorSystem, verdict: Verdict) -> None:
    """Wait until the credential that somebody was let in with is revoked. Its expiry is not waited for.

    It also ends when the listener is cut off: so much was revoked at once that it may have been among it.
    """
    with system.bus.subscribe(ENDED_TOPIC, verdict.judged_after) as subscription:
        async for event in subscription:
            ended = msgspec.convert(event.data(), CredentialsEnded)
            if verdict.credential in ended.credentials or verdict.credential_kind in ended.kinds:
                return


def require_scope(principal: Principal | None, scope: str | None) -> None:
    """Raise Forbidden unless `principal` may do what needs `scope`; None needs none."""
    if scope is not None and not (principal is not None and principal.may(scope)):
        raise Forbidden(f"Missing required scope: {scope}", scope=scope)


def limit_headers(verdict: Verdict) -> Iterable[tuple[bytes, bytes]]:
    """What a client may still do before it is asked to wait."""
    if verdict.limit:
        yield b"x-ratelimit-limit", b"%d" % verdict.limit
        yield b"x-ratelimit-remaining", b"%d" % verdict.remaining
        yield b"x-ratelimit-reset", b"%d" % verdict.reset_s


def credential_of(asked: Authenticate) -> str | None:
    """The credential that a request carries, where it carries one."""
    return asked.bearer or asked.query_token or asked.cookie


def _bearer(authorization: str | None) -> str | None:
    if authorization is None:
        return None
    scheme, _, credential = authorization.partition(" ")
    return credential.strip() if scheme.lower() == "bearer" else authorization


def _query_token(query: bytes) -> str | None:
    if b"token=" not in query:
        return None
    found = parse_qs(query.decode("latin1"), keep_blank_values=True, errors="replace").get("token")
    return found[0] if found else None


def _cookie(header: str | None) -> str | None:
    if header is None or SESSION_COOKIE not in header:
        return None
    return parse_cookie(header).get(SESSION_COOKIE)
