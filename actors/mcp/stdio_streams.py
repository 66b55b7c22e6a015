"""The streams of a session over a server's pipes.

They read and write the pipes in the task that asks: the SDK's, with a task and a queue for each pipe, take a fifth more
time for a call. Invariant: a message is written whole or not at all, whoever gives up while it is written.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import anyio
import mcp_types
import msgspec
import trio
from mcp.shared.message import SessionMessage

from ...runtime.errors import TransientFailure
from .link import MESSAGE_LIMIT_BYTES, Incoming, Link

CHUNK_BYTES = 65_536


class _Stream:
    async def aclose(self) -> None:
        """Leave the pipe to its process."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.aclose()


class MessagesIn(_Stream):
    """The messages among the lines that a server prints. `at_end` is awaited before the end is told."""

    def __init__(self, pipe: trio.abc.ReceiveStream, link: Link, at_end: Callable[[], Awaitable[None]]) -> None:
        self._pipe = pipe
        self._link = link
        self._at_end = at_end
        self._lines: deque[bytes] = deque()
        self._rest = bytearray()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Incoming:
        if self._lines:
            await trio.lowlevel.checkpoint()  # others get their turn, however much it has to say
        while True:
            while self._lines:
                message = _message(self._lines.popleft())
                if message is not None:
                    return message
            data = await self._pipe.receive_some(CHUNK_BYTES)
            if not data:
                await self._at_end()
                raise StopAsyncIteration
            self._take(data)

    async def receive(self) -> Incoming:
        try:
            return await anext(self)
        except StopAsyncIteration:
            raise anyio.EndOfStream from None

    def _take(self, data: bytes | bytearray) -> None:
        first, *others = data.split(b"\n")
        self._rest += first
        if len(self._rest) > MESSAGE_LIMIT_BYTES:
            limit = MESSAGE_LIMIT_BYTES // 1024 // 1024
            self._link.fail(TransientFailure(f"it sent a message of more than {limit} MB"))
            self._rest.clear()
        if others:
            self._lines += [bytes(self._rest), *map(bytes, others[:-1])]
            self._rest = bytearray(others[-1])


class MessagesOut(_Stream):
    """Writes at once what the pipe has room for; `pump` writes the rest."""

    def __init__(self, descriptor: int, link: Link) -> None:
        self._descriptor = descriptor
        self._link = link
        self._waiting = bytearray()
        self._is_waiting = trio.Event()
        self._is_closed = False

    async def send(self, item: SessionMessage) -> None:
        """Never waits. A server that reads nothing is given up once `MESSAGE_LIMIT_BYTES` wait for it."""
        if self._is_closed:
            raise anyio.ClosedResourceError
        data = item.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
        written = 0 if self._waiting else self._write(data)
        if written < len(data):
            self._waiting += data[written:]
            self._is_waiting.set()
            if len(self._waiting) > MESSAGE_LIMIT_BYTES:
                self._link.fail(TransientFailure("it does not read what it is sent"))

    async def pump(self) -> None:
        try:
            while True:
                await self._is_waiting.wait()
                self._is_waiting = trio.Event()
                while self._waiting:
                    await trio.lowlevel.wait_writable(self._descriptor)
                    del self._waiting[: self._write(self._waiting[:CHUNK_BYTES])]
        except (anyio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it has ended, or we are leaving: its process says which

    async def aclose(self) -> None:
        self._is_closed = True

    def _write(self, data: bytes | bytearray) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            raise anyio.BrokenResourceError from None


def _message(line: bytes) -> SessionMessage | None:
    """The message that a line holds; None for what a server prints besides."""
    if not line.lstrip().startswith(b"{"):
        return None
    try:
        return SessionMessage(mcp_types.jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError:
        return _unreadable(line)


class _Answer(msgspec.Struct):
    id: int | str
    method: msgspec.UnsetType | object = msgspec.UNSET


def _unreadable(line: bytes) -> SessionMessage | None:
    """What stands for an answer that is no message: whoever waits for it shall not wait in vain."""
    try:
        answer = msgspec.json.decode(line, type=_Answer)
    except (msgspec.DecodeError, RecursionError):
        return None
    if answer.method is not msgspec.UNSET:
        return None
    error = mcp_types.ErrorData(code=mcp_types.INTERNAL_ERROR, message="it answered with what cannot be read")
    return SessionMessage(mcp_types.JSONRPCError(jsonrpc="2.0", id=answer.id, error=error))
