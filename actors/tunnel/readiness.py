"""Asks cloudflared whether the tunnel has a connection to Cloudflare's network."""

from __future__ import annotations

import trio

ANSWER_S = 3.0
_HEAD_LIMIT_BYTES = 64
_READY = (b"HTTP/1.0 200 ", b"HTTP/1.1 200 ")


async def is_ready(port: int) -> bool:
    """Whether `/ready` of the metrics server at `port` of this machine says so in time.

    By hand, as a status line is all that is wanted, and an HTTP client is 4 MB.
    """
    head = b""
    with trio.move_on_after(ANSWER_S):
        try:
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(b"GET /ready HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                while len(head) < _HEAD_LIMIT_BYTES and (data := await stream.receive_some(_HEAD_LIMIT_BYTES)):
                    head += data
        except (OSError, trio.BrokenResourceError):
            return False
    return head.startswith(_READY)
