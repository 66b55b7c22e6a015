"""The JSON lines that command-line agents print, read: what is the answer in them, and what it took."""

from __future__ import annotations

from typing import Protocol

import msgspec

from .protocol import GenerationEvent, TextDelta, ThinkingDelta
from .wire_error import counted


class Report:
    """What a program has said so far, besides its answer."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.input_tokens = 0
        self.output_tokens = 0
        self.cost_usd = 0.0
        self.has_counted = False
        self.has_answered = False
        """What it said can be all of its answer."""
        self.is_over = False
        """It said that nothing follows."""
        self.failure = ""

    def count(self, input_tokens: int, output_tokens: int, cost_usd: float = 0.0) -> None:
        given, made = counted(input_tokens), counted(output_tokens)
        if given is None or made is None:
            return
        self.has_counted = True
        self.input_tokens += given
        self.output_tokens += made
        self.cost_usd += max(0.0, cost_usd)


class LineReader(Protocol):
    """Reads the lines of one run."""

    def read(self, line: bytes) -> list[GenerationEvent]:
        """Raises: UNREADABLE if it is no JSON object of the program's"""
        ...


class _Failure(msgspec.Struct):
    message: str = ""
    name: str = ""
    data: _Failure | None = None

    def __str__(self) -> str:
        return (self.data and self.data.message) or self.message or self.name or "it did not say why"


# Claude Code: code.claude.com/docs/en/headless (stream-json), …/cli-reference


class _ClaudeDelta(msgspec.Struct):
    type: str = ""
    text: str = ""
    thinking: str = ""


class _ClaudeEvent(msgspec.Struct):
    type: str = ""
    delta: _ClaudeDelta | None = None


class _ClaudeUsage(msgspec.Struct):
    input_tokens: int = 0
    cache_creation_input_tokens: int | None = 0
    cache_read_input_tokens: int | None = 0
    output_tokens: int = 0


class _ClaudeLine(msgspec.Struct):
    type: str
    model: str = ""
    event: _ClaudeEvent | None = None
    is_error: bool = False
    result: str | None = None
    subtype: str = ""
    total_cost_usd: float | None = 0.0
    usage: _ClaudeUsage | None = None


class ClaudeLines:
    def __init__(self, report: Report) -> None:
        self._report = report
        self._has_said_anything = False

    def read(self, line: bytes) -> list[GenerationEvent]:
        said = msgspec.json.decode(line, type=_ClaudeLine)
        if said.type == "system" and said.model:
            self._report.model = said.model
        elif said.type == "stream_event" and said.event is not None and said.event.delta is not None:
            return self._read_delta(said.event.delta)
        elif said.type == "result":
            return self._read_result(said)
        return []

    def _read_delta(self, delta: _ClaudeDelta) -> list[GenerationEvent]:
        if delta.text:
            self._has_said_anything = True
            return [TextDelta(delta.text)]
        return [ThinkingDelta(delta.thinking)] if delta.thinking else []

    def _read_result(self, said: _ClaudeLine) -> list[GenerationEvent]:
        if (usage := said.usage) is not None:
            cached = (usage.cache_creation_input_tokens or 0) + (usage.cache_read_input_tokens or 0)
            self._report.count(usage.input_tokens + cached, usage.output_tokens, said.total_cost_usd or 0.0)
        self._report.is_over = True
        if said.is_error:
            self._report.failure = said.result or said.subtype
            return []
        self._report.has_answered = True
        return [TextDelta(said.result)] if said.result and not self._has_said_anything else []


# Codex: developers.openai.com/codex/noninteractive, openai/codex codex-rs/exec/src/exec_events.rs


class _CodexItem(msgspec.Struct):
    type: str = ""
    text: str = ""


class _CodexUsage(msgspec.Struct):
    input_tokens: int = 0
    output_tokens: int = 0


class _CodexLine(msgspec.Struct):
    type: str
    item: _CodexItem | None = None
    usage: _CodexUsage | None = None
    error: _Failure | None = None
    message: str = ""


