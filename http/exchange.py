"""One HTTP/1.1 request and its response, as the `scope`, `receive` and `send` of an ASGI application.

h11 parses what comes in, and strictly. What goes out is framed here: h11's sending half costs more than all the rest of
a small response. One h11 connection therefore serves one request; what it has read beyond that goes to the next one's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import cast
from urllib.parse import unquote

import h11
import trio
from hypercorn.typing import (
    ASGIReceiveEvent,
    ASGISendEvent,
    ConnectionState,
    HTTPResponseBodyEvent,
    HTTPResponseStartEvent,
    HTTPScope,
)

from .transport import ClientDisconnected, Transport

Address = tuple[str, int]
Headers = list[tuple[bytes, bytes]]

READ_AHEAD_BYTES = 64 * 1024  # of pipelined requests, read while watching for the peer to go
STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
TOKEN_CHARS = (
    b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"  # RFC 9110, section 5.6.2
)
DISCONNECT: ASGIReceiveEvent = {"type": "http.disconnect"}


@lru_cache(maxsize=1)
def date_line(second: int) -> bytes:
    return f"date: {formatdate(second, usegmt=True)}\r\n".encode()


def head(status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Write a status line and headers, the date included.

    Raises:
        ValueError: a name is no token, or a value holds a line break or NUL (response splitting).
    """
    lines = [STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status, date_line(int(time.time()))]
    for name, value in headers:
        if not name or name.translate(None, TOKEN_CHARS):
            raise ValueError(f"expected a header name, got {name!r}")
        lines.append(b"%b: %b\r\n" % (name, value))
    text = b"".join(lines)
    if not text.count(b"\n") == text.count(b"\r") == len(lines) or b"\0" in text:
        raise ValueError("a header value holds a line break or NUL")
    return text + b"\r\n"


