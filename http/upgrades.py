"""HTTP/2 and WebSocket: Hypercorn's own protocol classes on our transport, with what they lack mended."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import h2.errors
import h2.events
import h2.exceptions
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, Data, EndBody, Request, Response, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H2CProtocolRequiredError
from hypercorn.protocol.ws_stream import ASGIWebsocketState, WSStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.typing import AppWrapper, ASGIReceiveEvent, ASGISendEvent, ConnectionState, Scope
from wsproto.connection import ConnectionState as WebSocketState
from wsproto.events import CloseConnection
from wsproto.events import Event as WebSocketEvent
from wsproto.frame_protocol import CloseReason

from .exchange import Address, Headers, head
from .service import Service
from .transport import LINGER_S, ClientDisconnected, Transport

STREAM_ID = 1  # of the only stream of a WebSocket connection


class StreamTasks(TaskGroup):
    """Runs each stream's application as a task of the connection, contained."""

    def __init__(self, service: Service, nursery: trio.Nursery) -> None:
        super().__init__()
        self._connection = nursery
        self._service = service

    def spawn(self, func: Callable[..., Awaitable[object]], *args: object) -> None:
        self._connection.start_soon(func, *args)

    async def spawn_app(
        self,
        app: AppWrapper,
        config: Config,
        scope: Scope,
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        sender, receiver = trio.open_memory_channel[ASGIReceiveEvent](config.max_app_queue_size)
        self._connection.start_soon(self._run_app, scope, receiver, send)

        async def put(event: ASGIReceiveEvent) -> None:
            try:
                await sender.send(event)
            except trio.BrokenResourceError:
                pass  # the application has ended and needs to hear no more

        return put

    async def _run_app(
        self,
        scope: Scope,
        receiver: trio.MemoryReceiveChannel[ASGIReceiveEvent],
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> None:
        with receiver:
            try:
                await self._service.app(scope, receiver.receive, send)
            except BaseException as error:  # noqa: BLE001 - contain() raises what is cancellation
                self._service.contain(error)
        try:
            await send(None)  # Hypercorn's word for: the application has ended, complete what it left open
        except ClientDisconnected:
            pass


class Upgraded:
    """A connection that has left HTTP/1.1. `_reading` bounds how long it waits for the peer."""

    def __init__(self, service: Service, transport: Transport) -> None:
        self._service = service
        self._transport = transport
        self._reading = trio.CancelScope()
        self._is_ending = False

    async def _read_into(self, take: Callable[[bytes], Awaitable[None]]) -> None:
        with self._reading:
            while data := await self._transport.read():
                await take(data)

    async def _end(self) -> None:
        """Say no more, and give the peer a moment to say its last."""
        self._is_ending = True
        self._reading.deadline = trio.current_time() + LINGER_S
        await self._transport.drain()
        self._transport.end_writing()


class WebSocketStream(WSStream):
    async def app_send(self, message: ASGISendEvent | None) -> None:
        if message is not None and self.closed:
            raise ClientDisconnected("the client has disconnected")
        await super().app_send(message)

    async def _send_wsproto_event(self, event: WebSocketEvent) -> None:
        await super()._send_wsproto_event(event)
        if isinstance(event, CloseConnection) and event.code == CloseReason.MESSAGE_TOO_BIG:
            # Hypercorn goes on buffering what a peer sends that ignores our close.
            await self.send(StreamClosed(stream_id=self.stream_id))

    async def say_what_is_wrong(self) -> None:
        """Close with a reason where the peer broke the protocol (RFC 6455, 7.1.7): Hypercorn would just hang up."""
        if self.state is ASGIWebsocketState.CONNECTED and self.connection.state is WebSocketState.OPEN:
            await self._send_wsproto_event(CloseConnection(code=CloseReason.PROTOCOL_ERROR))

    async def go_away(self) -> None:
        """Tell the peer that the server stops; its answer ends the connection."""
        if self.state is ASGIWebsocketState.CONNECTED:
            await self._send_wsproto_event(CloseConnection(code=CloseReason.GOING_AWAY))


class WebSocketConnection(Upgraded):
    """One WebSocket on HTTP/1.1.

    Compression is never agreed: it would cost each connection some 300 KB of zlib windows for messages of a few bytes.
    """

    def __init__(
        self, service: Service, transport: Transport, tasks: StreamTasks, client: Address, server: Address
    ) -> None:
        super().__init__(service, transport)
        self._tasks = tasks
        self._stream = WebSocketStream(
            service.wrapped_app, service.config, service.worker, tasks, False, client, server, self._send, STREAM_ID
        )
        self._is_decided = trio.Event()  # accepted, or refused with an HTTP response
        self._refusal: Response | None = None
        self._refusal_body = bytearray()

    async def run(self, target: bytes, headers: Headers, early: bytes) -> None:
        """Serve it to its end; `early` is what came behind the request."""
        await self._stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=[header for header in headers if header[0] != b"sec-websocket-extensions"],
                http_version="1.1",
                method="GET",
                raw_path=target,
                state=ConnectionState({}),
            )
        )
        await self._is_decided.wait()
        if early:
            await self._take(early)
        await self._read_into(self._take)
        await self._stream.handle(StreamClosed(stream_id=STREAM_ID))

    def drain(self) -> None:
        self._tasks.spawn(self._stream.go_away)

    async def _take(self, data: bytes) -> None:
        await self._stream.handle(Data(stream_id=STREAM_ID, data=data))

    async def _send(self, event: StreamEvent) -> None:
        if isinstance(event, Data):
            await self._transport.write(event.data)
        elif isinstance(event, Response):
            if event.status_code == 101:
                await self._transport.write(head(101, event.headers))
                self._is_decided.set()
            else:
                self._refusal = event
        elif isinstance(event, Body):
            self._refusal_body += event.data
        elif isinstance(event, EndBody) and self._refusal is not None:
            await self._refuse(self._refusal)
        elif isinstance(event, StreamClosed):
            await self._stream.say_what_is_wrong()
            await self._stream.handle(event)
            await self._end()

    async def _refuse(self, response: Response) -> None:
        body = bytes(self._refusal_body)
        framing = {b"content-length": b"%d" % len(body), b"connection": b"close"}
        headers = [header for header in response.headers if header[0].lower() not in framing]
        await self._transport.write(head(response.status_code, [*headers, *framing.items()]) + body)
        self._is_decided.set()


