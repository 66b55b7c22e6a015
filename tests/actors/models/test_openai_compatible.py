"""A backend against a real server on loopback: everything that an OpenAI-like server does, well or badly."""

from __future__ import annotations

import gc
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
from pocketpaw.actors.models.connections import Connections
from pocketpaw.actors.models.errors import (
    ModelCredentialRefused,
    ModelInterrupted,
    ModelMalformedAnswer,
    ModelMisconfigured,
    ModelRateLimited,
    ModelRefusedInput,
    ModelTimedOut,
    ModelUnreachable,
)
from pocketpaw.actors.models.openai_compatible import OpenAICompatible
from pocketpaw.actors.models.openai_wire import NO_SIGNATURE, Dialect
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
from pocketpaw.runtime.message import encode, reply_type

from ...fakes.model_server import FakeModelServer, Reply, fake_model_server
from ...fakes.model_server import ToolCall as FakeToolCall

KEY = "sk-canary-0123456789"
HELLO = Generate(messages=(ChatMessage("system", "Be kind."), ChatMessage("user", "hello there")))
PATIENCE_S = 5.0


class Meeting:
    """A fake server and a backend that talks to it."""

    def __init__(self, server: FakeModelServer, backend: OpenAICompatible) -> None:
        self.server = server
        self.backend = backend

    async def ask(self, request: Generate = HELLO) -> list[GenerationEvent]:
        return [event async for event in self.backend.generate(request)]

    async def text(self) -> str:
        return text_of(await self.ask())

    def last_body(self) -> dict[str, object]:
        return json.loads(self.server.bodies[-1])


@asynccontextmanager
async def meeting(
    *replies: Reply, api_key: str = "", max_tokens: int | None = None, limits: Limits | None = None
) -> AsyncGenerator[Meeting]:
    async with fake_model_server() as server, Connections() as client:
        server.script(*replies)
        backend = OpenAICompatible(
            name="openai_compatible",
            base_url=server.base_url,
            model="m",
            client=client,
            api_key=api_key,
            max_tokens=max_tokens,
            limits=limits or Limits(),
        )
        with trio.fail_after(600):
            yield Meeting(server, backend)


def text_of(events: list[GenerationEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def usage_of(events: list[GenerationEvent]) -> Usage:
    (usage,) = (event for event in events if isinstance(event, Usage))
    return usage


def sse(*data: object) -> tuple[str, ...]:
    return tuple(f"data: {item if isinstance(item, str) else json.dumps(item)}\n\n" for item in data)


def chunk(text: str | None = None, finish_reason: str | None = None, **delta: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"content": text, **delta}, "finish_reason": finish_reason}]}


async def test_an_answer_streams_and_ends_with_usage_and_reason() -> None:
    async with meeting() as met:
        events = await met.ask()
    assert [type(event) for event in events] == [TextDelta] * 5 + [Usage, Finished]
    assert text_of(events) == "echo: hello there"
    assert usage_of(events) == Usage(4, 5, 9, "m", "openai_compatible")
    assert events[-1] == Finished("stop")


async def test_events_cross_an_actor_boundary() -> None:
    async with meeting(Reply(thinking="Hmm.", text="Yes")) as met:
        events = await met.ask()
    decoder = msgspec.msgpack.Decoder(reply_type(Generate))
    assert [decoder.decode(encode(event)) for event in events] == events
    assert msgspec.msgpack.decode(encode(HELLO), type=Generate) == HELLO


async def test_the_request_says_what_was_asked_and_no_more() -> None:
    tool = Tool("look", "Look it up.", {"type": "object", "properties": {"q": {"type": "string"}}})
    messages = (
        ChatMessage("user", "look"),
        ChatMessage("assistant", "", tool_calls=(ToolCall("c1", "look", '{"q": 1}'),)),
        ChatMessage("tool", "found", tool_call_id="c1"),
    )
    async with meeting(api_key=KEY, max_tokens=50) as met:
        await met.ask(Generate(messages=messages, max_tokens=70, tools=(tool,)))
        assert met.server.headers[-1]["authorization"] == f"Bearer {KEY}"
        assert met.last_body() == {
            "model": "m",
            "messages": [
                {"role": "user", "content": "look"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"q": 1}'}}
                    ],
                },
                {"role": "tool", "content": "found", "tool_call_id": "c1"},
            ],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": 50,
            "tools": [{"type": "function", "function": msgspec.to_builtins(tool)}],
        }
        await met.ask()
        assert "max_tokens" in met.last_body()
        assert "tools" not in met.last_body()


