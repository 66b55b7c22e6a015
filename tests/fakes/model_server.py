"""A model server that speaks OpenAI's wire over a real socket, instantly, or exactly as badly as it is told.

Other wires are subclasses: anthropic_server.py, ollama_server.py. All take the same script.

In a test's own process:

    async with fake_model_server() as server:               # loopback, a free port
        backend = OpenAICompatible(base_url=server.base_url, …)
        server.script(Reply(status=503, retry_after="1"), Reply(text="Hello there.", chunks=3))   # one per chat request
        server.default = Reply(chunks=1, delay_s=0.5)       # once the script has run out; `Reply()` unless changed
        server.chats, server.bodies[-1], server.connections, server.aborted
        await server.wait_for_chats(2), await server.wait_for_abort()

A `Reply` without a text echoes the last user message as `echo: …`, so that a journey can tell a lost answer from a
doubled one. All of it also holds for a server in a process of its own, which is told over HTTP:

    python tests/fakes/model_server.py --port 9099 [--text T] [--chunks 5] [--delay-s 0] [--chunk-delay-s 0]
        [--api-key K]

    prints `listening on http://127.0.0.1:9099/v1` (with `--port 0`: a free port)
    POST /_script   [Reply as JSON, …]     answers for the next chats        POST /_default  Reply as JSON
    GET  /_stats    {chats, connections, aborted, open}                      GET  /_bodies   latest chat bodies
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import NoReturn, TypeVar

import msgspec
import trio

RECORD_LIMIT = 1000
RECEIVE_BYTES = 65_536


class ToolCall(msgspec.Struct, frozen=True):
    """A function call; its arguments leave in two deltas, as real servers split them."""

    name: str
    arguments: str = "{}"
    id: str = "call_1"


class Reply(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one chat request is answered. Nothing set: the echo in five chunks, usage, `[DONE]`, all in one write."""

    text: str | None = None
    """None echoes the last user message."""
    chunks: int = 5
    thinking: str = ""
    """Sent before the text as `reasoning_content`."""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = "stop"
    usage: bool = True
    """False leaves the usage out, as many local servers do."""
    done: bool = True
    """False leaves `[DONE]` out."""
    delay_s: float = 0.0
    """Before the status line."""
    chunk_delay_s: float = 0.0
    """Before each chunk; any value makes each chunk a write of its own."""
    cut_after: int | None = None
    """The connection is cut when so many chunks are out; 0 is after the head, -1 before it."""
    hang_after: int | None = None
    """Silence when so many chunks are out, until the client goes; -1 is before the head."""
    status: int = 200
    retry_after: str | None = None
    error: object = None
    """The `error` member of a status other than 200."""
    whole: bool = False
    """One JSON body although a stream was asked for."""
    raw: tuple[str, ...] | None = None
    """The body itself, a write a piece, replacing all of the above; latin-1, so that any byte can be written."""
    content_type: str = "text/event-stream"
    chunked: bool = True
    """False ends the body by closing the connection, as HTTP/1.0 servers do."""


class _Function(msgspec.Struct, omit_defaults=True):
    name: str | None = None
    arguments: str = ""


class _ToolCall(msgspec.Struct, omit_defaults=True):
    index: int = -1
    id: str | None = None
    type: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct, omit_defaults=True):
    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class Message(msgspec.Struct):
    role: str = ""
    content: object = None


class _Part(msgspec.Struct):
    type: str = ""
    text: str = ""


class ChatRequest(msgspec.Struct):
    messages: list[Message] = []
    stream: bool = False
    model: str = "fake"


S = TypeVar("S", bound="FakeModelServer")

_script_decoder = msgspec.json.Decoder(list[Reply])
_default_decoder = msgspec.json.Decoder(Reply)
_request_decoder = msgspec.json.Decoder(ChatRequest)


