"""Chat completions (platform.openai.com/docs/api-reference/chat), as OpenAI and its imitators speak them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
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
from .sse import EventDecoder, EventTooLarge
from .wire_error import ErrorInAnswer, WireError, counted

CHARACTERS_PER_TOKEN = 4
"""For estimates only: what English comes to in today's tokenizers."""

WHOLE_ANSWER_LIMIT_BYTES = 16 * 1024 * 1024

NO_SIGNATURE = "skip_thought_signature_validator"
"""For a call that has none, as another model made it (ai.google.dev/gemini-api/docs/thought-signatures)."""

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
    wants_signatures: bool = False
    """Gemini 3 refuses calls of tools without the signature that it gave to the first of them."""

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
    *,
    backend: str = "",
    pictures: Pictures = NO_PICTURES,
) -> bytes:
    """Encode the body of a streaming request; `extra` are further members of it."""
    wire_messages = [_wire_message(message, dialect, backend, pictures) for message in messages]
    body: dict[str, object] = {"model": model, "messages": wire_messages, "stream": True}
    if dialect.has_stream_options:
        body["stream_options"] = {"include_usage": True}
    if max_tokens is not None:
        body[dialect.limit_field] = max_tokens
    if functions := [{"type": "function", "function": tool} for tool in tools]:
        body["tools"] = functions
    body.update(extra or {})
    return msgspec.json.encode(body)


def _wire_message(
    message: ChatMessage, dialect: Dialect, backend: str, pictures: Pictures
) -> ChatMessage | dict[str, object]:
    if message.tool_calls:
        calls = _wire_calls(message, dialect, backend)
        return {"role": message.role, "content": message.content or None, "tool_calls": calls}
    if message.images:
        images, text = shown(message, pictures)
        urls = [f"data:{image.media_type};base64,{image.data}" for image in images]
        parts: list[dict[str, object]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        return {"role": message.role, "content": [{"type": "text", "text": text}, *parts]}
    if message.thoughts:
        return {"role": message.role, "content": message.content}
    return message  # its fields have the wire's names, and its defaults are left out


def _wire_calls(message: ChatMessage, dialect: Dialect, backend: str) -> list[dict[str, object]]:
    calls: list[dict[str, object]] = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in message.tool_calls
    ]
    if dialect.wants_signatures:
        signature = next((thought.signature for thought in message.thoughts if thought.backend == backend), None)
        calls[0]["extra_content"] = {"google": {"thought_signature": signature or NO_SIGNATURE}}
    return calls


class CompletionDecoder:
    """Cuts a stream into its events, or takes the whole of a body that is none: what comes tells which."""

    def __init__(self) -> None:
        self._events = EventDecoder()
        self._body: bytearray | None = None
        self._has_begun = False

    def feed(self, received: bytes) -> list[bytes]:
        """Decode what `received` completes.

        Raises: EventTooLarge
        """
        if not self._has_begun:
            self._has_begun = True
            if received.lstrip().startswith(b"{"):
                self._body = bytearray()
        if self._body is None:
            return self._events.feed(received)
        self._body += received
        if len(self._body) > WHOLE_ANSWER_LIMIT_BYTES:
            raise EventTooLarge(f"an answer of more than {WHOLE_ANSWER_LIMIT_BYTES} bytes")
        return []

    def finish(self) -> list[bytes]:
        return self._events.finish() if self._body is None else [bytes(self._body)]


class _Google(msgspec.Struct):
    thought_signature: str | None = None


class _ExtraContent(msgspec.Struct):
    google: _Google | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None
    extra_content: _ExtraContent | None = None


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


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    model: str | None = None
    error: WireError | str | None = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


class AnswerReader:
    """Turns one completion, streamed or whole, into events, and keeps what can only be told at its end."""

    def __init__(self, *, backend: str, model: str, messages: Sequence[ChatMessage]) -> None:
        self._backend = backend
        self._model = model
        self._messages = messages
        self._answer_characters = 0
        self._usage: _Usage | None = None
        self._finish_reason = ""
        self._calls: dict[int, tuple[int, str]] = {}
        """By the server's number of a call, ours and its id."""
        self._calls_made = 0
        self.has_read_anything = False
        self.is_done = False
        """`[DONE]` was read."""

    @property
    def is_whole(self) -> bool:
        """The server said, in one way or the other, that the answer ends here."""
        return self.is_done or bool(self._finish_reason)

    def read(self, data: bytes) -> list[GenerationEvent]:
        """Read one chunk, or a whole completion.

        Raises: ErrorInAnswer; UNREADABLE if it is neither
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
                extra = call.extra_content
                if extra is not None and extra.google is not None and extra.google.thought_signature:
                    events.append(Thought("", extra.google.thought_signature, self._backend))
        if choice.finish_reason:
            if choice.finish_reason == "error":
                raise ErrorInAnswer(WireError(message="the model failed in the middle of its answer"))
            self._finish_reason = choice.finish_reason

    def _read_tool_call(self, position: int, call: _ToolCall) -> ToolCallDelta:
        function = call.function or _Function()
        name, arguments = function.name or "", function.arguments or ""
        self._answer_characters += len(name) + len(arguments)
        number = self._number_of(position if call.index is None else call.index, call.id or "", is_named=bool(name))
        return ToolCallDelta(number, call.id or "", name, arguments)

    def _number_of(self, number: int, call_id: str, *, is_named: bool) -> int:
        """Tell calls apart that have the same number but another id and a name: some servers number every call 0."""
        known = self._calls.get(number)
        if known is not None and (not is_named or not call_id or call_id == known[1]):
            return known[0]
        self._calls[number] = (self._calls_made, call_id)
        self._calls_made += 1
        return self._calls_made - 1

    def closing_events(self) -> list[GenerationEvent]:
        """Say what the answer took and why it ended."""
        return [self._count(), Finished(self._reason())]

    def _reason(self) -> FinishReason:
        reason = _FINISH_REASONS.get(self._finish_reason, "stop")
        # some servers end a tool call with "stop"
        return "tool_calls" if reason == "stop" and self._calls else reason

    def _count(self) -> Usage:
        told = self._usage
        given, made = counted(told and told.prompt_tokens), counted(told and told.completion_tokens)
        if told is None or given is None or made is None:
            return estimated_usage(self._messages, self._answer_characters, self._model, self._backend)
        total = counted(told.total_tokens)
        if total is None:
            total = given + made
        return Usage(given, made, total, self._model, self._backend, cost_usd=max(0.0, told.cost or 0.0))


def estimated_usage(messages: Iterable[ChatMessage], answer_characters: int, model: str, backend: str) -> Usage:
    """Guess what an answer took, where nobody counted."""
    given = math.ceil(sum(len(message.content) for message in messages) / CHARACTERS_PER_TOKEN)
    made = math.ceil(answer_characters / CHARACTERS_PER_TOKEN)
    return Usage(given, made, given + made, model, backend, estimated=True)
