"""The WebSocket under a gateway connection."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

import httpx2
import trio

from ...runtime.errors import TransientFailure
from ...runtime.exits import leaf
from .discord_gateway import SocketClosed

if TYPE_CHECKING:
    from trio_websocket import ConnectionClosed, WebSocketConnection

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]

CONNECT_S = 20.0
CLOSE_S = 2.0
LEFT = 4000
"""The code with which a connection is left. Any but 1000 and 1001, as those would end the session."""
ABNORMAL = 1006
MESSAGE_LIMIT_BYTES = 32 * 1024 * 1024
"""A large guild is told in one message."""


class TrioSocket:
    """A gateway's socket on trio-websocket."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self._connection = connection

    async def send(self, text: str) -> None:
        from trio_websocket import ConnectionClosed

        try:
            await self._connection.send_message(text)
        except ConnectionClosed as error:
            raise _closed(error) from None

    async def receive(self) -> str | bytes:
        from trio_websocket import ConnectionClosed

        try:
            return await self._connection.get_message()
        except ConnectionClosed as error:
            raise _closed(error) from None


@asynccontextmanager
async def open_socket(url: str) -> AsyncGenerator[TrioSocket]:
    """Connect to a gateway for as long as the block lasts; raises TransientFailure if that does not succeed."""
    from trio_websocket import ConnectionClosed, ConnectionRejected

    address, where = _parse(url)
    try:
        with trio.fail_after(CONNECT_S) as connecting:
            stream = await _connect(address, where)
            try:
                async with trio.open_nursery() as nursery:
                    connection = await _shake_hands(nursery, stream, address)
                    connecting.deadline = math.inf
                    try:
                        yield TrioSocket(connection)
                    finally:
                        with trio.move_on_after(CLOSE_S):
                            await connection.aclose(LEFT)
                        nursery.cancel_scope.cancel()
            finally:
                await trio.aclose_forcefully(stream)  # trio-websocket leaves it open if the other side goes
    except trio.TooSlowError:
        raise TransientFailure(f"{where} took no connection within {CONNECT_S:g} s") from None
    except BaseExceptionGroup as group:
        cause = leaf(group)
        if isinstance(cause, ConnectionRejected):
            raise TransientFailure(f"{where} answers with the status {cause.status_code}") from cause
        if isinstance(cause, ConnectionClosed):
            raise TransientFailure(f"{where} broke the WebSocket protocol") from cause
        raise cause from None


async def _connect(url: SplitResult, where: str) -> Stream:
    assert url.hostname is not None
    try:
        if url.scheme == "ws":
            return await trio.open_tcp_stream(url.hostname, url.port or 80)
        tls = httpx2.create_ssl_context()
        stream = await trio.open_ssl_over_tcp_stream(
            url.hostname, url.port or 443, ssl_context=tls, https_compatible=True
        )
        try:
            await stream.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream
    except (OSError, trio.BrokenResourceError) as error:
        raise TransientFailure(f"{where} cannot be reached: {error.__cause__ or error}") from error


async def _shake_hands(nursery: trio.Nursery, stream: Stream, url: SplitResult) -> WebSocketConnection:
    from trio_websocket import wrap_client_stream

    host, resource = url.netloc.rpartition("@")[2], f"{url.path}?{url.query}"
    return await wrap_client_stream(nursery, stream, host, resource, max_message_size=MESSAGE_LIMIT_BYTES)


def _parse(url: str) -> tuple[SplitResult, str]:
    """The address with version and encoding, and how it is named in errors."""
    try:
        address = urlsplit(url)
        is_address = address.scheme in ("ws", "wss") and bool(address.hostname) and address.port != 0
    except ValueError:
        raise TransientFailure("what Discord calls its gateway's address is none") from None
    if not is_address:
        raise TransientFailure("what Discord calls its gateway's address is none")
    path = f"{address.path.rstrip('/')}/"
    return address._replace(path=path, query="v=10&encoding=json", fragment=""), f"Discord's gateway {address.hostname}"


def _closed(error: ConnectionClosed) -> SocketClosed:
    reason = error.reason
    return SocketClosed(ABNORMAL, "") if reason is None else SocketClosed(reason.code, reason.reason or "")