async def test_tool_calls_are_passed_through_as_they_come() -> None:
    calls = (FakeToolCall("look", '{"q": "paw"}', "a"), FakeToolCall("stop", "{}", "b"))
    async with meeting(Reply(tool_calls=calls)) as met:
        events = await met.ask()
    deltas = [event for event in events if isinstance(event, ToolCallDelta)]
    assert deltas[0] == ToolCallDelta(0, "a", "look", "")
    assert "".join(delta.arguments for delta in deltas if delta.index == 0) == '{"q": "paw"}'
    assert [delta.id for delta in deltas if delta.index == 1 and delta.id] == ["b"]
    assert events[-1] == Finished("tool_calls")


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
async def test_thinking_is_kept_apart_from_the_text(field: str) -> None:
    raw = sse(chunk(**{field: "Hmm."}), chunk("Yes."), chunk(None, "stop"), "[DONE]")
    async with meeting(Reply(raw=raw)) as met:
        events = await met.ask()
    assert events[:2] == [ThinkingDelta("Hmm."), TextDelta("Yes.")]


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("finish_reason", ["stop", None])
async def test_either_word_of_an_end_is_enough(*, finish_reason: str | None, done: bool, chunked: bool) -> None:
    reply = Reply(text="Hello.", finish_reason=finish_reason, done=done, chunked=chunked)
    async with meeting(reply, limits=Limits(retries=0)) as met:
        if finish_reason or done:
            assert await met.text() == "Hello."
        else:
            with pytest.raises(ModelInterrupted):
                await met.text()


async def test_usage_is_estimated_and_marked_when_the_server_counts_nothing() -> None:
    async with meeting(Reply(text="x" * 40, usage=False)) as met:
        usage = usage_of(await met.ask())
    assert usage == Usage(5, 10, 15, "m", "openai_compatible", estimated=True)


async def test_the_model_that_answered_and_its_price_are_the_servers_words() -> None:
    last = {
        **chunk(None, "length"),
        "model": "m-2026",
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "cost": 0.5},
    }
    async with meeting(Reply(raw=sse(chunk("ab"), last, "[DONE]"))) as met:
        events = await met.ask()
    assert usage_of(events) == Usage(3, 2, 5, "m-2026", "openai_compatible", cost_usd=0.5)
    assert events[-1] == Finished("length")


async def test_a_server_that_does_not_stream_is_understood() -> None:
    async with meeting(Reply(whole=True, text="All at once.", thinking="Hm.")) as met:
        events = await met.ask()
    assert events == [
        ThinkingDelta("Hm."),
        TextDelta("All at once."),
        Usage(4, 5, 9, "m", "openai_compatible"),
        Finished("stop"),
    ]


@pytest.mark.parametrize("content_type", ["text/plain", "application/json", "application/octet-stream"])
async def test_what_comes_tells_whether_it_streams_and_not_its_label(content_type: str) -> None:
    whole = json.dumps({"choices": [{"message": {"content": "Whole."}, "finish_reason": "stop"}]})
    streamed = sse(chunk("Stream."), chunk(None, "stop"))
    replies = [Reply(raw=raw, content_type=content_type) for raw in ((" \n" + whole[:9], whole[9:]), streamed)]
    async with meeting(*replies) as met:
        assert await met.text() == "Whole."
        assert await met.text() == "Stream."


async def test_a_tool_call_that_ends_with_the_wrong_word_is_a_tool_call() -> None:
    call = {"function": {"name": "look", "arguments": "{}"}}
    async with meeting(Reply(raw=sse(chunk(tool_calls=[call, call]), chunk(None, "stop")))) as met:
        events = await met.ask()
    assert events[:2] == [ToolCallDelta(0, "", "look", "{}"), ToolCallDelta(1, "", "look", "{}")]
    assert events[-1] == Finished("tool_calls")


