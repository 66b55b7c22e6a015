"""Ollama's own API (docs.ollama.com/api): chats and pulls, each a stream of JSON lines."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Annotated

import msgspec

from .images import NO_PICTURES, Pictures, shown
from .openai_wire import estimated_usage
from .protocol import (
    ChatMessage,
    Finished,
    GenerationEvent,
    TextDelta,
    ThinkingDelta,
    Tool,
    ToolCallDelta,
    Usage,
)
from .wire_error import ErrorInAnswer, WireError, counted

SIZE_LIMIT_BYTES = 2**53
"""No model is larger, and JSON's readers know no larger number for sure."""


def encode_request(
    model: str,
    messages: Sequence[ChatMessage],
    max_tokens: int | None,
    tools: Sequence[Tool] = (),
    *,
    context_tokens: int = 0,
    pictures: Pictures = NO_PICTURES,
) -> bytes:
    """Encode the body of a streaming request; without `context_tokens` the server decides how much it reads."""
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    wire_messages = [_wire_message(message, names, pictures) for message in messages]
    body: dict[str, object] = {"model": model, "messages": wire_messages, "stream": True}
    if functions := [{"type": "function", "function": tool} for tool in tools]:
        body["tools"] = functions
    options = {"num_predict": max_tokens, "num_ctx": context_tokens}
    if chosen := {name: value for name, value in options.items() if value}:
        body["options"] = chosen
    return msgspec.json.encode(body)


def _wire_message(message: ChatMessage, names: dict[str, str], pictures: Pictures) -> dict[str, object]:
    images, text = shown(message, pictures)
    wire: dict[str, object] = {"role": message.role, "content": text}
    if images:
        wire["images"] = [image.data for image in images]
    if message.role == "tool":
        wire["tool_name"] = names.get(message.tool_call_id or "", "")
    if message.tool_calls:
        wire["tool_calls"] = [
            {"id": call.id, "function": {"name": call.name, "arguments": call.parsed()}} for call in message.tool_calls
        ]
    return wire


class _Function(msgspec.Struct):
    name: str = ""
    arguments: dict[str, object] = {}


class _ToolCall(msgspec.Struct):
    id: str = ""
    function: _Function = msgspec.field(default_factory=_Function)


class _Message(msgspec.Struct):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Line(msgspec.Struct):
    model: str = ""
    message: _Message | None = None
    done: bool = False
    done_reason: str = ""
    prompt_eval_count: int | None = None
    eval_count: int | None = None
    error: str | WireError | None = None


class _Named(msgspec.Struct):
    name: str = ""


class _Tags(msgspec.Struct):
    models: list[_Named] | None = None


class PullLine(msgspec.Struct):
    """What a pull says of itself; the sizes are of the layer in hand, in bytes."""

    status: str = ""
    total: Annotated[int, msgspec.Meta(ge=0, le=SIZE_LIMIT_BYTES)] = 0
    completed: Annotated[int, msgspec.Meta(ge=0, le=SIZE_LIMIT_BYTES)] = 0
    error: str = ""


_decode_line = msgspec.json.Decoder(_Line).decode
decode_pull_line = msgspec.json.Decoder(PullLine).decode


def names_in_tags(body: bytes) -> set[str]:
    """Read the models that a server has.

    Raises: UNREADABLE
    """
    return {model.name for model in msgspec.json.decode(body, type=_Tags).models or ()}


class ChatReader:
    """Turns one streamed chat into events, and keeps what can only be told at its end."""

    def __init__(self, *, backend: str, model: str, messages: Sequence[ChatMessage]) -> None:
        self._backend = backend
        self._model = model
        self._messages = messages
        self._last = _Line()
        self._answer_characters = 0
        self._calls = 0
        self.has_read_anything = False

    @property
    def is_whole(self) -> bool:
        return self._last.done

    def read(self, data: bytes) -> list[GenerationEvent]:
        """Read one line.

        Raises: ErrorInAnswer; UNREADABLE if it is none
        """
        line = self._last = _decode_line(data)
        if line.error is not None:
            raise ErrorInAnswer(line.error if isinstance(line.error, WireError) else WireError(message=line.error))
        self._model = line.model or self._model
        message = line.message
        if message is None:
            return []
        self.has_read_anything = True
        events: list[GenerationEvent] = []
        if message.thinking:
            self._answer_characters += len(message.thinking)
            events.append(ThinkingDelta(message.thinking))
        if message.content:
            self._answer_characters += len(message.content)
            events.append(TextDelta(message.content))
        events.extend(map(self._read_tool_call, message.tool_calls or ()))
        return events

    def closing_events(self) -> list[GenerationEvent]:
        """Say what the answer took and why it ended."""
        reason = "length" if self._last.done_reason == "length" else "tool_calls" if self._calls else "stop"
        return [self._count(), Finished(reason)]

    def _read_tool_call(self, call: _ToolCall) -> ToolCallDelta:
        """Read a call, which comes whole, and from older servers without an id."""
        arguments = msgspec.json.encode(call.function.arguments).decode()
        self._answer_characters += len(call.function.name) + len(arguments)
        self._calls += 1
        call_id = call.id or f"call_{secrets.token_hex(6)}"
        return ToolCallDelta(self._calls - 1, call_id, call.function.name, arguments)

    def _count(self) -> Usage:
        given, made = counted(self._last.prompt_eval_count), counted(self._last.eval_count)
        if given is None or made is None:
            return estimated_usage(self._messages, self._answer_characters, self._model, self._backend)
        return Usage(given, made, given + made, self._model, self._backend)
