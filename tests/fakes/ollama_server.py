"""An Ollama server: chats, tags and pulls as JSON lines.

async with fake_ollama_server(models=["llama3.2:latest"]) as server:
    server.script(Reply(tool_calls=(…,)))      # as model_server.Reply
    server.pulls = ['{"status":"pulling manifest"}', …]
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager

import msgspec
import trio

from .model_server import (
    ChatRequest,
    Connection,
    FakeModelServer,
    Reply,
    serving,
    split_text,
    words_and_chunks,
)


class _Error(msgspec.Struct):
    message: str = ""


class FakeOllamaServer(FakeModelServer):
    chat_path = "/api/chat"
    models_path = "/api/tags"

    def __init__(self, *, default: Reply | None = None, models: Iterable[str] = ()) -> None:
        super().__init__(default=default)
        self.names = list(models)
        self.pulls = ['{"status":"success"}']
        """The lines with which a pull is answered."""
        self.pull_bodies: list[bytes] = []
        self.pull_gate: trio.Semaphore | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def models(self) -> object:
        return {"models": [{"name": name, "model": name, "size": 1} for name in self.names]}

    def error_body(self, error: object) -> object:
        return {"error": msgspec.convert(error, _Error).message if isinstance(error, dict) else error}

    def pieces(self, reply: Reply, request: ChatRequest, text: str) -> tuple[list[bytes], list[bytes], list[bytes]]:
        def line(**members: object) -> bytes:
            return (
                msgspec.json.encode({"model": request.model, "created_at": "2026-11-22T12:00:00Z", **members}) + b"\n"
            )

        def said(**message: object) -> bytes:
            return line(message={"role": "assistant", "content": "", **message}, done=False)

        pieces = [said(thinking=part) for part in split_text(reply.thinking, 2)]
        if not reply.tool_calls:
            pieces += [said(content=part) for part in split_text(text, reply.chunks)]
        calls = [
            {"function": {"index": number, "name": call.name, "arguments": msgspec.json.decode(call.arguments)}}
            for number, call in enumerate(reply.tool_calls)
        ]
        pieces += [said(tool_calls=[call]) for call in calls]
        counted = words_and_chunks(reply, request, text)
        usage = {"prompt_eval_count": counted["prompt_tokens"], "eval_count": counted["completion_tokens"]}
        end = line(done=True, done_reason=reply.finish_reason, **(usage if reply.usage else {}))
        return [], pieces, [end] if reply.done else []

    async def answer_other(self, connection: Connection, method: str, path: str, body: bytes) -> None:
        if path != "/api/pull":
            await super().answer_other(connection, method, path, body)
            return
        self.pull_bodies.append(body)
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\nconnection: close\r\n\r\n")
        for said in self.pulls:
            if self.pull_gate is not None:
                await self.pull_gate.acquire()
            await connection.send(said.encode() + b"\n")
        raise trio.ClosedResourceError  # the end of the body is the end of the connection


@asynccontextmanager
async def fake_ollama_server(
    *, default: Reply | None = None, models: Iterable[str] = ()
) -> AsyncGenerator[FakeOllamaServer]:
    """Serve on loopback until the block ends; then every connection is cut."""
    async with serving(FakeOllamaServer(default=default, models=models)) as server:
        yield server
