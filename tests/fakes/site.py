"""A web site on loopback that answers each path with the very bytes it was told."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import trio

Answer = bytes | Callable[[trio.abc.Stream], Awaitable[None]]


def page(body: bytes | str, kind: str = "text/html", *headers: str, status: str = "200 OK") -> bytes:
    """A response in whole, its connection closed after it."""
    data = body.encode() if isinstance(body, str) else body
    head = [
        f"HTTP/1.1 {status}",
        f"content-type: {kind}",
        f"content-length: {len(data)}",
        "connection: close",
        *headers,
    ]
    return "\r\n".join([*head, "", ""]).encode() + data


def redirect(location: str, status: str = "302 Found") -> bytes:
    return page(b"", "text/plain", f"location: {location}", status=status)


class FakeSite:
    """Its `pages` may be changed at any time; it keeps the heads of all requests."""

    def __init__(self, pages: dict[str, Answer]) -> None:
        self.pages = pages
        self.port = 0
        self.heads: list[str] = []
        self.connections = 0

    @property
    def paths(self) -> list[str]:
        return [head.split(" ")[1] for head in self.heads]

    def headers(self, index: int = -1) -> dict[str, str]:
        lines = self.heads[index].split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    async def serve(self, tls: ssl.SSLContext | None, tcp: trio.SocketStream) -> None:
        self.connections += 1
        stream = tcp if tls is None else trio.SSLStream(tcp, tls, server_side=True, https_compatible=True)
        try:
            head = b""
            while b"\r\n\r\n" not in head:
                data = await stream.receive_some(65_536)
                if not data:
                    return
                head += data
            self.heads.append(head.decode().removesuffix("\r\n\r\n"))
            answer = self.pages.get(self.paths[-1], page("nothing here", status="404 Not Found"))
            if isinstance(answer, bytes):
                await stream.send_all(answer)
            else:
                await answer(stream)
        except (trio.BrokenResourceError, ssl.SSLError):
            pass  # the client has gone: some tests are about that
        finally:
            await trio.aclose_forcefully(stream)


@asynccontextmanager
async def fake_site(
    pages: dict[str, Answer], *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncGenerator[FakeSite]:
    """Serve for as long as the block lasts, on a free port unless one is named."""
    site = FakeSite(pages)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, partial(site.serve, tls), port, host=host))
        site.port = listeners[0].socket.getsockname()[1]
        yield site
        nursery.cancel_scope.cancel()