async def test_parallel_calls_under_one_number_are_told_apart_by_their_ids() -> None:
    def call(call_id: str, name: str, arguments: str) -> dict[str, object]:
        return {"index": 0, "id": call_id, "function": {"name": name, "arguments": arguments}}

    raw = sse(
        chunk(tool_calls=[call("a", "look", '{"q":')]),
        chunk(tool_calls=[call("x", "", " 1}")]),  # some servers make up an id for each piece
        chunk(tool_calls=[call("b", "stop", "{}")]),
        chunk(None, "tool_calls"),
    )
    async with meeting(Reply(raw=raw)) as met:
        events = await met.ask()
    deltas = [event for event in events if isinstance(event, ToolCallDelta)]
    assert [(delta.index, delta.name, delta.arguments) for delta in deltas] == [
        (0, "look", '{"q":'),
        (0, "", " 1}"),
        (1, "stop", "{}"),
    ]


async def test_images_are_sent_as_data_and_what_only_others_read_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xff\xd8\xff...")
    messages = (
        ChatMessage("user", "what is it?", images=(str(tmp_path / "a"),)),
        ChatMessage("assistant", "A cat.", thoughts=(Thought("Hm.", "sig", "anthropic"),)),
        ChatMessage("user", "sure?"),
    )
    async with meeting() as met:
        assert text_of(await met.ask(Generate(messages=messages))) == "echo: sure?"
        assert met.last_body()["messages"] == [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what is it?"},
                    {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9j/Li4u"}},
                ],
            },
            {"role": "assistant", "content": "A cat."},
            {"role": "user", "content": "sure?"},
        ]


async def test_gemini_gets_back_the_signatures_of_its_calls() -> None:
    call = {"index": 0, "id": "a", "function": {"name": "look", "arguments": "{}"}}
    signed = {**call, "extra_content": {"google": {"thought_signature": "sig"}}}
    async with fake_model_server() as server, Connections() as client:
        server.script(Reply(raw=sse(chunk(tool_calls=[signed]), chunk(None, "tool_calls"))))
        backend = OpenAICompatible(
            name="gemini", base_url=server.base_url, model="m", client=client, dialect=Dialect(wants_signatures=True)
        )
        events = [event async for event in backend.generate(HELLO)]
        thought = Thought("", "sig", "gemini")
        assert thought in events
        calls = (ToolCall("a", "look", "{}"), ToolCall("b", "look", "{}"))
        for thoughts, signature in (((thought,), "sig"), ((), NO_SIGNATURE)):
            said = ChatMessage("assistant", "", tool_calls=calls, thoughts=thoughts)
            async for _ in backend.generate(Generate(messages=(*HELLO.messages, said))):
                pass
            first, second = json.loads(server.bodies[-1])["messages"][-1]["tool_calls"]
            assert first["extra_content"] == {"google": {"thought_signature": signature}}
            assert "extra_content" not in second


async def test_a_tool_call_that_was_not_streamed_is_one_delta() -> None:
    async with meeting(Reply(whole=True, tool_calls=(FakeToolCall("look", '{"q": 1}', "a"),))) as met:
        events = await met.ask()
    assert events[0] == ToolCallDelta(0, "a", "look", '{"q": 1}')
    assert events[-1] == Finished("tool_calls")


async def test_bytes_that_come_one_by_one_give_the_same_text() -> None:
    data = json.dumps(chunk("Grüße 🐾", "stop"), ensure_ascii=False)
    wire = f": hi\r\n\r\ndata:{data}\r\n\r\ndata: [DONE]\r\n\r\n".encode().decode("latin-1")
    async with meeting(Reply(raw=tuple(wire))) as met:
        assert await met.text() == "Grüße 🐾"


async def test_connections_are_used_again() -> None:
    async with meeting() as met:
        for _ in range(5):
            await met.text()
        at_once = "".join(sse(chunk("One piece.", "stop"), "[DONE]", "a word too many"))
        met.server.script(Reply(whole=True), Reply(raw=(at_once,)), Reply(status=400))
        await met.text()
        assert await met.text() == "One piece."
        with pytest.raises(ModelRefusedInput):
            await met.text()
        await met.text()
        assert met.server.connections == 1


# Retries


@pytest.mark.parametrize("status", [429, 500, 502, 503, 529])
async def test_a_failure_that_may_pass_is_tried_again(status: int, autojump_clock: trio.testing.MockClock) -> None:
    async with meeting(Reply(status=status), Reply(status=status), Reply(text="At last.")) as met:
        started = trio.current_time()
        assert await met.text() == "At last."
        assert 0.5 * 0.8 + 1.0 * 0.8 <= trio.current_time() - started <= 0.5 * 1.2 + 1.0 * 1.2 + 0.1
        assert met.server.chats == 3