class CodexLines:
    def __init__(self, report: Report) -> None:
        self._report = report
        self._has_said_anything = False

    def read(self, line: bytes) -> list[GenerationEvent]:
        said = msgspec.json.decode(line, type=_CodexLine)
        match said.type:
            case "item.completed" if said.item is not None:
                return self._read_item(said.item)
            case "turn.completed":
                usage = said.usage or _CodexUsage()
                self._report.count(usage.input_tokens, usage.output_tokens)
                self._report.has_answered, self._report.is_over, self._report.failure = True, True, ""
            case "turn.failed":
                self._report.is_over, self._report.failure = True, str(said.error)
            case "error":
                self._report.failure = said.message  # it may still connect again, and complete the turn
            case _:
                pass
        return []

    def _read_item(self, item: _CodexItem) -> list[GenerationEvent]:
        """Read a message, which comes whole; it may say several before it is done."""
        if item.type == "reasoning":
            return [ThinkingDelta(item.text)]
        if item.type != "agent_message" or not item.text:
            return []
        text = f"\n\n{item.text}" if self._has_said_anything else item.text
        self._has_said_anything = True
        return [TextDelta(text)]


# Gemini CLI: geminicli.com/docs/cli/headless, google-gemini/gemini-cli packages/core/src/output/types.ts


class _GeminiStats(msgspec.Struct):
    input_tokens: int = 0
    output_tokens: int = 0


class _GeminiLine(msgspec.Struct):
    type: str
    model: str = ""
    role: str = ""
    content: str = ""
    status: str = ""
    error: _Failure | None = None
    stats: _GeminiStats | None = None


class GeminiLines:
    def __init__(self, report: Report) -> None:
        self._report = report

    def read(self, line: bytes) -> list[GenerationEvent]:
        said = msgspec.json.decode(line, type=_GeminiLine)
        match said.type:
            case "init":
                self._report.model = said.model or self._report.model
            case "message" if said.role == "assistant" and said.content:
                return [TextDelta(said.content)]
            case "result":
                if said.stats is not None:
                    self._report.count(said.stats.input_tokens, said.stats.output_tokens)
                self._report.is_over = True
                self._report.has_answered = said.status == "success"
                self._report.failure = "" if self._report.has_answered else str(said.error or _Failure())
            case _:
                pass
        return []


# opencode: opencode.ai/docs/cli, anomalyco/opencode packages/opencode/src/cli/cmd/run.ts


class _OpencodeCache(msgspec.Struct):
    read: int = 0
    write: int = 0


class _OpencodeTokens(msgspec.Struct):
    input: int = 0
    output: int = 0
    reasoning: int = 0
    cache: _OpencodeCache = msgspec.field(default_factory=_OpencodeCache)


class _OpencodePart(msgspec.Struct):
    text: str = ""
    cost: float = 0.0
    tokens: _OpencodeTokens | None = None


class _OpencodeLine(msgspec.Struct):
    type: str
    part: _OpencodePart | None = None
    error: _Failure | None = None


class OpencodeLines:
    """Its last lines may be missing (anomalyco/opencode#26855), so an orderly end with an answer is the end."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def read(self, line: bytes) -> list[GenerationEvent]:
        said = msgspec.json.decode(line, type=_OpencodeLine)
        if said.type == "error":
            self._report.failure = str(said.error)
        self._report.is_over = said.type == "done"
        part = said.part
        if part is None:
            return []
        if said.type == "step_finish" and (tokens := part.tokens) is not None:
            given = tokens.input + tokens.cache.read + tokens.cache.write
            self._report.count(given, tokens.output + tokens.reasoning, part.cost)
        if not part.text:
            return []
        if said.type == "reasoning":
            return [ThinkingDelta(part.text)]
        if said.type != "text":
            return []
        text = f"\n\n{part.text}" if self._report.has_answered else part.text
        self._report.has_answered = True
        return [TextDelta(text)]
