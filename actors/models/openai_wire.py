"""Chat completions (platform.openai.com/docs/api-reference/chat), as OpenAI and its imitators speak them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from .protocol import (
    ChatMessage,
    Finished,
    FinishReason,
    GenerationEvent,
    TextDelta,
    ThinkingDelta,
    Tool,
    ToolCallDelta,
    Usage,
)

CHARACTERS_PER_TOKEN = 4
"""For estimates only: what English comes to in today's tokenizers."""

_FINISH_REASONS: dict[str, FinishReason] = {
    "length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class Dialect(msgspec.Struct, frozen=True):
    """Where the servers differ in what they take."""

    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    has_stream_options: bool = True

    def adapted_to(self, refusal: str) -> Dialect | None:
        """Give the dialect that avoids what a server refused, None if it refused something else."""
        if self.limit_field == "max_tokens" and "max_completion_tokens" in refusal:
            return msgspec.structs.replace(self, limit_field="max_completion_tokens")
        if self.has_stream_options and "stream_options" in refusal:
            return msgspec.structs.replace(self, has_stream_options=False)
        return None


DEFAULT_DIALECT = Dialect()


def encode_request(
    model: str,
    messages: Iterable[ChatMessage],
    max_tokens: int | None,
    tools: Iterable[Tool] = (),
    dialect: Dialect = DEFAULT_DIALECT,
    extra: Mapping[str, object] | None = None,
) -> bytes:
    """Encode the body of a streaming request; `extra` are further members of it."""
    body: dict[str, object] = {"model": model, "messages": [_wire_message(m) for m in messages], "stream": True}
    if dialect.has_stream_options:
        body["stream_options"] = {"include_usage": True}
    if max_tokens is not None:
        body[dialect.limit_field] = max_tokens
    if functions := [{"type": "function", "function": tool} for tool in tools]:
        body["tools"] = functions
    body.update(extra or {})
    return msgspec.json.encode(body)


def _wire_message(message: ChatMessage) -> ChatMessage | dict[str, object]:
    if not message.tool_calls:
        return message  # its fields have the wire's names, and its defaults are left out
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in message.tool_calls
    ]
    return {"role": message.role, "content": message.content or None, "tool_calls": calls}


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    index: int | None = 0
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cost: float | None = None


class WireError(msgspec.Struct):
    """The `error` member; servers disagree on its shape, so nothing of it is relied on."""

    message: object = None
    type: object = None
    code: object = None
    n_prompt_tokens: object = None
    """llama.cpp's own, as the next, when a prompt is too long."""
    n_ctx: object = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    model: str | None = None
    error: WireError | str | None = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


class ErrorInAnswer(Exception):
    """The server said 200 and then sent an error object, or ended the answer with one."""

    def __init__(self, error: WireError) -> None:
        super().__init__(str(error.message))
        self.error = error


class AnswerReader:
    """Turns one completion, streamed or whole, into events, and keeps what can only be told at its end."""

    def __init__(self, *, backend: str, model: str, messages: Iterable[ChatMessage]) -> None:
        self._backend = backend
        self._model = model
        self._prompt_characters = sum(len(message.content) for message in messages)
        self._answer_characters = 0
        self._usage: _Usage | None = None
        self._finish_reason = ""
        self._has_tool_calls = False
        self.has_read_anything = False
        self.is_done = False
        """`[DONE]` was read."""

    @property
    def is_whole(self) -> bool:
        """The server said, in one way or the other, that the answer ends here."""
        return self.is_done or bool(self._finish_reason)

    def read(self, data: bytes) -> list[GenerationEvent]:
        """Read one chunk, or a whole completion.

        Raises: ErrorInAnswer; msgspec.DecodeError if it is neither
        """
        if self.is_done or data == b"[DONE]":
            self.is_done = True
            return []
        chunk = _decode_chunk(data)
        self.has_read_anything = self.has_read_anything or bool(chunk.choices)
        if chunk.error is not None:
            raise ErrorInAnswer(chunk.error if isinstance(chunk.error, WireError) else WireError(message=chunk.error))
        if chunk.usage is not None:
            self._usage = chunk.usage
        if chunk.model:
            self._model = chunk.model
        events: list[GenerationEvent] = []
        for choice in chunk.choices or ():
            if not choice.index:
                self._read_choice(choice, events)
        return events

    def _read_choice(self, choice: _Choice, events: list[GenerationEvent]) -> None:
        delta = choice.delta or choice.message
        if delta is not None:
            if thinking := delta.reasoning_content or delta.reasoning:
                self._answer_characters += len(thinking)
                events.append(ThinkingDelta(thinking))
            if text := delta.content or delta.refusal:
                self._answer_characters += len(text)
                events.append(TextDelta(text))
            for position, call in enumerate(delta.tool_calls or ()):
                events.append(self._read_tool_call(position, call))
        if choice.finish_reason:
            if choice.finish_reason == "error":
                raise ErrorInAnswer(WireError(message="the model failed in the middle of its answer"))
            self._finish_reason = choice.finish_reason

    def _read_tool_call(self, position: int, call: _ToolCall) -> ToolCallDelta:
        self._has_tool_calls = True
        function = call.function or _Function()
        name, arguments = function.name or "", function.arguments or ""
        self._answer_characters += len(name) + len(arguments)
        return ToolCallDelta(position if call.index is None else call.index, call.id or "", name, arguments)

    def closing_events(self) -> list[GenerationEvent]:
        """Say what the answer took and why it ended."""
        return [self._count(), Finished(self._reason())]

    def _reason(self) -> FinishReason:
        reason = _FINISH_REASONS.get(self._finish_reason, "stop")
        # some servers end a tool call with "stop"
        return "tool_calls" if reason == "stop" and self._has_tool_calls else reason

    def _count(self) -> Usage:
        told = self._usage
        if told is None or told.prompt_tokens is None or told.completion_tokens is None:
            given = math.ceil(self._prompt_characters / CHARACTERS_PER_TOKEN)
            made = math.ceil(self._answer_characters / CHARACTERS_PER_TOKEN)
            return Usage(given, made, given + made, self._model, self._backend, estimated=True)
        total = told.total_tokens
        if total is None:
            total = told.prompt_tokens + told.completion_tokens
        return Usage(
            told.prompt_tokens, told.completion_tokens, total, self._model, self._backend, cost_usd=told.cost or 0.0
        )