class Exchange:
    """Runs in its connection's task; `receive` may also run in a task of the application's.

    Bodies are pulled from the socket as the application asks for them, so that it alone sets the pace.
    """

    def __init__(self, transport: Transport, parser: h11.Connection, request: h11.Request) -> None:
        self._transport = transport
        self._parser = parser
        self._method = request.method
        self._is_http11 = request.http_version == b"1.1"
        self.keep_alive = self._is_http11
        self.has_started = False  # the head is written: there is no way back to another status
        self.is_complete = False
        self.is_peer_gone = False
        self.malformed: h11.RemoteProtocolError | None = None
        self._start: HTTPResponseStartEvent | None = None
        self._is_request_read = False
        self._read_ahead_bytes = 0
        self._watch: trio.CancelScope | None = None
        # How the body is framed, once has_started: not at all (HEAD, 204, 304), by length, in chunks, or by closing.
        self._is_bodiless = False
        self._remaining_bytes: int | None = None
        self._is_chunked = False

    def scope(self, request: h11.Request, headers: Headers, client: Address, server: Address) -> HTTPScope:
        path, _, query = request.target.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1" if self._is_http11 else "1.0",
            "method": request.method.decode("ascii").upper(),
            "scheme": "http",
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": headers,
            "client": client,
            "server": server,
            "state": ConnectionState({}),
            "extensions": {},
        }

    # What the application calls

    async def receive(self) -> ASGIReceiveEvent:
        """Return the next part of the body; after the last, wait for the response's end or the peer's going."""
        while not self._is_request_read and self.malformed is None and not self.is_peer_gone:
            event = self._next_event()
            if isinstance(event, h11.Data):
                return {"type": "http.request", "body": bytes(event.data), "more_body": True}
            if isinstance(event, h11.EndOfMessage):
                return {"type": "http.request", "body": b"", "more_body": False}
            if self._parser.they_are_waiting_for_100_continue and not self.has_started:
                self._parser.client_is_waiting_for_100_continue = False
                await self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await self._read_more()
        await self._wait_for_the_end()
        return DISCONNECT

    async def send(self, message: ASGISendEvent) -> None:
        """Take a part of the response. A head goes out with the first bytes of its body, in one write.

        Raises:
            ClientDisconnected: nobody is there to read it.
            ValueError: a header that must not be sent.
            RuntimeError: messages out of order, or a body that is not as long as its content-length.
        """
        kind = message["type"]
        if self.malformed is not None:
            raise ClientDisconnected("the request's body was malformed; the server refuses it")
        if kind == "http.response.body":
            message = cast("HTTPResponseBodyEvent", message)
            await self._send_body(message.get("body", b""), is_last=not message.get("more_body", False))
        elif kind == "http.response.start" and self._start is None:
            self._start = cast("HTTPResponseStartEvent", message)
        else:
            raise RuntimeError(f"{kind} is not expected here")

    # What the connection calls

    async def answer(self, status: int, code: str, detail: str) -> None:
        """Send an error of the server's own instead of the application's response, and keep nothing alive."""
        self.keep_alive = False
        body = json.dumps({"detail": detail, "code": code}).encode()
        self._start = {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", b"application/json")],
        }
        await self._send_body(body, is_last=True)

    def is_reusable(self) -> bool:
        """Say whether another request may follow on this connection; skips what was received but not asked for."""
        while not self._is_request_read and isinstance(self._next_event(), h11.Data):
            pass
        return self.keep_alive and self.is_complete and self._is_request_read and not self.is_peer_gone

    # Receiving

    def _next_event(self) -> h11.Event | type[h11.NEED_DATA | h11.PAUSED]:
        try:
            event = self._parser.next_event()
        except h11.RemoteProtocolError as error:
            self.malformed = error
            return h11.NEED_DATA
        if isinstance(event, h11.EndOfMessage):
            self._is_request_read = True
        return event

    async def _read_more(self) -> None:
        if self.malformed is not None:
            return
        data = await self._transport.read()
        if data:
            self._parser.receive_data(data)
        else:
            self.is_peer_gone = True

    async def _wait_for_the_end(self) -> None:
        with trio.CancelScope() as self._watch:
            while not self.is_complete and not self.is_peer_gone and self.malformed is None:
                if self._read_ahead_bytes > READ_AHEAD_BYTES:
                    await trio.sleep_forever()
                data = await self._transport.read()
                self.is_peer_gone = not data
                self._read_ahead_bytes += len(data)
                self._parser.receive_data(data)
        self._watch = None

    # Sending

    async def _send_body(self, body: bytes, *, is_last: bool) -> None:
        if self._start is None or self.is_complete:
            raise RuntimeError("http.response.body is not expected here")
        text = b"" if self.has_started else self._open(self._start, len(body) if is_last else None)
        text += self._frame(body, is_last=is_last)
        self.has_started = True
        if text:
            await self._transport.write(text)
        if is_last:
            self._complete()
        elif self._remaining_bytes != 0:
            await trio.lowlevel.checkpoint()  # a stream that never waits must not starve the other tasks

    def _open(self, start: HTTPResponseStartEvent, body_bytes: int | None) -> bytes:
        """Choose the body's framing and write the head; `body_bytes` is the length of a body that is all here."""
        status = start["status"]
        headers, length = self._own_headers(start.get("headers", ()))
        self._is_bodiless = self._method == b"HEAD" or status in {204, 304}
        self._remaining_bytes, self._is_chunked = length, False
        if length is not None:
            pass
        elif body_bytes is not None and (body_bytes or not self._is_bodiless):
            self._remaining_bytes = body_bytes
        elif self._is_bodiless:
            pass
        elif self._is_http11:
            self._is_chunked = True
            headers.append((b"transfer-encoding", b"chunked"))
        else:
            self.keep_alive = False
        if self._remaining_bytes is not None and status != 204:
            headers.append((b"content-length", b"%d" % self._remaining_bytes))
        if not self.keep_alive:
            headers.append((b"connection", b"close"))
        return head(status, headers)

    def _own_headers(self, given: Iterable[tuple[bytes, bytes]]) -> tuple[Headers, int | None]:
        """Take out the headers that framing decides, and the content-length."""
        headers: Headers = []
        length: int | None = None
        for name, value in given:
            lower = name.lower()
            if lower == b"content-length":
                length = int(value)
            elif lower == b"connection":
                self.keep_alive = self.keep_alive and b"close" not in value.lower()
            elif lower not in {b"transfer-encoding", b"date"}:
                headers.append((lower, value))
        return headers, length

    def _frame(self, body: bytes, *, is_last: bool) -> bytes:
        if self._is_bodiless:
            return b""
        if self._is_chunked:
            text = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            return text + b"0\r\n\r\n" if is_last else text
        if self._remaining_bytes is not None:
            self._remaining_bytes -= len(body)
            if self._remaining_bytes < 0 or (is_last and self._remaining_bytes):
                raise RuntimeError(f"the body misses its content-length by {-self._remaining_bytes} bytes")
        return body

    def _complete(self) -> None:
        self.is_complete = True
        if self._watch is not None:
            self._watch.cancel()
