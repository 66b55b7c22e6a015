"""A model server that speaks Anthropic's Messages API, and refuses what the real one refuses.

    async with fake_anthropic_server(api_key="sk-ant-1") as server:
        server.script(Reply(thinking="Hm.", tool_calls=(ToolCall("look", '{"q": 1}'),)))     # as model_server.Reply
        server.address, server.bodies[-1], …

Thinking has the signature `SIGNATURE`; `raw=sse(event, …)` says anything else.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec

from .model_server import ChatRequest, FakeModelServer, Reply, serving, split_text, words_and_chunks

SIGNATURE = "sig-of-the-thought"
CACHE_READ_TOKENS = 3
"""Of the prompt: they are not in `input_tokens`."""


class _Block(msgspec.Struct):
    type: str
    id: str = ""
    tool_use_id: str = ""
    text: str = "-"
    signature: str = ""


class _Turn(msgspec.Struct):
    role: str
    content: list[_Block]


class _Request(msgspec.Struct):
    model: str
    max_tokens: int
    messages: list[_Turn]
    stream: bool = False
    thinking: dict[str, object] | None = None


class FakeAnthropicServer(FakeModelServer):
    chat_path = "/v1/messages"
    models_path = "/v1/models"

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def is_let_in(self, headers: dict[str, str]) -> bool:
        return not self.api_key or headers.get("x-api-key") == self.api_key

    def models(self) -> object:
        return {"data": [{"type": "model", "id": "claude"}], "has_more": False}

    def error_body(self, error: object) -> object:
        return {"type": "error", "error": error, "request_id": "req_1"}

    def refusal(self, headers: dict[str, str], body: bytes) -> str:
        if headers.get("anthropic-version") != "2023-06-01":
            return "anthropic-version: header is required"
        try:
            request = msgspec.json.decode(body, type=_Request)
        except msgspec.ValidationError as error:
            return str(error)
        return _refusal_of_turns(request) or _refusal_of_thinking(request)

    def pieces(self, reply: Reply, request: ChatRequest, text: str) -> tuple[list[bytes], list[bytes], list[bytes]]:
        counted = words_and_chunks(reply, request, text)
        usage = {
            "input_tokens": counted["prompt_tokens"],
            "cache_read_input_tokens": CACHE_READ_TOKENS,
            "cache_creation_input_tokens": 0,
            "output_tokens": 1,
        }
        content: list[object] = []
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": request.model, "content": content}
        head = [event("message_start", message={**message, "stop_reason": None, "usage": usage}), event("ping")]
        pieces: list[bytes] = []
        index = 0
        if reply.thinking:
            pieces += _block(index, {"type": "thinking", "thinking": "", "signature": ""}, [
                *({"type": "thinking_delta", "thinking": part} for part in split_text(reply.thinking, 2)),
                {"type": "signature_delta", "signature": SIGNATURE},
            ])  # fmt: skip
            index += 1
        if not reply.tool_calls or reply.text:
            deltas = [{"type": "text_delta", "text": part} for part in split_text(text, reply.chunks)]
            pieces += _block(index, {"type": "text", "text": ""}, deltas)
            index += 1
        for number, call in enumerate(reply.tool_calls, index):
            arguments = "" if call.arguments == "{}" else call.arguments
            parts = ["", *split_text(arguments, 2)]
            start: dict[str, object] = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
            pieces += _block(number, start, [{"type": "input_json_delta", "partial_json": part} for part in parts])
        reason = "tool_use" if reply.tool_calls else {"stop": "end_turn"}.get(reply.finish_reason or "", "max_tokens")
        delta = {"stop_reason": reason, "stop_sequence": None}
        tail = [event("message_delta", delta=delta, usage={"output_tokens": counted["completion_tokens"]})]
        return head, pieces, [*tail, *([event("message_stop")] if reply.done else [])]


def _refusal_of_turns(request: _Request) -> str:
    roles = [turn.role for turn in request.messages]
    if any(role not in ("user", "assistant") for role in roles) or roles[:1] != ["user"]:
        return f"messages: Unexpected roles {roles}"
    called: set[str] = set()
    for number, turn in enumerate(request.messages):
        if any(block.type == "text" and not block.text for block in turn.content):
            return "messages: text content blocks must be non-empty"
        results = {block.tool_use_id for block in turn.content if block.type == "tool_result"}
        if results != called:
            return f"messages.{number}: `tool_use` ids were found without `tool_result` blocks immediately after"
        called = {block.id for block in turn.content if block.type == "tool_use"}
    return ""


def _refusal_of_thinking(request: _Request) -> str:
    thinking = request.thinking
    if thinking is None or thinking.get("type") != "enabled":
        return ""
    budget = thinking.get("budget_tokens")
    if not isinstance(budget, int) or not 1024 <= budget < request.max_tokens:
        return "`max_tokens` must be greater than `thinking.budget_tokens`"
    last = request.messages[-2] if len(request.messages) > 1 else None
    has_results = any(block.type == "tool_result" for block in request.messages[-1].content)
    if has_results and last is not None and last.content[0].type not in ("thinking", "redacted_thinking"):
        return "Expected `thinking` or `redacted_thinking`, but found `tool_use`"
    return ""


def _block(index: int, start: dict[str, object], deltas: list[dict[str, str]]) -> list[bytes]:
    return [
        event("content_block_start", index=index, content_block=start),
        *(event("content_block_delta", index=index, delta=delta) for delta in deltas),
        event("content_block_stop", index=index),
    ]


def event(kind: str, **members: object) -> bytes:
    """One event as it stands on the wire."""
    return f"event: {kind}\ndata: ".encode() + msgspec.json.encode({"type": kind, **members}) + b"\n\n"


def sse(*events: bytes) -> tuple[str, ...]:
    """The `raw` of a Reply."""
    return tuple(piece.decode("latin-1") for piece in events)


@asynccontextmanager
async def fake_anthropic_server(
    *, api_key: str = "", default: Reply | None = None
) -> AsyncGenerator[FakeAnthropicServer]:
    """Serve on loopback until the block ends; then every connection is cut."""
    async with serving(FakeAnthropicServer(api_key=api_key, default=default)) as server:
        yield server
