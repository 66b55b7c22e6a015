"""Slack's Socket Mode: a WebSocket on which events come. https://docs.slack.dev/apis/events-api/using-socket-mode"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import NoReturn
from urllib.parse import urlsplit

import httpx2
import msgspec
import structlog
import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, wrap_client_stream

from ...runtime.errors import NeedsOperator, PocketPawError, TransientFailure
from ...runtime.exits import leaf
from ..models.wire_error import UNREADABLE

ACK_WITHIN_S = 3.0
"""Slack sends anew what is acknowledged later."""
OPEN_WITHIN_S = 15.0
"""For each of connecting, shaking hands and Slack's first word."""
PING_EVERY_S = 15.0
PONG_WITHIN_S = 10.0
DRAIN_S = 30.0
"""How long an old link may go on beside the new one; Slack cuts it some 10 s after its warning."""
SHORTEST_LIFE_S = 10.0
"""A link that Slack wants replaced before this age is a failure, so that the supervisor sets the pace."""
CLOSE_WITHIN_S = 0.2
"""For the closing frame to leave; Slack does not answer it by closing the connection."""
AT_ONCE = 200
"""Events in hand on one link; more are left for Slack to send anew."""
MESSAGE_LIMIT_BYTES = 4 * 1024 * 1024

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]
Connect = Callable[[str], Awaitable[Stream]]
Take = Callable[[bytes], Awaitable[None]]
"""Takes the payload of an event. It is called in the order of the events, and what it gives is awaited aside: when
that is over, Slack is told that the event has arrived. A PocketPawError leaves it for Slack to send anew."""

_BROKEN = (OSError, trio.BrokenResourceError, trio.TooSlowError, HandshakeError, ConnectionClosed)

log = structlog.get_logger()


class _Envelope(msgspec.Struct, frozen=True):
    type: str = ""
    envelope_id: str = ""
    payload: msgspec.Raw = msgspec.Raw(b"{}")
    reason: str = ""
    num_connections: int = 1


class _Link:
    """One WebSocket. `leaving` is set once Slack has asked for another in its place."""

    def __init__(self, socket: WebSocketConnection) -> None:
        self.socket = socket
        self.scope = trio.CancelScope()
        self.leaving = trio.Event()
        self.since = trio.current_time()
        self.in_hand = 0


