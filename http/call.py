"""One request on its way through the application: what came, who asks, and the way to the actors."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import trio
from hypercorn.typing import ASGIReceiveCallable
from quart import Request

from ..runtime import ActorSystem, Message, Principal
from ..runtime.errors import TooLarge
from .audited import Attempt, facts_in
from .transport import ClientDisconnected

if TYPE_CHECKING:
    from ..actors.access.guard import Verdict
    from ..actors.settings import LiveSettings
    from .route import Route

R = TypeVar("R")
T = TypeVar("T")

BODY_LIMIT_BYTES = 32 * 1024 * 1024
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


ANYBODY = Principal("anybody")
"""Who is asking as long as nobody has been recognized; may nothing."""


class Call:
    """`verdict` is what the guard said; None where it was not asked, as the route needs no credential."""

    __slots__ = (
        "attempt",
        "live",
        "principal",
        "receive",
        "request",
        "route",
        "system",
        "trace_id",
        "values",
        "verdict",
    )

    def __init__(
        self,
        system: ActorSystem,
        live: LiveSettings,
        request: Request,
        receive: ASGIReceiveCallable,
    ) -> None:
        self.system = system
        self.live = live
        self.request = request
        self.receive = receive
        self.trace_id = trace_id_from(request.headers.get("X-Request-ID"))
        self.route: Route | None = None
        self.values: Mapping[str, object] = {}
        """What stood in the path."""
        self.principal: Principal = ANYBODY
        self.verdict: Verdict | None = None
        self.attempt: Attempt | None = None
        """What the audit will have of it, if it has it."""

    async def ask(self, message: Message[R], *, timeout_s: float = 30.0) -> R:
        """Ask the message's owner on behalf of whoever sent this request."""
        return await self.system.ask(
            message, timeout_s=timeout_s, principal=self.principal, trace_id=self.trace_id, sender="http"
        )

    def tell_audit(self, value: T) -> T:
        """Have the audit show what of `value` it may show; returns it."""
        if self.attempt is not None:
            self.attempt.facts |= facts_in(value)
        return value

    async def body(self, limit_bytes: int | None = None) -> bytes:
        """Read the request's body, once.

        Raises:
            TooLarge: it is longer than `limit_bytes`, by default `BODY_LIMIT_BYTES`.
        """
        limit_bytes = BODY_LIMIT_BYTES if limit_bytes is None else limit_bytes
        announced = self.request.content_length
        if announced is not None and announced > limit_bytes:
            raise _too_large(limit_bytes)
        received = bytearray()
        while True:
            event = await self.receive()
            if event["type"] != "http.request":
                raise ClientDisconnected("the client went away while it was sending")
            received += event["body"]
            if len(received) > limit_bytes:
                raise _too_large(limit_bytes)
            if not event["more_body"]:
                return bytes(received)

    @asynccontextmanager
    async def while_connected(self) -> AsyncGenerator[None]:
        """Cancel the block when the client goes away. The request's body must have been read."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_on_disconnect, self.receive, nursery.cancel_scope)
            yield
            nursery.cancel_scope.cancel()


async def cancel_on_disconnect(receive: ASGIReceiveCallable, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def trace_id_from(given: str | None) -> str:
    """The client's request id if it can be used as one, else a new one."""
    return given if given is not None and REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


def _too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(f"expected a body of at most {limit_bytes / 1024 / 1024:g} MiB")