async def test_retries_end(autojump_clock: trio.testing.MockClock) -> None:
    async with meeting(*[Reply(status=503, error={"message": "overloaded"})] * 9) as met:
        with pytest.raises(ModelUnreachable, match="503: overloaded"):
            await met.ask()
        assert met.server.chats == 4


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(status=400, error={"message": "no"}), ModelRefusedInput),
        (Reply(status=401), ModelCredentialRefused),
        (Reply(status=404), ModelMisconfigured),
    ],
)
async def test_a_failure_that_will_not_pass_is_not_tried_again(reply: Reply, error: type[PocketPawError]) -> None:
    async with meeting(reply) as met:
        with pytest.raises(error):
            await met.ask()
        assert met.server.chats == 1


async def test_the_pause_that_the_server_asks_for_is_kept(autojump_clock: trio.testing.MockClock) -> None:
    async with meeting(Reply(status=429, retry_after="7")) as met:
        started = trio.current_time()
        await met.text()
        assert 7.0 <= trio.current_time() - started < 7.5


async def test_a_pause_beyond_the_cap_is_an_answer_instead(autojump_clock: trio.testing.MockClock) -> None:
    async with meeting(Reply(status=429, retry_after="60")) as met:
        started = trio.current_time()
        with pytest.raises(ModelRateLimited) as caught:
            await met.ask()
        assert caught.value.data["retry_after_s"] == 60.0
        assert trio.current_time() - started < 1.0


async def test_a_server_that_is_not_there_is_tried_again(autojump_clock: trio.testing.MockClock) -> None:
    async with Connections() as client:
        backend = OpenAICompatible(name="b", base_url="http://127.0.0.1:9/v1", model="m", client=client)
        started = trio.current_time()
        with pytest.raises(ModelUnreachable, match=r"b at http://127\.0\.0\.1:9/v1 cannot be reached"):
            async for _ in backend.generate(HELLO):
                pass
        assert trio.current_time() - started > 2.0


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("cut_after", [-1, 0])
async def test_a_connection_cut_before_the_first_token_is_tried_again(
    cut_after: int, autojump_clock: trio.testing.MockClock, *, chunked: bool
) -> None:
    async with meeting(Reply(cut_after=cut_after, chunked=chunked), Reply(text="Whole.")) as met:
        assert await met.text() == "Whole."
        assert met.server.chats == 2


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_connection_cut_after_the_first_token_is_an_error_and_no_second_try(*, chunked: bool) -> None:
    async with meeting(Reply(text="Once upon a time", cut_after=2, chunked=chunked)) as met:
        with pytest.raises(ModelInterrupted):
            await met.ask()
        assert met.server.chats == 1


async def test_what_came_before_the_cut_was_given() -> None:
    async with meeting(Reply(text="Once upon a time", chunks=4, cut_after=2)) as met:
        seen: list[GenerationEvent] = []

        async def collect() -> None:
            async for event in met.backend.generate(HELLO):
                seen.append(event)  # noqa: PERF401 a comprehension would lose what came before the error

        with pytest.raises(ModelInterrupted):
            await collect()
        assert text_of(seen) == "Once upo"


async def test_an_error_object_before_the_first_token_counts_as_its_status(
    autojump_clock: trio.testing.MockClock,
) -> None:
    busy = Reply(raw=sse({"error": {"code": 429, "message": "busy"}}))
    async with meeting(busy, Reply(text="Now.")) as met:
        assert await met.text() == "Now."


async def test_an_error_object_before_the_first_token_keeps_its_name() -> None:
    busy = Reply(raw=sse({"error": {"code": 429, "message": "busy"}}))
    async with meeting(busy, limits=Limits(retries=0)) as met:
        with pytest.raises(ModelRateLimited, match="busy"):
            await met.ask()


async def test_an_error_object_after_the_first_token_ends_the_answer() -> None:
    async with meeting(Reply(raw=sse(chunk("So"), {"error": {"code": 502, "message": "provider gone"}}))) as met:
        with pytest.raises(ModelInterrupted, match="provider gone"):
            await met.ask()
        assert met.server.chats == 1


