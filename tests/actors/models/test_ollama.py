"""Ollama asked in its own way."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from pocketpaw.actors.models.connections import Connections
from pocketpaw.actors.models.errors import (
    ModelInterrupted,
    ModelMalformedAnswer,
    ModelMisconfigured,
    ModelUnreachable,
)
from pocketpaw.actors.models.ollama import Ollama
from pocketpaw.actors.models.ollama_wire import PullLine
from pocketpaw.actors.models.protocol import (
    ChatMessage,
    Finished,
    Generate,
    GenerationEvent,
    TextDelta,
    ThinkingDelta,
    Tool,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from pocketpaw.actors.models.server_backend import Limits

from ...fakes.model_server import Reply
from ...fakes.model_server import ToolCall as FakeToolCall
from ...fakes.ollama_server import FakeOllamaServer, fake_ollama_server

HELLO = Generate(messages=(ChatMessage("system", "Be kind."), ChatMessage("user", "hello there")))
LOOK = Tool("look", "Look it up.", {"type": "object"})
PNG = b"\x89PNG\r\n\x1a\n..."


class Meeting:
    def __init__(self, server: FakeOllamaServer, backend: Ollama) -> None:
        self.server = server
        self.backend = backend

    async def ask(self, request: Generate = HELLO) -> list[GenerationEvent]:
        return [event async for event in self.backend.generate(request)]

    def last_body(self) -> dict[str, object]:
        return json.loads(self.server.bodies[-1])


@asynccontextmanager
async def meeting(*replies: Reply, context_tokens: int = 0, retries: int = 0) -> AsyncGenerator[Meeting]:
    async with fake_ollama_server(models=["llama3.2:latest", "qwen3:4b"]) as server, Connections() as client:
        server.script(*replies)
        backend = Ollama(
            name="ollama",
            base_url=f"{server.address}/v1",  # as it is often written, for its other wire
            model="llama3.2",
            client=client,
            context_tokens=context_tokens,
            limits=Limits(retries=retries),
        )
        yield Meeting(server, backend)


async def test_an_answer_streams_with_its_thoughts_and_ends_with_what_it_took() -> None:
    async with meeting(Reply(thinking="Hm.", text="Yes, yes.", chunks=2)) as met:
        events = await met.ask(msgspec.structs.replace(HELLO, max_tokens=70))
        assert events == [
            ThinkingDelta("H"),
            ThinkingDelta("m."),
            TextDelta("Yes,"),
            TextDelta(" yes."),
            Usage(4, 2, 6, "llama3.2", "ollama"),
            Finished("stop"),
        ]
        assert met.last_body() == {
            "model": "llama3.2",
            "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hello there"}],
            "stream": True,
            "options": {"num_predict": 70},
        }


async def test_tools_and_their_results_are_named_and_calls_without_ids_get_some(tmp_path: Path) -> None:
    calls = (FakeToolCall("look", '{"q": 1}'), FakeToolCall("look", "{}"))
    (tmp_path / "a.png").write_bytes(PNG)
    messages = (
        ChatMessage("user", "look", images=(str(tmp_path / "a.png"),)),
        ChatMessage("assistant", "", tool_calls=(ToolCall("c1", "look", '{"q": 1}'),)),
        ChatMessage("tool", "found", tool_call_id="c1"),
    )
    async with meeting(Reply(tool_calls=calls), context_tokens=9000) as met:
        events = await met.ask(Generate(messages=messages, tools=(LOOK,)))
        body = met.last_body()
    first, second = (event for event in events if isinstance(event, ToolCallDelta))
    assert (first.index, first.name, json.loads(first.arguments)) == (0, "look", {"q": 1})
    assert (second.index, second.arguments) == (1, "{}")
    assert first.id != second.id
    assert events[-1] == Finished("tool_calls")
    assert body["options"] == {"num_ctx": 9000}
    assert body["tools"] == [{"type": "function", "function": msgspec.to_builtins(LOOK)}]
    assert body["messages"] == [
        {"role": "user", "content": "look", "images": ["iVBORw0KGgouLi4="]},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c1", "function": {"name": "look", "arguments": {"q": 1}}}],
        },
        {"role": "tool", "content": "found", "tool_name": "look"},
    ]


async def test_a_model_that_takes_no_tools_is_not_offered_them_again() -> None:
    refusal = Reply(status=400, error="registry.ollama.ai/library/gemma:2b does not support tools")
    async with meeting(refusal) as met:
        for _ in range(2):
            assert isinstance((await met.ask(Generate(messages=HELLO.messages, tools=(LOOK,))))[0], TextDelta)
            assert "tools" not in met.last_body()
        assert met.server.chats == 3


async def test_what_nobody_counted_is_estimated_and_a_full_window_is_a_length() -> None:
    async with meeting(Reply(text="x" * 40, usage=False, finish_reason="length")) as met:
        events = await met.ask()
    assert events[-2:] == [Usage(5, 10, 15, "llama3.2", "ollama", estimated=True), Finished("length")]


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        (Reply(status=404, error="model 'llama3.2' not found"), ModelMisconfigured),
        (Reply(status=500, error="out of memory"), ModelUnreachable),
        (Reply(raw=('{"error":"out of memory"}\n',)), ModelUnreachable),
        (Reply(raw=("what?\n",)), ModelMalformedAnswer),
        (Reply(done=False), ModelInterrupted),
        (Reply(raw=('{"message":{"content":"So"}}\n', '{"error":"gone"}\n')), ModelInterrupted),
    ],
)
async def test_what_goes_wrong_has_its_name(reply: Reply, failure: type[Exception]) -> None:
    async with meeting(reply) as met:
        with pytest.raises(failure):
            await met.ask()


async def test_a_check_says_which_model_is_missing_and_how_to_get_it() -> None:
    async with meeting() as met:
        await met.backend.check()
        met.server.names = ["llama3.2:1b"]
        with pytest.raises(ModelMisconfigured, match=r"does not have 'llama3\.2' yet: run `ollama pull llama3\.2`"):
            await met.backend.check()
        assert met.server.chats == 0


async def test_a_pull_tells_how_far_it_is() -> None:
    async with meeting() as met:
        met.server.pulls = [
            '{"status":"pulling manifest"}',
            '{"status":"pulling abc","digest":"sha256:abc","total":100,"completed":40}',
            '{"status":"success"}',
        ]
        lines = [line async for line in met.backend.pull()]
        assert json.loads(met.server.pull_bodies[0]) == {"model": "llama3.2", "stream": True}
    assert lines == [PullLine("pulling manifest"), PullLine("pulling abc", 100, 40), PullLine("success")]


@pytest.mark.parametrize(
    ("line", "failure"),
    [
        ('{"error":"no such model"}', ModelUnreachable),
        ("?", ModelMalformedAnswer),
        (f'{{"completed":{10**400},"total":1}}', ModelMalformedAnswer),
        (f'{{"x":{"[" * 5000}{"]" * 5000}}}', ModelMalformedAnswer),
        (f'{{"status":"{"x" * 5_000_000}"}}', ModelMalformedAnswer),
    ],
)
async def test_a_pull_that_fails_says_why(line: str, failure: type[Exception]) -> None:
    async with meeting() as met:
        met.server.pulls = [line]
        with pytest.raises(failure):
            async for _ in met.backend.pull():
                pass


def test_arguments_with_too_many_brackets_are_passed_on_as_a_text() -> None:
    """A model wrote them, and all of the history is encoded with each question."""
    arguments = '{"a": ' + "[" * 5000 + "]" * 5000 + "}"
    assert ToolCall("1", "look", arguments).parsed() == {"not_a_json_object": arguments}
