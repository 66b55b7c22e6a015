"""MCP servers elsewhere: the SDK's clients for streamable HTTP and SSE, bounded and watched."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import httpcore2
import httpx2
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from ...runtime.errors import NeedsOperator, TransientFailure
from ..models.connections import proxy_for
from .configuration import ServerConfig, Transport
from .link import MESSAGE_LIMIT_BYTES, Link, Streams

TIMEOUT_S = 30.0
SILENCE_S = 600.0
"""How long an answer that has begun, or is waited for, may be silent; calls have a shorter limit of their own."""

ERROR = 400
REFUSED = (401, 403)
GONE = 404
SESSION_HEADER = "mcp-session-id"


@asynccontextmanager
async def open_remote(config: ServerConfig, transport: Transport, link: Link) -> AsyncGenerator[Streams]:
    """Reach the server for the block. Raises httpx2.HTTPError, also in groups."""
    url = config.filled(config.url)
    if transport == "sse":

        def client(*_: object, **__: object) -> httpx2.AsyncClient:
            return _client(config, link)

        async with sse_client(url, httpx_client_factory=client) as streams:
            yield streams
    else:
        async with (
            _client(config, link) as http,
            streamable_http_client(url, http_client=http, max_sse_event_size=MESSAGE_LIMIT_BYTES) as streams,
        ):
            yield streams


def _client(config: ServerConfig, link: Link) -> httpx2.AsyncClient:
    url = httpx2.URL(config.filled(config.url))
    try:
        proxy = proxy_for(url.scheme, url.host, url.port)
    except httpcore2.ProxyError as error:
        raise NeedsOperator(f"it cannot be reached: {error}") from error
    return httpx2.AsyncClient(
        headers={name: config.filled(value) for name, value in config.headers.items()},
        timeout=httpx2.Timeout(TIMEOUT_S, read=SILENCE_S),
        transport=_Watched(link, proxy=proxy or None),
    )


class _Watched(httpx2.AsyncHTTPTransport):
    """Sees what the SDK keeps to itself: which status a refusal has, and how much a body holds."""

    def __init__(self, link: Link, proxy: str | None) -> None:
        super().__init__(proxy=proxy, limits=httpx2.Limits(max_connections=None, max_keepalive_connections=16))
        self._link = link

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        self._note(request, response.status_code)
        if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = _Bounded(response.stream)
        return response

    def _note(self, request: httpx2.Request, status: int) -> None:
        if status >= ERROR:
            self._link.status = status
        if status in REFUSED:
            self._link.fail(NeedsOperator(f"it refused our credentials (HTTP {status}): correct its headers or env"))
        elif status == GONE and SESSION_HEADER in request.headers:
            self._link.fail(TransientFailure("it has forgotten our session"))


class _Bounded(httpx2.AsyncByteStream):
    """A body that is not read beyond the limit."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MESSAGE_LIMIT_BYTES
        async for part in self._stream:
            left -= len(part)
            if left < 0:
                raise httpx2.ReadError(f"it sent a message of more than {MESSAGE_LIMIT_BYTES // 1024 // 1024} MB")
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()