@pytest.mark.parametrize(
    "raw",
    [
        sse("{not json"),
        sse({"choices": 7}),
        ("<html>Welcome to nginx</html>",),
        ('{"hello": "there"}',),
        ("",),
        ('{"choices": [{"message": {"content": "half',),
        sse(f'{{"choices": [], "x": {"[" * 5000}{"]" * 5000}}}'),
        (f'{{"choices": [], "x": {"[" * 5000}{"]" * 5000}}}',),
    ],
)
async def test_what_is_no_completion_is_an_error(raw: tuple[str, ...]) -> None:
    async with meeting(Reply(raw=raw)) as met:
        with pytest.raises(ModelMalformedAnswer):
            await met.ask()


@pytest.mark.parametrize("count", [10**30, -5])
async def test_a_count_that_is_none_is_not_taken_for_one(count: int) -> None:
    usage = {"prompt_tokens": count, "completion_tokens": 5, "total_tokens": count, "cost": -1.0}
    raw = sse(chunk("Hello."), {**chunk(None, "stop"), "usage": usage}, "[DONE]")
    async with meeting(Reply(raw=raw)) as met:
        events = await met.ask()
    assert usage_of(events).estimated
    for event in events:
        encode(event)  # or nobody would hear of it


async def test_a_refusal_of_any_shape_is_an_answer() -> None:
    odd = Reply(status=400, error={"message": "the context length", "n_ctx": 10**30, "code": "\u00b2"})
    async with meeting(odd) as met:
        with pytest.raises(PocketPawError) as raised:
            await met.ask()
    assert raised.value.data["limit_tokens"] is None


async def test_an_event_cut_in_half_is_an_interruption() -> None:
    raw = (*sse(chunk("So")), 'data: {"choices": [{"del')
    async with meeting(Reply(raw=raw, chunked=False)) as met:
        with pytest.raises(ModelInterrupted):
            await met.ask()


# Dialects


@pytest.mark.parametrize(
    ("words", "absent", "present"),
    [
        ("Use 'max_completion_tokens' instead.", "max_tokens", "max_completion_tokens"),
        ("Unknown field: stream_options", "stream_options", "max_tokens"),
    ],
)
async def test_a_server_with_another_dialect_is_asked_in_it_from_then_on(words: str, absent: str, present: str) -> None:
    async with meeting(Reply(status=400, error={"message": words}), max_tokens=5) as met:
        for _ in range(2):
            await met.text()
            assert absent not in met.last_body()
            assert present in met.last_body()
        assert met.server.chats == 3


async def test_requests_that_are_under_way_together_learn_a_dialect_together() -> None:
    refusal = Reply(status=400, error={"message": "Use 'max_completion_tokens' instead."}, delay_s=0.2)
    async with meeting(refusal, refusal, max_tokens=5) as met, trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(met.text)


# Time


async def test_silence_is_an_error(autojump_clock: trio.testing.MockClock) -> None:
    async with meeting(Reply(hang_after=-1), limits=Limits(silence_s=30)) as met:
        started = trio.current_time()
        with pytest.raises(ModelTimedOut, match="silent"):
            await met.ask()
        assert 30 <= trio.current_time() - started < 31
        assert met.server.chats == 1


async def test_silence_in_the_middle_is_an_error(autojump_clock: trio.testing.MockClock) -> None:
    async with meeting(Reply(hang_after=2), limits=Limits(silence_s=30)) as met:
        with pytest.raises(ModelTimedOut):
            await met.ask()


async def test_an_answer_that_does_not_end_is_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    endless = Reply(text="x" * 1000, chunks=1000, chunk_delay_s=10)
    async with meeting(endless, limits=Limits(total_s=100)) as met:
        started = trio.current_time()
        with pytest.raises(ModelTimedOut, match="in time"):
            await met.ask()
        assert 99 <= trio.current_time() - started < 102


async def test_a_whole_answer_is_not_held_up_by_a_body_that_does_not_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    raw = sse(chunk("Hello.", "stop"))
    async with meeting(Reply(raw=raw, hang_after=1)) as met:
        started = trio.current_time()
        assert await met.text() == "Hello."
        assert trio.current_time() - started <= 1.5


