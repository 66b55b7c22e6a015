"""What a session knows of the wire under it, whichever kind that is."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import trio
from mcp.client._transport import ReadStream, TransportStreams
from mcp.shared.message import SessionMessage

from ...runtime.errors import PocketPawError, TransientFailure

MESSAGE_LIMIT_BYTES = 16 * 1024 * 1024
"""Of one message from a server. A longer one ends the connection: nobody could tell whose answer it was."""

Streams = TransportStreams
Incoming = SessionMessage | Exception


class Link:
    """`ended` is set when the wire is of no use any more; `failure` then says why, if anything is known."""

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.failure: PocketPawError | None = None
        self.status: int | None = None
        """The latest HTTP status that was an error."""

    def fail(self, failure: PocketPawError) -> None:
        """Give it up. The first reason is the one that counts."""
        self.failure = self.failure or failure
        self.ended.set()

    def reason(self) -> PocketPawError:
        return self.failure or TransientFailure("it closed the connection")


class WatchedStream:
    """The read stream of a transport; says so when it ends, which the SDK's session keeps to itself."""

    def __init__(self, stream: ReadStream[Incoming], link: Link) -> None:
        self._stream = stream
        self._link = link

    async def receive(self) -> Incoming:
        return await self._stream.receive()

    async def aclose(self) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Incoming:
        try:
            return await self._stream.__anext__()
        except StopAsyncIteration:
            self._link.ended.set()
            raise

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None:
        return await self._stream.__aexit__(exc_type, exc_val, exc_tb)
