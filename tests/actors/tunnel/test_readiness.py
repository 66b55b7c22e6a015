"""Whether cloudflared is taken at its word, and at nothing less."""

from __future__ import annotations

import socket
from functools import partial

import pytest
import trio
from pocketpaw.actors.tunnel.readiness import is_ready


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{"status":200,"readyConnections":1}', True),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", False),
        (b"HTTP/1.1 2000 OK\r\n\r\n", False),
        (b"SSH-2.0-OpenSSH_9.9\r\n", False),
        (b"", False),
    ],
)
async def test_only_a_200_is_ready(answer: bytes, expected: bool) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            for byte in answer:
                await stream.send_all(bytes([byte]))

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        assert await is_ready(listeners[0].socket.getsockname()[1]) is expected
        nursery.cancel_scope.cancel()


async def test_where_nobody_listens_nothing_is_ready() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert not await is_ready(taken.getsockname()[1])