async def test_a_whole_answer_is_not_held_up_by_a_body_that_trickles_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    raw = (*sse(chunk("Hello.", "stop")), *[": still here\n\n"] * 400)
    async with meeting(Reply(raw=raw, chunk_delay_s=0.5)) as met:
        started = trio.current_time()
        assert await met.text() == "Hello."
        assert trio.current_time() - started <= 2.5


# Leaving


async def test_closing_the_generator_closes_the_connection() -> None:
    async with meeting(Reply(text="x" * 100, chunks=100, chunk_delay_s=0.001)) as met:
        async with aclosing(met.backend.generate(HELLO)) as events:
            await anext(events)
        with trio.fail_after(PATIENCE_S):
            await met.server.wait_for_abort()


@pytest.mark.parametrize("hang_after", [-1, 0, 3])
async def test_cancelling_closes_the_connection(hang_after: int) -> None:
    async with meeting(Reply(hang_after=hang_after)) as met:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(met.ask)
            await met.server.wait_for_chats(1)
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
        with trio.fail_after(PATIENCE_S):
            await met.server.wait_for_abort()
        assert await met.text() == "echo: hello there"
        gc.collect()  # a generator left open would warn


# Many at once


async def test_two_hundred_answers_at_once_do_not_mix() -> None:
    async with meeting() as met:

        async def ask(number: int) -> None:
            request = Generate(messages=(ChatMessage("user", f"number {number}"),))
            assert text_of(await met.ask(request)) == f"echo: number {number}"

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(ask, number)


# Checks and settings


async def test_check_passes_when_the_server_answers() -> None:
    async with meeting() as met:
        await met.backend.check()
        assert met.server.paths[-1] == "GET /v1/models"


async def test_check_and_chat_name_a_refused_key_without_telling_it() -> None:
    async with meeting(api_key=KEY) as met:
        met.server.api_key = "another"
        for attempt in (met.backend.check, met.ask):
            with pytest.raises(ModelCredentialRefused) as caught:
                await attempt()
            assert KEY not in repr(caught.value) + str(caught.value.data) + repr(met.backend)


async def test_check_takes_a_server_without_a_list_of_models() -> None:
    async with fake_model_server() as server, Connections() as client:
        base_url = server.base_url.removesuffix("/v1")
        await OpenAICompatible(name="b", base_url=base_url, model="m", client=client).check()


@pytest.mark.parametrize("base_url", ["", "127.0.0.1:8000/v1", "ftp://host/v1", "http://", "http://[::1/v1", "no url"])
async def test_an_address_that_is_none_says_so_when_it_is_used(base_url: str) -> None:
    async with Connections() as client:
        backend = OpenAICompatible(name="b", base_url=base_url, model="m", client=client)
        with pytest.raises(ModelMisconfigured, match="is no address of a server"):
            await backend.check()


async def test_a_missing_model_or_an_impossible_key_says_so_when_it_is_used() -> None:
    async with Connections() as client:
        nameless = OpenAICompatible(name="b", base_url="http://127.0.0.1:9/v1", model="", client=client)
        with pytest.raises(ModelMisconfigured, match="no model is named"):
            await nameless.check()
        strange = OpenAICompatible(
            name="b", base_url="http://127.0.0.1:9/v1", model="m", client=client, api_key="schlüssel\n"
        )
        with pytest.raises(ModelCredentialRefused, match="characters") as caught:
            await strange.check()
        assert "schl" not in repr(caught.value)


async def test_a_user_in_the_address_is_sent_as_basic_authentication() -> None:
    async with fake_model_server() as server, Connections() as client:
        base_url = server.base_url.replace("://", "://me:hush@")
        backend = OpenAICompatible(name="b", base_url=base_url, model="m", client=client)
        await Meeting(server, backend).ask()
        assert server.headers[-1]["authorization"] == "Basic bWU6aHVzaA=="
        assert server.headers[-1]["host"] == f"127.0.0.1:{server.port}"


async def test_a_password_in_the_address_is_not_shown() -> None:
    async with Connections() as client:
        backend = OpenAICompatible(name="b", base_url="http://me:hush@127.0.0.1:9/v1?k=hush", model="m", client=client)
        with pytest.raises(ModelUnreachable) as caught:
            await backend.check()
        assert "hush" not in repr(backend) + repr(caught.value)