class Http2Protocol(H2Protocol):
    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if isinstance(event, h2.events.DataReceived) and event.stream_id not in self.streams:
                # The response was complete before the request was: Hypercorn fails on the rest of the body.
                self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.RequestReceived) and (b":method", b"CONNECT") in event.headers:
                # WebSockets are served on HTTP/1.1 only, where browsers and proxies put them.
                self.connection.reset_stream(event.stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
            else:
                await super()._handle_events([event])
        await self._flush()

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, StreamClosed):
            await self._reset_if_incomplete(event.stream_id)
        await super().stream_send(event)

    async def _reset_if_incomplete(self, stream_id: int) -> None:
        """Hypercorn forgets a stream whose application failed half-way, and its client would wait for ever."""
        buffer = self.stream_buffers.get(stream_id)
        if buffer is not None and not buffer.complete:
            try:
                self.connection.reset_stream(stream_id, h2.errors.ErrorCodes.INTERNAL_ERROR)
            except h2.exceptions.ProtocolError:
                return  # the peer closed the stream or the connection first
            await self._flush()


class Http2Connection(Upgraded):
    """HTTP/2 in clear text, by prior knowledge or by upgrade; each stream's application is a task."""

    def __init__(
        self, service: Service, transport: Transport, tasks: StreamTasks, client: Address, server: Address
    ) -> None:
        super().__init__(service, transport)
        self._reading.deadline = trio.current_time() + service.limits.head_timeout_s
        state = ConnectionState({})
        self._protocol = Http2Protocol(
            service.wrapped_app, service.config, service.worker, tasks, state, False, client, server, self._send
        )

    async def run(self, early: bytes, *, upgraded_from: H2CProtocolRequiredError | None = None) -> None:
        """Serve it to its end; `early` is what came behind the request that led here."""
        if upgraded_from is None:
            await self._protocol.initiate()
        else:
            await self._protocol.initiate(upgraded_from.headers, upgraded_from.settings)
        if early:
            await self._take(early)
        await self._read_into(self._take)
        await self._protocol.handle(Closed())

    def drain(self) -> None:
        if self._protocol.idle:
            self._reading.cancel()

    async def _take(self, data: bytes) -> None:
        await self._protocol.handle(RawData(data))

    async def _send(self, event: Event) -> None:
        try:
            if isinstance(event, RawData):
                await self._transport.write(event.data)
            elif isinstance(event, Closed):
                await self._protocol.handle(event)
                await self._end()
            elif isinstance(event, Updated) and not self._is_ending:
                is_stopping = self._service.worker.terminated.is_set()
                keep_alive_s = 0.0 if is_stopping else self._service.limits.keep_alive_s
                self._reading.deadline = trio.current_time() + keep_alive_s if event.idle else math.inf
        except ClientDisconnected:
            await self._protocol.handle(Closed())