class FakeModelServer:
    """Counts, records and answers; see the module."""

    chat_path = "/v1/chat/completions"
    models_path = "/v1/models"

    def __init__(self, *, api_key: str = "", default: Reply | None = None) -> None:
        self.default = default or Reply()
        self.api_key = api_key
        """When set, anything but this bearer gets a 401."""
        self.port = 0
        self.chats = 0
        self.connections = 0
        self.open = 0
        self.aborted = 0
        """Clients that went while an answer was under way."""
        self.bodies: deque[bytes] = deque(maxlen=RECORD_LIMIT)
        self.headers: deque[dict[str, str]] = deque(maxlen=RECORD_LIMIT)
        self.paths: deque[str] = deque(maxlen=RECORD_LIMIT)
        self._script: deque[Reply] = deque()
        self._waiting = trio.lowlevel.ParkingLot()
        """Those who wait for one of the counts to change."""

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def script(self, *replies: Reply) -> None:
        """Answer the next chats so, one each."""
        self._script.extend(replies)

    async def wait_for_chats(self, count: int) -> None:
        """Return once so many chat requests have come in."""
        while self.chats < count:
            await self._waiting.park()

    async def wait_for_abort(self) -> None:
        """Return once a client has gone in the middle of its answer."""
        while self.aborted == 0:
            await self._waiting.park()

    # What a wire says

    def is_let_in(self, headers: dict[str, str]) -> bool:
        return not self.api_key or headers.get("authorization") == f"Bearer {self.api_key}"

    def models(self) -> object:
        return {"object": "list", "data": [{"id": "fake", "object": "model"}]}

    def refusal(self, headers: dict[str, str], body: bytes) -> str:
        """Why the real server would not take a chat; empty if it would."""
        return ""

    def error_body(self, error: object) -> object:
        return {"error": error}

    def pieces(self, reply: Reply, request: ChatRequest, text: str) -> tuple[list[bytes], list[bytes], list[bytes]]:
        """What is sent before the chunks, the chunks, and what is sent after them."""
        return _stream_pieces(reply, request, text)

    def whole(self, reply: Reply, request: ChatRequest, text: str) -> object:
        return _completion(reply, request, text)

    async def answer_other(self, connection: Connection, method: str, path: str, body: bytes) -> None:
        await connection.send(json_response(404, self.error_body({"message": f"no such path: {path}"})))

    # Serving

    async def serve_connection(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        self.open += 1
        try:
            connection = Connection(stream)
            while (request := await connection.next_request()) is not None:
                if not await self._answer(connection, *request):
                    break
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._note_abort()
        finally:
            self.open -= 1
            await trio.aclose_forcefully(stream)

    def _note_abort(self) -> None:
        self.aborted += 1
        self._waiting.unpark_all()

    async def _answer(
        self, connection: Connection, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> bool:
        """Answer one request; False closes the connection."""
        self.paths.append(f"{method} {path}")
        if path.startswith("/_"):
            await connection.send(self._control(path, body))
            return True
        if not self.is_let_in(headers):
            wrong = self.error_body({"message": "Incorrect API key", "code": "invalid_api_key"})
            await connection.send(json_response(401, wrong))
            return True
        if path == self.models_path:
            answer = json_response(200, self.models())
            await connection.send(answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if method == "HEAD" else answer)
            return True
        if path != self.chat_path:
            await self.answer_other(connection, method, path, body)
            return True
        self.chats += 1
        self._waiting.unpark_all()
        self.bodies.append(body)
        self.headers.append(headers)
        if refusal := self.refusal(headers, body):
            await connection.send(json_response(400, self.error_body({"message": refusal})))
            return True
        reply = self._script.popleft() if self._script else self.default
        request = _request_decoder.decode(body)
        if reply.delay_s or reply.chunk_delay_s or reply.hang_after is not None:
            return await self._answer_slowly(connection, reply, request)
        return await self._write_answer(connection, reply, request)

    async def _answer_slowly(self, connection: Connection, reply: Reply, request: ChatRequest) -> bool:
        """As `_write_answer`, but notice at once when the client goes."""
        keep_open = False
        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                nonlocal keep_open
                try:
                    keep_open = await self._write_answer(connection, reply, request)
                except trio.BrokenResourceError:
                    self._note_abort()  # the client went while it was being written to
                nursery.cancel_scope.cancel()

            nursery.start_soon(answer)
            if not await connection.buffer_more():
                self._note_abort()
                nursery.cancel_scope.cancel()
            else:
                await trio.sleep_forever()
        return keep_open

    async def _write_answer(self, connection: Connection, reply: Reply, request: ChatRequest) -> bool:
        """Write the answer; False when the connection must be closed."""
        await _pause(reply.delay_s)
        if reply.hang_after == -1:
            await trio.sleep_forever()
        if reply.cut_after == -1:
            return False
        if reply.status != 200:
            await connection.send(json_response(reply.status, self.error_body(reply.error), reply.retry_after))
            return True
        text = reply.text if reply.text is not None else echo_of(request.messages)
        if reply.raw is None and (reply.whole or not request.stream):
            await connection.send(json_response(200, self.whole(reply, request, text)))
            return True
        if reply.raw is not None:
            head, pieces, tail = [], [piece.encode("latin-1") for piece in reply.raw], []
        else:
            head, pieces, tail = self.pieces(reply, request, text)
        writes = [_stream_head(reply), *(_framed(piece, reply) for piece in head)]
        stop = min((n for n in (reply.cut_after, reply.hang_after) if n is not None), default=math.inf)
        for number, piece in enumerate(pieces):
            if number >= stop:
                break
            if reply.chunk_delay_s or reply.raw is not None:
                await connection.send(b"".join(writes))
                writes.clear()
                await _pause(reply.chunk_delay_s)
            writes.append(_framed(piece, reply))
        if stop == math.inf:
            writes += [_framed(b"".join(tail), reply), b"0\r\n\r\n" if reply.chunked else b""]
        await connection.send(b"".join(writes))
        if reply.hang_after is not None:
            await trio.sleep_forever()
        return stop == math.inf and reply.chunked

    def _control(self, path: str, body: bytes) -> bytes:
        if path == "/_script":
            self.script(*_script_decoder.decode(body))
        elif path == "/_default":
            self.default = _default_decoder.decode(body)
        elif path == "/_bodies":
            return json_response(200, [msgspec.Raw(body) for body in self.bodies])
        elif path != "/_stats":
            return json_response(404, {"error": f"no such control: {path}"})
        stats = {"chats": self.chats, "connections": self.connections, "aborted": self.aborted, "open": self.open}
        return json_response(200, stats)


class Connection:
    """Reads HTTP/1.1 requests with a Content-Length off a stream; enough for the clients that tests have."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = bytearray()
        self.send = stream.send_all

    async def buffer_more(self) -> bool:
        """Read once; False when the client has closed or reset."""
        try:
            data = await self._stream.receive_some(RECEIVE_BYTES)
        except trio.BrokenResourceError:
            return False
        self._buffer += data
        return bool(data)

    async def next_request(self) -> tuple[str, str, dict[str, str], bytes] | None:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if not await self.buffer_more():
                return None
        request_line, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body_start = end + 4
        body_end = body_start + int(headers.get("content-length", "0"))
        while len(self._buffer) < body_end:
            if not await self.buffer_more():
                return None
        body = bytes(self._buffer[body_start:body_end])
        del self._buffer[:body_end]
        method, target, _ = request_line.split(" ", 2)
        if "://" in target:  # asked as if it were a proxy
            target = "/" + target.split("/", 3)[3]
        return method, target.partition("?")[0], headers, body


async def _pause(seconds: float) -> None:
    if seconds:
        await trio.sleep(seconds)


def echo_of(messages: Sequence[Message]) -> str:
    """What a `Reply` without a text says to these messages."""
    said = next((words_of(message.content) for message in reversed(messages) if message.role == "user"), "")
    return f"echo: {said}"


def words_of(content: object) -> str:
    """The words of a message, be it a text or a list of parts."""
    if isinstance(content, str):
        return content
    parts = msgspec.convert(content, list[_Part])
    return " ".join(part.text for part in parts if part.type == "text")


def split_text(text: str, chunks: int) -> Iterator[str]:
    """Cut `text` into `chunks` pieces of nearly equal length, fewer if it has fewer characters."""
    count, length = min(chunks, len(text)), len(text)
    return (text[length * i // count : length * (i + 1) // count] for i in range(count))


def _stream_pieces(reply: Reply, request: ChatRequest, text: str) -> tuple[list[bytes], list[bytes], list[bytes]]:
    def event(delta: _Delta, finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return _event(
            {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": request.model, "choices": [choice]}
        )

    head = [event(_Delta(role="assistant", content=""))]
    pieces: list[bytes] = [event(_Delta(reasoning_content=part)) for part in split_text(reply.thinking, 2)]
    if not reply.tool_calls or reply.text:
        pieces += [event(_Delta(content=part)) for part in split_text(text, reply.chunks)]
    for index, call in enumerate(reply.tool_calls):
        start = _ToolCall(index=index, id=call.id, type="function", function=_Function(name=call.name))
        pieces.append(event(_Delta(tool_calls=[start])))
        for part in split_text(call.arguments, 2):
            delta = _ToolCall(index=index, function=_Function(arguments=part))
            pieces.append(event(_Delta(tool_calls=[delta])))
    tail: list[bytes] = []
    if reply.finish_reason is not None:
        tail.append(event(_Delta(), "tool_calls" if reply.tool_calls else reply.finish_reason))
    if reply.usage:
        tail.append(_event({"model": request.model, "choices": [], "usage": words_and_chunks(reply, request, text)}))
    if reply.done:
        tail.append(b"data: [DONE]\n\n")
    return head, pieces, tail


def _completion(reply: Reply, request: ChatRequest, text: str) -> dict[str, object]:
    calls = [
        _ToolCall(index=0, id=call.id, type="function", function=_Function(call.name, call.arguments))
        for call in reply.tool_calls
    ]
    message = _Delta(role="assistant", content=text if reply.text or not calls else None, tool_calls=calls or None)
    message.reasoning_content = reply.thinking or None
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else reply.finish_reason}
    usage = {"usage": words_and_chunks(reply, request, text)} if reply.usage else {}
    return {"id": "chatcmpl-1", "object": "chat.completion", "model": request.model, "choices": [choice], **usage}


def words_and_chunks(reply: Reply, request: ChatRequest, text: str) -> dict[str, int]:
    """Counts words for the prompt and chunks for the reply: tests can foretell both."""
    prompt = sum(len(words_of(message.content or "").split()) for message in request.messages)
    completion = sum(1 for _ in split_text(text, reply.chunks))
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _event(data: dict[str, object]) -> bytes:
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


def _framed(piece: bytes, reply: Reply) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece) if reply.chunked and piece else piece


def _stream_head(reply: Reply) -> bytes:
    framing = "transfer-encoding: chunked" if reply.chunked else "connection: close"
    return f"HTTP/1.1 200 OK\r\ncontent-type: {reply.content_type}\r\n{framing}\r\n\r\n".encode()


def json_response(status: int, body: object, retry_after: str | None = None) -> bytes:
    payload = msgspec.json.encode(body)
    extra = f"retry-after: {retry_after}\r\n" if retry_after is not None else ""
    head = f"HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {len(payload)}\r\n{extra}\r\n"
    return head.encode() + payload


@asynccontextmanager
async def fake_model_server(
    *, port: int = 0, api_key: str = "", default: Reply | None = None
) -> AsyncGenerator[FakeModelServer]:
    """Serve on loopback until the block ends; then every connection is cut."""
    async with serving(FakeModelServer(api_key=api_key, default=default), port) as server:
        yield server


@asynccontextmanager
async def serving(server: S, port: int = 0) -> AsyncGenerator[S]:
    """As `fake_model_server`, for a server of another kind."""
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
        server.port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, server.serve_connection, listeners)
        yield server
        nursery.cancel_scope.cancel()


async def _serve_forever(port: int, api_key: str, default: Reply) -> NoReturn:
    async with fake_model_server(port=port, api_key=api_key, default=default) as server:
        print(f"listening on {server.base_url}", flush=True)
        await trio.sleep_forever()
    raise AssertionError("unreachable")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--api-key", default="")
    parser.add_argument("--text")
    parser.add_argument("--chunks", type=int, default=5)
    parser.add_argument("--delay-s", type=float, default=0.0)
    parser.add_argument("--chunk-delay-s", type=float, default=0.0)
    given = parser.parse_args(arguments)
    default = Reply(text=given.text, chunks=given.chunks, delay_s=given.delay_s, chunk_delay_s=given.chunk_delay_s)
    trio.run(_serve_forever, given.port, given.api_key, default)


if __name__ == "__main__":
    main(sys.argv[1:])
