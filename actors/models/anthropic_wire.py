"""Anthropic's Messages API (platform.claude.com/docs/en/api/messages, …/build-with-claude/streaming)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from .images import NO_PICTURES, Pictures, shown
from .protocol import (
    ChatMessage,
    Finished,
    FinishReason,
    GenerationEvent,
    TextDelta,
    ThinkingDelta,
    Thought,
    Tool,
    ToolCallDelta,
    Usage,
)
from .wire_error import ErrorInAnswer, WireError, counted

Block = dict[str, object]

# …/build-with-claude/handling-stop-reasons; all others are a plain end
_FINISH_REASONS: dict[str, FinishReason] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}

_CACHED = {"type": "ephemeral"}
"""…/build-with-claude/prompt-caching: what stands up to here is the beginning of the next request too."""

_NOT_OF_AN_ID = re.compile(r"[^A-Za-z0-9_-]")
"""Calls that another model made may be numbered in a way that is refused here."""


class Thinking(msgspec.Struct, frozen=True):
    """How a model is asked to think: up to version 4.6 within a budget, from then on as it sees fit."""

    kind: Literal["off", "enabled", "adaptive"] = "off"
    budget_tokens: int = 0

    def adapted_to(self, refusal: str) -> Thinking | None:
        """Give what avoids a refusal (…/build-with-claude/extended-thinking), None if it was of something else."""
        if self.kind == "off" or "thinking" not in refusal or "support" not in refusal:
            return None
        if self.kind == "enabled" and "adaptive" in refusal:
            return Thinking("adaptive", self.budget_tokens)
        return Thinking()

    def encoded(self) -> Block:
        if self.kind == "enabled":
            return {"type": "enabled", "budget_tokens": self.budget_tokens}
        return {"type": "adaptive", "display": "summarized"}


NO_THINKING = Thinking()


def encode_request(
    model: str,
    messages: Sequence[ChatMessage],
    max_tokens: int,
    tools: Sequence[Tool] = (),
    *,
    backend: str = "",
    thinking: Thinking = NO_THINKING,
    pictures: Pictures = NO_PICTURES,
) -> bytes:
    """Encode the body of a streaming request. `max_tokens` is for the answer: what is thought comes on top."""
    turns = _turns(messages, backend, pictures)
    body: dict[str, object] = {"model": model, "max_tokens": max_tokens, "stream": True, "messages": turns}
    if system := "\n\n".join(message.content for message in messages if message.role == "system" and message.content):
        body["system"] = [{"type": "text", "text": system, "cache_control": _CACHED}]
    if functions := [_function(tool) for tool in tools]:
        functions[-1]["cache_control"] = _CACHED
        body["tools"] = functions
    if thinking.kind != "off" and _may_think(messages, backend):
        body["thinking"] = thinking.encoded()
        body["max_tokens"] = max_tokens + thinking.budget_tokens
    return msgspec.json.encode(body)


def _function(tool: Tool) -> Block:
    return {"name": tool.name, "description": tool.description, "input_schema": tool.parameters}


def _may_think(messages: Sequence[ChatMessage], backend: str) -> bool:
    """Whether it was thought before the calls whose results come now; if it was not, to begin now is refused."""
    has_results = False
    for message in reversed(messages):
        if message.role == "assistant":
            return not has_results or any(thought.backend == backend for thought in message.thoughts)
        has_results = has_results or message.role == "tool"
    return True


def _turns(messages: Iterable[ChatMessage], backend: str, pictures: Pictures) -> list[dict[str, object]]:
    """Write the messages as turns: the results of several calls belong into one, and roles alternate."""
    turns: list[tuple[str, list[Block]]] = []
    for message in messages:
        role = "assistant" if message.role == "assistant" else "user"
        blocks = [] if message.role == "system" else _blocks(message, backend, pictures)
        if not blocks:
            continue
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(blocks)
        else:
            turns.append((role, blocks))
    if turns and turns[-1][0] == "user":
        turns[-1][1][-1]["cache_control"] = _CACHED
    return [{"role": role, "content": blocks} for role, blocks in turns]


def _blocks(message: ChatMessage, backend: str, pictures: Pictures) -> list[Block]:
    if message.role == "tool":
        result: Block = {"type": "tool_result", "tool_use_id": _id(message.tool_call_id or "")}
        return [result | ({"content": message.content} if message.content else {})]
    images, text = shown(message, pictures)
    sources = [{"type": "base64", "media_type": image.media_type, "data": image.data} for image in images]
    return [
        *(_thought(thought) for thought in message.thoughts if thought.backend == backend),
        *({"type": "image", "source": source} for source in sources),
        *([{"type": "text", "text": text}] if text.strip() else []),  # an empty one is refused
        *(
            {"type": "tool_use", "id": _id(call.id), "name": call.name, "input": call.parsed()}
            for call in message.tool_calls
        ),
    ]


def _thought(thought: Thought) -> Block:
    if thought.is_redacted:
        return {"type": "redacted_thinking", "data": thought.signature}
    return {"type": "thinking", "thinking": thought.text, "signature": thought.signature}


def _id(call_id: str) -> str:
    return _NOT_OF_AN_ID.sub("_", call_id)


class _Block(msgspec.Struct):
    """A block as it starts, or what is added to one."""

    type: str = ""
    id: str = ""
    name: str = ""
    input: dict[str, object] | None = None
    text: str = ""
    thinking: str = ""
    signature: str = ""
    data: str = ""
    partial_json: str = ""
    stop_reason: str | None = None


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class _Message(msgspec.Struct):
    model: str = ""
    usage: _Usage | None = None


class _Event(msgspec.Struct):
    type: str
    index: int = 0
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Block | None = None
    usage: _Usage | None = None
    error: WireError | None = None


_decode_event = msgspec.json.Decoder(_Event).decode


class MessageReader:
    """Turns one streamed message into events, and keeps what can only be told at its end."""

    def __init__(self, *, backend: str, model: str) -> None:
        self._backend = backend
        self._model = model
        self._input_tokens = 0
        self._output_tokens = 0
        self._stop_reason = ""
        self._is_stopped = False
        self._block = _Block()
        """The one that is being written: they come one after the other."""
        self._calls = 0
        self.has_read_anything = False

    @property
    def is_whole(self) -> bool:
        return self._is_stopped or bool(self._stop_reason)

    def read(self, data: bytes) -> list[GenerationEvent]:
        """Read the data of one event; kinds that are not known are left out, as the API's versioning asks for.

        Raises: ErrorInAnswer; UNREADABLE if it is none
        """
        event = _decode_event(data)
        match event.type:
            case "content_block_start" if event.content_block is not None:
                return self._start(event.content_block)
            case "content_block_delta" if event.delta is not None:
                return self._add(event.delta)
            case "content_block_stop":
                return self._stop()
            case "message_start" if event.message is not None:
                self.has_read_anything = True
                self._model = event.message.model or self._model
                self._count(event.message.usage)
            case "message_delta":
                self._stop_reason = (event.delta and event.delta.stop_reason) or self._stop_reason
                self._count(event.usage)
            case "message_stop":
                self._is_stopped = True
            case "error":
                raise ErrorInAnswer(event.error or WireError(message="an error that is not named"))
            case _:
                pass
        return []

    def closing_events(self) -> list[GenerationEvent]:
        """Say what the answer took and why it ended."""
        total = self._input_tokens + self._output_tokens
        usage = Usage(self._input_tokens, self._output_tokens, total, self._model, self._backend)
        return [usage, Finished(_FINISH_REASONS.get(self._stop_reason, "stop"))]

    def _start(self, block: _Block) -> list[GenerationEvent]:
        self._block = block
        if block.type == "tool_use":
            self._calls += 1
            if block.input:
                block.partial_json = msgspec.json.encode(block.input).decode()
            return [ToolCallDelta(self._calls - 1, block.id, block.name, block.partial_json)]
        return [TextDelta(block.text)] if block.type == "text" and block.text else []

    def _add(self, delta: _Block) -> list[GenerationEvent]:
        block = self._block
        match delta.type:
            case "text_delta" if delta.text:
                return [TextDelta(delta.text)]
            case "thinking_delta" if delta.thinking:
                block.thinking += delta.thinking
                return [ThinkingDelta(delta.thinking)]
            case "signature_delta":
                block.signature += delta.signature
            case "input_json_delta" if delta.partial_json:
                block.partial_json += delta.partial_json
                return [ToolCallDelta(self._calls - 1, "", "", delta.partial_json)]
            case _:
                pass
        return []

    def _stop(self) -> list[GenerationEvent]:
        block, self._block = self._block, _Block()
        match block.type:
            case "thinking" if block.signature:
                return [Thought(block.thinking, block.signature, self._backend)]
            case "redacted_thinking":
                return [Thought("", block.data, self._backend, is_redacted=True)]
            case "tool_use" if not block.partial_json:
                return [ToolCallDelta(self._calls - 1, "", "", "{}")]
            case _:
                return []

    def _count(self, usage: _Usage | None) -> None:
        """Take the counts: those at the end are of the whole answer, and what was cached was read too."""
        if usage is None:
            return
        given, made = counted(usage.input_tokens), counted(usage.output_tokens)
        if given is not None:
            cached = (counted(usage.cache_creation_input_tokens) or 0) + (counted(usage.cache_read_input_tokens) or 0)
            self._input_tokens = given + cached
        if made is not None:
            self._output_tokens = made