class SocketMode:
    """Holds one link, and opens the next one before it leaves the old one.

    Args:
        open_address: asks Slack for the address of a link; each can be used once.
        proven: called after each round trip on a link.
    """

    def __init__(
        self,
        open_address: Callable[[], Awaitable[str]],
        take: Take,
        proven: Callable[[], None],
        connect: Connect | None = None,
    ) -> None:
        self._open_address = open_address
        self._take = take
        self._proven = proven
        self._connect = connect or connect_securely
        self._links = 0

    async def run(self) -> NoReturn:
        """Hold a link until one fails.

        Raises: TransientFailure; NeedsOperator if Socket Mode is turned off; what `open_address` raises
        """
        with _told("broke off"):
            async with trio.open_nursery() as nursery:
                link: _Link = await nursery.start(self._hold)
                while True:
                    await link.leaving.wait()
                    old, link = link, await nursery.start(self._hold)
                    old.scope.deadline = trio.current_time() + DRAIN_S
        raise AssertionError("unreachable")

    async def _hold(self, task_status: trio.TaskStatus[_Link]) -> None:
        """Hold one link until it fails, or has been left and ends."""
        address = await self._open_address()
        with _told("cannot be reached"), trio.fail_after(OPEN_WITHIN_S):
            stream = await self._connect(address)
        try:
            async with trio.open_nursery() as reading:
                link = await _shake_hands(reading, stream, address)
                self._links += 1
                try:
                    with link.scope:
                        await self._serve(link, task_status)
                finally:
                    self._links -= 1
                    with trio.move_on_after(CLOSE_WITHIN_S, shield=True):
                        await link.socket.aclose()
                    reading.cancel_scope.cancel()
        finally:
            await trio.aclose_forcefully(stream)  # trio-websocket leaves it open if the other side goes

    async def _serve(self, link: _Link, task_status: trio.TaskStatus[_Link]) -> None:
        await self._greet(link)
        task_status.started(link)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ping, link)
            await self._read(link, nursery)

    async def _greet(self, link: _Link) -> None:
        with _told("did not begin"), trio.fail_after(OPEN_WITHIN_S):
            hello = _decode(await link.socket.get_message())
        if hello.type != "hello":
            raise _parting(hello)
        if hello.num_connections > self._links:
            log.warning(
                "Slack counts more connections of the app than are open here: an old one that it does not miss yet, "
                "or another program, in which case each event reaches only one of the two",
                connections=hello.num_connections,
                own=self._links,
            )
        self._proven()

    async def _read(self, link: _Link, nursery: trio.Nursery) -> None:
        while True:
            try:
                envelope = _decode(await link.socket.get_message())
            except ConnectionClosed:
                if link.leaving.is_set():
                    return
                raise
            if envelope.type == "disconnect":
                self._leave(link, envelope)
            elif envelope.type == "events_api" and link.in_hand >= AT_ONCE:
                log.warning("more events from Slack than can be kept: it will send this one anew", at_once=AT_ONCE)
            elif envelope.envelope_id:
                # What is no event of the Events API (a button, a command) is acknowledged: nothing here offers any.
                taking = self._take(bytes(envelope.payload)) if envelope.type == "events_api" else _nothing()
                link.in_hand += 1
                nursery.start_soon(self._acknowledge, link, envelope.envelope_id, taking)

    async def _acknowledge(self, link: _Link, envelope_id: str, taking: Awaitable[None]) -> None:
        """Tell Slack that an event has arrived, once it has been taken. On a link that is gone nothing is told."""
        came = trio.current_time()
        try:
            await taking
            if trio.current_time() - came > ACK_WITHIN_S:
                log.warning("an event from Slack took too long to keep: it comes once more, and is then known")
                return
            await link.socket.send_message(msgspec.json.encode({"envelope_id": envelope_id}).decode())
        except NeedsOperator:
            raise
        except PocketPawError as error:
            log.warning("an event from Slack could not be kept: Slack will send it anew", reason=error.detail)
        except ConnectionClosed:
            pass  # it comes anew on another link, and is known by its key
        finally:
            link.in_hand -= 1

    def _leave(self, link: _Link, request: _Envelope) -> None:
        if request.reason not in ("warning", "refresh_requested"):
            raise _parting(request)
        age_s = trio.current_time() - link.since
        if age_s < SHORTEST_LIFE_S:
            raise TransientFailure(f"Slack asks for another connection after {age_s:.1f} s already")
        link.leaving.set()

    async def _ping(self, link: _Link) -> None:
        while True:
            await trio.sleep(PING_EVERY_S)
            with trio.move_on_after(PONG_WITHIN_S) as patience:
                try:
                    await link.socket.ping()
                except ConnectionClosed:
                    return  # the reader sees it too
            if not patience.cancelled_caught:
                self._proven()
            elif link.leaving.is_set():
                link.scope.cancel()
            else:
                raise TransientFailure(f"Slack has not answered a ping within {PONG_WITHIN_S:g} s")


async def _nothing() -> None:
    """What is done about an envelope that is of no concern."""


async def connect_securely(address: str) -> Stream:
    """Open the stream under a WebSocket, with TLS if the address says so."""
    url = urlsplit(address)
    assert url.hostname is not None
    if url.scheme == "ws":
        return await trio.open_tcp_stream(url.hostname, url.port or 80)
    tls = httpx2.create_ssl_context()
    stream = await trio.open_ssl_over_tcp_stream(url.hostname, url.port or 443, ssl_context=tls, https_compatible=True)
    try:
        await stream.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


async def _shake_hands(nursery: trio.Nursery, stream: Stream, address: str) -> _Link:
    url = urlsplit(address)
    resource = f"{url.path or '/'}?{url.query}"
    with _told("did not become a WebSocket"), trio.fail_after(OPEN_WITHIN_S):
        return _Link(
            await wrap_client_stream(nursery, stream, url.netloc, resource, max_message_size=MESSAGE_LIMIT_BYTES)
        )


def _decode(raw: str | bytes) -> _Envelope:
    try:
        return msgspec.json.decode(raw, type=_Envelope)
    except UNREADABLE as error:
        raise TransientFailure(f"Slack sent what is not Socket Mode's: {error}") from error


def _parting(envelope: _Envelope) -> PocketPawError:
    match envelope.reason:
        case "link_disabled":
            return NeedsOperator("Socket Mode is turned off for the Slack app: turn it on in the app's settings")
        case "too_many_websockets":
            return TransientFailure("the Slack app has too many connections (10 at most): what else uses its token?")
        case reason:
            return TransientFailure(f"Slack ended the connection: {reason or envelope.type or 'for no reason'}")


@contextmanager
def _told(what: str) -> Generator[None]:
    """Tell a failure of the network as one of ours; a group is opened."""
    try:
        yield
    except (BaseExceptionGroup, *_BROKEN) as error:
        cause = leaf(error)
        if isinstance(cause, _BROKEN):
            why = str(cause) or type(cause).__name__
            raise TransientFailure(f"Slack's Socket Mode {what}: {why}") from error
        raise cause from None
