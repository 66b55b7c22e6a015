"""A client of event streams that may leave at any point: httpx2's generators cannot be left without a warning."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import h11
import trio


@dataclass
class Frame:
    """One event; a comment has the name `comment` and its text as the id."""

    id: str
    name: str
    data: dict[str, Any]


class EventStream:
    """Iterate it for its frames; ends with the response."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._parser = h11.Connection(h11.CLIENT)
        self._text = b""
        self.status = 0
        self.headers: dict[str, str] = {}

    async def open(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> None:
        sent = {"Host": "localhost", "Content-Length": str(len(body)), **headers}
        if body:
            sent["Content-Type"] = "application/json"
        for event in (
            h11.Request(method=method, target=path, headers=list(sent.items())),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            await self._stream.send_all(self._parser.send(event) or b"")
        response = await self._next()
        assert isinstance(response, h11.Response)
        self.status = response.status_code
        self.headers = {name.decode(): value.decode() for name, value in response.headers}

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Frame:
        while b"\n\n" not in self._text:
            event = await self._next()
            if not isinstance(event, h11.Data):
                raise StopAsyncIteration
            self._text += event.data
        text, _, self._text = self._text.partition(b"\n\n")
        return _frame(text.decode())

    async def rest(self) -> list[Frame]:
        return [frame async for frame in self]

    async def _next(self) -> h11.Event:
        while not isinstance(event := self._parser.next_event(), h11.Event):
            self._parser.receive_data(await self._stream.receive_some())
        return event


def _frame(text: str) -> Frame:
    lines = dict(line.split(": ", 1) for line in text.split("\n"))
    if "event" not in lines:
        return Frame(lines.get("", ""), "comment", {})
    return Frame(lines.get("id", ""), lines["event"], cast("dict[str, Any]", json.loads(lines["data"])))


@asynccontextmanager
async def open_events(
    port: int, path: str, message: object = None, headers: Mapping[str, str] | None = None
) -> AsyncGenerator[EventStream]:
    """POST `message`, or GET where there is none, and read what comes; leaving drops the connection."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        events = EventStream(stream)
        method, body = ("GET", b"") if message is None else ("POST", json.dumps(message).encode())
        await events.open(method, path, headers or {}, body)
        yield events
