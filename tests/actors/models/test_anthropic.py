"""Anthropic's wire against a server that refuses what theirs refuses."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
from pocketpaw.actors.models.anthropic import Anthropic
from pocketpaw.actors.models.connections import Connections
from pocketpaw.actors.models.errors import (
    ModelCredentialRefused,
    ModelInterrupted,
    ModelMalformedAnswer,
    ModelOutOfCredit,
    ModelRefusedInput,
    ModelUnreachable,
    PromptTooLong,
)
from pocketpaw.actors.models.protocol import (
    ChatMessage,
    Finished,
    Generate,
    GenerationEvent,
    TextDelta,
    ThinkingDelta,
    Thought,
    Tool,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from pocketpaw.actors.models.server_backend import Limits
from pocketpaw.runtime.errors import PocketPawError

from ...fakes.anthropic_server import SIGNATURE, FakeAnthropicServer, event, fake_anthropic_server, sse
from ...fakes.model_server import Reply
from ...fakes.model_server import ToolCall as FakeToolCall

KEY = "sk-ant-canary-0123456789"
HELLO = Generate(messages=(ChatMessage("system", "Be kind."), ChatMessage("user", "hello there")))
LOOK = Tool("look", "Look it up.", {"type": "object", "properties": {"q": {"type": "string"}}})
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Meeting:
    """A fake server and a backend that talks to it."""

    def __init__(self, server: FakeAnthropicServer, backend: Anthropic) -> None:
        self.server = server
        self.backend = backend

    async def ask(self, request: Generate = HELLO) -> list[GenerationEvent]:
        return [event async for event in self.backend.generate(request)]

    def last_body(self) -> dict[str, object]:
        return json.loads(self.server.bodies[-1])


@asynccontextmanager
async def meeting(
    *replies: Reply, thinking_tokens: int = 0, max_tokens: int | None = None, limits: Limits | None = None
) -> AsyncGenerator[Meeting]:
    async with fake_anthropic_server(api_key=KEY) as server, Connections() as client:
        server.script(*replies)
        backend = Anthropic(
            name="anthropic",
            base_url=server.address,
            model="claude",
            client=client,
            api_key=KEY,
            max_tokens=max_tokens,
            thinking_tokens=thinking_tokens,
            limits=limits or Limits(),
        )
        with trio.fail_after(600):
            yield Meeting(server, backend)


def text_of(events: list[GenerationEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def test_an_answer_streams_and_its_usage_counts_what_was_cached() -> None:
    async with meeting() as met:
        events = await met.ask()
        assert [type(event) for event in events] == [TextDelta] * 5 + [Usage, Finished]
        assert text_of(events) == "echo: hello there"
        assert events[-2:] == [Usage(2 + 3, 5, 10, "claude", "anthropic"), Finished("stop")]
        assert met.server.headers[-1]["x-api-key"] == KEY
        assert "authorization" not in met.server.headers[-1]
        assert met.last_body() == {
            "model": "claude",
            "max_tokens": 8192,
            "stream": True,
            "system": [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}],
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "hello there", "cache_control": {"type": "ephemeral"}}],
                }
            ],
        }


async def test_several_results_become_one_turn_and_strange_ids_are_made_acceptable() -> None:
    messages = (
        ChatMessage("user", "look twice"),
        ChatMessage(
            "assistant", "", tool_calls=(ToolCall("a:1", "look", '{"q": "x"}'), ToolCall("b", "look", "not json"))
        ),
        ChatMessage("tool", "found", tool_call_id="a:1"),
        ChatMessage("tool", "", tool_call_id="b"),
    )
    async with meeting(max_tokens=100) as met:
        await met.ask(Generate(messages=messages, tools=(LOOK, LOOK), max_tokens=50))
        body = met.last_body()
    assert body["max_tokens"] == 50
    turns = msgspec.convert(body["messages"], list[dict[str, object]])
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert turns[1]["content"] == [
        {"type": "tool_use", "id": "a_1", "name": "look", "input": {"q": "x"}},
        {"type": "tool_use", "id": "b", "name": "look", "input": {"not_a_json_object": "not json"}},
    ]
    assert turns[2]["content"] == [
        {"type": "tool_result", "tool_use_id": "a_1", "content": "found"},
        {"type": "tool_result", "tool_use_id": "b", "cache_control": {"type": "ephemeral"}},
    ]
    function = {"name": "look", "description": "Look it up.", "input_schema": LOOK.parameters}
    assert body["tools"] == [function, {**function, "cache_control": {"type": "ephemeral"}}]


async def test_calls_come_in_pieces_and_one_without_arguments_has_an_empty_object() -> None:
    calls = (FakeToolCall("look", '{"q": "paw"}', "toolu_1"), FakeToolCall("now", "{}", "toolu_2"))
    async with meeting(Reply(text="Let me see.", tool_calls=calls)) as met:
        events = await met.ask(Generate(messages=HELLO.messages, tools=(LOOK,)))
    deltas = [event for event in events if isinstance(event, ToolCallDelta)]
    assert text_of(events) == "Let me see."
    assert [(delta.index, delta.id, delta.name) for delta in deltas if delta.id] == [
        (0, "toolu_1", "look"),
        (1, "toolu_2", "now"),
    ]
    assert "".join(delta.arguments for delta in deltas if delta.index == 0) == '{"q": "paw"}'
    assert "".join(delta.arguments for delta in deltas if delta.index == 1) == "{}"
    assert events[-1] == Finished("tool_calls")


async def test_thinking_is_told_kept_and_given_back_before_the_calls_that_it_led_to() -> None:
    async with meeting(Reply(thinking="Hm, well.", tool_calls=(FakeToolCall("look"),)), thinking_tokens=2000) as met:
        events = await met.ask(Generate(messages=HELLO.messages, tools=(LOOK,), max_tokens=500))
        assert met.last_body()["thinking"] == {"type": "enabled", "budget_tokens": 2000}
        assert met.last_body()["max_tokens"] == 2500
        assert "".join(event.text for event in events if isinstance(event, ThinkingDelta)) == "Hm, well."
        (thought,) = [event for event in events if isinstance(event, Thought)]
        assert thought == Thought("Hm, well.", SIGNATURE, "anthropic")
        said = ChatMessage(
            "assistant",
            "",
            tool_calls=(ToolCall("call_1", "look", "{}"),),
            thoughts=(
                thought,
                Thought("", "encrypted", "anthropic", is_redacted=True),
                Thought("", "not ours", "gemini"),
            ),
        )
        result = ChatMessage("tool", "found", tool_call_id="call_1")
        await met.ask(Generate(messages=(*HELLO.messages, said, result), tools=(LOOK,)))
        turns = msgspec.convert(met.last_body()["messages"], list[dict[str, object]])
        assert turns[1]["content"] == [
            {"type": "thinking", "thinking": "Hm, well.", "signature": SIGNATURE},
            {"type": "redacted_thinking", "data": "encrypted"},
            {"type": "tool_use", "id": "call_1", "name": "look", "input": {}},
        ]


async def test_a_turn_that_began_without_thinking_goes_on_without_it() -> None:
    said = ChatMessage("assistant", "", tool_calls=(ToolCall("call_1", "look", "{}"),))
    result = ChatMessage("tool", "found", tool_call_id="call_1")
    async with meeting(thinking_tokens=2000) as met:
        await met.ask(Generate(messages=(*HELLO.messages, said, result), tools=(LOOK,)))
        assert "thinking" not in met.last_body()
        done = ChatMessage("assistant", "It is here.")
        await met.ask(Generate(messages=(*HELLO.messages, said, result, done, ChatMessage("user", "and now?"))))
        assert "thinking" in met.last_body()


async def test_redacted_thinking_is_kept() -> None:
    raw = sse(
        event("message_start", message={"model": "claude", "usage": {"input_tokens": 1, "output_tokens": 1}}),
        event("content_block_start", index=0, content_block={"type": "redacted_thinking", "data": "secret"}),
        event("content_block_stop", index=0),
        event("a_kind_of_tomorrow", what=1),
        event("content_block_start", index=1, content_block={"type": "text", "text": "Ye"}),
        event("content_block_delta", index=1, delta={"type": "text_delta", "text": "s."}),
        event("content_block_delta", index=1, delta={"type": "citations_delta", "citation": {}}),
        event("content_block_stop", index=1),
        event("message_delta", delta={"stop_reason": "refusal"}, usage={"output_tokens": 4}),
        event("message_stop"),
    )
    async with meeting(Reply(raw=raw)) as met:
        assert await met.ask() == [
            Thought("", "secret", "anthropic", is_redacted=True),
            TextDelta("Ye"),
            TextDelta("s."),
            Usage(1, 4, 5, "claude", "anthropic"),
            Finished("content_filter"),
        ]


async def test_a_model_that_thinks_in_another_way_is_asked_in_it_from_then_on() -> None:
    newer = '"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive" instead.'
    older = "thinking: this model does not support it"
    async with meeting(Reply(status=400, error={"message": newer}), thinking_tokens=2000) as met:
        await met.ask()
        assert met.last_body()["thinking"] == {"type": "adaptive", "display": "summarized"}
        met.server.script(Reply(status=400, error={"message": older}))
        await met.ask()
        assert "thinking" not in met.last_body()
        assert met.server.chats == 4


async def test_images_are_sent_as_what_they_are_and_the_others_are_explained(tmp_path: Path) -> None:
    picture, text, large = tmp_path / "a.jpg", tmp_path / "b.png", tmp_path / "c.png"
    picture.write_bytes(PIXEL)
    text.write_text("no image")
    large.write_bytes(PIXEL + bytes(5 * 1024 * 1024))
    paths = tuple(map(str, (picture, text, large, tmp_path / "gone.png")))
    async with meeting() as met:
        await met.ask(Generate(messages=(ChatMessage("user", "what is this?", images=paths),)))
        turns = msgspec.convert(met.last_body()["messages"], list[dict[str, object]])
    assert turns[0]["content"] == [
        {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": base64.b64encode(PIXEL).decode()},
        },
        {
            "type": "text",
            "text": "what is this?\n(b.png is no PNG, JPEG, GIF or WebP image)\n(the image c.png is larger than 5 MB)\n"
            "(the image gone.png cannot be read: No such file or directory)",
            "cache_control": {"type": "ephemeral"},
        },
    ]


async def test_an_image_that_is_refused_is_left_out_of_that_request_only(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PIXEL)
    request = Generate(messages=(ChatMessage("user", "what is this?", images=(str(tmp_path / "a.png"),)),))
    async with meeting(Reply(status=400, error={"message": "Could not process image"})) as met:
        assert text_of(await met.ask(request)).startswith("echo: what is this?\n(an image came with this")
        await met.ask(request)
        assert '"image/png"' in met.server.bodies[-1].decode()


@pytest.mark.parametrize("status", [429, 500, 529])
async def test_a_failure_that_may_pass_is_tried_again(status: int, autojump_clock: trio.testing.MockClock) -> None:
    overloaded = {"type": "overloaded_error", "message": "Overloaded"}
    raw = sse(event("error", error=overloaded))
    async with meeting(Reply(status=status, error=overloaded, retry_after="2"), Reply(raw=raw)) as met:
        started = trio.current_time()
        assert text_of(await met.ask()) == "echo: hello there"
        assert trio.current_time() - started >= 2
        assert met.server.chats == 3


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        (Reply(status=401, error={"type": "authentication_error", "message": KEY}), ModelCredentialRefused),
        (Reply(status=400, error={"message": "Your credit balance is too low"}), ModelOutOfCredit),
        (Reply(status=400, error={"message": "prompt is too long: 9 tokens > 8 maximum"}), PromptTooLong),
        (Reply(status=413, error={"type": "request_too_large", "message": "too large"}), PromptTooLong),
        (Reply(status=400, error={"message": "no"}), ModelRefusedInput),
        (Reply(raw=("<html>hello</html>",)), ModelMalformedAnswer),
        (Reply(status=529), ModelUnreachable),
        (Reply(done=False, cut_after=2), ModelInterrupted),
        (Reply(raw=sse(event("message_start", message={}), event("message_stop"))[:1]), ModelInterrupted),
    ],
)
async def test_what_goes_wrong_has_its_name_and_never_the_key(reply: Reply, failure: type[PocketPawError]) -> None:
    async with meeting(reply, limits=Limits(retries=0)) as met:
        with pytest.raises(failure) as caught:
            await met.ask()
    assert KEY not in repr(caught.value) + str(caught.value.data) + repr(met.backend)


async def test_an_error_in_the_middle_ends_the_answer() -> None:
    raw = sse(
        event("message_start", message={"model": "claude"}),
        event("content_block_delta", index=0, delta={"type": "text_delta", "text": "So"}),
        event("error", error={"type": "overloaded_error", "message": "Overloaded"}),
    )
    async with meeting(Reply(raw=raw)) as met:
        with pytest.raises(ModelInterrupted, match="Overloaded"):
            await met.ask()
        assert met.server.chats == 1


async def test_whoever_leaves_ends_the_work_at_the_server() -> None:
    async with meeting(Reply(text="x" * 100, chunks=100, chunk_delay_s=0.001)) as met:
        async with aclosing(met.backend.generate(HELLO)) as events:
            await anext(events)
        with trio.fail_after(5):
            await met.server.wait_for_abort()


async def test_connections_are_used_again_and_a_check_costs_nothing() -> None:
    async with meeting() as met:
        for _ in range(3):
            await met.ask()
        assert met.server.connections == 1
        await met.backend.check()
        assert met.server.paths[-1] == "GET /v1/models"
        met.server.api_key = "another"
        with pytest.raises(ModelCredentialRefused):
            await met.backend.check()
        assert met.server.chats == 3
