"""One connection's life: HTTP/1.1 requests one after another, until it ends or becomes HTTP/2 or a WebSocket.

The application runs in the connection's own task, with no task, channel or timer made for a request. One cancel scope
lasts as long as the connection; only its deadline moves.
"""

from __future__ import annotations

import json
import math
import socket

import h11
import trio
from hypercorn.protocol.h11 import H2CProtocolRequiredError

from .exchange import Address, Exchange, Headers, head
from .service import Service
from .transport import LINGER_S, Transport
from .upgrades import Http2Connection, StreamTasks, WebSocketConnection

LINGER_AT_STOP_S = 0.3
"""A client with a pool of connections does not look at one that it has no use for: a stop does not wait for it."""


class Connection:
    """Lives in `nursery`, which is the connection's own."""

    def __init__(self, service: Service, sock: socket.socket, nursery: trio.Nursery) -> None:
        self._service = service
        self._limits = service.limits
        self._nursery = nursery
        self._transport = Transport(sock, nursery, write_timeout_s=self._limits.write_timeout_s)
        self._client: Address = sock.getpeername()[:2]
        self._server: Address = sock.getsockname()[:2]
        self._parser = self._new_parser()
        self._is_draining = False
        self._exchange: Exchange | None = None  # the request in hand
        self._upgraded: Http2Connection | WebSocketConnection | None = None

    async def run(self) -> None:
        """Serve the peer until one side ends the connection; closes the socket, whatever happens."""
        try:
            await self._serve()
            await self._transport.linger(LINGER_AT_STOP_S if self._is_draining else LINGER_S)
        finally:
            self._transport.close()

    def drain(self) -> None:
        """End after the request in hand, or now if there is none."""
        self._is_draining = True
        if self._upgraded is not None:
            self._upgraded.drain()
        elif self._exchange is not None:
            self._exchange.keep_alive = False
        else:
            self._nursery.cancel_scope.cancel()

    async def _serve(self) -> None:
        task = trio.lowlevel.current_task()
        pristine = task.context.copy()
        idle_s = self._limits.head_timeout_s
        while (request := await self._next_request(idle_s)) is not None:
            headers: Headers = list(request.headers)
            upgrade, options = _connection_options(headers)
            protocol = upgrade if b"upgrade" in options else b""
            if (protocol or request.method == b"PRI") and await self._upgrade(request, headers, protocol):
                return
            if not await self._respond(request, headers, closes=b"close" in options):
                return
            # What a request leaves in context variables must not be seen by the next, which may be someone else's
            # behind the same proxy. Trio enters the new context at the task's next step, in _next_request.
            task.context = pristine.copy()
            self._parser = self._new_parser(self._parser.trailing_data[0])
            idle_s = self._limits.keep_alive_s

    def _new_parser(self, received: bytes = b"") -> h11.Connection:
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=self._limits.max_head_bytes)
        if received:
            parser.receive_data(received)
        return parser

    async def _next_request(self, idle_s: float) -> h11.Request | None:
        """Wait for a whole head, within the limits; None when there comes none that can be answered."""
        received = len(self._parser.trailing_data[0])
        if received:
            await trio.lowlevel.checkpoint()  # pipelined: other connections have their turn between two requests
        scope, has_begun = self._nursery.cancel_scope, False
        scope.deadline = trio.current_time() + idle_s
        while True:
            try:
                event = self._parser.next_event()
            except h11.RemoteProtocolError as error:
                return await self._refuse(error.error_status_hint, str(error))
            if isinstance(event, h11.Request):
                scope.deadline = math.inf
                return await self._check(event, received)
            if received and not has_begun:
                has_begun = True
                scope.deadline = min(scope.deadline, trio.current_time() + self._limits.head_timeout_s)
            data = await self._transport.read()
            if not data:
                return None
            received += len(data)
            self._parser.receive_data(data)

    async def _check(self, request: h11.Request, received: int) -> h11.Request | None:
        limit = self._limits.max_head_bytes
        if received > limit and sum(len(name) + len(value) + 4 for name, value in request.headers) > limit:
            return await self._refuse(431, f"the header fields are longer than {limit} bytes")
        if request.http_version not in {b"1.1", b"1.0"} and request.method != b"PRI":
            return await self._refuse(505, "expected HTTP/1.1")
        return request

    async def _refuse(self, status: int, detail: str) -> None:
        body = json.dumps({"detail": detail, "code": "bad_request"}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        await self._transport.write(head(status, headers) + body)

    async def _respond(self, request: h11.Request, headers: Headers, *, closes: bool) -> bool:
        """Run the application on one request; True when the connection can take another."""
        self._exchange = exchange = Exchange(self._transport, self._parser, request)
        exchange.keep_alive = exchange.keep_alive and not closes and not self._is_draining
        has_failed = False
        try:
            await self._service.app(
                exchange.scope(request, headers, self._client, self._server), exchange.receive, exchange.send
            )
        except BaseException as error:  # noqa: BLE001 - contain() raises what is cancellation
            has_failed = True
            self._service.contain(error)
        if not exchange.is_complete and not exchange.is_peer_gone:
            await self._complete(exchange, has_failed=has_failed)
        await self._transport.drain()
        self._exchange = None
        return exchange.is_reusable()

    async def _complete(self, exchange: Exchange, *, has_failed: bool) -> None:
        """Say what can still be said of a response that the application left open."""
        if exchange.malformed is not None:
            status, code, detail = exchange.malformed.error_status_hint, "bad_request", str(exchange.malformed)
        else:
            status, code, detail = 500, "internal_error", "the request failed; the log and health/errors say why"
            if not has_failed:
                self._service.fail(RuntimeError("the application ended without completing its response"))
        if exchange.has_started:
            exchange.keep_alive = False  # closing short of the announced end is all that tells the peer
        else:
            await exchange.answer(status, code, detail)

    async def _upgrade(self, request: h11.Request, headers: Headers, protocol: bytes) -> bool:
        """Serve another protocol to the connection's end, if one was asked for that is spoken here."""
        early = self._parser.trailing_data[0]
        context = (
            self._service,
            self._transport,
            StreamTasks(self._service, self._nursery),
            self._client,
            self._server,
        )
        if protocol == b"websocket" and request.method == b"GET":
            self._upgraded = connection = WebSocketConnection(*context)
            await connection.run(request.target, headers, early)
        elif request.method == b"PRI":
            self._upgraded = connection = Http2Connection(*context)
            await connection.run(b"PRI * HTTP/2.0\r\n\r\n" + early)
        elif protocol == b"h2c" and not any(name in {b"content-length", b"transfer-encoding"} for name, _ in headers):
            await self._transport.write(head(101, [(b"connection", b"upgrade"), (b"upgrade", b"h2c")]))
            self._upgraded = connection = Http2Connection(*context)
            await connection.run(early, upgraded_from=H2CProtocolRequiredError(early, request))
        else:
            return False
        return True


def _connection_options(headers: Headers) -> tuple[bytes, set[bytes]]:
    """Return what the Upgrade field names, and the options in the Connection field; in lower case."""
    upgrade, options = b"", b""
    for name, value in headers:
        if name == b"upgrade":
            upgrade = value.strip().lower()
        elif name == b"connection":
            options += b"," + value.lower()
    return upgrade, {option.strip() for option in options.split(b",")} if options else set()
